//! What is wrong now: one text a subject, for probes, and one line in the log
//! each time it changes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

/// What a problem is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Link,
    Identity,
    Peers,
    TerminalSecret,
    ManagementSecret,
    Status,
}

#[derive(Debug, Default)]
pub(super) struct Problems(Mutex<BTreeMap<Subject, String>>);

impl Problems {
    pub(super) fn set(&self, subject: Subject, text: String) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.get(&subject) != Some(&text) {
            warn!("{text}");
            problems.insert(subject, text);
        }
    }

    pub(super) fn clear(&self, subject: Subject) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&subject);
    }

    /// Sets or clears.
    pub(super) fn note(&self, subject: Subject, text: Option<String>) {
        match text {
            Some(text) => self.set(subject, text),
            None => self.clear(subject),
        }
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
