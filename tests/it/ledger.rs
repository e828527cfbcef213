//! The ledger: its archives, its writer, its tree and its jobs.

mod api;
pub mod archive;
mod cli;
mod faults;
mod jobs;
mod postgres;
mod retention;
pub mod samples;
mod sqlite;
mod verify;
