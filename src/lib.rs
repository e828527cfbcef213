//! nightporter

pub mod cli;
pub mod config;
pub mod domain;
pub mod gate;
pub mod http;
mod run;
mod signals;
pub mod store;
pub mod telemetry;

pub use http::Listeners;
pub use run::{RunError, run};
pub use signals::{Signal, from_process};
