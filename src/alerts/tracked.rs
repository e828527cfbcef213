//! What one process has measured: the state of each subject of each rule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::measurement::Measurement;
use super::plan::{Key, Observation};
use super::rule::{self, Rule};
use super::subject::Subject;
use super::transition::{Limits, State};
use crate::ledger::record::{Micros, micros};

/// The subjects that are not well, and those of which too little is known.
#[derive(Debug, Default)]
pub(super) struct TrackedSubjects(BTreeMap<Key, Entry>);

#[derive(Debug, Clone, Default)]
struct Entry {
    state: State,
    /// Whether it is written that this process observes it.
    is_told: bool,
    value: u64,
    detail: String,
}

/// What the measurements of one rule are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Criteria<'a> {
    pub(super) rule: Rule,
    pub(super) limits: &'a Limits,
    /// The alerts that fire, by whatever process.
    pub(super) firing: &'a BTreeSet<Key>,
    pub(super) now: Duration,
}

impl TrackedSubjects {
    /// Takes in what was measured for a rule. What is bad and has not been written yet stays
    /// bad until it is: it is told even if the archive was away all the while.
    ///
    /// Beyond [`rule::max_subjects`] subjects, the others are only counted.
    pub(super) fn update(&mut self, criteria: Criteria<'_>, measurements: Vec<Measurement>) {
        let Criteria { rule, limits, firing, now } = criteria;
        let max = rule::max_subjects(rule);
        let mut measured: BTreeMap<Subject, Measurement> = measurements
            .into_iter()
            .map(|measurement| (measurement.subject.clone(), measurement))
            .collect();
        let known = self.subjects(rule);
        let mut bad = self.bad(rule);
        let mut others = 0;
        let new = measured.keys().filter(|subject| !known.contains(*subject)).cloned();
        for subject in known.iter().cloned().chain(new.collect::<Vec<_>>()) {
            let key = (rule, subject);
            let measurement = measured.remove(&key.1);
            let value = measurement.as_ref().map(|measurement| measurement.value);
            let entry = self.0.get(&key).cloned().unwrap_or_default();
            let was_bad = entry.state.is_bad();
            let mut state = entry.state.next(value, firing.contains(&key), now, limits);
            if was_bad && !state.is_bad() && !entry.is_told {
                state = entry.state;
            }
            if state.is_bad() && !was_bad {
                if bad >= max {
                    others += 1;
                    state = entry.state;
                } else {
                    bad += 1;
                }
            }
            self.put(key, Entry { state, ..entry }, measurement);
        }
        self.update_others(criteria, others);
    }

    fn update_others(&mut self, criteria: Criteria<'_>, number: u64) {
        let Criteria { rule, limits, firing, now } = criteria;
        let key = (rule, Subject::Others);
        let entry = self.0.get(&key).cloned().unwrap_or_default();
        let bound = super::transition::Bound::AtLeast { fires: 1, holds: 1 };
        let limits = Limits { bound, after: Duration::ZERO, ..*limits };
        let value = (number > 0).then_some(number);
        let mut state = entry.state.next(value, firing.contains(&key), now, &limits);
        if entry.state.is_bad() && !entry.is_told {
            state = entry.state;
        }
        let detail = format!("{number} more");
        let measurement = Measurement { rule, subject: Subject::Others, value: number, detail };
        self.put(key, Entry { state, ..entry }, (number > 0).then_some(measurement));
    }

    fn put(&mut self, key: Key, mut entry: Entry, measurement: Option<Measurement>) {
        if entry.state == State::Well {
            self.0.remove(&key);
            return;
        }
        if let Some(measurement) = measurement.filter(|_| !entry.is_told) {
            (entry.value, entry.detail) = (measurement.value, measurement.detail);
        }
        self.0.insert(key, entry);
    }

    /// Returns the subjects of a rule, without the one that stands for all others.
    fn subjects(&self, rule: Rule) -> BTreeSet<Subject> {
        let keys =
            self.0.keys().filter(|(other, subject)| *other == rule && *subject != Subject::Others);
        keys.map(|(_, subject)| subject.clone()).collect()
    }

    fn bad(&self, rule: Rule) -> usize {
        let is_one = |((other, subject), entry): &(&Key, &Entry)| {
            *other == rule && *subject != Subject::Others && entry.state.is_bad()
        };
        self.0.iter().filter(is_one).count()
    }

