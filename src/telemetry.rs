//! Telemetry of the process: [`logs`] and [`meters`]. No client id, name or token reaches
//! either.

pub mod logs;
pub mod meters;
