//! When something that is measured becomes bad, and when it is well again: pure rules with
//! hysteresis, so that a number that goes up and down around its threshold is one alert.

use std::time::Duration;

/// Which numbers are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Bad from `fires` on; well again below `holds`, which is not above it.
    AtLeast { fires: u64, holds: u64 },
    /// Bad down from `fires`; well again above `holds`, which is not below it.
    AtMost { fires: u64, holds: u64 },
}

/// When an alert fires and resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bound: Bound,
    /// For how long the number is bad before it counts.
    pub after: Duration,
    /// For how long it is well before that counts.
    pub calm: Duration,
}

/// The state of one thing that is measured. Times are those of one monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Well,
    /// The number is bad, not yet for long enough.
    Pending { since: Duration },
    Bad {
        /// When the number became bad.
        since: Duration,
        /// Since when it has been well again.
        calm: Option<Duration>,
    },
}

impl Bound {
    fn is_bad(self, value: u64) -> bool {
        match self {
            Self::AtLeast { fires, .. } => value >= fires,
            Self::AtMost { fires, .. } => value <= fires,
        }
    }

    /// Returns whether a number keeps an alert firing.
    #[must_use]
    pub fn holds(self, value: u64) -> bool {
        match self {
            Self::AtLeast { holds, .. } => value >= holds,
            Self::AtMost { holds, .. } => value <= holds,
        }
    }
}

impl State {
    #[must_use]
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Bad { .. })
    }

    /// Returns the state after a look at `now`. `None` stands for a number that is well.
    ///
    /// `is_firing` says that the alert fires already, by what this or another process has
    /// seen: then what keeps it firing is enough, at once. So a process that is started again
    /// goes on where the last one ended.
    #[must_use]
    pub fn next(self, value: Option<u64>, is_firing: bool, now: Duration, limits: &Limits) -> Self {
        let Limits { bound, after, calm: needed } = *limits;
        let holds = value.is_some_and(|value| bound.holds(value));
        let is_bad = value.is_some_and(|value| bound.is_bad(value));
        match self {
            Self::Bad { since, .. } if holds => Self::Bad { since, calm: None },
            Self::Bad { since, calm } => {
                let calm = calm.unwrap_or(now);
                if now.saturating_sub(calm) >= needed {
                    Self::Well
                } else {
                    Self::Bad { since, calm: Some(calm) }
                }
            }
            Self::Well | Self::Pending { .. } if is_bad || (holds && is_firing) => {
                let since = if let Self::Pending { since } = self { since } else { now };
                if is_firing || now.saturating_sub(since) >= after {
                    Self::Bad { since, calm: None }
                } else {
                    Self::Pending { since }
                }
            }
            Self::Well | Self::Pending { .. } => Self::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BOUND: Bound = Bound::AtLeast { fires: 10, holds: 5 };

    fn limits(after: u64, calm: u64) -> Limits {
        let (after, calm) = (Duration::from_secs(after), Duration::from_secs(calm));
        Limits { bound: BOUND, after, calm }
    }

    /// Looks once a second; returns the state after each look.
    fn states(limits: &Limits, values: &[Option<u64>]) -> Vec<State> {
        let mut state = State::default();
        let look = |(second, value): (u64, &Option<u64>)| {
            state = state.next(*value, false, Duration::from_secs(second), limits);
            state
        };
        (0..).zip(values).map(look).collect()
    }

    fn is_bad(limits: &Limits, values: &[u64]) -> Vec<bool> {
        let values: Vec<_> = values.iter().copied().map(Some).collect();
        states(limits, &values).into_iter().map(State::is_bad).collect()
    }

    #[test]
    fn it_fires_at_once_or_after_its_time_and_resolves_when_it_was_calm() {
        let (yes, no) = (true, false);
        for (limits, values, expected) in [
            (limits(0, 0), vec![9, 10, 5, 4, 9], vec![no, yes, yes, no, no]),
            (limits(2, 0), vec![10, 10, 10, 4], vec![no, no, yes, no]),
            (limits(2, 0), vec![10, 9, 10, 10, 10], vec![no, no, no, no, yes]),
            (limits(0, 2), vec![10, 4, 4, 4], vec![yes, yes, yes, no]),
            (limits(0, 2), vec![10, 4, 5, 4, 4, 4], vec![yes, yes, yes, yes, yes, no]),
        ] {
            assert_eq!(is_bad(&limits, &values), expected, "{limits:?} {values:?}");
        }
    }

    #[test]
    fn a_number_that_must_not_fall_is_bad_when_it_is_small() {
        let bound = Bound::AtMost { fires: 10, holds: 12 };
        let limits = Limits { bound, ..limits(0, 0) };
        assert_eq!(is_bad(&limits, &[11, 10, 12, 13, 11]), [false, true, true, false, false]);
    }

    #[test]
    fn a_new_process_goes_on_with_what_fires_already() {
        let limits = limits(60, 60);
        let next = |value, is_firing| State::Well.next(value, is_firing, Duration::ZERO, &limits);
        assert!(next(Some(5), true).is_bad());
        assert_eq!(next(Some(5), false), State::Well);
        assert_eq!(next(Some(4), true), State::Well);
        assert_eq!(next(None, true), State::Well);
    }

    fn values() -> impl Strategy<Value = Vec<Option<u64>>> {
        vec(prop_oneof![Just(None), (0_u64..15).prop_map(Some)], 0..200)
    }

    proptest! {
        /// Between two times that it fires there is the time that it must be calm, and the
        /// time that it must be bad: that bounds the messages, whatever is measured.
        #[test]
        fn it_changes_no_more_often_than_its_times_allow(
            values in values(), after in 0_u64..6, calm in 0_u64..6,
        ) {
            let states = states(&limits(after, calm), &values);
            let firings = states.windows(2).filter(|pair| !pair[0].is_bad() && pair[1].is_bad());
            let apart = usize::try_from((after + calm).max(1)).expect("small");
            prop_assert!(firings.count() <= values.len() / apart + 1);
        }

        /// It fires only if each number of the last looks was bad, and resolves only if each
        /// was well.
        #[test]
        fn every_change_is_accounted_for(
            values in values(), after in 0_usize..6, calm in 0_usize..6,
        ) {
            let states = states(&limits(after as u64, calm as u64), &values);
            let mut was_bad = false;
            for (look, state) in states.iter().enumerate() {
                let last = |number: usize| &values[look - number..=look];
                if state.is_bad() && !was_bad {
                    prop_assert!(last(after).iter().all(|value| value.is_some_and(|value| value >= 10)));
                }
                if !state.is_bad() && was_bad {
                    prop_assert!(last(calm).iter().all(|value| value.is_none_or(|value| value < 5)));
                }
                was_bad = state.is_bad();
            }
        }

        /// What goes on for long enough is told.
        #[test]
        fn nothing_that_lasts_is_missed(values in values(), after in 0_u64..6, calm in 0_u64..6) {
            let limits = limits(after, calm);
            let whole = |last: Option<u64>| {
                let all: Vec<_> = values.iter().copied().chain(vec![last; 8]).collect();
                states(&limits, &all).last().copied().unwrap_or_default()
            };
            prop_assert!(whole(Some(10)).is_bad());
            prop_assert_eq!(whole(Some(4)), State::Well);
            prop_assert_eq!(whole(None), State::Well);
        }
    }
}
