//! The current problems: one text per kind of problem, for probes, and one log line
//! each time a text changes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

/// The current problems by their kind. Each user of the server defines its own type of
/// kinds.
#[derive(Debug)]
pub(crate) struct Problems<K>(Mutex<BTreeMap<K, String>>);

impl<K> Default for Problems<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Copy + Ord> Problems<K> {
    pub(crate) fn set(&self, kind: K, text: String) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.get(&kind) != Some(&text) {
            warn!("{text}");
            problems.insert(kind, text);
        }
    }

    pub(crate) fn clear(&self, kind: K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind);
    }

    /// Sets the problem if there is a text, otherwise clears it.
    pub(crate) fn note(&self, kind: K, text: Option<String>) {
        match text {
            Some(text) => self.set(kind, text),
            None => self.clear(kind),
        }
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
