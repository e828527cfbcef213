//! What an app's containers do together, and what becomes of them.

use std::time::{Duration, SystemTime};

use super::app::{Lifecycle, Size};

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
    /// The words of all phases.
    pub const WORDS: [&'static str; 13] = [
        "awake",
        "stopped",
        "paused",
        "missing",
        "queued",
        "starting",
        "unpausing",
        "awaiting_health",
        "awaiting_port",
        "failed",
        "low_disk",
        "too_small",
        "unavailable",
    ];

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
    /// `image` is empty where it could not be told.
    #[error("image {image} cannot be fetched: {reason}")]
    ImageNotFetched { image: String, reason: String },
    #[error("the health check of container {container} fails")]
    Unhealthy { container: String },
    #[error("not ready within {}", humantime::format_duration(*.after))]
    NotReady { after: Duration },
    /// By somebody, or by an engine that was ended itself.
    #[error("container {container} was {what} while it was starting")]
    Interrupted { container: String, what: &'static str },
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
    /// A task of nightporter's own has panicked.
    #[error("nightporter itself failed; its log says where")]
    Panicked,
    /// Nothing went wrong, and nothing was done.
    #[error("not now: {0}")]
    Declined(&'static str),
}

/// A failure in one word, and what of it a visitor may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind<'a> {
    Exited,
    OutOfMemory,
    ImageMissing {
        image: &'a str,
    },
    ImageNotFetched {
        image: &'a str,
    },
    Unhealthy,
    NotReady {
        after: Duration,
    },
    Interrupted,
    /// The engine does not start it, for a reason of its own.
    Refused,
    EngineAway,
    /// Its containers are gone and cannot be made.
    NotMade,
    StoreAway,
    /// Of nightporter's own.
    Internal,
}

impl Failure {
    #[must_use]
    pub fn kind(&self) -> FailureKind<'_> {
        match self {
            Self::Exited { .. } => FailureKind::Exited,
            Self::OutOfMemory { .. } => FailureKind::OutOfMemory,
            Self::ImageMissing { image } => FailureKind::ImageMissing { image },
            Self::ImageNotFetched { image, .. } => FailureKind::ImageNotFetched { image },
            Self::Unhealthy { .. } => FailureKind::Unhealthy,
            Self::NotReady { after } => FailureKind::NotReady { after: *after },
            Self::Interrupted { .. } => FailureKind::Interrupted,
            Self::Engine(_) => FailureKind::Refused,
            Self::EngineAway => FailureKind::EngineAway,
            Self::Compose(_) | Self::NoComposeFile => FailureKind::NotMade,
            Self::Store(_) => FailureKind::StoreAway,
            Self::Panicked | Self::Declined(_) => FailureKind::Internal,
        }
    }
}

/// How deep an app sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Paused,
    Stopped,
}

impl Rest {
    /// The phase's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// When apps go to sleep that say nothing themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestRules {
    /// Whether apps are paused before they are stopped.
    pub pause: bool,
    pub idle_for_pause: Duration,
    pub idle_for_stop: Duration,
}

/// An app that is awake or paused, as far as its sleep goes.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub lifecycle: &'a Lifecycle,
    pub is_paused: bool,
    /// Since when nobody has used it.
    pub idle: Duration,
}

/// Uses so short ago keep an app from being demoted, whatever the pressure.
const JUST_USED: Duration = Duration::from_secs(5);

impl RestRules {
    /// After which idle time the app goes to which rest; `None` where it never does.
    ///
    /// The contract's two tiers: a running app is paused, a paused one stopped, and an
    /// app that is not to be paused is stopped at once. So is one that would be stopped
    /// sooner than paused.
    #[must_use]
    pub fn next_rest(&self, lifecycle: &Lifecycle, is_paused: bool) -> Option<(Duration, Rest)> {
        if lifecycle.always_on {
            return None;
        }
        let own = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let pause_after = own(lifecycle.idle_for_pause).unwrap_or(self.idle_for_pause);
        let stop_after = own(lifecycle.idle_for_stop).unwrap_or(self.idle_for_stop);
        let is_paused_first =
            self.pause && !lifecycle.skip_pause && !is_paused && pause_after < stop_after;
        Some(if is_paused_first {
            (pause_after, Rest::Paused)
        } else {
            (stop_after, Rest::Stopped)
        })
    }

    /// When an app that nobody uses again goes to which rest; `None` where it never
    /// does, or later than any clock can tell.
    #[must_use]
    pub fn next_rest_at(
        &self,
        lifecycle: &Lifecycle,
        is_paused: bool,
        last_use: SystemTime,
    ) -> Option<(SystemTime, Rest)> {
        let (after, rest) = self.next_rest(lifecycle, is_paused)?;
        Some((last_use.checked_add(after)?, rest))
    }

    /// What is due for an app now.
    #[must_use]
    pub fn due(&self, candidate: &Candidate<'_>) -> Option<Rest> {
        let (after, rest) = self.next_rest(candidate.lifecycle, candidate.is_paused)?;
        (candidate.idle >= after).then_some(rest)
    }

