//! Why a request is denied.

use std::fmt;

/// The reason of a denial. Every denial has exactly one; logs, metrics and `explain` show
/// it by [`Reason::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A forwarded header is missing, repeated or invalid.
    MalformedRequest,
    /// The path can be read in more ways than are checked.
    AmbiguousPath,
    /// No installed app has the host's first label as its name.
    UnknownApp,
    /// No key of `paths` matches, in at least one reading of the path.
    NoMatchingRule,
    /// The path is private and the client is not a terminal.
    TerminalRequired,
    /// The path is for peers and the client is not one.
    PeerRequired,
    /// The app's `app_meta.json`, or the header templates of one of its paths, cannot be
    /// used.
    BrokenApp,
    /// The management secret is missing, too short or different.
    ManagementSecret,
    /// The store cannot answer and what is cached is too old.
    StoreUnavailable,
}

impl Reason {
    /// Every reason, for registering one metric each.
    pub const ALL: [Self; 9] = [
        Self::MalformedRequest,
        Self::AmbiguousPath,
        Self::UnknownApp,
        Self::NoMatchingRule,
        Self::TerminalRequired,
        Self::PeerRequired,
        Self::BrokenApp,
        Self::ManagementSecret,
        Self::StoreUnavailable,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed_request",
            Self::AmbiguousPath => "ambiguous_path",
            Self::UnknownApp => "unknown_app",
            Self::NoMatchingRule => "no_matching_rule",
            Self::TerminalRequired => "terminal_required",
            Self::PeerRequired => "peer_required",
            Self::BrokenApp => "broken_app",
            Self::ManagementSecret => "management_secret",
            Self::StoreUnavailable => "store_unavailable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
