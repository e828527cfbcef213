//! What the tests stand on: a Postgres of their own, a network that can be
//! broken, boxes to serve, and clients that send exactly what they are told.

pub mod boxes;
pub mod chaos;
pub mod client;
pub mod docker;
pub mod load;
pub mod postgres;
pub mod program;
pub mod programs;
pub mod server;
pub mod sign;
pub mod soak;
#[path = "../../../src/upstream/stand_in.rs"]
pub mod stand_in;

mod tests;
