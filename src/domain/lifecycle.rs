//! An app's lifecycle: its phases, why a wake fails, and when it goes to sleep.

use std::time::{Duration, SystemTime};

use super::app::{Lifecycle, Size};

/// The phase of an app between asleep and awake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Ready, or without a known container, so that there is nothing to wake.
    Awake,
    /// Its containers are stopped, or were never started.
    Stopped,
    Paused,
    /// Its containers do not exist and have to be created.
    Missing,
    /// Waits for its turn; place 1 is next.
    Queued {
        place: usize,
    },
    Starting,
    Unpausing,
    /// Running, but its health check has not passed yet.
    AwaitingHealth,
    /// Running, but its entrypoint does not answer yet.
    AwaitingPort,
    /// The last attempt failed; the next is made no sooner than `retry_after` later.
    Failed {
        failure: WakeError,
        retry_after: Duration,
    },
    /// Too little free disk to start anything.
    LowDisk,
    /// The box is smaller than the app needs.
    TooSmall {
        minimum: Size,
    },
    /// Its status in the store forbids waking it now, for example because it is being
    /// installed.
    Unavailable {
        status: String,
    },
}

impl Phase {
    /// The names of all phases.
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

    /// Returns its name in answers to programs.
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

    /// Returns whether an attempt to wake the app is in progress.
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

    /// Returns whether waiting does not help, because a person has to act.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::LowDisk | Self::TooSmall { .. })
    }
}

/// Why an app could not be woken.
///
/// `Display` is for the operator; what a visitor may know is [`WakeError::kind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    #[error("container {container} exited with code {code}")]
    Exited { container: String, code: i64 },
    #[error("container {container} was killed because it ran out of memory")]
    OutOfMemory { container: String },
    #[error("image {image} is missing")]
    ImageMissing { image: String },
    /// `image` is empty if it is unknown.
    #[error("image {image} cannot be fetched: {reason}")]
    ImageNotFetched { image: String, reason: String },
    #[error("the health check of container {container} fails")]
    Unhealthy { container: String },
    #[error("not ready within {}", humantime::format_duration(*.after))]
    NotReady { after: Duration },
    /// By another client, or by an engine that was shut down.
    #[error("container {container} was {what} while it was starting")]
    Interrupted { container: String, what: &'static str },
    #[error("the engine refused: {0}")]
    Engine(String),
    #[error("the engine does not answer")]
    EngineAway,
    #[error("compose: {0}")]
    Compose(String),
    #[error("the containers are missing, and there is no compose file to create them from")]
    NoComposeFile,
    #[error("the store cannot answer: {0}")]
    Store(String),
    /// One of nightporter's own tasks panicked.
    #[error("internal error in nightporter; see its log")]
    Panicked,
    /// Nothing failed, and nothing was done.
    #[error("not now: {0}")]
    Declined(&'static str),
}

/// The kind of a failure, and what a visitor may know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeErrorKind<'a> {
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
    /// The engine refused to start it.
    Refused,
    EngineAway,
    /// Its containers are missing and cannot be created.
    NotMade,
    StoreAway,
    /// An error in nightporter itself.
    Internal,
}

impl WakeError {
    /// Returns its name, which says neither what the engine nor what Compose has written.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::ImageMissing { .. } => "image_missing",
            Self::ImageNotFetched { .. } => "image_not_fetched",
            Self::Unhealthy { .. } => "unhealthy",
            Self::NotReady { .. } => "not_ready",
            Self::Interrupted { .. } => "interrupted",
            Self::Engine(_) => "engine_refused",
            Self::EngineAway => "engine_away",
            Self::Compose(_) => "compose",
            Self::NoComposeFile => "no_compose_file",
            Self::Store(_) => "store",
            Self::Panicked => "panicked",
            Self::Declined(_) => "declined",
        }
    }

    #[must_use]
    pub fn kind(&self) -> WakeErrorKind<'_> {
        match self {
            Self::Exited { .. } => WakeErrorKind::Exited,
            Self::OutOfMemory { .. } => WakeErrorKind::OutOfMemory,
            Self::ImageMissing { image } => WakeErrorKind::ImageMissing { image },
            Self::ImageNotFetched { image, .. } => WakeErrorKind::ImageNotFetched { image },
            Self::Unhealthy { .. } => WakeErrorKind::Unhealthy,
            Self::NotReady { after } => WakeErrorKind::NotReady { after: *after },
            Self::Interrupted { .. } => WakeErrorKind::Interrupted,
            Self::Engine(_) => WakeErrorKind::Refused,
            Self::EngineAway => WakeErrorKind::EngineAway,
            Self::Compose(_) | Self::NoComposeFile => WakeErrorKind::NotMade,
            Self::Store(_) => WakeErrorKind::StoreAway,
            Self::Panicked | Self::Declined(_) => WakeErrorKind::Internal,
        }
    }
}

/// How an app is put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepMode {
    Paused,
    Stopped,
}

impl SleepMode {
    /// Returns the name of the corresponding phase.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// When apps go to sleep if they have no rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepRules {
    /// Whether apps are paused before they are stopped.
    pub pause: bool,
    pub idle_for_pause: Duration,
    pub idle_for_stop: Duration,
}

