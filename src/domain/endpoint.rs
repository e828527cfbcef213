//! The endpoints that are asked for verdicts, and the kinds of verdicts.

use super::reason::Reason;

/// The contract's endpoints that grant or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Auth,
    Terminal,
    Management,
}

impl Endpoint {
    /// All of them, for registering one metric each.
    pub const ALL: [Self; 3] = [Self::Auth, Self::Terminal, Self::Management];

    /// Returns its name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Terminal => "authenticate_terminal",
            Self::Management => "authenticate_management",
        }
    }

    /// Returns its path, which is the same at the upstream.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Auth => "/internal/auth",
            Self::Terminal => "/internal/authenticate_terminal",
            Self::Management => "/internal/authenticate_management",
        }
    }
}

/// The kind of a verdict, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerdictKind {
    Grant,
    /// Granted, and answered in place of an app that is not awake.
    Asleep,
    /// Granted, but not allowed to wake an app that has not been opened since it fell
    /// asleep.
    KeptAsleep,
    Deny(Reason),
}

impl VerdictKind {
    /// Returns `grant`, `asleep`, `kept_asleep`, or the denial's reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Asleep => "asleep",
            Self::KeptAsleep => "kept_asleep",
            Self::Deny(reason) => reason.as_str(),
        }
    }
}
