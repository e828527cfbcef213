//! nightporter

pub mod cli;
pub mod config;
pub mod domain;
pub mod gate;
pub mod store;
