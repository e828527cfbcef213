//! When a job is due: pure rules over its row and the database's clock.

use std::fmt;
use std::time::Duration;

use crate::backoff::doubled;
use crate::ledger::archive::JobRow;
use crate::ledger::record::{Micros, micros};

/// The longest wait after failed runs, unless the interval is longer.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Whether a job is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Micros),
    /// The stored time is further ahead than any run sets it: the clock was set back, or the
    /// interval was shortened. This time takes its place.
    MovedTo(Micros),
}

/// Returns whether a job is due. However many runs were missed, one makes up for them.
pub(super) fn due(now: Micros, row: Option<&JobRow>, interval: Duration) -> Due {
    // A new job, or one whose row was deleted.
    let Some(row) = row else { return Due::Now };
    if row.due <= now {
        return Due::Now;
    }
    let longest = match Outcome::from_row(row) {
        Some(Outcome::Failed { times, .. }) => wait_after(times, interval),
        Some(Outcome::Done(_)) | None => interval,
    };
    if row.due > after(now, longest) {
        Due::MovedTo(after(now, interval))
    } else {
        Due::At(row.due)
    }
}

/// Returns when a job is due next that was due at `was_due` and has ended now.
///
/// Counted from when it was due, so that the time that runs take adds nothing to the
/// interval; from now if that has passed already.
pub(super) fn next(was_due: Micros, now: Micros, outcome: &Outcome, interval: Duration) -> Micros {
    match outcome {
        Outcome::Done(_) => {
            let due = after(was_due, interval);
            if due > now { due } else { after(now, interval) }
        }
        Outcome::Failed { times, .. } => after(now, wait_after(*times, interval)),
    }
}

/// Returns the wait after so many failed runs in a row.
fn wait_after(failures: u32, interval: Duration) -> Duration {
    doubled(interval, failures, LONGEST_WAIT.max(interval))
}

/// Returns a time so much later.
pub(super) fn after(time: Micros, wait: Duration) -> Micros {
    Micros(time.0.saturating_add(micros(wait)))
}

/// Returns the time from `earlier` to `later`, or zero.
pub(super) fn between(earlier: Micros, later: Micros) -> Duration {
    Duration::from_micros(u64::try_from(later.0.saturating_sub(earlier.0)).unwrap_or_default())
}

/// What came of a run. As text it is kept in the job's row, so that every process knows how
/// often the job has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// What was done; empty if there is nothing to say.
    Done(String),
    Failed {
        /// How many runs in a row have failed.
        times: u32,
        why: String,
    },
}

