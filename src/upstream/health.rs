//! Tracks whether the upstream answers, and reports each change once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time without a failure after which the upstream counts as recovered: an upstream that
/// fails every other time is failing.
const RECOVERY_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Failed,
    Recovered,
}

#[derive(Debug, Default)]
pub(super) struct Health {
    is_failing: AtomicBool,
    failed: Mutex<Option<Instant>>,
}

impl Health {
    /// Notes the outcome of an attempt. Takes no lock while the upstream is healthy.
    pub(super) fn note(&self, ok: bool, now: Instant) -> Option<Change> {
        if ok && !self.is_failing.load(Ordering::Relaxed) {
            return None;
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if !ok {
            *failed = Some(now);
            let was_failing = self.is_failing.swap(true, Ordering::Relaxed);
            return (!was_failing).then_some(Change::Failed);
        }
        let is_calm = failed.is_none_or(|failed| now.duration_since(failed) >= RECOVERY_TIME);
        let has_recovered = is_calm && self.is_failing.swap(false, Ordering::Relaxed);
        has_recovered.then_some(Change::Recovered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_told_once() {
        let health = Health::default();
        let start = Instant::now();
        let note = |ok, seconds| health.note(ok, start + Duration::from_secs(seconds));
        assert_eq!(note(true, 0), None);
        assert_eq!(note(false, 1), Some(Change::Failed));
        assert_eq!(note(false, 2), None);
        assert_eq!(note(true, 3), None, "it may fail again at once");
        assert_eq!(note(false, 4), None);
        assert_eq!(note(true, 14), Some(Change::Recovered));
        assert_eq!(note(true, 15), None);
        assert_eq!(note(false, 16), Some(Change::Failed));
    }
}
