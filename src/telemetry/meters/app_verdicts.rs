//! Counts of verdicts by app and rule, kept per thread like all counts of requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use metrics::{counter, describe_counter};
use thread_local::ThreadLocal;

use super::recorder;
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::observation::{Observation, Observer};

const APP_VERDICTS: &str = "nightporter_app_verdicts_total";

/// Most pairs of an app and a rule that get a time series of their own until the process
/// ends; further ones are counted together. A hundred apps with five rules each are a large box.
const MAX_SERIES: usize = 500;

/// The label of everything that is beyond [`MAX_SERIES`].
const OTHER: &str = "other";

/// The kinds of verdicts on a request for a known app. Which reason denies is in
/// `nightporter_verdicts_total`; here it would multiply the time series.
const KINDS: [&str; 3] = ["grant", "asleep", "deny"];

/// The label of a verdict for which no rule was found or needed. No key looks like it.
const NO_RULE: &str = "(none)";

/// The counts of one pair on one thread, which alone adds to them.
type Counts = [AtomicU64; KINDS.len()];

type Sums = BTreeMap<(String, String), [u64; KINDS.len()]>;

/// Counts of verdicts by app, rule and kind. Rules are named by their key of `paths`.
#[derive(Debug, Default)]
pub(crate) struct AppVerdicts {
    threads: ThreadLocal<ThreadCounts>,
    /// The pairs that have a time series of their own, in all threads the same ones.
    admitted: Mutex<Pairs>,
    /// A copy of `admitted` once that is full, to be read without a lock.
    full: OnceLock<RulesByApp>,
}

#[derive(Debug, Default)]
struct Pairs {
    rules: RulesByApp,
    count: usize,
}

/// The counts of one thread. The lock is contended only while metrics are rendered, and then
/// for as long as it takes to copy the handles.
#[derive(Debug, Default)]
struct ThreadCounts {
    series: Mutex<Series>,
    other: Counts,
}

type RulesByApp = HashMap<Arc<str>, HashSet<Arc<str>, Hash>, Hash>;

type Series = HashMap<Arc<str>, HashMap<Arc<str>, Arc<Counts>, Hash>, Hash>;

type Hash = foldhash::fast::RandomState;

impl AppVerdicts {
    /// Returns the counts of this process.
    pub(crate) fn global() -> &'static Self {
        static GLOBAL: OnceLock<AppVerdicts> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            recorder();
            describe_counter!(
                APP_VERDICTS,
                "Verdicts on requests for installed apps, by app and governing rule (the key of \
                 `paths`); `asleep` is a grant that nightporter answers itself."
            );
            Self::default()
        })
    }

    /// Updates the recorder's counters.
    pub(super) fn update_recorder(&self) {
        for ((app, rule), counts) in self.sums() {
            for (kind, count) in KINDS.into_iter().zip(counts) {
                let (app, rule) = (app.clone(), rule.clone());
                counter!(APP_VERDICTS, "app" => app, "rule" => rule, "verdict" => kind)
                    .absolute(count);
            }
        }
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::new();
        let mut add = |app: &str, rule: &str, counts: &Counts| {
            let sum = sums.entry((app.to_owned(), rule.to_owned())).or_default();
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        };
        for thread in &self.threads {
            for (app, rule, counts) in thread.handles() {
                add(&app, &rule, &counts);
            }
            if thread.other.iter().any(|count| count.load(Ordering::Relaxed) > 0) {
                add(OTHER, OTHER, &thread.other);
            }
        }
        sums
    }

    fn count(&self, app: &str, rule: &str, kind: usize) {
        let thread = self.threads.get_or_default();
        let mut series = lock(&thread.series);
        let known = series.get(app).and_then(|rules| rules.get(rule));
        if let Some(counts) = known {
            counts[kind].fetch_add(1, Ordering::Relaxed);
        } else if let Some((app, rule)) = self.admit(app, rule) {
            let counts: Arc<Counts> = Arc::default();
            counts[kind].fetch_add(1, Ordering::Relaxed);
            series.entry(app).or_default().insert(rule, counts);
        } else {
            thread.other[kind].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the names of a pair if it has a time series of its own.
    fn admit(&self, app: &str, rule: &str) -> Option<(Arc<str>, Arc<str>)> {
        if let Some(full) = self.full.get() {
            let (app, rules) = full.get_key_value(app)?;
            return Some((Arc::clone(app), Arc::clone(rules.get(rule)?)));
        }
        let mut admitted = lock(&self.admitted);
        if admitted.count >= MAX_SERIES {
            drop(admitted);
            self.full.get_or_init(|| lock(&self.admitted).rules.clone());
            return self.admit(app, rule);
        }
        let (app, rule) = (Arc::from(app), Arc::from(rule));
        if admitted.rules.entry(Arc::clone(&app)).or_default().insert(Arc::clone(&rule)) {
            admitted.count += 1;
        }
        Some((app, rule))
    }
}

impl ThreadCounts {
    fn handles(&self) -> Vec<(Arc<str>, Arc<str>, Arc<Counts>)> {
        let mut handles = Vec::with_capacity(MAX_SERIES);
        for (app, rules) in &*lock(&self.series) {
            let of_app = rules.iter();
            handles.extend(
                of_app
                    .map(|(rule, counts)| (Arc::clone(app), Arc::clone(rule), Arc::clone(counts))),
            );
        }
        handles
    }
}

impl Observer for &'static AppVerdicts {
    fn observe(&self, observation: &Observation<'_>) {
        let Some(app) = observation.app.filter(|_| observation.endpoint == Endpoint::Auth) else {
            return;
        };
        let kind = match observation.verdict {
            VerdictKind::Grant => 0,
            VerdictKind::Asleep | VerdictKind::KeptAsleep => 1,
            VerdictKind::Deny(_) => 2,
        };
        self.count(app, observation.rule.unwrap_or(NO_RULE), kind);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up_by_app_and_rule() {
        let verdicts = AppVerdicts::global();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1000).for_each(|_| verdicts.count("notes", "/pub/", 0)));
            }
        });
        verdicts.count("notes", "", 2);
        let pair = |rule: &str| ("notes".to_owned(), rule.to_owned());
        let expected = BTreeMap::from([(pair("/pub/"), [2000, 0, 0]), (pair(""), [0, 0, 1])]);
        assert_eq!(verdicts.sums(), expected);
        verdicts.update_recorder();
        let text = super::super::render();
        let line =
            r#"nightporter_app_verdicts_total{app="notes",rule="/pub/",verdict="grant"} 2000"#;
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_box_of_many_apps_has_a_bounded_number_of_series() {
        let verdicts = AppVerdicts::default();
        let names: Vec<_> = (0..2 * MAX_SERIES).map(|number| format!("app{number}")).collect();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| names.iter().for_each(|name| verdicts.count(name, "", 0)));
            });
        }
        let sums = verdicts.sums();
        assert_eq!(sums.len(), MAX_SERIES + 1);
        assert_eq!(sums[&("app0".to_owned(), String::new())], [3, 0, 0]);
        let others = 3 * u64::try_from(MAX_SERIES).expect("small");
        assert_eq!(sums[&(OTHER.to_owned(), OTHER.to_owned())], [others, 0, 0]);
    }
}
