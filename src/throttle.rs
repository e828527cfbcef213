//! Limits how often a log line, or anything else, may occur.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Admits one event per interval, and counts the events that it suppresses.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Returns how many events were suppressed since the last admitted one, or `None` if this
    /// event is suppressed too.
    pub(crate) fn admit(&self, now: Instant, every: Duration) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, suppressed) = &mut *state;
        if last.is_some_and(|last| now.duration_since(last) < every) {
            *suppressed += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_time_is_let_through() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let admit = |millis| throttle.admit(start + Duration::from_millis(millis), second);
        assert_eq!([admit(0), admit(1), admit(999), admit(1000)], [Some(0), None, None, Some(2)]);
        assert_eq!([admit(1001), admit(2000)], [None, Some(1)]);
    }
}
