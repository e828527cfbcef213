//! What is wrong now: one text a subject, for probes, and one line in the log
//! each time it changes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

/// Texts by their subject, of which each user of the server has a type of its own.
#[derive(Debug)]
pub(crate) struct Problems<S>(Mutex<BTreeMap<S, String>>);

impl<S> Default for Problems<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Copy + Ord> Problems<S> {
    pub(crate) fn set(&self, subject: S, text: String) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.get(&subject) != Some(&text) {
            warn!("{text}");
            problems.insert(subject, text);
        }
    }

    pub(crate) fn clear(&self, subject: S) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&subject);
    }

    /// Sets or clears.
    pub(crate) fn note(&self, subject: S, text: Option<String>) {
        match text {
            Some(text) => self.set(subject, text),
            None => self.clear(subject),
        }
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
