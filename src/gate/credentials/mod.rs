//! What proves who asks: a terminal's token, a peer's signature, the management secret.
//!
//! Each part takes the time as an argument and answers with an error of its
//! own; the gate logs it and treats the client as anonymous. No error carries
//! text of the credential.

pub mod management;
pub mod peer;
pub mod repeats;
pub mod replays;
pub mod target;
pub mod terminal;
