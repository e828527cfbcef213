//! Counts of verdicts by app and rule, kept per thread like all counts of requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use metrics::{counter, describe_counter};
use thread_local::ThreadLocal;

use super::recorder;
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::observation::{Observation, Observer};

const APP_VERDICTS: &str = "nightporter_app_verdicts_total";

/// Most pairs of an app and a rule that get a time series of their own; further ones are
/// counted together. A hundred apps with five rules each are a large box.
const MAX_SERIES: usize = 500;

/// The label of everything that is beyond [`MAX_SERIES`].
const OTHER: &str = "other";

/// The kinds of verdicts on a request for a known app. Which reason denies is in
/// `nightporter_verdicts_total`; here it would multiply the time series.
const KINDS: [&str; 3] = ["grant", "asleep", "deny"];

type Counts = [u64; KINDS.len()];

/// Counts of verdicts by app, rule and kind. Rules are named by their key of `paths`.
#[derive(Debug, Default)]
pub(crate) struct AppVerdicts {
    threads: ThreadLocal<Mutex<Series>>,
    /// The pairs that have a time series of their own, in all threads the same.
    admitted: Mutex<HashSet<(Box<str>, Box<str>), Hash>>,
}

/// The counts of one thread, by app and rule. The lock is contended only while metrics are
/// rendered.
type Series = HashMap<Box<str>, HashMap<Box<str>, Counts, Hash>, Hash>;

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

    fn sums(&self) -> BTreeMap<(String, String), Counts> {
        let mut sums = BTreeMap::new();
        for thread in &self.threads {
            for (app, rules) in &*lock(thread) {
                for (rule, counts) in rules {
                    let pair = (String::from(&**app), String::from(&**rule));
                    let sum: &mut Counts = sums.entry(pair).or_default();
                    sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
                }
            }
        }
        sums
    }

    fn count(&self, app: &str, rule: &str, kind: usize) {
        let mut series = lock(self.threads.get_or_default());
        if let Some(counts) = series.get_mut(app).and_then(|rules| rules.get_mut(rule)) {
            counts[kind] += 1;
            return;
        }
        let (app, rule) = if self.admit(app, rule) { (app, rule) } else { (OTHER, OTHER) };
        series.entry(app.into()).or_default().entry(rule.into()).or_default()[kind] += 1;
    }

    /// Returns whether a pair has a time series of its own.
    fn admit(&self, app: &str, rule: &str) -> bool {
        let pair = (app.into(), rule.into());
        let mut admitted = lock(&self.admitted);
        admitted.contains(&pair) || (admitted.len() < MAX_SERIES && admitted.insert(pair))
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
        self.count(app, observation.rule.unwrap_or_default(), kind);
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
