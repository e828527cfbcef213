//! Counts how often each app has failed to start in a row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::lifecycle::WakeError;
use crate::domain::observation::{Action, ActionKind, ActionObserver};

/// The observer that counts failed attempts to wake an app.
#[derive(Debug, Default, Clone)]
pub struct FailedStarts(Arc<Mutex<HashMap<Arc<str>, Failures>>>);

/// The failed attempts since an app last started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    pub number: u64,
    /// Why the last one failed.
    pub reason: String,
}

impl FailedStarts {
    /// Returns the apps that have failed since they last started.
    #[must_use]
    pub fn list(&self) -> Vec<(Arc<str>, Failures)> {
        self.lock().iter().map(|(app, failures)| (Arc::clone(app), failures.clone())).collect()
    }

    /// Forgets an app.
    pub fn forget(&self, app: &str) {
        self.lock().remove(app);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActionObserver for FailedStarts {
    fn observe_action(&self, action: &Action<'_>) {
        if action.kind != ActionKind::Wake {
            return;
        }
        match action.outcome {
            Ok(()) => self.forget(action.app),
            Err(error) if is_the_apps_own(error) => {
                let mut apps = self.lock();
                let entry = apps.entry(Arc::clone(action.app));
                let failures = entry.or_insert(Failures { number: 0, reason: String::new() });
                failures.number = failures.number.saturating_add(1);
                failures.reason = error.to_string();
            }
            Err(_) => {}
        }
    }
}

/// Returns whether a failure says something about the app: not if the engine or the store is
/// away, or if somebody has stopped it meanwhile.
fn is_the_apps_own(error: &WakeError) -> bool {
    match error {
        WakeError::Exited { .. }
        | WakeError::OutOfMemory { .. }
        | WakeError::ImageMissing { .. }
        | WakeError::ImageNotFetched { .. }
        | WakeError::Unhealthy { .. }
        | WakeError::NotReady { .. }
        | WakeError::Engine(_)
        | WakeError::Compose(_)
        | WakeError::NoComposeFile => true,
        WakeError::Interrupted { .. }
        | WakeError::EngineAway
        | WakeError::Store(_)
        | WakeError::Panicked
        | WakeError::Declined(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::domain::lifecycle::SleepMode;
    use crate::domain::observation::Cause;

    #[test]
    fn only_failures_of_the_app_itself_count_until_it_starts() {
        let starts = FailedStarts::default();
        let app: Arc<str> = "notes".into();
        let observe = |kind, outcome| {
            let took = Duration::from_secs(1);
            let (cause, began) = (Cause::Request, UNIX_EPOCH);
            let steps = &[];
            starts.observe_action(&Action {
                app: &app,
                kind,
                cause,
                began,
                took,
                outcome,
                steps,
                asked_by: None,
            });
        };
        let exited = WakeError::Exited { container: "web".into(), code: 3 };
        let stop = ActionKind::Sleep(SleepMode::Stopped);
        observe(ActionKind::Wake, Err(&exited));
        observe(ActionKind::Wake, Err(&WakeError::EngineAway));
        observe(ActionKind::Wake, Err(&WakeError::Declined("not installed")));
        observe(stop, Err(&exited));
        observe(stop, Ok(()));
        observe(ActionKind::Wake, Err(&exited));
        let reason = "container web exited with code 3".to_owned();
        assert_eq!(starts.list(), [(Arc::clone(&app), Failures { number: 2, reason })]);
        observe(ActionKind::Wake, Ok(()));
        assert_eq!(starts.list(), []);
    }
}
