//! How long ago something was, whatever the wall clock did since.
//!
//! Uses are noted, written down and shared by the wall clock, which may be set. Idle
//! time is counted by the monotonic one: what the wall clock shows is remembered for
//! each stretch between two of its steps, and a use is placed in the stretch in which it
//! can have been.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// What differs by less is a clock that is being adjusted, and two that are read one
/// after the other.
const STEP: i128 = 2000;

/// Steps that are remembered. A clock that is set more often is no clock.
const MOST: usize = 16;

/// A time between two steps of the wall clock; all in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// By the monotonic clock, which began with the process; the first one began before.
    begins: i128,
    ends: i128,
    /// What the wall clock is ahead of the monotonic one.
    ahead: i128,
}

/// Both clocks; looked at again and again.
#[derive(Debug)]
pub(super) struct Clocks {
    began: Instant,
    stretches: VecDeque<Stretch>,
}

impl Clocks {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        let first = Stretch { begins: i128::MIN, ends: 0, ahead: millis(wall) };
        Self { began: now, stretches: VecDeque::from([first]) }
    }

    /// Takes what both clocks show; by how many milliseconds the wall clock was set.
    pub(super) fn look(&mut self, now: Instant, wall: SystemTime) -> Option<i128> {
        let now = self.since_start(now);
        let ahead = millis(wall) - now;
        let last = self.stretches.back_mut()?;
        let step = ahead - last.ahead;
        // It may have been set at any time since the last look.
        let begins = last.ends;
        last.ends = now;
        if step.abs() < STEP {
            last.ahead = ahead;
            return None;
        }
        self.stretches.push_back(Stretch { begins, ends: now, ahead });
        if self.stretches.len() > MOST {
            self.stretches.pop_front();
        }
        Some(step)
    }

    /// How long ago a use was; nothing for what is still to come.
    pub(super) fn since(&self, used: SystemTime, now: Instant) -> Duration {
        let (used, now) = (millis(used), self.since_start(now));
        let latest = self.stretches.len().saturating_sub(1);
        let stretches = || self.stretches.iter().enumerate().rev();
        // Of several the one that is the shortest time ago: nobody is put to sleep early.
        let within = stretches().find_map(|(n, stretch)| {
            let at = used - stretch.ahead;
            let ends = if n == latest { now } else { stretch.ends };
            (at >= stretch.begins && at <= ends).then_some(at)
        });
        // Of a time that the wall clock never showed: then it was set past it.
        let skipped = || {
            let after = stretches().find(|(_, stretch)| used - stretch.ahead < stretch.begins);
            after.map(|(_, stretch)| stretch.begins)
        };
        let at = within.or_else(skipped).unwrap_or(now);
        Duration::from_millis(u64::try_from(now - at).unwrap_or_default())
    }

    fn since_start(&self, now: Instant) -> i128 {
        i128::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(i128::MAX)
    }
}

/// Since 1970.
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

    /// A wall clock that shows so many seconds after a common moment.
    fn wall(seconds: i64) -> SystemTime {
        let seconds = u64::try_from(1_000_000_000 + seconds).expect("after 1970");
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Clocks of a process that looked every ten seconds, and of which the wall clock
    /// was set by `step` in the fifth second, a hundred seconds after the start.
    fn stepped(step: i64) -> (Clocks, Instant) {
        let began = Instant::now();
        let mut clocks = Clocks::new(began, wall(0));
        for second in (0..=200_i64).step_by(10) {
            let is_set = second > 100;
            let shown = second + if is_set { step } else { 0 };
            let now = began + Duration::from_secs(second.unsigned_abs());
            let seen = clocks.look(now, wall(shown));
            assert_eq!(seen.is_some(), second == 110 && step.abs() > 2, "{step} {second}");
        }
        (clocks, began + Duration::from_secs(200))
    }

    #[test]
    fn a_step_of_the_wall_clock_makes_nothing_idle() {
        for step in [HOUR, -HOUR, 10 * 365 * 24 * HOUR, -10 * 365 * 24 * HOUR, 30, -30, 1, -1] {
            let (clocks, now) = stepped(step);
            let since = |shown| i64::try_from(clocks.since(wall(shown), now).as_secs()).unwrap();
            // What was noted while the old time was shown, and while the new one was.
            for (used, shown) in [(50, 50), (104, 104), (106, 106 + step), (150, 150 + step)] {
                let slip = since(shown) - (200 - used);
                // What the clock showed twice is taken for the second time.
                let is_twice = step == -30 && used == 104;
                assert!(slip <= 2, "{step}: used at {used}, {} s ago", since(shown));
                assert!(slip >= -2 || is_twice, "{step}: used at {used}, {} s ago", since(shown));
            }
            // Before the process began.
            assert!((since(-500) - 700).abs() <= 2, "{step}: {}", since(-500));
            assert_eq!(since(HOUR * 24 * 365 * 20), 0, "{step}: still to come");
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
            clocks.look(now, wall(i64::try_from(n * n).unwrap()));
        }
        assert_eq!(clocks.stretches.len(), MOST);
        assert_eq!(clocks.since(wall(999 * 999), began + Duration::from_secs(999)).as_secs(), 0);
    }
}
