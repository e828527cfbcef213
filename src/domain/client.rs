//! Who asks.

use std::sync::Arc;

/// The client of a request, as far as its credentials prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// A paired device, known by its token.
    Terminal(Known),
    /// Another box, known by its signature.
    Peer(Known),
    Anonymous,
}

/// What the store says of a known client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: Arc<str>,
    pub name: Arc<str>,
}

impl Client {
    /// The word templates and headers use: `terminal`, `peer` or `anonymous`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Terminal(_) => "terminal",
            Self::Peer(_) => "peer",
            Self::Anonymous => "anonymous",
        }
    }

    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        match self {
            Self::Terminal(known) | Self::Peer(known) => Some(known),
            Self::Anonymous => None,
        }
    }
}
