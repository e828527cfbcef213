//! Apps and their sleep.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::domain::lifecycle::{Failure, Phase, Rest};
use crate::store::touch::Touches;
use crate::wake::docker::APP_LABEL;
use crate::wake::{AppWake, ContainerState, History, Shown, Wakes};

/// What an operator orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Wake,
    /// Down to stopped.
    Sleep,
    Pause,
}

impl Operation {
    /// The operation of that name.
    pub(crate) fn named(word: &str) -> Option<Self> {
        match word {
            "wake" => Some(Self::Wake),
            "sleep" => Some(Self::Sleep),
            "pause" => Some(Self::Pause),
            _ => None,
        }
    }
}

/// All apps that are known of, and the orders for them.
#[derive(Debug)]
pub(crate) struct Apps {
    wakes: Arc<Wakes>,
    touches: Arc<Touches>,
}

impl Apps {
    pub(crate) fn new(wakes: Arc<Wakes>, touches: Arc<Touches>) -> Self {
        Self { wakes, touches }
    }

    pub(crate) fn all(&self) -> Value {
        self.wakes.list().iter().map(|app| self.describe(app)).collect()
    }

    pub(crate) fn one(&self, name: &str) -> Option<Value> {
        self.wakes.get(name).map(|app| self.describe(&app))
    }

    /// Does what is ordered; `None` where there is no such app.
    pub(crate) async fn operate(
        &self,
        name: &str,
        operation: Operation,
    ) -> Option<Result<Value, Failure>> {
        let app = self.wakes.get(name)?;
        let done = match operation {
            Operation::Wake => self.wakes.wake(&app.name).await,
            Operation::Sleep => self.wakes.rest(&app.name, Rest::Stopped).await,
            Operation::Pause => self.wakes.rest(&app.name, Rest::Paused).await,
        };
        Some(done.map(|()| self.describe(&app)))
    }

    /// Whether the engine is followed, and how many apps are in each state.
    pub(crate) fn counts(&self) -> (bool, impl Iterator<Item = (&'static str, u64)> + use<>) {
        let mut counts = Phase::WORDS.map(|word| (word, 0));
        for app in self.wakes.list() {
            let word = app.shown().phase.as_str();
            if let Some((_, count)) = counts.iter_mut().find(|(other, _)| *other == word) {
                *count += 1;
            }
        }
        (self.wakes.is_engine_live(), counts.into_iter())
    }

    fn describe(&self, app: &AppWake) -> Value {
        let Shown { phase, containers, .. } = app.shown();
        let History {
            since,
            woken: _,
            last_use,
            last_failure,
            next_rest,
            no_rest_before: _,
            cannot_be_paused: _,
            start_took,
        } = app.history();
        let last_use = last_use.max(self.touches.last_use(&app.name));
        let next_sleep =
            next_rest.and_then(|(at, rest)| Some(json!({"at": time(at)?, "to": rest.as_str()})));
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
            "problems": app.problems(),
            "containers": containers.iter().map(container).collect::<Value>(),
        });
        if self.wakes.is_unmatched(app) {
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

/// What to do about an app that the engine has nothing of.
fn unmatched(app: &str) -> String {
    format!("no container is this app's; label it {APP_LABEL}={app}")
}

fn container(container: &ContainerState) -> Value {
    let ContainerState { name, state, exit_code } = container;
    json!({"name": name, "state": state, "exit_code": exit_code})
}

/// The first second that RFC 3339 has no words for, 10000-01-01, since 1970.
const END_OF_TIMES: u64 = 253_402_300_800;

/// RFC 3339, in seconds; `None` for what it cannot express: an app may ask to sleep
/// after 10,000 years.
fn time(at: SystemTime) -> Option<String> {
    let since_1970 = at.duration_since(UNIX_EPOCH).ok()?;
    (since_1970.as_secs() < END_OF_TIMES).then(|| humantime::format_rfc3339_seconds(at).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_without_words_is_left_out() {
        let at = |seconds| time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(at(END_OF_TIMES - 1).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(at(END_OF_TIMES), None);
        assert_eq!(at(1 << 62), None);
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(1)), None, "a clock without a battery");
    }
}