/// An app that is awake or paused, with what decides about its sleep.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub lifecycle: &'a Lifecycle,
    pub is_paused: bool,
    /// Time since its last use.
    pub idle: Duration,
}

/// An app that was used this recently is not demoted, whatever the memory pressure.
const RECENT_USE: Duration = Duration::from_secs(5);

impl SleepRules {
    /// Returns after which idle time the app goes to which sleep mode; `None` if it never
    /// does.
    ///
    /// The contract has two tiers: a running app is paused, and a paused app is stopped.
    /// An app that must not be paused, or would be stopped sooner than paused, is stopped
    /// directly.
    #[must_use]
    pub fn next_sleep(
        &self,
        lifecycle: &Lifecycle,
        is_paused: bool,
    ) -> Option<(Duration, SleepMode)> {
        if lifecycle.always_on {
            return None;
        }
        let own = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let pause_after = own(lifecycle.idle_for_pause).unwrap_or(self.idle_for_pause);
        let stop_after = own(lifecycle.idle_for_stop).unwrap_or(self.idle_for_stop);
        let is_paused_first =
            self.pause && !lifecycle.skip_pause && !is_paused && pause_after < stop_after;
        Some(if is_paused_first {
            (pause_after, SleepMode::Paused)
        } else {
            (stop_after, SleepMode::Stopped)
        })
    }

    /// Returns when an app that is not used again goes to which sleep mode; `None` if it
    /// never does, or at a time beyond the clock's range.
    #[must_use]
    pub fn next_sleep_at(
        &self,
        lifecycle: &Lifecycle,
        is_paused: bool,
        last_use: SystemTime,
    ) -> Option<(SystemTime, SleepMode)> {
        let (after, mode) = self.next_sleep(lifecycle, is_paused)?;
        Some((last_use.checked_add(after)?, mode))
    }

    /// Returns the sleep mode that is due for an app now.
    #[must_use]
    pub fn due(&self, candidate: &Candidate<'_>) -> Option<SleepMode> {
        let (after, mode) = self.next_sleep(candidate.lifecycle, candidate.is_paused)?;
        (candidate.idle >= after).then_some(mode)
    }

    /// Returns the app to demote when memory is short, by its index: the least recently
    /// used running app or, if none runs, the least recently used paused one. Returns
    /// `None` if apps are never paused.
    #[must_use]
    pub fn demoted(&self, candidates: &[Candidate<'_>]) -> Option<(usize, SleepMode)> {
        let least_recently_used = |is_paused: bool| {
            let candidates = candidates.iter().enumerate().filter(|(_, candidate)| {
                candidate.is_paused == is_paused
                    && !candidate.lifecycle.always_on
                    && candidate.idle >= RECENT_USE
            });
            candidates.max_by_key(|(_, candidate)| candidate.idle)
        };
        if !self.pause {
            return None;
        }
        let (index, candidate) =
            least_recently_used(false).or_else(|| least_recently_used(true))?;
        let is_paused_first = !candidate.is_paused && !candidate.lifecycle.skip_pause;
        Some((index, if is_paused_first { SleepMode::Paused } else { SleepMode::Stopped }))
    }
}

/// Returns whether an app whose row has this status may be woken and put to sleep: it is
/// not being installed or removed.
#[must_use]
pub fn is_revivable(status: &str) -> bool {
    matches!(status, "stopped" | "running" | "down" | "paused")
}

/// Returns whether an app whose row has this status is being removed.
#[must_use]
pub fn is_going(status: &str) -> bool {
    matches!(status, "uninstallation_queued" | "uninstalling")
}

/// Returns the name of an app's Compose project: lower-cased, of `[a-z0-9_-]`, not
/// beginning with `_` or `-`. `None` if nothing is left of the name, and for `core`,
/// which is the box's own project.
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

    const RULES: SleepRules = SleepRules {
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
        use SleepMode::{Paused, Stopped};
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
        let never_paused = SleepRules { pause: false, ..RULES };
        assert_eq!(never_paused.due(&candidate(&default, false, 10_799)), None);
        assert_eq!(never_paused.due(&candidate(&default, false, 10_800)), Some(Stopped));
    }

    #[test]
    fn an_idle_time_beyond_all_clocks_is_never_over() {
        let never = lifecycle(None, Some(u64::MAX));
        let (paused, running) = (true, false);
        let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let next = |is_paused| RULES.next_sleep_at(&never, is_paused, SystemTime::UNIX_EPOCH);
        assert_eq!(next(running), Some((minute, SleepMode::Paused)));
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
        // Among all running apps, regardless of how they sleep.
        assert_eq!(demoted(&apps), Some((4, SleepMode::Stopped)));
        assert_eq!(demoted(&apps[..4]), Some((2, SleepMode::Paused)));
        // A paused app only if no other runs.
        assert_eq!(demoted(&[apps[0], apps[3], apps[4]]), Some((2, SleepMode::Stopped)));
        let longer_paused = candidate(&default, true, 901);
        assert_eq!(demoted(&[apps[0], longer_paused, apps[3]]), Some((1, SleepMode::Stopped)));
        assert_eq!(demoted(&[apps[3], candidate(&default, false, 4)]), None, "just used");
        assert_eq!(demoted(&[apps[3], candidate(&default, true, 4)]), None, "just used");
        let never_paused = SleepRules { pause: false, ..RULES };
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
