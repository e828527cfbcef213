//! Runs that find nothing to do, which are not written: see [`super::super::watch`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::super::due::{self, Due, Outcome, between};
use super::super::watch::{InMemoryDue, UnwrittenRun, Watch, next_look, watch_name};
use super::super::{Done, JobError};
use super::{DueRun, Runner, shortened};
use crate::ledger::archive::JobRow;

impl Runner {
    /// Ends a run that found nothing to do, and has written nothing.
    pub(super) async fn idle(
        &self,
        tenant: &Arc<str>,
        begun: &DueRun,
        row: &JobRow,
        done: Done,
        took: Duration,
        watch: &mut Watch,
    ) -> Result<Duration, JobError> {
        if matches!(watch, Watch::Row) {
            match self.context.locks.try_lock(&watch_name(tenant, &self.plan.row)).await {
                Ok(Some(lease)) => {
                    *watch = Watch::Ours(InMemoryDue::new(lease, row.clone(), begun.at));
                }
                Ok(None) => {}
                Err(error) => {
                    // Behind a pooler there are no such locks: the due time is written.
                    debug!(job = self.plan.name, %error, "a run without effect is written");
                    let outcome = Outcome::Done(shortened(&done.what));
                    let wait = self.write_end(tenant, begun, &outcome).await?;
                    self.note_run(begun, &outcome, took);
                    self.follow_up(done).await;
                    return Ok(wait.unwrap_or_else(|| self.note_busy()));
                }
            }
        }
        let interval = self.plan.interval;
        let Watch::Ours(kept) = watch else {
            // Another process runs it, and has found the same.
            *watch = Watch::Theirs { row: row.clone(), look_at: next_look(interval) };
            return Ok(interval);
        };
        let ended = due::after(begun.at, took);
        let due = kept.ran(ended, interval);
        let outcome = Outcome::Done(shortened(&done.what));
        let unwritten =
            UnwrittenRun { started: begun.at, ended, due, outcome: outcome.to_string() };
        *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) = Some(unwritten);
        self.note_run(begun, &outcome, took);
        self.follow_up(done).await;
        Ok(between(ended, due))
    }

    /// Reads a job's row without its lock. Returns how long to wait; `None` if the job may be
    /// due.
    pub(super) async fn wait_unlocked(
        &self,
        tenant: &str,
        watch: &mut Watch,
    ) -> Result<Option<Duration>, JobError> {
        let (row, now) = self.context.archive.snapshot().await?.job(tenant, &self.plan.row).await?;
        let counts = match watch {
            Watch::Row => true,
            Watch::Ours(kept) => kept.counts(row.as_ref()),
            Watch::Theirs { row: known, .. } => row.as_ref() == Some(&*known),
        };
        if !counts {
            *watch = Watch::Row;
        }
        if self.asked.load(Ordering::Acquire) {
            return Ok(None);
        }
        let interval = self.plan.interval;
        match watch {
            Watch::Row => Ok(match self.due(now, row.as_ref()) {
                Due::At(at) => Some(between(now, at)),
                Due::Now | Due::MovedTo(_) => None,
            }),
            Watch::Ours(kept) => Ok(kept.due(now, interval).map(|due| between(now, due))),
            Watch::Theirs { look_at, .. } if Instant::now() >= *look_at => Ok(None),
            Watch::Theirs { row, .. } => {
                let name = watch_name(tenant, &self.plan.row);
                let Some(lease) = self.context.locks.try_lock(&name).await? else {
                    return Ok(Some(interval));
                };
                // Its holder has ended.
                *watch = Watch::Ours(InMemoryDue::new(lease, row.clone(), now));
                Ok(None)
            }
        }
    }
}
