//! Backoff: the waits between attempts.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Returns a random number for what needs no secrecy. (The first number of aws-lc's generator
/// costs 420 million instructions, which the first request of a new process would wait for.)
pub(crate) fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Returns a random duration between half and all of a wait, so that many tasks that wait
/// for the same event do not retry at once.
pub(crate) fn jittered(wait: Duration) -> Duration {
    let fraction = f64::from(random()) / f64::from(u32::MAX);
    wait.mul_f64(0.5 + fraction / 2.0)
}

/// Returns the wait after this many failures in a row: it doubles with each failure, up to
/// `longest`.
pub(crate) fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let wait = |failures| doubled(Duration::from_secs(5), failures, Duration::from_secs(60));
        let seconds: Vec<_> = (0..7).map(|failures| wait(failures).as_secs()).collect();
        assert_eq!(seconds, [5, 5, 10, 20, 40, 60, 60]);
        assert_eq!(wait(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn half_of_a_wait_is_certain() {
        let wait = Duration::from_secs(1);
        assert!((0..1000).all(|_| (wait / 2..=wait).contains(&jittered(wait))));
    }
}
