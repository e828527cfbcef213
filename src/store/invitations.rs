//! Invitations: each lets one device pair, once, within a few minutes.

use std::time::Duration;

/// How long a code is valid.
pub const LIFETIME: Duration = Duration::from_mins(5);

/// After this many wrong tries a code is dead.
pub const MAX_TRIES: u32 = 5;

/// What is stored of an invitation. Its code is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The part of the code that says which invitation is meant.
    pub handle: String,
    /// A keyed hash of the whole code.
    pub digest: String,
    /// The name that the device gets if its owner gives it no other.
    pub name: String,
}

/// What a code has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redeemed {
    /// It was that of the invitation with this name, which is used up.
    Name(String),
    /// It counts against the invitation with its handle.
    Wrong,
    /// There is no invitation with its handle, or no longer.
    Unknown,
}
