//! What is asked for verdicts, and what is said to it.

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

    /// Its name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Terminal => "authenticate_terminal",
            Self::Management => "authenticate_management",
        }
    }

    /// Where it is asked, here and at the upstream.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Auth => "/internal/auth",
            Self::Terminal => "/internal/authenticate_terminal",
            Self::Management => "/internal/authenticate_management",
        }
    }
}

/// What a verdict comes to, without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Grant,
    /// Granted, and answered in the place of an app that is not awake.
    Asleep,
    /// Granted, and not let wake an app that nobody has opened since it fell asleep.
    KeptAsleep,
    Deny(Reason),
}

impl Said {
    /// `grant`, `asleep`, `kept_asleep`, or the denial's reason.
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
