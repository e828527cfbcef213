//! Telemetry of the process: [`logs`], whose lines carry the id of their request, [`meters`]
//! and [`traces`]. No client id, name or token reaches any of them.

pub mod logs;
pub mod meters;
mod random;
mod request;
pub mod traces;

pub(crate) use random::new_span;
pub(crate) use request::{RequestScope, identified, identify, in_same_request};
