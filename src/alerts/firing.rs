//! What fires, as probes and metrics show it: what is stored, and what this process observes
//! and could not write yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::plan::Key;
use super::rule::Rule;
use super::table::Alert;

/// The alerts that fire, as far as this process knows.
#[derive(Debug, Default)]
pub struct FiringAlerts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    stored: Vec<Alert>,
    own: BTreeSet<Key>,
}

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    pub rule: Rule,
    /// `None` if it is not stored yet.
    pub stored: Option<Alert>,
}

impl FiringAlerts {
    pub(super) fn set_stored(&self, firing: Vec<Alert>) {
        self.lock().stored = firing;
    }

    pub(super) fn set_own(&self, observed: BTreeSet<Key>) {
        self.lock().own = observed;
    }

    /// Returns what fires.
    #[must_use]
    pub fn list(&self) -> Vec<Firing> {
        let Known { stored, own } = &*self.lock();
        let keys: BTreeSet<Key> = stored.iter().map(Alert::key).collect();
        let unwritten = own.difference(&keys).map(|(rule, _)| Firing { rule: *rule, stored: None });
        let stored = stored.iter();
        let stored = stored.map(|alert| Firing { rule: alert.rule, stored: Some(alert.clone()) });
        stored.chain(unwritten).collect()
    }

    /// Returns how many alerts of each rule fire.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Rule, u64> {
        let mut counts: BTreeMap<Rule, u64> = Rule::ALL.map(|rule| (rule, 0)).into();
        for Firing { rule, .. } in self.list() {
            *counts.entry(rule).or_default() += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