impl Outcome {
    /// The names of all outcomes.
    pub(super) const WORDS: [&'static str; 2] = ["done", "failed"];

    /// Returns the outcome of the last run that ended.
    pub(super) fn from_row(row: &JobRow) -> Option<Self> {
        Self::parse(row.outcome.as_deref()?)
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(done) = text.strip_prefix("done") {
            return Some(Self::Done(done.strip_prefix(": ").unwrap_or(done).to_owned()));
        }
        let failed = text.strip_prefix("failed")?;
        if let Some(why) = failed.strip_prefix(": ") {
            return Some(Self::Failed { times: 1, why: why.to_owned() });
        }
        let (times, why) = failed.strip_prefix(' ')?.split_once(" times in a row: ")?;
        Some(Self::Failed { times: times.parse().ok()?, why: why.to_owned() })
    }

    /// Returns how many runs in a row have failed.
    pub(super) fn failures(&self) -> u32 {
        match self {
            Self::Done(_) => 0,
            Self::Failed { times, .. } => *times,
        }
    }

    /// Returns its name in metrics and records.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(what) if what.is_empty() => f.write_str("done"),
            Self::Done(what) => write!(f, "done: {what}"),
            Self::Failed { times: 1, why } => write!(f, "failed: {why}"),
            Self::Failed { times, why } => write!(f, "failed {times} times in a row: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3600 * SECOND;
    const INTERVAL: Duration = Duration::from_secs(10);
    const NOW: Micros = Micros(1_000_000 * SECOND);

    fn at(seconds: i64) -> Micros {
        Micros(NOW.0 + seconds * SECOND)
    }

    fn row(due: Micros, outcome: Option<&str>) -> JobRow {
        JobRow {
            name: "sample".into(),
            due,
            started: None,
            ended: None,
            outcome: outcome.map(str::to_owned),
            by: None,
        }
    }

    #[test]
    fn a_job_is_due_by_its_row_and_the_clock() {
        let failed = Some("failed 3 times in a row: why");
        for (due_at, outcome, expected, why) in [
            (at(0), None, Due::Now, "on time"),
            (at(-1), Some("done"), Due::Now, "late"),
            (Micros(NOW.0 - 400 * HOUR), Some("done"), Due::Now, "many runs were missed"),
            (Micros(NOW.0 + 1), Some("done"), Due::At(Micros(NOW.0 + 1)), "soon"),
            (at(10), Some("done"), Due::At(at(10)), "just run"),
            (Micros(at(10).0 + 1), Some("done"), Due::MovedTo(at(10)), "set back a little"),
            (Micros(NOW.0 + HOUR), Some("done"), Due::MovedTo(at(10)), "set back an hour"),
            (Micros(i64::MAX), None, Due::MovedTo(at(10)), "no time at all"),
            (at(40), failed, Due::At(at(40)), "it waits for longer after failures"),
            (at(41), failed, Due::MovedTo(at(10)), "but not for as long as that"),
            (at(20), Some("failed: why"), Due::MovedTo(at(10)), "the first failure"),
            (at(11), Some("something else"), Due::MovedTo(at(10)), "written by hand"),
        ] {
            assert_eq!(due(NOW, Some(&row(due_at, outcome)), INTERVAL), expected, "{why}");
        }
        assert_eq!(due(NOW, None, INTERVAL), Due::Now, "the first run");
    }

    #[test]
    fn a_job_that_was_asked_for_is_due() {
        // A request for a run sets the due time to the time then.
        let asked = row(NOW, Some("failed 9 times in a row: why"));
        assert_eq!(due(NOW, Some(&asked), INTERVAL), Due::Now);
    }

    #[test]
    fn runs_keep_their_distance_and_missed_ones_collapse() {
        let done = Outcome::Done(String::new());
        for (was_due, expected, why) in [
            (at(0), at(10), "a run that takes no time"),
            (at(-3), at(7), "what it took is not added"),
            (at(-10), at(10), "a run that takes the whole interval"),
            (at(-25), at(10), "two runs were missed"),
            (Micros(NOW.0 - 400 * HOUR), at(10), "the clock jumped, or the box was off"),
        ] {
            assert_eq!(next(was_due, NOW, &done, INTERVAL), expected, "{why}");
        }
    }

    #[test]
    fn the_wait_after_failures_doubles_up_to_an_hour() {
        let wait = |times, interval| {
            let failed = Outcome::Failed { times, why: "why".into() };
            (next(at(-3), NOW, &failed, interval).0 - NOW.0) / SECOND
        };
        let waits: Vec<_> = [1, 2, 3, 4, 9, 10, u32::MAX].map(|n| wait(n, INTERVAL)).into();
        assert_eq!(waits, [10, 20, 40, 80, 2560, 3600, 3600]);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!([wait(1, day), wait(5, day)], [86_400, 86_400], "never below the interval");
    }

    #[test]
    fn a_clock_that_is_set_back_and_forth_delays_a_job_by_two_intervals_at_most() {
        for jump in [HOUR, -HOUR, 24 * HOUR, -24 * HOUR, 3 * SECOND, -3 * SECOND] {
            let mut clock = NOW.0;
            let mut known = row(Micros(clock), None);
            let (mut runs, mut last, mut longest) = (0, 0, 0);
            // Two minutes, half a second at a time; the clock is set after one of them.
            for step in 0..240 {
                clock += SECOND / 2;
                if step == 120 {
                    clock += jump;
                }
                match due(Micros(clock), Some(&known), INTERVAL) {
                    Due::Now => {
                        let done = Outcome::Done(String::new());
                        known.due = next(known.due, Micros(clock), &done, INTERVAL);
                        known.outcome = Some(done.to_string());
                        longest = longest.max(step - last);
                        (runs, last) = (runs + 1, step);
                    }
                    Due::MovedTo(moved) => known.due = moved,
                    Due::At(_) => {}
                }
            }
            assert!((11..=14).contains(&runs), "{jump}: {runs} runs");
            assert!(longest <= 41, "{jump}: {longest} half seconds without a run");
        }
    }

    #[test]
    fn outcomes_are_read_as_they_are_written() {
        let failed = |times, why: &str| Outcome::Failed { times, why: why.into() };
        for (outcome, text) in [
            (Outcome::Done(String::new()), "done"),
            (Outcome::Done("removed 5 records".into()), "done: removed 5 records"),
            (failed(1, "the lock was lost"), "failed: the lock was lost"),
            (failed(7, "a: b"), "failed 7 times in a row: a: b"),
        ] {
            assert_eq!(outcome.to_string(), text);
            assert_eq!(Outcome::parse(text), Some(outcome));
        }
        for text in ["", "failed", "failed times in a row: x", "failed x times in a row: y", "ok"] {
            assert_eq!(Outcome::parse(text), None, "{text}");
        }
    }
}
