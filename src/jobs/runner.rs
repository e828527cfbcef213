//! Runs one job, as long as the process runs: waits until it is due, takes its lock, reads
//! its row, and runs it if it is still due.
//!
//! Errors: a run that fails, panics or takes too long is noted in the job's row and repeated
//! later. If the archive does not answer, nothing is noted, and the runner tries again after
//! a wait that doubles. Neither ends the runner.

use std::any::Any;
use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::due::{self, Due, Outcome, between};
use super::{Context, Done, Job, JobError, Lease, LongJob, Plan, Run, ShortJob, lock_name};
use crate::backoff::{doubled, jittered};
use crate::ledger::archive::{ArchiveError, JobRow, Transaction};
use crate::ledger::record::{Entry, Kind, Micros, Note, micros};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// How long a job's row is believed: another process may have been asked to run it now.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The waits after which a lock that was taken is tried again. Its holder may have been
/// killed, and then nobody has set the next due time.
const BUSY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// The waits while the archive does not answer.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How long the first run waits for the box's id, and how often it is looked for. A box may
/// have none yet; what it records meanwhile belongs to nobody, and is worked on as such.
const FIRST_TENANT: Duration = Duration::from_secs(5);
const LOOK_FOR_TENANT: Duration = Duration::from_millis(100);

/// How often one job's busy lock is logged.
const LOG_BUSY_EVERY: Duration = Duration::from_secs(60);

/// How long somebody who asks for a run waits for the lock of a job that is running.
const ASK_FOR: Duration = Duration::from_secs(2);

/// The longest text of an outcome, in bytes.
const MAX_OUTCOME: usize = 500;

/// Runs one job.
#[derive(Debug)]
pub struct Runner {
    context: Arc<Context>,
    job: Job,
    plan: Plan,
    /// Ends the wait for the next due time.
    wake: Notify,
    /// Somebody has asked for a run while the job was running.
    asked: AtomicBool,
    busy_logs: Throttle,
}

/// A job that is due, and under its lock.
struct Begun {
    row: JobRow,
    at: Micros,
    /// How many runs in a row have failed before.
    failures: u32,
}

/// What a job's row says under its lock.
enum Check {
    Run(Begun),
    /// Not due; how long to wait.
    Wait(Duration),
    /// Not due, and the row was corrected, which has to be committed.
    Moved(Duration),
}

