//! The rules, and nothing else: what a request names, what an app allows, who
//! asks, and whether they may. No I/O, no clock, nothing of this crate imported.

pub mod activity;
pub mod app;
pub mod client;
pub mod endpoint;
pub mod identity;
pub mod lifecycle;
pub mod policy;
pub mod reason;
pub mod request;
pub mod strategy;
