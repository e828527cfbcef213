//! What is known of an app besides its state; most apps have little of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::readiness::Probe;
use crate::domain::lifecycle::{SleepMode, WakeError};
use crate::domain::trace::SpanContext;

/// Further details about an app, for the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When the shown phase began; `None` if the app has been in it since it was first seen.
    pub since: Option<SystemTime>,
    /// When the app last became ready.
    pub woken: Option<SystemTime>,
    /// The last use that this process knows of.
    pub last_use: Option<SystemTime>,
    pub last_failure: Option<(SystemTime, WakeError)>,
    /// How long the last start took until the app was ready.
    pub start_took: Option<Duration>,
    /// Until when the idle loop leaves the app alone, after it could not be put to sleep.
    pub no_sleep_before: Option<Instant>,
    /// Until when the app is not paused, after the engine refused to. It stays when it has
    /// passed, until the app is paused.
    pub no_pause_before: Option<Instant>,
    /// When the app goes to sleep unless it is used before, and in which mode.
    pub next_sleep: Option<(SystemTime, SleepMode)>,
    /// The last probe of the app while it was awake.
    pub last_probe: Option<LastProbe>,
}

/// A probe of an app that was awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastProbe {
    pub at: SystemTime,
    pub result: Probe,
    /// How long the app took to answer, or was waited for.
    pub took: Duration,
}

impl History {
    /// Whether the idle loop must leave the app alone.
    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.no_sleep_before.is_some_and(|at| at > now)
    }

    /// Whether the engine has refused to pause the app, not long ago.
    pub(super) fn cannot_be_paused(&self, now: Instant) -> bool {
        self.no_pause_before.is_some_and(|at| at > now)
    }
}

/// A series of requests that a running app has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) since: Instant,
    pub(super) last: Instant,
}

/// Everything that is known of one app besides its state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) history: History,
    /// Problems in the app's description.
    pub(super) problems: Vec<String>,
    /// The host of the last request for the app.
    pub(super) host: Option<Arc<str>>,
    /// The span of the request that last asked for a wake.
    pub(super) asked_by: Option<SpanContext>,
    /// Containers that have served requests although their health check did not pass.
    pub(super) unhealthy: HashSet<String>,
    pub(super) unanswered: Option<Unanswered>,
}
