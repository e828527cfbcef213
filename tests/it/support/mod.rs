//! The tools of the tests: a Postgres of their own, a network that can be
//! broken, boxes to serve, and clients that send exactly the given bytes.

pub mod boxes;
pub mod chaos;
pub mod client;
pub mod collector;
pub mod disk;
pub mod docker;
pub mod load;
pub mod pooler;
pub mod postgres;
pub mod program;
pub mod programs;
pub mod server;
pub mod sign;
pub mod soak;
#[path = "../../../src/upstream/test_server.rs"]
pub mod test_server;

mod tests;
