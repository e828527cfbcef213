//! Which apps do not start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::{measurement, now};
use crate::alerts::measurement::{Measure, MeasureContext, Measurement};
use crate::alerts::rule::Rule;
use crate::alerts::starts::{FailedStarts, Failures};
use crate::alerts::subject::Subject;
use crate::domain::lifecycle::Phase;
use crate::wake::Registry;

/// Measures which apps do not start.
#[derive(Debug)]
pub struct AppStarts {
    starts: FailedStarts,
    registry: Arc<Registry>,
    recovered: Mutex<RecoveredApps>,
}

/// What is seen of an app now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppActivity {
    /// Its containers run, so it has started, whoever started it.
    Running,
    /// It is stopped, paused or being started.
    Asleep,
    /// It is gone, or its containers have not been seen yet.
    Unknown,
}

/// The apps whose alerts fire, and whether each has started since. An app that was repaired
/// may be asleep again before it was well for long enough.
#[derive(Debug, Default)]
struct RecoveredApps(BTreeMap<Arc<str>, bool>);

impl AppStarts {
    #[must_use]
    pub fn new(starts: FailedStarts, registry: Arc<Registry>) -> Self {
        Self { starts, registry, recovered: Mutex::default() }
    }

    fn see(&self, app: &str) -> AppActivity {
        let Some(handle) = self.registry.get(app) else { return AppActivity::Unknown };
        if !handle.is_awake() {
            return AppActivity::Asleep;
        }
        let shown = handle.shown();
        // Until the engine's containers are known, every app counts as awake.
        let runs = shown.phase == Phase::Awake && !shown.containers.is_empty();
        if runs { AppActivity::Running } else { AppActivity::Unknown }
    }
}

impl RecoveredApps {
    /// Takes in what is seen of the apps whose alerts fire. `failing` are those whose last
    /// start, by this process, has failed. Returns the others that have not started since.
    fn look(
        &mut self,
        firing: Vec<Arc<str>>,
        failing: &[(Arc<str>, Failures)],
        see: impl Fn(&str) -> AppActivity,
    ) -> Vec<Arc<str>> {
        let fails = |app: &Arc<str>| failing.iter().any(|(other, _)| other == app);
        let before = std::mem::take(&mut self.0);
        let mut asleep = Vec::new();
        for app in firing {
            let seen = see(&app);
            let did = seen == AppActivity::Running || before.get(&app).copied().unwrap_or_default();
            let has_started = did && !fails(&app);
            if !has_started && !fails(&app) && seen == AppActivity::Asleep {
                asleep.push(Arc::clone(&app));
            }
            self.0.insert(app, has_started);
        }
        asleep
    }
}

impl Measure for AppStarts {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::AppFailing]
    }

    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        // An app that is gone does not fail.
        let (failing, well): (Vec<_>, Vec<_>) = self
            .starts
            .list()
            .into_iter()
            .partition(|(app, _)| self.see(app) == AppActivity::Asleep);
        for (app, _) in well {
            self.starts.forget(&app);
        }
        let firing = context.firing.iter().filter_map(|(rule, subject)| match subject {
            Subject::App(app) if *rule == Rule::AppFailing => Some(Arc::clone(app)),
            _ => None,
        });
        let mut recovered = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        let told = recovered.look(firing.collect(), &failing, |app| self.see(app));
        // What another process or an earlier one has seen goes on until the app runs.
        let told = told.into_iter().map(|app| {
            measurement(Rule::AppFailing, Subject::App(app), 1, "it has not started since")
        });
        let own = failing.iter().map(|(app, Failures { number, reason })| {
            let detail = format!("{number} attempts in a row have failed: {reason}");
            measurement(Rule::AppFailing, Subject::App(Arc::clone(app)), *number, detail)
        });
        now(own.chain(told).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::alerts::rule;
    use crate::alerts::tracked::{Criteria, TrackedSubjects};
    use crate::config::{Environment, load};

    #[test]
    fn an_app_that_was_repaired_and_sleeps_again_is_resolved_with_default_settings() {
        let settings = load(None, &Environment::new()).expect("the defaults").alerts;
        let limits = rule::limits(Rule::AppFailing, &settings).expect("it is on");
        let app: Arc<str> = "notes".into();
        let firing = BTreeSet::from([(Rule::AppFailing, Subject::App(Arc::clone(&app)))]);
        let failures = Failures { number: 3, reason: "exited".into() };
        let failing = [(Arc::clone(&app), failures)];
        let (mut recovered, mut tracked) = (RecoveredApps::default(), TrackedSubjects::default());
        let mut look = |second, failing: &[(Arc<str>, Failures)], seen| {
            let told = recovered.look(vec![Arc::clone(&app)], failing, |_| seen);
            let value = failing.first().map(|(_, failures)| failures.number);
            let value = value.or((!told.is_empty()).then_some(1));
            let measurements = value.map(|value| {
                measurement(Rule::AppFailing, Subject::App(Arc::clone(&app)), value, String::new())
            });
            let now = Duration::from_secs(second);
            let criteria =
                Criteria { rule: Rule::AppFailing, limits: &limits, firing: &firing, now };
            tracked.update(criteria, measurements.into_iter().collect());
            tracked.told();
            !tracked.bad_keys().is_empty()
        };
        assert!(look(0, &failing, AppActivity::Asleep));
        // Woken once; paused after the 60 seconds of `sleep.pause_after`.
        assert!((1..=30).all(|n| look(2 * n, &[], AppActivity::Running)));
        assert!(!(31..=35).all(|n| look(2 * n, &[], AppActivity::Asleep)), "calm for a minute");
        // It fails again, and its process ends: that it has started before does not count.
        assert!(look(100, &failing, AppActivity::Asleep));
        assert!(look(102, &[], AppActivity::Asleep));
        assert!(look(1000, &[], AppActivity::Asleep));
    }

    #[test]
    fn what_another_process_has_seen_goes_on_until_the_app_runs() {
        let mut recovered = RecoveredApps::default();
        let app: Arc<str> = "notes".into();
        let mut look = |seen| recovered.look(vec![Arc::clone(&app)], &[], |_| seen).len();
        assert_eq!(look(AppActivity::Unknown), 0, "a process that has just begun");
        assert_eq!(look(AppActivity::Asleep), 1);
        assert_eq!(look(AppActivity::Running), 0);
        assert_eq!(look(AppActivity::Asleep), 0);
        assert_eq!(
            recovered.look(Vec::new(), &[], |_| AppActivity::Asleep).len(),
            0,
            "it is resolved"
        );
        let again = recovered.look(vec![app], &[], |_| AppActivity::Asleep).len();
        assert_eq!(again, 1, "it fires anew");
    }
}
