//! A turn of a job that may be due, under its lock.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::super::due::Outcome;
use super::super::watch::Watch;
use super::super::{Done, JobError, Lease, LongJob, Run, ShortJob};
use super::{Check, DueRun, Runner, failed, shortened};
use crate::ledger::archive::JobRow;

/// A long run that takes no longer is written once, at its end.
const START_WRITTEN_AFTER: Duration = Duration::from_secs(1);

impl Runner {
    /// Lock, row, work, and next due time in one transaction.
    pub(super) async fn short_turn(
        &self,
        job: &dyn ShortJob,
        tenant: &Arc<str>,
        watch: &mut Watch,
    ) -> Result<Duration, JobError> {
        let mut transaction = self.context.archive.begin().await?;
        if !transaction.try_lock(&self.lock_name(tenant)).await? {
            transaction.roll_back().await?;
            return Ok(self.note_busy());
        }
        let begun = match self.check(tenant, &mut transaction).await? {
            Check::Run(begun) => begun,
            Check::Wait(wait) => {
                transaction.roll_back().await?;
                return Ok(wait);
            }
            Check::Moved(wait) => {
                transaction.commit().await?;
                return Ok(wait);
            }
        };
        let since = Instant::now();
        match self.guarded(job.run(tenant, &mut transaction)).await {
            Ok(done) => {
                if done.is_idle
                    && let Some(row) = begun.unchanged()
                {
                    transaction.roll_back().await?;
                    return self.idle(tenant, &begun, row, done, since.elapsed(), watch).await;
                }
                *watch = Watch::Row;
                let outcome = Outcome::Done(shortened(&done.what));
                let asked = done.is_more.then_some(begun.at);
                let wait = self.end(tenant, &mut transaction, &begun, &outcome, asked).await?;
                transaction.commit().await?;
                self.note_run(&begun, &outcome, since.elapsed());
                self.follow_up(done).await;
                Ok(wait)
            }
            Err(error) => {
                // Of the work nothing takes effect; what became of it is written all the same.
                drop(transaction);
                *watch = Watch::Row;
                self.write_failure(tenant, &begun, &error, since).await
            }
        }
    }

    /// The start and the end are written in transactions of their own, with the lease held
    /// from before the first until after the second.
    pub(super) async fn long_turn(
        &self,
        job: &dyn LongJob,
        tenant: &Arc<str>,
        watch: &mut Watch,
    ) -> Result<Duration, JobError> {
        let Some(lease) = self.context.locks.try_lock(&self.lock_name(tenant)).await? else {
            return Ok(self.note_busy());
        };
        let outcome = self.under_lease(job, tenant, &lease, watch).await;
        lease.release().await;
        outcome
    }

    async fn under_lease(
        &self,
        job: &dyn LongJob,
        tenant: &Arc<str>,
        lease: &Lease,
        watch: &mut Watch,
    ) -> Result<Duration, JobError> {
        let mut transaction = self.context.archive.begin().await?;
        let begun = match self.check(tenant, &mut transaction).await? {
            Check::Run(begun) => begun,
            Check::Wait(wait) => {
                transaction.roll_back().await?;
                return Ok(wait);
            }
            Check::Moved(wait) => {
                lease.commit(transaction).await?;
                return Ok(wait);
            }
        };
        if begun.before.is_none() {
            transaction.put_job(tenant, &begun.row).await?;
            lease.commit(transaction).await?;
        } else {
            transaction.roll_back().await?;
        }
        let since = Instant::now();
        let result = tokio::select! {
            biased;
            () = lease.lost() => Err(JobError::LockLost),
            result = self.guarded(job.run(&self.context, tenant, lease)) => result,
            never = self.write_start(tenant, lease, &begun) => match never {},
        };
        let (outcome, done) = match result {
            Ok(done) => {
                let took = since.elapsed();
                // A start that may have been written needs an end.
                if done.is_idle
                    && took < START_WRITTEN_AFTER
                    && let Some(row) = begun.unchanged()
                {
                    return self.idle(tenant, &begun, row, done, took, watch).await;
                }
                (Outcome::Done(shortened(&done.what)), Some(done))
            }
            // The process that has the lock now writes what becomes of the job.
            Err(error @ JobError::LockLost) => return Err(error),
            Err(error) => (failed(&begun, &error), None),
        };
        *watch = Watch::Row;
        let mut transaction = self.context.archive.begin().await?;
        // Somebody who asked for a run while this one went on has changed the due time.
        let known = transaction.job(tenant, &self.plan.row).await?;
        let asked = known.map(|known| known.due).filter(|due| *due != begun.row.due);
        let is_more = done.as_ref().is_some_and(|done| done.is_more);
        let asked = asked.or_else(|| is_more.then_some(begun.at));
        let wait = self.end(tenant, &mut transaction, &begun, &outcome, asked).await?;
        lease.commit(transaction).await?;
        self.note_run(&begun, &outcome, since.elapsed());
        if let Some(done) = done {
            self.follow_up(done).await;
        }
        Ok(wait)
    }

    /// Writes that a run has begun, once it takes long. Whether that succeeds changes nothing
    /// of the run.
    async fn write_start(&self, tenant: &Arc<str>, lease: &Lease, begun: &DueRun) -> Infallible {
        if begun.before.is_some() {
            sleep(START_WRITTEN_AFTER).await;
            let write = async {
                let mut transaction = self.context.archive.begin().await?;
                // Somebody may have asked for a run meanwhile.
                let known = transaction.job(tenant, &self.plan.row).await?;
                let due = known.map_or(begun.row.due, |known| known.due);
                transaction.put_job(tenant, &JobRow { due, ..begun.row.clone() }).await?;
                lease.commit(transaction).await
            };
            if let Err(error) = write.await {
                debug!(job = self.plan.name, %error, "the start of a run is not written");
            }
        }
        std::future::pending().await
    }

    /// Runs the job's own code: a panic, and a run that takes too long, is an error.
    async fn guarded(&self, run: Run<'_>) -> Result<Done, JobError> {
        let limit = self.plan.limit;
        match timeout(limit, AssertUnwindSafe(run).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(JobError::Failed(format!("panicked: {}", text_of(&*panic)))),
            Err(_) => Err(JobError::Failed(format!("took longer than {limit:?}"))),
        }
    }
}

/// Returns what a panic says.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