    /// Returns what is bad.
    pub(super) fn bad_keys(&self) -> BTreeSet<Key> {
        let bad = self.0.iter().filter(|(_, entry)| entry.state.is_bad());
        bad.map(|(key, _)| key.clone()).collect()
    }

    /// Returns what is bad as it is written; `now` is the same moment by both clocks.
    pub(super) fn observations(&self, now: Duration, clock: Micros) -> Vec<Observation> {
        let observation = |((rule, subject), entry): (&Key, &Entry)| {
            let State::Bad { since, .. } = entry.state else { return None };
            let age = micros(now.saturating_sub(since));
            Some(Observation {
                rule: *rule,
                subject: subject.clone(),
                since: Micros(clock.0.saturating_sub(age)),
                value: entry.value,
                detail: entry.detail.clone(),
            })
        };
        self.0.iter().filter_map(observation).collect()
    }

    /// Notes that all that is bad now has been written.
    pub(super) fn told(&mut self) {
        for entry in self.0.values_mut().filter(|entry| entry.state.is_bad()) {
            entry.is_told = true;
        }
    }

    /// Notes that nothing has been written, for example of another box.
    pub(super) fn untold(&mut self) {
        for entry in self.0.values_mut() {
            entry.is_told = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::transition::Bound;

    const RULE: Rule = Rule::DenialsAddress;

    fn measurements(apps: std::ops::Range<u64>) -> Vec<Measurement> {
        let measurement = |n| Measurement {
            rule: RULE,
            subject: Subject::App(format!("{n:05}").into()),
            value: 10 + n,
            detail: format!("{n}"),
        };
        apps.map(measurement).collect()
    }

    struct Process {
        tracked: TrackedSubjects,
        firing: BTreeSet<Key>,
        limits: Limits,
    }

    impl Process {
        fn new() -> Self {
            let bound = Bound::AtLeast { fires: 10, holds: 5 };
            let (after, calm) = (Duration::ZERO, Duration::from_secs(10));
            let limits = Limits { bound, after, calm };
            Self { tracked: TrackedSubjects::default(), firing: BTreeSet::new(), limits }
        }

        fn look(&mut self, second: u64, measurements: Vec<Measurement>) -> BTreeSet<Key> {
            let Self { tracked, firing, limits } = self;
            let now = Duration::from_secs(second);
            tracked.update(Criteria { rule: RULE, limits, firing, now }, measurements);
            tracked.bad_keys()
        }
    }

    #[test]
    fn what_was_not_written_stays_bad_until_it_is() {
        let mut process = Process::new();
        assert_eq!(process.look(0, measurements(0..1)).len(), 1);
        assert_eq!(process.look(100, Vec::new()).len(), 1);
        assert_eq!(process.look(200, Vec::new()).len(), 1);
        process.tracked.told();
        assert_eq!(process.look(201, Vec::new()).len(), 0, "it was well for long enough");
    }

    #[test]
    fn ten_thousand_subjects_are_a_bounded_number() {
        let mut process = Process::new();
        let bad = process.look(0, measurements(0..10_000));
        assert_eq!(bad.len(), rule::max_subjects(RULE) + 1);
        assert!(bad.contains(&(RULE, Subject::Others)));
        assert!(process.tracked.0.len() <= rule::max_subjects(RULE) + 1);
        process.tracked.told();
        let again = process.look(1, measurements(5..10_000));
        assert_eq!(again, bad, "those that are calm stay for their time");
        let all = process.tracked.observations(Duration::from_secs(1), Micros(5_000_000));
        assert!(all.iter().all(|seen| seen.since == Micros(4_000_000)));
        let others = all.iter().find(|seen| seen.subject == Subject::Others).expect("one");
        assert_eq!(others.value, 10_000 - rule::max_subjects(RULE) as u64);
        assert_eq!(process.look(12, Vec::new()).len(), bad.len() - 5, "those five were calm first");
        assert_eq!(process.look(23, Vec::new()).len(), 0);
    }

    #[test]
    fn the_number_that_is_told_is_the_last_before_it_was_written() {
        let mut process = Process::new();
        process.look(0, measurements(0..1));
        let measurement = |value| {
            let detail = String::new();
            vec![Measurement { rule: RULE, subject: Subject::App("00000".into()), value, detail }]
        };
        process.look(1, measurement(50));
        process.tracked.told();
        process.look(2, measurement(90));
        let all = process.tracked.observations(Duration::ZERO, Micros(0));
        assert_eq!(all[0].value, 50);
    }
}
