//! Periodic jobs, run by several instances on one archive.

mod failures;
mod idle;
mod processes;
mod replicas;
mod requests;
mod sessions;

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightporter::config::{self, Secret};
use nightporter::jobs::{Context, Done, Job, Jobs, Lease, LongJob, Plan, Run, ShortJob};
use nightporter::ledger::archive::postgres::Postgres;
use nightporter::ledger::archive::sqlite::{Limits, Sqlite};
use nightporter::ledger::archive::{Archive, Transaction};
use nightporter::ledger::record::{Entry, WriterId};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::samples::TENANT;
use crate::support::client::poll;
use crate::support::postgres::{Cluster, Database};

/// What anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

/// An archive that several instances share.
pub(super) enum Place {
    Sqlite(TempDir),
    Postgres(Database),
}

/// A row of the log of runs. Times are in microseconds.
#[derive(Debug, Clone)]
pub(super) struct RunRow {
    started: i64,
    ended: i64,
    pub(super) outcome: String,
    by: i64,
}

impl Place {
    async fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a folder")).prepared().await
    }

    async fn postgres() -> Self {
        Self::Postgres(Cluster::shared().database().await).prepared().await
    }

    pub(super) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    /// Creates the schema, so that a test can look at it.
    async fn prepared(self) -> Self {
        self.archive().prepare().await.expect("a schema");
        self
    }

    /// Opens it as one more process would.
    fn archive(&self) -> Arc<Archive> {
        Arc::new(match self {
            Self::Sqlite(folder) => {
                let path = folder.path().join("ledger.db");
                Archive::Sqlite(Sqlite::new(path, Limits::default()))
            }
            Self::Postgres(database) => Archive::Postgres(postgres(&database.url())),
        })
    }

    /// Returns the runs of a job, oldest first.
    async fn runs(&self, job: &str) -> Vec<RunRow> {
        let columns = r#"started, ended, outcome, "by""#;
        match self {
            Self::Sqlite(_) => {
                let connection = self.open();
                let sql = format!("SELECT {columns} FROM job_runs WHERE name = ? ORDER BY id");
                let mut statement = connection.prepare(&sql).expect("prepared");
                let run = |row: &rusqlite::Row<'_>| {
                    let (started, ended, by) = (row.get(0)?, row.get(1)?, row.get(3)?);
                    Ok(RunRow { started, ended, outcome: row.get(2)?, by })
                };
                let rows = statement.query_map([job], run).expect("rows");
                rows.collect::<Result<_, _>>().expect("rows")
            }
            Self::Postgres(database) => {
                let sql = format!(
                    "SELECT {columns} FROM nightporter_ledger.job_runs WHERE name = $1 ORDER BY n"
                );
                let rows = database.client.query(&sql, &[&job]).await.expect("rows");
                let run = |row: &tokio_postgres::Row| RunRow {
                    started: row.get(0),
                    ended: row.get(1),
                    outcome: row.get(2),
                    by: row.get(3),
                };
                rows.iter().map(run).collect()
            }
        }
    }

    /// Changes the due time of a job by so many microseconds, which is what setting the
    /// database's clock back by them does.
    async fn delay(&self, job: &str, micros: i64) {
        match self {
            Self::Sqlite(_) => {
                let sql = "UPDATE jobs SET due = due + ? WHERE name = ?";
                let connection = self.open();
                connection.busy_timeout(LONG).expect("set");
                connection.execute(sql, rusqlite::params![micros, job]).expect("updated");
            }
            Self::Postgres(database) => {
                let sql = "UPDATE nightporter_ledger.jobs SET due = due + $1 WHERE name = $2";
                database.execute(sql, &[&micros, &job]).await;
            }
        }
    }

    fn open(&self) -> Connection {
        let Self::Sqlite(folder) = self else { panic!("not a file") };
        Connection::open(folder.path().join("ledger.db")).expect("opens")
    }
}

fn postgres(url: &str) -> Postgres {
    Postgres::new(&settings(url)).expect("a valid connection string")
}

