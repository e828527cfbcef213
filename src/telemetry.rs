//! Telemetry of the process: [`logs`], [`meters`] and a span for each request. No client id,
//! name or token reaches any of them.

pub mod logs;
pub mod meters;
mod request;

pub(crate) use request::request_span;
