//! Periodic work: each job is one file, with its name, its interval and what it does.
//!
//! When a job is due stands in the ledger's archive, by the database's clock, so that of
//! several processes one runs it, once an interval ([`due`]). What keeps two from running it
//! at once is a lock. A *short* job does its work in the transaction that holds the lock. A
//! *long* job commits its work piece by piece, under a [`Lease`], which is a lock of its own
//! outside every transaction.
//!
//! A run that finds nothing to do writes nothing, the next due time included, so an idle box
//! writes nothing: that time then stands in the memory of one process ([`watch`]).
//!
//! Each job has a task of its own ([`runner`]), so that one that hangs or panics delays no
//! other. No verdict depends on a job.
//!
//! Two kinds of periodic work are not jobs. The last uses (`store/touch.rs`) are counted in
//! the memory of a process, so each process writes its own, to a store that has no jobs'
//! table. The idle loop (`wake/idle.rs`) compares counters that only it has read, and
//! several loops on one box do no harm: the lock of each app keeps attempts apart.

mod alerts;
mod dead_letters;
mod due;
mod idempotency;
mod integrity;
mod lease;
mod messages;
mod probes;
mod retention;
mod runner;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::domain::observation::JobObserver;
use crate::ledger::archive::{Archive, ArchiveError, JobRow, JobRun, Transaction};
use crate::ledger::record::{Entry, WriterId};
use crate::postgres::Problems;
use crate::telemetry::meters;

pub use self::alerts::Alerts;
pub use self::dead_letters::{DeadLetters, new_id, spool_id};
use self::due::Outcome;
pub use self::idempotency::IdempotencyKeys;
pub use self::integrity::{INTEGRITY, Integrity};
pub use self::lease::Lease;
use self::lease::SessionLocks;
pub use self::messages::Messages;
pub use self::probes::Probes;
pub use self::retention::Retention;
pub use self::runner::{Asked, Runner};

/// When a job is run, and for how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The name of the job, in logs, metrics and commands.
    pub name: &'static str,
    /// The name of its row and its lock: jobs with the same one are the same job.
    pub row: String,
    pub interval: Duration,
    /// A run that takes longer is cut short and has failed.
    pub limit: Duration,
}

impl Plan {
    /// Returns the plan of a job that is the same in all processes.
    #[must_use]
    pub fn new(name: &'static str, interval: Duration, limit: Duration) -> Self {
        Self { name, row: name.to_owned(), interval, limit }
    }

    /// Returns the plan of a job that is another one for each `owner`, such as a folder.
    #[must_use]
    pub fn owned(name: &'static str, owner: &str, interval: Duration, limit: Duration) -> Self {
        Self { name, row: format!("{name}@{owner}"), interval, limit }
    }
}

/// A run that is under way.
pub type Run<'a> = BoxFuture<'a, Result<Done, JobError>>;

/// What a run has done.
#[derive(Default)]
pub struct Done {
    /// In words; empty if there is nothing to say.
    pub what: String,
    /// What the operator must know, until a run finds otherwise.
    pub problem: Option<String>,
    /// More is left to do: the job is due again at once.
    pub is_more: bool,
    /// Nothing was written, and there is nothing to say that the last run did not say: a run
    /// that is not worth a row.
    pub is_idle: bool,
    /// Called once the run is committed; may block.
    pub after_commit: Option<AfterCommit>,
}

type AfterCommit = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl Done {
    #[must_use]
    pub fn new(what: String) -> Self {
        Self { what, ..Self::default() }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, problem, is_more, is_idle, after_commit: _ } = self;
        f.debug_struct("Done")
            .field("what", what)
            .field("problem", problem)
            .field("is_more", is_more)
            .field("is_idle", is_idle)
            .finish_non_exhaustive()
    }
}

/// A job whose work is one transaction. It cannot commit it: the runner does, together with
/// the next due time.
pub trait ShortJob: fmt::Debug + Send + Sync {
    fn plan(&self) -> Plan;
    /// Does the work. If it fails, panics or takes too long, nothing of it takes effect.
    fn run<'a>(&'a self, tenant: &'a Arc<str>, transaction: &'a mut Transaction<'_>) -> Run<'a>;
}

/// A job that commits its work piece by piece, each by [`Lease::commit`].
pub trait LongJob: fmt::Debug + Send + Sync {
    fn plan(&self) -> Plan;
    /// Does the work. It is dropped, wherever it waits, when the lease is lost or the time is
    /// over.
    fn run<'a>(&'a self, context: &'a Context, tenant: &'a Arc<str>, lease: &'a Lease) -> Run<'a>;
}

#[derive(Debug)]
pub enum Job {
    Short(Box<dyn ShortJob>),
    Long(Box<dyn LongJob>),
}

impl Job {
    fn plan(&self) -> Plan {
        match self {
            Self::Short(job) => job.plan(),
            Self::Long(job) => job.plan(),
        }
    }
}

/// Why a job has failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JobError {
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    /// The lock can be neither taken nor refused.
    #[error("{0}")]
    Lock(String),
    #[error("the lock was lost")]
    LockLost,
    #[error("{0}")]
    Failed(String),
}

