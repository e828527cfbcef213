//! Due times of jobs that find nothing to do.
//!
//! A run that changes nothing is not committed, and so is not its next due time. Of several
//! processes, one then keeps that time in its memory: the one that holds the job's *watch*, a
//! lock of its own outside every transaction. It runs the job once an interval. The others see
//! that the watch is taken and try it as often; if its holder ends, one of them takes over.
//!
//! The watch excludes nobody from the work: that is what the job's own lock is for. As soon as
//! a run changes something, or somebody asks for one, the due time stands in the job's row
//! again. A process that hangs may keep the watch, so now and then the others run the job
//! without it; such a run counts only if there was something to do.

use std::time::Duration;

use tokio::time::Instant;

use super::due::{Due, Outcome, due, next};
use super::{Lease, lock_name};
use crate::ledger::archive::JobRow;
use crate::ledger::record::Micros;

/// How often a job is run without its watch at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where the due time of a job stands.
#[derive(Debug, Default)]
pub(super) enum Watch {
    /// In its row.
    #[default]
    Row,
    /// Here.
    Ours(InMemoryDue),
    /// In the memory of another process.
    Theirs {
        /// If the row changes, it counts again.
        row: JobRow,
        /// When to look whether there is something to do all the same.
        look_at: Instant,
    },
}

/// The due time of a job, as long as this process holds the watch.
#[derive(Debug)]
pub(super) struct InMemoryDue {
    lease: Lease,
    row: JobRow,
    due: Micros,
}

/// The last run of a job that found nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnwrittenRun {
    pub(super) started: Micros,
    pub(super) ended: Micros,
    pub(super) due: Micros,
    pub(super) outcome: String,
}

impl InMemoryDue {
    pub(super) fn new(lease: Lease, row: JobRow, now: Micros) -> Self {
        Self { lease, row, due: now }
    }

    /// Returns whether the due time is still this one.
    pub(super) fn counts(&self, row: Option<&JobRow>) -> bool {
        !self.lease.is_lost() && row == Some(&self.row)
    }

    /// Returns when the job is due; `None` if it is now.
    pub(super) fn due(&mut self, now: Micros, interval: Duration) -> Option<Micros> {
        let row = JobRow { due: self.due, ..self.row.clone() };
        match due(now, Some(&row), interval) {
            Due::Now => return None,
            Due::At(_) => {}
            // The clock was set back.
            Due::MovedTo(moved) => self.due = moved,
        }
        Some(self.due)
    }

    /// Notes a run that found nothing to do; returns when the next is due.
    pub(super) fn ran(&mut self, now: Micros, interval: Duration) -> Micros {
        let outcome = Outcome::Done(String::new());
        self.due = next(self.due.min(now), now, &outcome, interval);
        self.due
    }
}

/// Returns when a job is next run without its watch: its holder, which runs it once an interval,
/// has then missed a run.
pub(super) fn next_look(interval: Duration) -> Instant {
    Instant::now() + LOOK_EVERY.max(interval.saturating_mul(2))
}

/// Returns the name of the lock that is a job's watch.
pub(super) fn watch_name(tenant: &str, row: &str) -> String {
    format!("{}#watch", lock_name(tenant, row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_job_is_run_without_its_watch_only_if_its_holder_has_missed_a_run() {
        for (interval, expected) in [(1, 60), (30, 60), (60, 120), (3600, 7200)] {
            let wait = next_look(Duration::from_secs(interval)) - Instant::now();
            assert_eq!(wait, Duration::from_secs(expected), "{interval}");
        }
    }
}
