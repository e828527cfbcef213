//! The pure rules: which app and path a request names, what the app allows, who the
//! client is, and whether it may. No I/O and no clock; imports nothing else of this
//! crate.

pub mod activity;
pub mod alert;
pub mod app;
pub mod client;
pub mod endpoint;
pub mod identity;
pub mod lifecycle;
pub mod names;
pub mod observation;
pub mod origin;
pub mod policy;
pub mod reason;
pub mod request;
pub mod strategy;
pub mod trace;
