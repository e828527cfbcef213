//! The client of a request.

use std::sync::Arc;

/// The client of a request, as proven by its credentials. It borrows the row that
/// identifies it, since a clone would update reference counts that all threads share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client<'a> {
    /// A paired device, known by its token.
    Terminal(&'a KnownClient),
    /// Another box, known by its signature.
    Peer(&'a KnownClient),
    Anonymous,
}

/// A known client, as it is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownClient {
    pub id: Arc<str>,
    pub name: Arc<str>,
}

impl<'a> Client<'a> {
    /// Returns the word for templates and headers: `terminal`, `peer` or `anonymous`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Terminal(_) => "terminal",
            Self::Peer(_) => "peer",
            Self::Anonymous => "anonymous",
        }
    }

    #[must_use]
    pub fn known(self) -> Option<&'a KnownClient> {
        match self {
            Self::Terminal(known) | Self::Peer(known) => Some(known),
            Self::Anonymous => None,
        }
    }
}
