//! Credentials of clients: a terminal's token, a peer's signature, the management secret.
//!
//! Each module takes the time as an argument and returns its own error type; the
//! gate logs the error and treats the client as anonymous. No error contains
//! text of the credential.

pub mod code;
pub mod management;
pub mod peer;
pub mod replays;
pub mod signature_cache;
pub mod target;
pub mod terminal;