/// What all jobs have in common.
pub struct Context {
    archive: Arc<Archive>,
    locks: SessionLocks,
    /// Who runs jobs here, as it is noted in their rows.
    writer: WriterId,
    tenant: TenantSource,
    record: RecordTaker,
    /// Are told of every run.
    observers: Vec<Box<dyn JobObserver>>,
    /// By job.
    problems: Problems<&'static str>,
}

/// Returns the tenant whose records the jobs work on.
pub type TenantSource = Box<dyn Fn() -> Arc<str> + Send + Sync>;

/// Takes a record, without waiting.
pub type RecordTaker = Box<dyn Fn(Entry) + Send + Sync>;

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { archive, locks, writer, tenant: _, record: _, observers, problems } = self;
        f.debug_struct("Context")
            .field("archive", archive)
            .field("locks", locks)
            .field("writer", writer)
            .field("observers", observers)
            .field("problems", problems)
            .finish_non_exhaustive()
    }
}

/// The jobs that this process runs.
#[derive(Debug)]
pub struct Jobs {
    context: Arc<Context>,
    runners: Vec<Arc<Runner>>,
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub plan: Plan,
    /// `None` if it has never been run.
    pub row: Option<JobRow>,
    /// Which process or session runs it now.
    pub holder: Option<String>,
}

impl Jobs {
    #[must_use]
    pub fn new(context: Context, jobs: Vec<Job>) -> Arc<Self> {
        let context = Arc::new(context);
        let runner = |job| Arc::new(Runner::new(Arc::clone(&context), job));
        let runners: Vec<_> = jobs.into_iter().map(runner).collect();
        for runner in &runners {
            meters::job_known(runner.plan().name, &Outcome::WORDS);
        }
        Arc::new(Self { context, runners })
    }

    /// Returns what is to be run, each in a task of its own, for as long as the process runs.
    pub fn runners(&self) -> impl Iterator<Item = Arc<Runner>> {
        self.runners.iter().cloned()
    }

    /// Returns the jobs that this process runs, with their last and next runs in any process.
    pub async fn list(&self) -> Result<Vec<Status>, ArchiveError> {
        let tenant = (self.context.tenant)();
        let mut rows = self.context.archive.snapshot().await?.jobs(&tenant).await?;
        let mut jobs = Vec::new();
        for runner in &self.runners {
            let plan = runner.plan().clone();
            let place = rows.iter().position(|row| row.name == plan.row);
            let row = place.map(|place| runner.with_unwritten(rows.swap_remove(place)));
            let holder = self.context.holder(&lock_name(&tenant, &plan.row)).await?;
            jobs.push(Status { plan, row, holder });
        }
        Ok(jobs)
    }

    /// Returns what is wrong with the jobs, worded for the operator.
    pub fn problems(&self) -> Vec<String> {
        self.context.problems.list()
    }

    /// Returns runs of a job whose number is below `before`, the latest first, or `None` if
    /// there is no such job. Runs that found nothing to do are not among them.
    pub async fn runs(
        &self,
        name: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Option<Result<Vec<JobRun>, ArchiveError>> {
        let runner = self.runners.iter().find(|runner| runner.plan().name == name)?;
        let tenant = (self.context.tenant)();
        let runs = async {
            let mut snapshot = self.context.archive.snapshot().await?;
            snapshot.job_runs(&tenant, &runner.plan().row, before, limit).await
        };
        Some(runs.await)
    }

    /// Returns whether this process runs a job of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.runners.iter().any(|runner| runner.plan().name == name)
    }

    /// Has a job run soon, before it is due, because there is something to do.
    pub fn run_soon(&self, name: &str) {
        if let Some(runner) = self.runners.iter().find(|runner| runner.plan().name == name) {
            runner.run_soon();
        }
    }

    /// Asks for a run of a job now, which is committed by the caller; returns `None` if there is
    /// no such job.
    pub async fn run_now(&self, name: &str) -> Option<Result<Asked<'_>, ArchiveError>> {
        let runner = self.runners.iter().find(|runner| runner.plan().name == name)?;
        Some(runner.ask().await)
    }
}

impl Context {
    /// `locks` is the folder of the locks of long jobs, if the archive is a file.
    #[must_use]
    pub fn new(
        archive: Arc<Archive>,
        locks: PathBuf,
        writer: WriterId,
        tenant: TenantSource,
        record: RecordTaker,
    ) -> Self {
        let locks = SessionLocks::new(&archive, locks);
        let (observers, problems) = (Vec::new(), Problems::default());
        Self { archive, locks, writer, tenant, record, observers, problems }
    }

    /// Adds observers of every run.
    #[must_use]
    pub fn with_observers(mut self, observers: Vec<Box<dyn JobObserver>>) -> Self {
        self.observers.extend(observers);
        self
    }

    /// Returns who holds a lock, worded for the operator.
    async fn holder(&self, lock: &str) -> Result<Option<String>, ArchiveError> {
        match self.locks.holder(lock).await {
            Some(holder) => Ok(Some(holder)),
            None => self.archive.lock_holder(lock).await,
        }
    }
}

/// Returns how many runs of a job in a row have failed.
#[must_use]
pub fn failures(row: &JobRow) -> u32 {
    due::Outcome::from_row(row).map_or(0, |outcome| outcome.failures())
}

/// Returns the name of a job's lock. Several boxes may share an archive.
fn lock_name(tenant: &str, row: &str) -> String {
    format!("{tenant}/{row}")
}
