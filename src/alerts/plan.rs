//! What changes in the alerts of a box, given what all its processes observe: a pure rule.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{self, Rule};
use super::subject::Subject;
use crate::ledger::record::Micros;

/// What an alert is known by.
pub type Key = (Rule, Subject);

/// What one process observes and takes for bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub rule: Rule,
    pub subject: Subject,
    /// When it became bad, by the database's clock.
    pub since: Micros,
    /// The measured number, when it became bad.
    pub value: u64,
    /// What is known besides, for people.
    pub detail: String,
}

/// A change of an alert's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It fires, by this observation.
    Fires(Observation),
    Resolves(Key),
}

/// Returns what has to change so that an alert fires for each subject that some process
/// observes, and for no other. If a rule has too many subjects, those whose alerts fire
/// already go on, then the oldest fire, and one alert stands for all others.
#[must_use]
pub fn changes(observed: &[Observation], firing: &BTreeSet<Key>) -> Vec<Change> {
    let mut subjects: BTreeMap<Key, &Observation> = BTreeMap::new();
    for observation in observed {
        let key = (observation.rule, observation.subject.clone());
        let earliest = subjects.entry(key).or_insert(observation);
        if observation.since < earliest.since {
            *earliest = observation;
        }
    }
    let mut changes = Vec::new();
    for key in firing {
        let (_, subject) = key;
        if *subject != Subject::Others && !subjects.contains_key(key) {
            changes.push(Change::Resolves(key.clone()));
        }
    }
    for rule in Rule::ALL {
        let of_rule = |(other, subject): &Key| *other == rule && *subject != Subject::Others;
        let goes_on = firing.iter().filter(|key| of_rule(key) && subjects.contains_key(key));
        let room = rule::max_subjects(rule).saturating_sub(goes_on.count());
        let is_new = |key: &Key| of_rule(key) && !firing.contains(key);
        let mut new: Vec<_> =
            subjects.iter().filter(|(key, _)| is_new(key)).map(|(_, seen)| *seen).collect();
        new.sort_by(|a, b| (a.since, &a.subject).cmp(&(b.since, &b.subject)));
        let left_out = new.len().saturating_sub(room);
        changes.extend(new.iter().take(room).map(|&seen| Change::Fires(seen.clone())));
        let others = (rule, Subject::Others);
        let seen = subjects.get(&others).copied().cloned();
        let others_seen = seen.or_else(|| {
            let first = new.get(room)?;
            let detail = format!("{left_out} more");
            let (subject, value) = (Subject::Others, left_out as u64);
            Some(Observation { rule, subject, since: first.since, value, detail })
        });
        match (others_seen, firing.contains(&others)) {
            (Some(seen), false) => changes.push(Change::Fires(seen)),
            (None, true) => changes.push(Change::Resolves(others)),
            _ => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn seen(rule: Rule, app: u16, since: i64) -> Observation {
        let subject = Subject::App(format!("app{app}").into());
        Observation { rule, subject, since: Micros(since), value: 3, detail: String::new() }
    }

    fn apply(firing: &mut BTreeSet<Key>, changes: &[Change]) {
        for change in changes {
            let changed = match change {
                Change::Fires(seen) => firing.insert((seen.rule, seen.subject.clone())),
                Change::Resolves(key) => firing.remove(key),
            };
            assert!(changed, "{change:?} changes nothing");
        }
    }

    #[test]
    fn one_alert_fires_for_what_several_processes_see() {
        let observed = [seen(Rule::AppFailing, 1, 20), seen(Rule::AppFailing, 1, 10)];
        let found = changes(&observed, &BTreeSet::new());
        assert_eq!(found, [Change::Fires(observed[1].clone())]);
        let mut firing = BTreeSet::new();
        apply(&mut firing, &found);
        assert_eq!(changes(&observed[..1], &firing), []);
        let key = (Rule::AppFailing, observed[0].subject.clone());
        assert_eq!(changes(&[], &firing), [Change::Resolves(key)]);
    }

    #[test]
    fn beyond_the_most_one_alert_stands_for_all_others() {
        let rule = Rule::DenialsAddress;
        let observed: Vec<_> = (0..50).map(|n| seen(rule, n, i64::from(50 - n))).collect();
        let mut firing = BTreeSet::new();
        let changed = changes(&observed, &firing);
        apply(&mut firing, &changed);
        assert_eq!(firing.len(), rule::max_subjects(rule) + 1);
        assert!(firing.contains(&(rule, Subject::Others)));
        assert!(firing.contains(&(rule, observed[49].subject.clone())), "the oldest");
        // One resolves, and another one takes its place.
        let changed = changes(&observed[..49], &firing);
        assert_eq!(changed.len(), 2, "{changed:?}");
        apply(&mut firing, &changed);
        let few = changes(&observed[45..46], &firing);
        apply(&mut firing, &few);
        assert_eq!(firing, BTreeSet::from([(rule, observed[45].subject.clone())]));
    }

    fn observations() -> impl Strategy<Value = Vec<Observation>> {
        let rules = prop_oneof![Just(Rule::DenialsAddress), Just(Rule::AppFailing)];
        vec((rules, 0_u16..200, 0_i64..5), 0..250)
            .prop_map(|all| all.into_iter().map(|(rule, app, at)| seen(rule, app, at)).collect())
    }

    proptest! {
        #[test]
        fn the_alerts_follow_what_is_observed(rounds in vec(observations(), 1..6)) {
            let mut firing = BTreeSet::new();
            for observed in rounds {
                let changed = changes(&observed, &firing);
                apply(&mut firing, &changed);
                prop_assert_eq!(changes(&observed, &firing), [], "it is settled at once");
                for rule in Rule::ALL {
                    let named: BTreeSet<_> = observed.iter()
                        .filter(|seen| seen.rule == rule)
                        .map(|seen| (rule, seen.subject.clone()))
                        .collect();
                    let others = (rule, Subject::Others);
                    let fires: BTreeSet<_> = firing.iter()
                        .filter(|key| key.0 == rule && **key != others).cloned().collect();
                    prop_assert!(fires.is_subset(&named));
                    prop_assert_eq!(fires.len(), named.len().min(rule::max_subjects(rule)));
                    prop_assert_eq!(firing.contains(&others), named.len() > rule::max_subjects(rule));
                }
            }
        }
    }
}
