//! Who asks.

use std::sync::Arc;

/// The client of a request, as far as its credentials prove: a look at the row that
/// vouches for it, since a copy would count references that all threads share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client<'a> {
    /// A paired device, known by its token.
    Terminal(&'a Known),
    /// Another box, known by its signature.
    Peer(&'a Known),
    Anonymous,
}

/// What the store says of a known client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: Arc<str>,
    pub name: Arc<str>,
}

impl<'a> Client<'a> {
    /// The word templates and headers use: `terminal`, `peer` or `anonymous`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Terminal(_) => "terminal",
            Self::Peer(_) => "peer",
            Self::Anonymous => "anonymous",
        }
    }

    #[must_use]
    pub fn known(self) -> Option<&'a Known> {
        match self {
            Self::Terminal(known) | Self::Peer(known) => Some(known),
            Self::Anonymous => None,
        }
    }
}
