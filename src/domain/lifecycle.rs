//! What an app's containers do together, and what becomes of them.

use std::time::Duration;

use super::app::Size;

/// What a request for an app that is not awake gets, once it is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The grant, at once: whatever answers in the app's place answers.
    Pass,
    /// A page that opens the app as soon as it is ready.
    Page,
    /// The grant, when the app is ready.
    Hold,
}

/// A strategy, or the choice of it by who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StrategyChoice {
    #[default]
    Auto,
    Always(Strategy),
}

impl StrategyChoice {
    /// Their names in configuration files.
    pub const WORDS: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("pass", Self::Always(Strategy::Pass)),
        ("page", Self::Always(Strategy::Page)),
        ("hold", Self::Always(Strategy::Hold)),
    ];

    /// The choice of that name.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice)
    }

    /// What one request gets. Nobody but a browser that navigates is given a page,
    /// whatever was chosen.
    #[must_use]
    pub fn resolve(self, is_navigation: bool, beside_upstream: bool) -> Strategy {
        match self {
            Self::Auto if beside_upstream => Strategy::Pass,
            Self::Auto | Self::Always(Strategy::Page) if is_navigation => Strategy::Page,
            Self::Auto | Self::Always(Strategy::Page) => Strategy::Hold,
            Self::Always(strategy) => strategy,
        }
    }
}

/// Where an app is between asleep and awake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Ready; or no container of it is known, so that there is nothing to wake.
    Awake,
    /// Its containers are stopped, or were never started.
    Stopped,
    Paused,
    /// Its containers are to be made anew.
    Missing,
    /// Waits for its turn; 1 is next.
    Queued {
        place: usize,
    },
    Starting,
    Unpausing,
    /// Runs, and its health check has not passed yet.
    AwaitingHealth,
    /// Runs, and its entrypoint does not answer yet.
    AwaitingPort,
    /// The last attempt failed; the next is made no sooner than `retry_after` later.
    Failed {
        failure: Failure,
        retry_after: Duration,
    },
    /// Too little free disk to start anything.
    LowDisk,
    /// The box is smaller than the app needs.
    TooSmall {
        minimum: Size,
    },
    /// The store says that it is not to be woken now: it is being installed, say.
    Unavailable {
        status: String,
    },
}

impl Phase {
    /// The word for it in answers to programs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Missing => "missing",
            Self::Queued { .. } => "queued",
            Self::Starting => "starting",
            Self::Unpausing => "unpausing",
            Self::AwaitingHealth => "awaiting_health",
            Self::AwaitingPort => "awaiting_port",
            Self::Failed { .. } => "failed",
            Self::LowDisk => "low_disk",
            Self::TooSmall { .. } => "too_small",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    /// Whether an attempt to wake the app is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(
            self,
            Self::Queued { .. }
                | Self::Starting
                | Self::Unpausing
                | Self::AwaitingHealth
                | Self::AwaitingPort
        )
    }

    /// Whether waiting longer changes nothing: a person has to do something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::LowDisk | Self::TooSmall { .. })
    }
}

/// Why an app could not be woken.
///
/// `Display` is for the operator; what a visitor may know is [`Failure::kind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("container {container} exited with code {code}")]
    Exited { container: String, code: i64 },
    #[error("container {container} was killed for want of memory")]
    OutOfMemory { container: String },
    #[error("image {image} is missing")]
    ImageMissing { image: String },
    #[error("the health check of container {container} fails")]
    Unhealthy { container: String },
    #[error("not ready within {}", humantime::format_duration(*.after))]
    NotReady { after: Duration },
    #[error("the engine refuses: {0}")]
    Engine(String),
    #[error("the engine does not answer")]
    EngineAway,
    #[error("compose: {0}")]
    Compose(String),
    #[error("the containers are missing, and there is no compose file to make them from")]
    NoComposeFile,
    #[error("the store cannot answer: {0}")]
    Store(String),
}

/// A failure in one word, and what of it a visitor may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Exited {
        code: i64,
    },
    OutOfMemory,
    ImageMissing,
    Unhealthy,
    NotReady,
    /// Something of the box itself.
    Internal,
}

impl Failure {
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Exited { code, .. } => FailureKind::Exited { code: *code },
            Self::OutOfMemory { .. } => FailureKind::OutOfMemory,
            Self::ImageMissing { .. } => FailureKind::ImageMissing,
            Self::Unhealthy { .. } => FailureKind::Unhealthy,
            Self::NotReady { .. } => FailureKind::NotReady,
            Self::Engine(_)
            | Self::EngineAway
            | Self::Compose(_)
            | Self::NoComposeFile
            | Self::Store(_) => FailureKind::Internal,
        }
    }
}

/// Whether an app whose row has this status may be woken and put to sleep: it is
/// neither coming nor going.
#[must_use]
pub fn is_revivable(status: &str) -> bool {
    matches!(status, "stopped" | "running" | "down" | "paused")
}

/// Compose's name of the project that an app is: lower-cased, of `[a-z0-9_-]`, not
/// beginning with `_` or `-`; `None` for a name that is none, and for `core`, which
/// is the box's own.
#[must_use]
pub fn project_of(app: &str) -> Option<String> {
    let name: String = app
        .chars()
        .map(|character| character.to_ascii_lowercase())
        .filter(|character| {
            character.is_ascii_lowercase()
                || character.is_ascii_digit()
                || "_-".contains(*character)
        })
        .collect();
    let name = name.trim_start_matches(['_', '-']);
    (!name.is_empty() && name != "core").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_browser_that_navigates_gets_a_page() {
        use Strategy::{Hold, Page, Pass};
        let always = StrategyChoice::Always;
        for (choice, navigation, upstream, expected) in [
            (StrategyChoice::Auto, true, false, Page),
            (StrategyChoice::Auto, false, false, Hold),
            (StrategyChoice::Auto, true, true, Pass),
            (always(Page), true, true, Page),
            (always(Page), false, false, Hold),
            (always(Hold), true, false, Hold),
            (always(Pass), true, false, Pass),
        ] {
            assert_eq!(choice.resolve(navigation, upstream), expected, "{choice:?}");
        }
    }

    #[test]
    fn a_project_is_never_the_boxs_own() {
        for (app, project) in [
            ("Paperless-NGX", Some("paperless-ngx")),
            ("_my.app", Some("myapp")),
            ("core", None),
            ("CORE", None),
            ("--", None),
            ("ü", None),
        ] {
            assert_eq!(project_of(app).as_deref(), project, "{app}");
        }
    }
}
