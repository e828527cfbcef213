//! An app as the API describes it.

use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

use crate::access::Viewer;
use crate::domain::lifecycle::{Phase, WakeError};
use crate::store::touch::Touches;
use crate::wake::docker::APP_LABEL;
use crate::wake::{AppHandle, AppView, ContainerState, History, LastProbe, Registry};

/// The state of an app. Times are those of RFC 3339, in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct AppState {
    name: String,
    state: &'static str,
    since: Option<String>,
    last_use: Option<String>,
    next_sleep: Option<NextSleep>,
    last_failure: Option<Failure>,
    last_start_seconds: Option<f64>,
    last_probe: Option<Probe>,
    /// What the operator should know.
    problems: Vec<String>,
    containers: Vec<Container>,
    /// What to do if no container belongs to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// If its start waits for others: its place among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<f64>,
    /// Its status in the store, if that keeps it from being served.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

impl AppState {
    /// Describes an app. What the engine or a program has worded may quote anything.
    pub(super) fn new(
        app: &AppHandle,
        registry: &Registry,
        touches: &Touches,
        problems: Vec<String>,
        viewer: &Viewer,
    ) -> Self {
        let AppView { phase, containers, .. } = app.shown();
        let History {
            since,
            woken: _,
            last_use,
            last_failure,
            next_sleep,
            no_sleep_before: _,
            no_pause_before: _,
            start_took,
            last_probe,
        } = app.history();
        let last_use = last_use.max(touches.last_use(&app.name));
        let mut described = Self {
            name: app.name.to_string(),
            state: phase.as_str(),
            since: since.and_then(time),
            last_use: last_use.and_then(time),
            next_sleep: next_sleep
                .and_then(|(at, mode)| Some(NextSleep { at: time(at)?, to: mode.as_str() })),
            last_failure: last_failure
                .map(|(at, failure)| Failure { at: time(at), reason: reason(&failure, viewer) }),
            last_start_seconds: start_took.map(|took| took.as_secs_f64()),
            last_probe: last_probe.map(Probe::from),
            problems,
            containers: containers.iter().map(Container::from).collect(),
            hint: registry.is_unmatched(app).then(|| unmatched(&app.name)),
            place: None,
            reason: None,
            retry_after_seconds: None,
            status: None,
        };
        match phase {
            Phase::Queued { place } => described.place = Some(place),
            Phase::Failed { failure, retry_after } => {
                described.reason = Some(reason(&failure, viewer));
                described.retry_after_seconds = Some(retry_after.as_secs_f64());
            }
            Phase::Unavailable { status } => described.status = Some(status),
            _ => {}
        }
        described
    }
}

/// Returns why an app has failed; without the right to personal values only the error's name.
pub(super) fn reason(failure: &WakeError, viewer: &Viewer) -> String {
    if viewer.is_masked() { failure.name().to_owned() } else { failure.to_string() }
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct NextSleep {
    at: String,
    to: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct Failure {
    at: Option<String>,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct Probe {
    at: Option<String>,
    result: &'static str,
    /// How long it took.
    seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct Container {
    name: String,
    /// The engine's name for the state: `running`, `exited`, ...
    state: &'static str,
    exit_code: Option<i64>,
}

impl From<LastProbe> for Probe {
    fn from(LastProbe { at, result, took }: LastProbe) -> Self {
        Self { at: time(at), result: result.as_str(), seconds: took.as_secs_f64() }
    }
}

impl From<&ContainerState> for Container {
    fn from(ContainerState { name, state, exit_code }: &ContainerState) -> Self {
        Self { name: name.clone(), state, exit_code: *exit_code }
    }
}

/// Returns a hint for an app without a container.
fn unmatched(app: &str) -> String {
    format!("no container belongs to this app; label its container {APP_LABEL}={app}")
}

/// 10000-01-01, the first second that RFC 3339 cannot express, in seconds since 1970.
const END_OF_RFC_3339: u64 = 253_402_300_800;

/// Formats a time in seconds as in RFC 3339; `None` if that cannot express it: an app may
/// be configured to sleep after 10,000 years.
fn time(at: SystemTime) -> Option<String> {
    let since_1970 = at.duration_since(UNIX_EPOCH).ok()?;
    (since_1970.as_secs() < END_OF_RFC_3339)
        .then(|| humantime::format_rfc3339_seconds(at).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_without_words_is_left_out() {
        let at = |seconds| time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(at(END_OF_RFC_3339 - 1).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(at(END_OF_RFC_3339), None);
        assert_eq!(at(1 << 62), None);
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(1)), None, "a clock without a battery");
    }
}
