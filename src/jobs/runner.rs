//! Runs one job, as long as the process runs: waits until it is due, takes its lock, reads
//! its row, and runs it if it is still due.
//!
//! Errors: a run that fails, panics or takes too long is noted in the job's row and repeated
//! later. If the archive does not answer, nothing is noted, and the runner tries again after
//! a wait that doubles. Neither ends the runner.

mod asked;
mod idle;
mod turns;

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

pub use self::asked::Asked;
use super::due::{self, Due, Outcome, between};
use super::watch::{UnwrittenRun, Watch};
use super::{Context, Done, Job, JobError, Plan, lock_name};
use crate::backoff::{doubled, jittered};
use crate::domain::observation::JobRun;
use crate::ledger::archive::{JobRow, Transaction};
use crate::ledger::clock;
use crate::ledger::record::{Entry, Kind, Micros, Note, micros};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// How long a job's row is believed: another process may have been asked to run it now.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The waits after which a lock that was taken is tried again. Its holder may have been
/// killed, and then nobody has set the next due time.
const BUSY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// How long the end of a run waits for the job's lock: until the server has noticed that the
/// run's own transaction, which took too long, was given up.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The waits while the archive does not answer.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How long the first run waits for the box's id, and how often it is looked for. A box may
/// have none yet; what it records meanwhile belongs to nobody, and is worked on as such.
const FIRST_TENANT: Duration = Duration::from_secs(5);
const LOOK_FOR_TENANT: Duration = Duration::from_millis(100);

/// How often one job's busy lock is logged.
const LOG_BUSY_EVERY: Duration = Duration::from_secs(60);

/// The shortest time between two turns, however often somebody hurries.
const SHORTEST_SLEEP: Duration = Duration::from_millis(50);

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
    /// The last run, if it found nothing to do.
    unwritten: Mutex<Option<UnwrittenRun>>,
    /// Since when the job is due and cannot be run.
    hindered: Mutex<Option<Instant>>,
    /// The lock was taken at this turn.
    was_busy: AtomicBool,
}

/// A job that is due, and under its lock.
struct DueRun {
    row: JobRow,
    at: Micros,
    /// How many runs in a row have failed before.
    failures: u32,
    /// The row as it was; `None` if there was none.
    before: Option<JobRow>,
}

impl DueRun {
    /// Returns the row if it may stay as it is when there is nothing to do: it says of a run
    /// that it was done.
    fn unchanged(&self) -> Option<&JobRow> {
        self.before.as_ref().filter(|row| matches!(Outcome::from_row(row), Some(Outcome::Done(_))))
    }
}

