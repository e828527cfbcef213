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

/// Lets through one in a time, and says how many were kept back before it.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    pub(super) fn admit(&self, now: Instant, every: Duration) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, kept_back) = &mut *state;
        if last.is_some_and(|last| now.duration_since(last) < every) {
            *kept_back += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(kept_back))
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

    #[test]
    fn one_in_a_time_is_let_through() {
        let seldom = Seldom::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let admit = |millis| seldom.admit(start + Duration::from_millis(millis), second);
        assert_eq!([admit(0), admit(1), admit(999), admit(1000)], [Some(0), None, None, Some(2)]);
        assert_eq!([admit(1001), admit(2000)], [None, Some(1)]);
    }
}
