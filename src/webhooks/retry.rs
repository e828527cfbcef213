//! What follows an attempt: done, another one later, or the end of the endpoint.
//!
//! Everything here is pure; the time and the jitter are parameters.

use std::time::Duration;

use crate::ledger::record::{Micros, micros};

/// The waits after the first attempts; with the last one, a delivery is given up after about
/// 28 hours.
const WAITS: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(10 * 3600),
];

/// The longest wait that a receiver may ask for by `Retry-After`.
const LONGEST: Duration = Duration::from_secs(10 * 3600);

/// How much of a wait is added or left out at most, so that what failed together is not
/// repeated together.
const JITTER: f64 = 0.1;

/// An endpoint to which every attempt has failed for so long is disabled.
const FAILING: Duration = Duration::from_secs(5 * 24 * 3600);

/// How an attempt ended, as far as it decides what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    Delivered,
    Failed {
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// 410: the receiver wants no more messages.
    Gone,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    Delivered,
    Retry {
        at: Micros,
    },
    /// There were enough attempts.
    GivenUp,
    /// The endpoint gets no further messages.
    Disable(DisableReason),
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisableReason {
    Gone,
    Failing,
}

impl DisableReason {
    /// Returns the reason as it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "the receiver answered 410 Gone",
            Self::Failing => "every attempt has failed for five days",
        }
    }
}

/// Decides what follows attempt number `attempt`, which counts from 1.
///
/// `failing_since` is when the first of the attempts failed that have failed without one that
/// did not. `jitter` is random, from 0 to 1.
#[must_use]
pub fn next_step(
    result: AttemptResult,
    attempt: i64,
    now: Micros,
    failing_since: Option<Micros>,
    jitter: f64,
) -> NextStep {
    let retry_after = match result {
        AttemptResult::Delivered => return NextStep::Delivered,
        AttemptResult::Gone => return NextStep::Disable(DisableReason::Gone),
        AttemptResult::Failed { retry_after } => retry_after.unwrap_or_default().min(LONGEST),
    };
    if failing_since.is_some_and(|since| now.0.saturating_sub(since.0) >= micros(FAILING)) {
        return NextStep::Disable(DisableReason::Failing);
    }
    let wait = usize::try_from(attempt - 1).ok().and_then(|done| WAITS.get(done));
    let Some(wait) = wait else { return NextStep::GivenUp };
    let factor = 1.0 + JITTER * (2.0 * jitter.clamp(0.0, 1.0) - 1.0);
    let wait = wait.mul_f64(factor).max(retry_after);
    NextStep::Retry { at: Micros(now.0.saturating_add(micros(wait))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_000_000_000_000);
    const FAILED: AttemptResult = AttemptResult::Failed { retry_after: None };

    fn wait(result: AttemptResult, attempt: i64, jitter: f64) -> Option<u64> {
        match next_step(result, attempt, NOW, Some(NOW), jitter) {
            NextStep::Retry { at } => u64::try_from((at.0 - NOW.0) / 1_000_000).ok(),
            NextStep::GivenUp => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_waits_are_those_of_the_specification() {
        let waits: Vec<_> = (1..=8).map(|attempt| wait(FAILED, attempt, 0.5)).collect();
        let hours = |hours: u64| Some(hours * 3600);
        let expected =
            [Some(5), Some(300), Some(1800), hours(2), hours(5), hours(10), hours(10), None];
        assert_eq!(waits, expected);
        assert_eq!((wait(FAILED, 2, 0.0), wait(FAILED, 2, 1.0)), (Some(270), Some(330)));
        assert_eq!(wait(FAILED, i64::MAX, 0.5), None);
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_too_much() {
        let asks =
            |seconds| AttemptResult::Failed { retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(wait(asks(60), 1, 0.5), Some(60));
        assert_eq!(wait(asks(1), 2, 0.5), Some(300), "never sooner than without it");
        assert_eq!(wait(asks(u64::MAX), 1, 0.5), Some(36_000));
    }

    #[test]
    fn an_endpoint_ends_at_410_and_after_five_days() {
        let days = |days: i64| Some(Micros(NOW.0 - days * 86_400_000_000));
        let gone = next_step(AttemptResult::Gone, 1, NOW, None, 0.5);
        assert_eq!(gone, NextStep::Disable(DisableReason::Gone));
        assert!(matches!(next_step(FAILED, 1, NOW, days(4), 0.5), NextStep::Retry { .. }));
        assert_eq!(
            next_step(FAILED, 1, NOW, days(5), 0.5),
            NextStep::Disable(DisableReason::Failing)
        );
        assert_eq!(
            next_step(FAILED, 8, NOW, days(6), 0.5),
            NextStep::Disable(DisableReason::Failing)
        );
        assert_eq!(next_step(AttemptResult::Delivered, 8, NOW, days(6), 0.5), NextStep::Delivered);
    }
}