impl Runner {
    pub(super) fn new(context: Arc<Context>, job: Job) -> Self {
        Self {
            context,
            plan: job.plan(),
            job,
            wake: Notify::new(),
            asked: AtomicBool::new(false),
            busy_logs: Throttle::default(),
        }
    }

    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs the job whenever it is due.
    pub async fn run(self: Arc<Self>) -> Infallible {
        let known = async {
            while (self.context.tenant)().is_empty() {
                sleep(LOOK_FOR_TENANT).await;
            }
        };
        let _known_or_not = timeout(FIRST_TENANT, known).await;
        let mut failures = 0;
        loop {
            let wait = match self.turn().await {
                Ok(wait) => {
                    failures = 0;
                    wait.min(LONGEST_SLEEP)
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(job = self.plan.name, %error, "a job cannot be run now");
                    } else {
                        debug!(job = self.plan.name, %error, failures, "a job cannot be run now");
                    }
                    jittered(doubled(FIRST_RETRY, failures, LONGEST_RETRY))
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Makes the job due now; returns since when it is. If it is running, it is run again
    /// afterwards.
    pub(super) async fn ask(&self) -> Result<Micros, ArchiveError> {
        let tenant = (self.context.tenant)();
        let asked_at = Instant::now();
        loop {
            let mut transaction = self.context.archive.begin().await?;
            let is_free = transaction.try_lock(&self.lock_name(&tenant)).await?;
            let now = transaction.now().await?;
            if is_free {
                let row = transaction.job(&tenant, &self.plan.row).await?;
                let row = JobRow { due: now, ..row.unwrap_or_else(|| self.new_row(now)) };
                transaction.put_job(&tenant, &row).await?;
                transaction.commit().await?;
                self.wake.notify_one();
                return Ok(now);
            }
            transaction.roll_back().await?;
            if asked_at.elapsed() >= ASK_FOR {
                self.asked.store(true, Ordering::Release);
                self.wake.notify_one();
                return Ok(now);
            }
            sleep(jittered(BUSY_WAITS[0])).await;
        }
    }

    /// Runs the job if it is due. Returns how long to wait until it may be.
    async fn turn(&self) -> Result<Duration, JobError> {
        let tenant = (self.context.tenant)();
        match &self.job {
            Job::Short(job) => self.short_turn(&**job, &tenant).await,
            Job::Long(job) => self.long_turn(&**job, &tenant).await,
        }
    }

    /// Lock, row, work, and next due time in one transaction.
    async fn short_turn(
        &self,
        job: &dyn ShortJob,
        tenant: &Arc<str>,
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
                self.write_failure(tenant, &begun, &error, since).await
            }
        }
    }

    async fn write_failure(
        &self,
        tenant: &Arc<str>,
        begun: &Begun,
        error: &JobError,
        since: Instant,
    ) -> Result<Duration, JobError> {
        let outcome = failed(begun, error);
        let mut transaction = self.context.archive.begin().await?;
        if !transaction.try_lock(&self.lock_name(tenant)).await? {
            transaction.roll_back().await?;
            return Ok(self.note_busy());
        }
        let wait = self.end(tenant, &mut transaction, begun, &outcome, None).await?;
        transaction.commit().await?;
        self.note_run(begun, &outcome, since.elapsed());
        Ok(wait)
    }

    /// The start and the end are written in transactions of their own, with the lease held
    /// from before the first until after the second.
    async fn long_turn(&self, job: &dyn LongJob, tenant: &Arc<str>) -> Result<Duration, JobError> {
        if let Some(wait) = self.wait_unlocked(tenant).await? {
            return Ok(wait);
        }
        let Some(lease) = self.context.locks.try_lock(&self.lock_name(tenant)).await? else {
            return Ok(self.note_busy());
        };
        let outcome = self.under_lease(job, tenant, &lease).await;
        lease.release().await;
        outcome
    }

    /// Reads a job's row without its lock, which costs a connection. Returns how long to
    /// wait; `None` if the job may be due.
    async fn wait_unlocked(&self, tenant: &str) -> Result<Option<Duration>, JobError> {
        let mut transaction = self.context.archive.begin().await?;
        let now = transaction.now().await?;
        let row = transaction.job(tenant, &self.plan.row).await?;
        transaction.roll_back().await?;
        Ok(match self.due(now, row.as_ref()) {
            Due::At(at) => Some(between(now, at)),
            Due::Now | Due::MovedTo(_) => None,
        })
    }

    async fn under_lease(
        &self,
        job: &dyn LongJob,
        tenant: &Arc<str>,
        lease: &Lease,
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
        transaction.put_job(tenant, &begun.row).await?;
        lease.commit(transaction).await?;
        let since = Instant::now();
        let result = tokio::select! {
            biased;
            () = lease.lost() => Err(JobError::LockLost),
            result = self.guarded(job.run(&self.context, tenant, lease)) => result,
        };
        let (outcome, done) = match result {
            Ok(done) => (Outcome::Done(shortened(&done.what)), Some(done)),
            // Whoever has the lock now writes what becomes of the job.
            Err(error @ JobError::LockLost) => return Err(error),
            Err(error) => (failed(&begun, &error), None),
        };
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

    /// Runs the job's own code: a panic, and a run that takes too long, is an error.
    async fn guarded(&self, run: Run<'_>) -> Result<Done, JobError> {
        let limit = self.plan.limit;
        match timeout(limit, AssertUnwindSafe(run).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(JobError::Failed(format!("panicked: {}", text_of(&*panic)))),
            Err(_) => Err(JobError::Failed(format!("took longer than {limit:?}"))),
        }
    }

    fn due(&self, now: Micros, row: Option<&JobRow>) -> Due {
        if self.asked.load(Ordering::Acquire) {
            return Due::Now;
        }
        due::due(now, row, self.plan.interval)
    }

    /// Reads the row under the lock.
    async fn check(
        &self,
        tenant: &str,
        transaction: &mut Transaction<'_>,
    ) -> Result<Check, JobError> {
        let now = transaction.now().await?;
        let known = transaction.job(tenant, &self.plan.row).await?;
        match self.due(now, known.as_ref()) {
            Due::Now => {}
            Due::At(at) => return Ok(Check::Wait(between(now, at))),
            Due::MovedTo(due) => {
                let row = JobRow { due, ..known.unwrap_or_else(|| self.new_row(now)) };
                transaction.put_job(tenant, &row).await?;
                info!(job = self.plan.name, "due later than its interval allows: due anew");
                return Ok(Check::Moved(between(now, due)));
            }
        }
        self.asked.store(false, Ordering::Release);
        let known = known.unwrap_or_else(|| self.new_row(now));
        let failures = Outcome::of(&known).map_or(0, |outcome| outcome.failures());
        let by = Some(self.context.writer.0);
        let row = JobRow { started: Some(now), ended: None, by, ..known };
        Ok(Check::Run(Begun { row, at: now, failures }))
    }

    /// Writes the end of a run and when the job is due next, which is at `asked` if somebody
    /// has asked for a run meanwhile. Returns how long that is.
    async fn end(
        &self,
        tenant: &str,
        transaction: &mut Transaction<'_>,
        begun: &Begun,
        outcome: &Outcome,
        asked: Option<Micros>,
    ) -> Result<Duration, JobError> {
        let now = transaction.now().await?;
        let was_due = begun.row.due.min(begun.at);
        let due = asked.unwrap_or_else(|| due::next(was_due, now, outcome, self.plan.interval));
        let (ended, outcome) = (Some(now), Some(outcome.to_string()));
        let row = JobRow { due, ended, outcome, ..begun.row.clone() };
        transaction.put_job(tenant, &row).await?;
        transaction.log_run(tenant, &row).await?;
        Ok(between(now, due))
    }

    /// Does what is left when a run has been committed.
    async fn follow_up(&self, done: Done) {
        let mut problem = done.problem;
        if let Some(then) = done.then {
            let result = spawn_blocking(then).await;
            if let Err(error) = result.unwrap_or_else(|error| Err(io::Error::other(error))) {
                problem.get_or_insert_with(|| format!("the job {}: {error}", self.plan.name));
            }
        }
        self.context.problems.note(self.plan.name, problem);
    }

    /// Counts and logs a run that has ended; a job that begins to fail, or succeeds again, is
    /// worth a record.
    fn note_run(&self, begun: &Begun, outcome: &Outcome, took: Duration) {
        let (job, was_failing) = (self.plan.name, begun.failures > 0);
        meters::job_ended(job, outcome.word());
        match outcome {
            Outcome::Done(what) => debug!(job, %what, ?took, "done"),
            Outcome::Failed { times, why } => {
                debug!(job, times, "a job has failed");
                // Logs it if it is another one than before.
                self.context.problems.set(job, format!("the job {job} fails: {why}"));
            }
        }
        let is_failing = outcome.failures() > 0;
        if is_failing == was_failing {
            return;
        }
        let mut entry = Entry::new(Kind::Job, begun.at);
        entry.client = Some(job.into());
        entry.verdict = Some(outcome.word().into());
        entry.duration = Micros(micros(took));
        if let Outcome::Failed { why, .. } = outcome {
            entry.notes.push(Note { topic: "job".into(), text: why.as_str().into() });
        }
        (self.context.record)(entry);
    }

    /// Counts and logs a lock that was taken; returns when to try again.
    fn note_busy(&self) -> Duration {
        let job = self.plan.name;
        meters::job_lock_busy(job);
        if let Some(more) = self.busy_logs.admit(Instant::now(), LOG_BUSY_EVERY) {
            info!(job, more, "job lock busy");
        }
        let [shortest, longest] = BUSY_WAITS;
        jittered(self.plan.interval.clamp(shortest, longest))
    }

    fn new_row(&self, due: Micros) -> JobRow {
        let name = self.plan.row.clone();
        JobRow { name, due, started: None, ended: None, outcome: None, by: None }
    }

    fn lock_name(&self, tenant: &str) -> String {
        lock_name(tenant, &self.plan.row)
    }
}

fn failed(begun: &Begun, error: &JobError) -> Outcome {
    let times = begun.failures.saturating_add(1);
    Outcome::Failed { times, why: shortened(&error.to_string()) }
}

/// Returns the beginning of a text that is kept in a job's row.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_OUTCOME)].to_owned()
}

/// Returns what a panic says.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