/// What a job's row says under its lock.
enum Check {
    Run(Box<DueRun>),
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
            unwritten: Mutex::default(),
            hindered: Mutex::default(),
            was_busy: AtomicBool::new(false),
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
        let mut watch = Watch::Row;
        loop {
            self.was_busy.store(false, Ordering::Relaxed);
            let turn = self.turn(&mut watch).await;
            self.note_hindrance(turn.is_err() || self.was_busy.load(Ordering::Relaxed));
            let wait = match turn {
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
            sleep(SHORTEST_SLEEP).await;
            tokio::select! {
                () = sleep(wait.saturating_sub(SHORTEST_SLEEP)) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Has the job run soon, before it is due.
    pub(super) fn run_soon(&self) {
        self.asked.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn note_hindrance(&self, is_hindered: bool) {
        let mut since = self.hindered.lock().unwrap_or_else(PoisonError::into_inner);
        *since = is_hindered.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Returns for how long the job has been due without this process being able to run it, or
    /// to learn that it was run; `None` if it is not.
    pub fn overdue(&self) -> Option<Duration> {
        let since = *self.hindered.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }

    /// Adds to a job's row what of the last run was not written.
    pub(super) fn with_unwritten(&self, row: JobRow) -> JobRow {
        match self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(UnwrittenRun { started, ended, due, outcome }) if row.started < Some(started) => {
                let (started, ended) = (Some(started), Some(ended));
                JobRow { started, ended, due, outcome: Some(outcome), ..row }
            }
            _ => row,
        }
    }

    /// Runs the job if it is due. Returns how long to wait until it may be.
    async fn turn(&self, watch: &mut Watch) -> Result<Duration, JobError> {
        let tenant = (self.context.tenant)();
        if let Some(wait) = self.wait_unlocked(&tenant, watch).await? {
            return Ok(wait);
        }
        match &self.job {
            Job::Short(job) => self.short_turn(&**job, &tenant, watch).await,
            Job::Long(job) => self.long_turn(&**job, &tenant, watch).await,
        }
    }

    async fn write_failure(
        &self,
        tenant: &Arc<str>,
        begun: &DueRun,
        error: &JobError,
        since: Instant,
    ) -> Result<Duration, JobError> {
        let outcome = failed(begun, error);
        let Some(wait) = self.write_end(tenant, begun, &outcome).await? else {
            return Ok(self.note_busy());
        };
        self.note_run(begun, &outcome, since.elapsed());
        Ok(wait)
    }

    /// Writes the end of a run in a transaction of its own; returns `None` if another process
    /// holds the job's lock.
    async fn write_end(
        &self,
        tenant: &Arc<str>,
        begun: &DueRun,
        outcome: &Outcome,
    ) -> Result<Option<Duration>, JobError> {
        let deadline = Instant::now() + END_LIMIT;
        let mut transaction = loop {
            let mut transaction = self.context.archive.begin().await?;
            if transaction.try_lock(&self.lock_name(tenant)).await? {
                break transaction;
            }
            transaction.roll_back().await?;
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(jittered(BUSY_WAITS[0])).await;
        };
        let wait = self.end(tenant, &mut transaction, begun, outcome, None).await?;
        transaction.commit().await?;
        Ok(Some(wait))
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
        let before = known.clone();
        let known = known.unwrap_or_else(|| self.new_row(now));
        let failures = Outcome::from_row(&known).map_or(0, |outcome| outcome.failures());
        let by = Some(self.context.writer.0);
        let row = JobRow { started: Some(now), ended: None, by, ..known };
        Ok(Check::Run(Box::new(DueRun { row, at: now, failures, before })))
    }

    /// Writes the end of a run and when the job is due next, which is at `asked` if somebody
    /// has asked for a run meanwhile. Returns how long that is.
    async fn end(
        &self,
        tenant: &str,
        transaction: &mut Transaction<'_>,
        begun: &DueRun,
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
        if let Some(after_commit) = done.after_commit {
            let limit = self.plan.limit;
            let result = if let Ok(result) = timeout(limit, spawn_blocking(after_commit)).await {
                result.unwrap_or_else(|error| Err(io::Error::other(error)))
            } else {
                let text = format!("what follows its run took longer than {limit:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            };
            if let Err(error) = result {
                problem.get_or_insert_with(|| format!("the job {}: {error}", self.plan.name));
            }
        }
        self.context.problems.note(self.plan.name, problem);
    }

    /// Counts and logs a run that has ended; a job that begins to fail, or succeeds again, is
    /// worth a record.
    fn note_run(&self, begun: &DueRun, outcome: &Outcome, took: Duration) {
        let (job, was_failing) = (self.plan.name, begun.failures > 0);
        meters::job_ended(job, outcome.word());
        self.tell_observers(outcome, took);
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

    /// Tells the observers of a run that has ended now. One that panics affects nothing else.
    fn tell_observers(&self, outcome: &Outcome, took: Duration) {
        if self.context.observers.is_empty() {
            return;
        }
        let began = clock::now().time().checked_sub(took).unwrap_or(UNIX_EPOCH);
        let has_failed = outcome.failures() > 0;
        let run = JobRun { job: self.plan.name, began, took, has_failed };
        for observer in &self.context.observers {
            if catch_unwind(AssertUnwindSafe(|| observer.observe_run(&run))).is_err() {
                meters::panics().increment(1);
                error!("an observer panicked; the job is not affected");
            }
        }
    }

    /// Counts and logs a lock that was taken; returns when to try again.
    fn note_busy(&self) -> Duration {
        let job = self.plan.name;
        meters::job_lock_busy(job);
        self.was_busy.store(true, Ordering::Relaxed);
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

fn failed(begun: &DueRun, error: &JobError) -> Outcome {
    let times = begun.failures.saturating_add(1);
    Outcome::Failed { times, why: shortened(&error.to_string()) }
}

/// Returns the beginning of a text that is kept in a job's row.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_OUTCOME)].to_owned()
}