pub(super) fn settings(url: &str) -> config::Postgres {
    config::Postgres {
        url: Secret::new(url),
        pool_size: 8,
        pool_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        query_timeout: Duration::from_secs(10),
        create_tables: false,
    }
}

/// What a process does with its jobs.
pub(super) struct Instance {
    pub(super) jobs: Arc<Jobs>,
    records: Arc<Mutex<Vec<Entry>>>,
    _tasks: JoinSet<Infallible>,
}

impl Instance {
    pub(super) fn start(place: &Place, writer: i64, jobs: Vec<Job>) -> Self {
        Self::start_for(place, writer, TENANT, jobs)
    }

    pub(super) fn start_for(
        place: &Place,
        writer: i64,
        tenant: &'static str,
        jobs: Vec<Job>,
    ) -> Self {
        let locks = match place {
            Place::Sqlite(folder) => folder.path().join("locks"),
            Place::Postgres(_) => "/nonexistent".into(),
        };
        let records = Arc::<Mutex<Vec<Entry>>>::default();
        let taken = Arc::clone(&records);
        let context = Context::new(
            place.archive(),
            locks,
            WriterId(writer),
            Box::new(move || tenant.into()),
            Box::new(move |entry| taken.lock().expect("not poisoned").push(entry)),
        );
        let jobs = Jobs::new(context, jobs);
        let mut tasks = JoinSet::new();
        for runner in jobs.runners() {
            tasks.spawn(runner.run());
        }
        Self { jobs, records, _tasks: tasks }
    }
}

/// A job that does what a test says.
struct Sample {
    plan: Plan,
    body: Box<dyn Fn() -> Run<'static> + Send + Sync>,
}

/// How often samples were run, and how many at once at most.
#[derive(Debug, Default)]
struct Counts {
    runs: AtomicUsize,
    active: AtomicUsize,
    most: AtomicUsize,
}

impl Counts {
    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Sample {
    fn new(
        name: &'static str,
        interval: Duration,
        body: impl Fn() -> Run<'static> + Send + Sync + 'static,
    ) -> Self {
        Self { plan: Plan::new(name, interval, LONG), body: Box::new(body) }
    }

    /// One that takes some time, and is counted.
    fn counted(
        name: &'static str,
        interval: Duration,
        takes: Duration,
        counts: &Arc<Counts>,
    ) -> Self {
        let counts = Arc::clone(counts);
        Self::new(name, interval, move || {
            let counts = Arc::clone(&counts);
            Box::pin(async move {
                counts.runs.fetch_add(1, Ordering::SeqCst);
                let active = counts.active.fetch_add(1, Ordering::SeqCst) + 1;
                counts.most.fetch_max(active, Ordering::SeqCst);
                tokio::time::sleep(takes).await;
                counts.active.fetch_sub(1, Ordering::SeqCst);
                Ok(Done::default())
            })
        })
    }

    fn short(self) -> Job {
        Job::Short(Box::new(self))
    }

    fn long(self) -> Job {
        Job::Long(Box::new(self))
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plan.name)
    }
}

impl ShortJob for Sample {
    fn plan(&self) -> Plan {
        self.plan.clone()
    }

    fn run<'a>(&'a self, _: &'a Arc<str>, _: &'a mut Transaction<'_>) -> Run<'a> {
        (self.body)()
    }
}

impl LongJob for Sample {
    fn plan(&self) -> Plan {
        self.plan.clone()
    }

    fn run<'a>(&'a self, _: &'a Context, _: &'a Arc<str>, _: &'a Lease) -> Run<'a> {
        (self.body)()
    }
}

/// Waits until a job has been run so often.
pub(super) async fn until_runs(place: &Place, job: &str, count: usize) -> Vec<RunRow> {
    let mut runs = Vec::new();
    poll("the job was run", LONG, async || {
        runs = place.runs(job).await;
        runs.len() >= count
    })
    .await;
    runs
}