    /// The app to demote where memory is short, by its place: the least recently used of
    /// all that run, and only where none runs the least recently used paused one. Where
    /// apps are not paused at all, none is.
    #[must_use]
    pub fn demoted(&self, candidates: &[Candidate<'_>]) -> Option<(usize, Rest)> {
        let least_recent = |is_paused: bool| {
            let candidates = candidates.iter().enumerate().filter(|(_, candidate)| {
                candidate.is_paused == is_paused
                    && !candidate.lifecycle.always_on
                    && candidate.idle >= JUST_USED
            });
            candidates.max_by_key(|(_, candidate)| candidate.idle)
        };
        if !self.pause {
            return None;
        }
        let (place, candidate) = least_recent(false).or_else(|| least_recent(true))?;
        let is_paused_first = !candidate.is_paused && !candidate.lifecycle.skip_pause;
        Some((place, if is_paused_first { Rest::Paused } else { Rest::Stopped }))
    }
}

/// Whether an app whose row has this status may be woken and put to sleep: it is
/// neither coming nor going.
#[must_use]
pub fn is_revivable(status: &str) -> bool {
    matches!(status, "stopped" | "running" | "down" | "paused")
}

/// Whether an app whose row has this status is being removed.
#[must_use]
pub fn is_going(status: &str) -> bool {
    matches!(status, "uninstallation_queued" | "uninstalling")
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

    const RULES: RestRules = RestRules {
        pause: true,
        idle_for_pause: Duration::from_secs(60),
        idle_for_stop: Duration::from_secs(10_800),
    };

    fn lifecycle(pause: Option<u64>, stop: Option<u64>) -> Lifecycle {
        Lifecycle { idle_for_pause: pause, idle_for_stop: stop, ..Lifecycle::default() }
    }

    fn candidate(lifecycle: &Lifecycle, is_paused: bool, idle: u64) -> Candidate<'_> {
        Candidate { lifecycle, is_paused, idle: Duration::from_secs(idle) }
    }

    #[test]
    fn apps_sleep_in_two_tiers() {
        use Rest::{Paused, Stopped};
        let default = Lifecycle::default();
        let always = Lifecycle { always_on: true, ..Lifecycle::default() };
        let skips = Lifecycle { skip_pause: true, ..Lifecycle::default() };
        let own = lifecycle(Some(10), Some(20));
        let stops_first = lifecycle(None, Some(30));
        for (lifecycle, is_paused, idle, expected) in [
            (&default, false, 59, None),
            (&default, false, 60, Some(Paused)),
            (&default, false, 20_000, Some(Paused)),
            (&default, true, 10_799, None),
            (&default, true, 10_800, Some(Stopped)),
            (&always, false, 1_000_000, None),
            (&always, true, 1_000_000, None),
            (&skips, false, 10_799, None),
            (&skips, false, 10_800, Some(Stopped)),
            (&own, false, 10, Some(Paused)),
            (&own, true, 19, None),
            (&own, true, 20, Some(Stopped)),
            (&stops_first, false, 29, None),
            (&stops_first, false, 30, Some(Stopped)),
        ] {
            let candidate = candidate(lifecycle, is_paused, idle);
            assert_eq!(RULES.due(&candidate), expected, "{candidate:?}");
        }
        let never_paused = RestRules { pause: false, ..RULES };
        assert_eq!(never_paused.due(&candidate(&default, false, 10_799)), None);
        assert_eq!(never_paused.due(&candidate(&default, false, 10_800)), Some(Stopped));
    }

    #[test]
    fn an_idle_time_beyond_all_clocks_is_never_over() {
        let never = lifecycle(None, Some(u64::MAX));
        let (paused, running) = (true, false);
        let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let next = |is_paused| RULES.next_rest_at(&never, is_paused, SystemTime::UNIX_EPOCH);
        assert_eq!(next(running), Some((minute, Rest::Paused)));
        assert_eq!(next(paused), None);
        assert_eq!(RULES.due(&candidate(&never, paused, u64::MAX - 1)), None);
    }

    #[test]
    fn short_memory_demotes_the_app_used_least_recently() {
        let default = Lifecycle::default();
        let always = Lifecycle { always_on: true, ..Lifecycle::default() };
        let skips = Lifecycle { skip_pause: true, ..Lifecycle::default() };
        let demoted = |candidates: &[Candidate<'_>]| RULES.demoted(candidates);
        let apps = [
            candidate(&default, true, 900),
            candidate(&default, false, 30),
            candidate(&default, false, 50),
            candidate(&always, false, 5000),
            candidate(&skips, false, 4000),
        ];
        // Of all that run, whichever way they sleep.
        assert_eq!(demoted(&apps), Some((4, Rest::Stopped)));
        assert_eq!(demoted(&apps[..4]), Some((2, Rest::Paused)));
        // One that is paused only where none runs.
        assert_eq!(demoted(&[apps[0], apps[3], apps[4]]), Some((2, Rest::Stopped)));
        let longer_paused = candidate(&default, true, 901);
        assert_eq!(demoted(&[apps[0], longer_paused, apps[3]]), Some((1, Rest::Stopped)));
        assert_eq!(demoted(&[apps[3], candidate(&default, false, 4)]), None, "just used");
        assert_eq!(demoted(&[apps[3], candidate(&default, true, 4)]), None, "just used");
        let never_paused = RestRules { pause: false, ..RULES };
        assert_eq!(never_paused.demoted(&apps), None);
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
