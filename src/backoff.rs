//! Backoff: the waits between attempts.

use std::time::Duration;

/// Returns a random duration between half and all of a wait, so that many tasks that wait
/// for the same event do not retry at once.
pub(crate) fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 2];
    // aws-lc aborts the process rather than return bytes that are not random.
    let _never_fails = aws_lc_rs::rand::fill(&mut random);
    let fraction = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
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
