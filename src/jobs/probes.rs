//! Probes: whether the apps that are awake answer.
//!
//! A run asks up to 20 apps, one after the other, and the next run goes on behind them. An
//! app that is asleep is not asked, and what a probe moves is not a use of an app
//! ([`Registry::probe`]). The last result stands with the app; a change is recorded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Context, Done, JobError, Lease, LongJob, Plan, Run};
use crate::ledger::record::{Entry, Kind, Micros, Step, micros};
use crate::wake::{AppHandle, LastProbe, Probe, Registry};

/// How many apps a run asks.
const APPS: usize = 20;

/// Each app is waited for up to two seconds, and the idle loop may measure in between.
const LIMIT: Duration = Duration::from_secs(120);

/// Asks the apps that are awake whether they answer.
#[derive(Debug)]
pub struct Probes {
    registry: Arc<Registry>,
    interval: Duration,
    /// The app that was asked last.
    last: Mutex<Option<Arc<str>>>,
    /// What the last run has said.
    said: Mutex<Option<String>>,
}

impl Probes {
    #[must_use]
    pub fn new(registry: Arc<Registry>, interval: Duration) -> Self {
        Self { registry, interval, last: Mutex::default(), said: Mutex::default() }
    }

    async fn ask(&self, context: &Context, lease: &Lease) -> Result<Done, JobError> {
        let mut apps = self.registry.list();
        apps.retain(|app| app.is_awake());
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut asked, mut silent) = (0, Vec::new());
        for app in turn(&apps, |app| &app.name, last.as_ref()) {
            if lease.is_lost() {
                return Err(JobError::LockLost);
            }
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&app.name));
            let before = app.history().last_probe;
            let Some(probe) = self.registry.probe(app).await else { continue };
            asked += 1;
            if probe.result != Probe::Answers {
                silent.push(format!("{}: {}", app.name, probe.result.as_str()));
            }
            if let Some(entry) = change(app, before, probe) {
                (context.record)(entry);
            }
        }
        let what = match (asked, silent.len()) {
            (0, _) => String::new(),
            (_, 0) => format!("{asked} answer"),
            (_, failed) => format!("{} of {asked} answer; {}", asked - failed, silent.join(", ")),
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = said.as_ref() == Some(&what);
        *said = Some(what.clone());
        Ok(Done { is_idle, ..Done::new(what) })
    }
}

impl LongJob for Probes {
    fn plan(&self) -> Plan {
        Plan::new("probes", self.interval, LIMIT)
    }

    fn run<'a>(&'a self, context: &'a Context, _: &'a Arc<str>, lease: &'a Lease) -> Run<'a> {
        Box::pin(self.ask(context, lease))
    }
}

/// Returns whose turn it is: those behind the last one, in order, then those before it.
fn turn<'a, T>(
    sorted: &'a [T],
    name: impl Fn(&T) -> &Arc<str>,
    last: Option<&Arc<str>>,
) -> impl Iterator<Item = &'a T> {
    let behind = last.map_or(0, |last| sorted.partition_point(|item| name(item) <= last));
    sorted[behind..].iter().chain(&sorted[..behind]).take(APPS)
}

/// Returns the record of a result that differs from the one before. An app that answers when
/// it is first asked is as expected.
fn change(app: &AppHandle, before: Option<LastProbe>, probe: LastProbe) -> Option<Entry> {
    let LastProbe { at, result, took } = probe;
    if before.map_or(Probe::Answers, |before| before.result) == result {
        return None;
    }
    let is_good = result == Probe::Answers;
    let mut entry = Entry::new(Kind::Job, Micros::from(at));
    entry.app = Some(Arc::clone(&app.name));
    entry.client = Some("probes".into());
    entry.verdict = Some(if is_good { "done" } else { "failed" }.into());
    entry.reason = (!is_good).then(|| result.as_str().into());
    entry.duration = Micros(micros(took));
    let (name, outcome) = ("probe".into(), result.as_str().into());
    entry.steps.push(Step { name, duration: entry.duration, outcome });
    Some(entry)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn names(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("app{n:02}").into()).collect()
    }

    #[test]
    fn every_app_has_its_turn() {
        for count in [0, 1, 19, 20, 21, 45] {
            let names = names(count);
            let (mut last, mut asked) = (None, Vec::new());
            for _ in 0..3 {
                let round: Vec<_> = turn(&names, |name| name, last.as_ref()).cloned().collect();
                assert_eq!(round.len(), count.min(APPS), "{count}");
                last = round.last().cloned();
                asked.extend(round);
            }
            let expected = names.iter().cycle().take(3 * count.min(APPS)).cloned();
            assert_eq!(asked, expected.collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn an_app_that_is_gone_skips_nobody() {
        let names = names(30);
        let gone: Arc<str> = "app10x".into();
        let first = turn(&names, |name| name, Some(&gone)).next();
        assert_eq!(first.map(|name| &**name), Some("app11"));
    }

    #[test]
    fn only_a_change_is_recorded() {
        use Probe::{Answers, Refused, Silent};

        let (registry, _commands) = Registry::new();
        let app = registry.handle(&"notes".into(), None);
        let probe = |result| LastProbe {
            at: SystemTime::UNIX_EPOCH,
            result,
            took: Duration::from_millis(3),
        };
        for (before, now, expected) in [
            (None, Answers, None),
            (None, Refused, Some(("failed", Some("refused")))),
            (Some(Refused), Refused, None),
            (Some(Refused), Silent, Some(("failed", Some("silent")))),
            (Some(Silent), Answers, Some(("done", None))),
            (Some(Answers), Answers, None),
        ] {
            let entry = change(&app, before.map(probe), probe(now));
            let what = entry.as_ref().map(|entry| {
                (entry.verdict.as_deref().expect("a verdict"), entry.reason.as_deref())
            });
            assert_eq!(what, expected, "{before:?} {now:?}");
        }
    }
}
