//! The state of all apps, and operations on them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, Services};
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};
use crate::http::{Response, answer, body};
use crate::ledger::acts::Act;
use crate::store::touch::Touches;
use crate::wake::docker::APP_LABEL;
use crate::wake::{AppHandle, Backlog, ContainerState, History, LastProbe, Registry, Shown};

/// `GET /v1/apps`
pub(super) fn list(services: &Services, call: &Call<'_>) -> Response {
    let apps = services.apps(call.principal.tenant).all();
    answer::json(StatusCode::OK, apps.to_string().into())
}

/// `GET /v1/apps/{name}`
pub(super) fn show(services: &Services, call: &Call<'_>) -> Response {
    match services.apps(call.principal.tenant).one(call.parameters.get("name")) {
        Some(app) => answer::json(StatusCode::OK, app.to_string().into()),
        None => answer::not_found(),
    }
}

/// `POST /v1/apps/{name}/wake`, `/sleep` and `/pause`: answers when the operation has
/// finished. It goes on even if the client disconnects.
pub(super) async fn operate(services: &Services, call: Call<'_>, operation: Operation) -> Response {
    let Call { principal, parameters, request } = call;
    if let Err(error) = body::read_unused(request.into_body()).await {
        return error.answer();
    }
    let (apps, name) = (services.apps(principal.tenant), parameters.get("name"));
    let Some(app) = apps.registry.get(name) else { return answer::not_found() };
    if let Err(problem) = services.commit(operation.act(&app.name)).await {
        return problem.answer();
    }
    match apps.operate(&app, operation).await {
        Ok(app) => answer::json(StatusCode::OK, app.to_string().into()),
        Err(failure) => {
            let status = match &failure {
                WakeError::Declined(_) => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let body = json!({"detail": failure.to_string(), "app": apps.one(name)});
            answer::json(status, body.to_string().into())
        }
    }
}

/// An operation that the operator requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Wake,
    /// Stops the app's containers.
    Sleep,
    Pause,
}

impl Operation {
    fn act(self, app: &Arc<str>) -> Act {
        let app = Arc::clone(app);
        match self {
            Self::Wake => Act::Wake { app },
            Self::Sleep => Act::Sleep { app },
            Self::Pause => Act::Pause { app },
        }
    }
}

/// Describes all known apps and performs operations on them.
#[derive(Debug)]
pub(crate) struct Apps {
    registry: Arc<Registry>,
    touches: Arc<Touches>,
}

impl Apps {
    pub(crate) fn new(registry: Arc<Registry>, touches: Arc<Touches>) -> Self {
        Self { registry, touches }
    }

    /// Returns the registry, which knows when the process is about to end.
    pub(super) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn all(&self) -> Value {
        self.registry.list().iter().map(|app| self.describe(app)).collect()
    }

    fn one(&self, name: &str) -> Option<Value> {
        self.registry.get(name).map(|app| self.describe(&app))
    }

    /// Performs an operation and returns the app's new state.
    async fn operate(&self, app: &AppHandle, operation: Operation) -> Result<Value, WakeError> {
        match operation {
            Operation::Wake => self.registry.wake(&app.name).await?,
            Operation::Sleep => self.registry.sleep(&app.name, SleepMode::Stopped).await?,
            Operation::Pause => self.registry.sleep(&app.name, SleepMode::Paused).await?,
        }
        Ok(self.describe(app))
    }

    /// Returns whether the engine's events arrive, and how many apps are in each state.
    pub(super) fn counts(&self) -> (bool, impl Iterator<Item = (&'static str, u64)> + use<>) {
        let mut counts = Phase::WORDS.map(|word| (word, 0));
        for app in self.registry.list() {
            let word = app.shown().phase.as_str();
            if let Some((_, count)) = counts.iter_mut().find(|(other, _)| *other == word) {
                *count += 1;
            }
        }
        (self.registry.is_engine_live(), counts.into_iter())
    }

    /// Returns the reconciler's queue of commands, and how long the app that has been
    /// waiting longest for its start has done so.
    pub(super) fn queues(&self) -> (Backlog, Duration) {
        let is_queued = |shown: &Shown| matches!(shown.phase, Phase::Queued { .. });
        let shown = self.registry.list().into_iter().map(|app| app.shown()).filter(is_queued);
        let ages = shown.filter_map(|shown| Some(shown.began?.elapsed()));
        (self.registry.backlog(), ages.max().unwrap_or_default())
    }

    fn describe(&self, app: &AppHandle) -> Value {
        let Shown { phase, containers, .. } = app.shown();
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
        let last_use = last_use.max(self.touches.last_use(&app.name));
        let next_sleep =
            next_sleep.and_then(|(at, mode)| Some(json!({"at": time(at)?, "to": mode.as_str()})));
        let last_failure = last_failure
            .map(|(at, failure)| json!({"at": time(at), "reason": failure.to_string()}));
        let mut described = json!({
            "name": *app.name,
            "state": phase.as_str(),
            "since": since.and_then(time),
            "last_use": last_use.and_then(time),
            "next_sleep": next_sleep,
            "last_failure": last_failure,
            "last_start_seconds": start_took.map(|took| took.as_secs_f64()),
            "last_probe": last_probe.map(probe),
            "problems": app.problems(),
            "containers": containers.iter().map(container).collect::<Value>(),
        });
        if self.registry.is_unmatched(app) {
            described["hint"] = unmatched(&app.name).into();
        }
        match phase {
            Phase::Queued { place } => described["place"] = place.into(),
            Phase::Failed { failure, retry_after } => {
                described["reason"] = failure.to_string().into();
                described["retry_after_seconds"] = retry_after.as_secs_f64().into();
            }
            Phase::Unavailable { status } => described["status"] = status.into(),
            _ => {}
        }
        described
    }
}

fn probe(probe: LastProbe) -> Value {
    let LastProbe { at, result, took } = probe;
    json!({"at": time(at), "result": result.as_str(), "seconds": took.as_secs_f64()})
}

/// Returns a hint for an app without a container.
fn unmatched(app: &str) -> String {
    format!("no container belongs to this app; label its container {APP_LABEL}={app}")
}

fn container(container: &ContainerState) -> Value {
    let ContainerState { name, state, exit_code } = container;
    json!({"name": name, "state": state, "exit_code": exit_code})
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
