//! Locks whose holders, or whose sessions, come to an end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nightporter::jobs::{Context, Done, Job, Lease, LongJob, Plan, Run};
use nightporter::ledger::archive::{Archive, StoredCheckpoint};

use super::{Counts, Instance, LONG, Place, Sample, until_runs};
use crate::support::client::poll;
use crate::support::postgres::{Cluster, Database};

const SOON: Duration = Duration::from_millis(500);

async fn locks_held(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    database.client.query_one(sql, &[]).await.expect("answers").get(0)
}

/// Commits a piece of work after the other, for as long as it may.
#[derive(Debug)]
struct Pieces {
    archive: Arc<Archive>,
    committed: Arc<AtomicUsize>,
    dropped: Arc<AtomicBool>,
}

/// Notes that a run has ended, however it did.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl LongJob for Pieces {
    fn plan(&self) -> Plan {
        Plan::new("pieces", SOON, LONG)
    }

    fn run<'a>(&'a self, _: &'a Context, tenant: &'a Arc<str>, lease: &'a Lease) -> Run<'a> {
        Box::pin(async move {
            let _ending = Ending(&self.dropped);
            for size in 1..=10_000 {
                let mut transaction = self.archive.begin().await?;
                let at = transaction.now().await?;
                let checkpoint = StoredCheckpoint { size, at, note: "a piece".into() };
                transaction.put_checkpoint(tenant, &checkpoint).await?;
                lease.commit(transaction).await?;
                self.committed.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(Done::default())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_session_ends_stops_before_its_next_commit() {
    let place = Place::postgres().await;
    let Place::Postgres(database) = &place else { unreachable!() };
    let (committed, dropped) = (Arc::default(), Arc::default());
    let job = Pieces {
        archive: place.archive(),
        committed: Arc::clone(&committed),
        dropped: Arc::clone(&dropped),
    };
    let _instance = Instance::start(&place, 7, vec![Job::Long(Box::new(job))]);
    poll("it works", LONG, async || committed.load(Ordering::SeqCst) >= 5).await;
    assert_eq!(locks_held(database).await, 1);
    // Only the session that holds the lock: what works has connections of its own.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    database.client.query(sql, &[]).await.expect("superuser");
    let at: i64 = database
        .client
        .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8", &[])
        .await
        .expect("a time")
        .get(0);
    poll("the run is cut off", LONG, async || dropped.load(Ordering::SeqCst)).await;
    let mut started = 0;
    poll("it is run anew", LONG, async || {
        let sql = "SELECT started FROM nightporter_ledger.jobs";
        started = database.client.query_one(sql, &[]).await.expect("a row").get(0);
        started > at
    })
    .await;
    let sql = "SELECT max(at) FROM nightporter_ledger.checkpoints WHERE at < $1";
    let last: i64 = database.client.query_one(sql, &[&started]).await.expect("pieces").get(0);
    let late = last - at;
    // The socket's end is noticed within a moment; a piece that was being committed then
    // may have gone through.
    assert!(late < 500_000, "a piece was begun {late} µs after the lock was lost");
    assert!(place.runs("pieces").await.is_empty(), "the cut run is nobody's result");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_in_mid_run_leaves_no_lock_and_delays_no_run() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let place = Place::Postgres(database).prepared().await;
    let Place::Postgres(database) = &place else { unreachable!() };
    let counts = Arc::<Counts>::default();
    let takes = Duration::from_millis(300);
    let instances = [1, 2, 3].map(|writer| {
        let jobs = vec![
            Sample::counted("short", SOON, takes, &counts).short(),
            Sample::counted("long", SOON, takes, &counts).long(),
        ];
        Instance::start(&place, writer, jobs)
    });
    until_runs(&place, "long", 2).await;
    until_runs(&place, "short", 2).await;
    poll("runs go on", LONG, async || locks_held(database).await >= 1).await;
    cluster.restart().await;
    let place = Place::Postgres(Database::again(&cluster, database).await);
    for job in ["short", "long"] {
        let before = place.runs(job).await.len();
        until_runs(&place, job, before + 2).await;
    }
    drop(instances);
    let Place::Postgres(database) = &place else { unreachable!() };
    poll("no lock is left", LONG, async || locks_held(database).await == 0).await;
}

/// Another process that holds the lock of a job beside SQLite.
struct Neighbour(Child);

impl Neighbour {
    fn with_lock(path: &Path) -> Self {
        let script = "import fcntl, sys, time
file = open(sys.argv[1], 'a+')
fcntl.flock(file, fcntl.LOCK_EX)
file.write('process 4711')
file.flush()
print('locked', flush=True)
time.sleep(600)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        assert_eq!(line, "locked\n");
        Self(child)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_lock_of_a_process_that_is_killed_is_free() {
    let place = Place::sqlite().await;
    let Place::Sqlite(folder) = &place else { unreachable!() };
    let counts = Arc::<Counts>::default();
    let job = Sample::counted("long", SOON, Duration::ZERO, &counts).long();
    let instance = Instance::start(&place, 7, vec![job]);
    until_runs(&place, "long", 1).await;
    let mut files = std::fs::read_dir(folder.path().join("locks")).expect("a folder").flatten();
    let path = files.next().expect("a lock's file").path();
    let neighbour = Neighbour::with_lock(&path);
    let before = place.runs("long").await.len();
    let holder = instance.jobs.list().await.expect("answers")[0].holder.clone();
    assert!(holder.is_some_and(|holder| holder.ends_with("process 4711")));
    tokio::time::sleep(4 * SOON).await;
    assert!(place.runs("long").await.len() <= before + 1, "it is locked");
    drop(neighbour);
    let before = place.runs("long").await.len();
    until_runs(&place, "long", before + 1).await;
}
