//! Whether the upstream answers, told once for each change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For so long nothing must have failed before all is said to be well: an upstream
/// that fails every other time is failing.
const CALM: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Failed,
    Recovered,
}

#[derive(Debug, Default)]
pub(super) struct Condition {
    is_failing: AtomicBool,
    failed: Mutex<Option<Instant>>,
}

impl Condition {
    /// Notes how an attempt ended. Takes no lock while all is well.
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
        let calm = failed.is_none_or(|failed| now.duration_since(failed) >= CALM);
        let changes = calm && self.is_failing.swap(false, Ordering::Relaxed);
        changes.then_some(Change::Recovered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_told_once() {
        let condition = Condition::default();
        let start = Instant::now();
        let note = |ok, seconds| condition.note(ok, start + Duration::from_secs(seconds));
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
