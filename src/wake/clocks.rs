//! How long ago a use was, even if the wall clock has been set since.
//!
//! Uses are noted, stored and shared in wall-clock time, which may be set. Idle time is
//! measured by the monotonic clock: for each segment between two steps of the wall clock
//! its offset is remembered, and a use is placed in the segment in which it can have
//! happened.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The smallest difference, in milliseconds, that counts as a step. A smaller one comes from
/// a clock that is being adjusted, or from reading the two clocks one after the other.
const MIN_STEP: i128 = 2000;

/// How many segments are remembered. A clock that is set more often is unusable.
const MAX_SEGMENTS: usize = 16;

/// The time between two steps of the wall clock; all values in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// By the monotonic clock, counted from the start of the process; the first segment
    /// began before it.
    begins: i128,
    ends: i128,
    /// How far the wall clock is ahead of the monotonic one.
    ahead: i128,
}

/// Tracks both clocks; updated periodically.
#[derive(Debug)]
pub(super) struct Clocks {
    began: Instant,
    segments: VecDeque<Segment>,
}

impl Clocks {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        let first = Segment { begins: i128::MIN, ends: 0, ahead: millis(wall) };
        Self { began: now, segments: VecDeque::from([first]) }
    }

    /// Takes the time of both clocks. If the wall clock was set, returns by how many
    /// milliseconds.
    pub(super) fn update(&mut self, now: Instant, wall: SystemTime) -> Option<i128> {
        let now = self.since_start(now);
        let ahead = millis(wall) - now;
        let last = self.segments.back_mut()?;
        let step = ahead - last.ahead;
        // It may have been set at any time since the last update.
        let begins = last.ends;
        last.ends = now;
        if step.abs() < MIN_STEP {
            last.ahead = ahead;
            return None;
        }
        self.segments.push_back(Segment { begins, ends: now, ahead });
        if self.segments.len() > MAX_SEGMENTS {
            self.segments.pop_front();
        }
        Some(step)
    }

    /// Returns how long ago a use was; zero if it lies in the future.
    pub(super) fn since(&self, used: SystemTime, now: Instant) -> Duration {
        let (used, now) = (millis(used), self.since_start(now));
        let latest = self.segments.len().saturating_sub(1);
        let segments = || self.segments.iter().enumerate().rev();
        // If several segments fit, the latest counts, so that no app is put to sleep early.
        let within = segments().find_map(|(n, segment)| {
            let at = used - segment.ahead;
            let ends = if n == latest { now } else { segment.ends };
            (at >= segment.begins && at <= ends).then_some(at)
        });
        // The wall clock never showed this time, because it was set past it.
        let skipped = || {
            let after = segments().find(|(_, segment)| used - segment.ahead < segment.begins);
            after.map(|(_, segment)| segment.begins)
        };
        let at = within.or_else(skipped).unwrap_or(now);
        Duration::from_millis(u64::try_from(now - at).unwrap_or_default())
    }

    fn since_start(&self, now: Instant) -> i128 {
        i128::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(i128::MAX)
    }
}

/// Returns milliseconds since 1970.
fn millis(at: SystemTime) -> i128 {
    let of = |span: Duration| i128::try_from(span.as_millis()).unwrap_or(i128::MAX / 4);
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => of(after),
        Err(before) => -of(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    /// Returns the wall-clock time so many seconds after a common moment.
    fn wall(seconds: i64) -> SystemTime {
        let seconds = u64::try_from(1_000_000_000 + seconds).expect("after 1970");
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Returns the clocks of a process that updated them every ten seconds; the wall clock
    /// was set by `step` in the fifth second, a hundred seconds after the start.
    fn stepped(step: i64) -> (Clocks, Instant) {
        let began = Instant::now();
        let mut clocks = Clocks::new(began, wall(0));
        for second in (0..=200_i64).step_by(10) {
            let is_set = second > 100;
            let shown = second + if is_set { step } else { 0 };
            let now = began + Duration::from_secs(second.unsigned_abs());
            let seen = clocks.update(now, wall(shown));
            assert_eq!(seen.is_some(), second == 110 && step.abs() > 2, "{step} {second}");
        }
        (clocks, began + Duration::from_secs(200))
    }

    #[test]
    fn a_step_of_the_wall_clock_makes_nothing_idle() {
        for step in [HOUR, -HOUR, 10 * 365 * 24 * HOUR, -10 * 365 * 24 * HOUR, 30, -30, 1, -1] {
            let (clocks, now) = stepped(step);
            let since = |shown| i64::try_from(clocks.since(wall(shown), now).as_secs()).unwrap();
            // Uses that were noted while the old time was shown, and while the new one was.
            for (used, shown) in [(50, 50), (104, 104), (106, 106 + step), (150, 150 + step)] {
                let slip = since(shown) - (200 - used);
                // A time that the clock showed twice is taken for the second one.
                let is_twice = step == -30 && used == 104;
                assert!(slip <= 2, "{step}: used at {used}, {} s ago", since(shown));
                assert!(slip >= -2 || is_twice, "{step}: used at {used}, {} s ago", since(shown));
            }
            // Before the process began.
            assert!((since(-500) - 700).abs() <= 2, "{step}: {}", since(-500));
            assert_eq!(since(HOUR * 24 * 365 * 20), 0, "{step}: in the future");
        }
    }

    #[test]
    fn a_time_that_was_skipped_is_when_it_was_skipped() {
        let (clocks, now) = stepped(HOUR);
        let ago = clocks.since(wall(HOUR / 2), now);
        assert!((90..=100).contains(&ago.as_secs()), "{ago:?}");
    }

    #[test]
    fn a_clock_that_is_always_set_is_remembered_for_so_long() {
        let began = Instant::now();
        let mut clocks = Clocks::new(began, wall(0));
        for n in 1..1000 {
            let now = began + Duration::from_secs(n);
            clocks.update(now, wall(i64::try_from(n * n).unwrap()));
        }
        assert_eq!(clocks.segments.len(), MAX_SEGMENTS);
        assert_eq!(clocks.since(wall(999 * 999), began + Duration::from_secs(999)).as_secs(), 0);
    }
}
