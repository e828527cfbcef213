//! Runs that somebody asks for, before they are due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{BUSY_WAITS, Runner};
use crate::backoff::jittered;
use crate::ledger::archive::{ArchiveError, JobRow, Transaction};
use crate::ledger::record::Micros;

/// How long somebody who asks for a run waits for the lock of a job that is running.
const ASK_FOR: Duration = Duration::from_secs(2);

/// A job that somebody has asked to be run.
#[derive(Debug)]
#[must_use = "it is due once this is committed"]
pub struct Asked<'a> {
    /// Since when it is due.
    pub due: Micros,
    runner: Arc<Runner>,
    transaction: Option<Transaction<'a>>,
}

impl<'a> Asked<'a> {
    /// Returns the transaction that makes the job due, and whom to tell when it is committed.
    /// There is none if the job is running: then this process has noted, in its memory, to run
    /// it once more.
    pub fn into_parts(self) -> (Option<Transaction<'a>>, Arc<Runner>) {
        (self.transaction, self.runner)
    }

    /// Makes the job due; returns since when it is.
    pub async fn commit(self) -> Result<Micros, ArchiveError> {
        if let Some(transaction) = self.transaction {
            transaction.commit().await?;
        }
        self.runner.notify();
        Ok(self.due)
    }
}

impl Runner {
    /// Has the job's row read anew.
    pub fn notify(&self) {
        self.wake.notify_one();
    }

    /// Begins a transaction that makes the job due now. If it is running, it is run again
    /// afterwards.
    pub(in crate::jobs) async fn ask(self: &Arc<Self>) -> Result<Asked<'_>, ArchiveError> {
        let tenant = (self.context.tenant)();
        let asked_at = Instant::now();
        loop {
            let mut transaction = self.context.archive.begin().await?;
            let is_free = transaction.try_lock(&self.lock_name(&tenant)).await?;
            let due = transaction.now().await?;
            let asked = |transaction| Asked { due, runner: Arc::clone(self), transaction };
            if is_free {
                let row = transaction.job(&tenant, &self.plan.row).await?;
                let row = JobRow { due, ..row.unwrap_or_else(|| self.new_row(due)) };
                transaction.put_job(&tenant, &row).await?;
                return Ok(asked(Some(transaction)));
            }
            transaction.roll_back().await?;
            if asked_at.elapsed() >= ASK_FOR {
                self.asked.store(true, Ordering::Release);
                self.notify();
                return Ok(asked(None));
            }
            sleep(jittered(BUSY_WAITS[0])).await;
        }
    }
}
