//! Processes of the program that share an archive.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::LONG;
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};
use crate::support::postgres::Database;
use crate::support::program::{Program, faketime};
use crate::support::soak;

const INTERVAL: Duration = Duration::from_secs(2);

/// The jobs of a process whose containers are managed; no engine is there.
const JOBS: [&str; 6] = ["integrity", "retention", "dead_letters", "messages", "alerts", "probes"];

/// All of them, with the one whose interval is fixed.
const ALL: [&str; 7] =
    ["integrity", "retention", "dead_letters", "idempotency", "messages", "alerts", "probes"];

/// A run in the log: which job, and when, in microseconds.
#[derive(Debug)]
struct RunRow {
    job: String,
    started: i64,
    ended: i64,
    outcome: String,
}

/// A box, and the configuration of its processes.
pub(super) struct Site {
    pub(super) sample: SampleBox,
    config: PathBuf,
}

impl Site {
    pub(super) async fn new(store: Store) -> Self {
        let sample = SampleBox::new(store).await;
        let config = sample.folder().join("nightporter.toml");
        let text = format!(
            "{}[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
             [wake]\nenabled = true\ndocker = \"unix:///nonexistent/docker.sock\"\n\
             [jobs]\nmessages = \"2s\"\nintegrity = \"2s\"\nretention = \"2s\"\ndead_letters = \"2s\"\nprobes = \"2s\"\n",
            sample.store_config()
        );
        std::fs::write(&config, text).expect("writable");
        Self { sample, config }
    }

    pub(super) fn start(&self) -> Program {
        Program::start(&self.config, 1024)
    }

    pub(super) fn database(&self) -> Option<&Database> {
        (self.sample.store == Store::Postgres).then(|| self.sample.database())
    }

    /// Returns all runs, oldest first. What belongs to a spool is named without it.
    async fn runs(&self) -> Vec<RunRow> {
        let columns = "name, started, ended, outcome";
        let mut runs: Vec<RunRow> = if let Some(database) = self.database() {
            let sql = format!("SELECT {columns} FROM nightporter_ledger.job_runs ORDER BY started");
            let rows = database.client.query(&sql, &[]).await.expect("rows");
            let run = |row: &tokio_postgres::Row| RunRow {
                job: row.get(0),
                started: row.get(1),
                ended: row.get(2),
                outcome: row.get(3),
            };
            rows.iter().map(run).collect()
        } else {
            let connection = Connection::open(self.sample.ledger().join("ledger.db"));
            let connection = connection.expect("opens");
            let sql = format!("SELECT {columns} FROM job_runs ORDER BY started");
            let mut statement = connection.prepare(&sql).expect("prepared");
            let run = |row: &rusqlite::Row<'_>| {
                let (job, started, ended) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(RunRow { job, started, ended, outcome: row.get(3)? })
            };
            let rows = statement.query_map([], run).expect("rows");
            rows.collect::<Result<_, _>>().expect("rows")
        };
        for run in &mut runs {
            run.job.truncate(run.job.find('@').unwrap_or(run.job.len()));
        }
        runs
    }

    async fn has_schema(&self) -> bool {
        if let Some(database) = self.database() {
            let sql = "SELECT to_regclass('nightporter_ledger.job_runs') IS NOT NULL";
            return database.client.query_one(sql, &[]).await.expect("answers").get(0);
        }
        let path = self.sample.ledger().join("ledger.db");
        let sql = "SELECT 1 FROM sqlite_schema WHERE name = 'job_runs'";
        let found = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|connection| connection.prepare(sql)?.exists([]));
        found.unwrap_or(false)
    }

    /// Returns how often a job was run by a process, according to the process.
    pub(super) async fn counted(&self, programs: &[&Program], job: &str) -> usize {
        let mut count = 0;
        for program in programs {
            let metrics = program.metrics().await;
            let of_job = format!("nightporter_job_runs_total{{job=\"{job}\",");
            for line in metrics.lines().filter(|line| line.starts_with(&of_job)) {
                let value = line.rsplit(' ').next().expect("a value");
                count += value.parse::<usize>().expect("a number");
            }
        }
        count
    }

    /// Waits until each job was run.
    pub(super) async fn until_all_ran(&self) {
        poll("the schema is there", LONG, async || self.has_schema().await).await;
        poll("each job was run", LONG, async || {
            let runs = self.runs().await;
            JOBS.iter().all(|job| runs.iter().any(|run| run.job == *job))
        })
        .await;
    }
}

/// Runs that find nothing to do are not written, so they are counted by the processes.
async fn three_processes_on(store: Store) {
    let seconds = u64::from(soak::JOB_SECONDS.count());
    let site = Site::new(store).await;
    let programs: Vec<_> = (0..3).map(|_| site.start()).collect();
    let programs: Vec<_> = programs.iter().collect();
    site.until_all_ran().await;
    // By then each process knows who keeps the due times.
    tokio::time::sleep(2 * INTERVAL).await;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for job in JOBS {
        before.push(site.counted(&programs, job).await);
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    for job in JOBS {
        after.push(site.counted(&programs, job).await);
    }
    let expected = began.elapsed().as_secs() / INTERVAL.as_secs();
    let expected = usize::try_from(expected).expect("small");
    for ((job, before), after) in JOBS.into_iter().zip(before).zip(after) {
        println!("{job}: {} runs in {seconds} s", after - before);
        assert!(soak::job_runs(expected).contains(&(after - before)), "{job}: {before} {after}");
    }
    // The log holds what had something to do, and no two runs of a job overlap.
    let runs = site.runs().await;
    for job in JOBS {
        let runs: Vec<_> = runs.iter().filter(|run| run.job == job).collect();
        for two in runs.windows(2) {
            assert!(two[0].ended <= two[1].started, "{job} overlaps: {two:?}");
        }
        assert!(runs.iter().all(|run| run.outcome.starts_with("done")), "{job}: {runs:?}");
        assert!(runs.len() <= 3, "{job}: {runs:?}");
    }
    for program in programs {
        let log = program.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_run_every_job_once_an_interval_on_sqlite() {
    three_processes_on(Store::Files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_run_every_job_once_an_interval_on_postgres() {
    three_processes_on(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_in_mid_run_leaves_no_lock_and_delays_no_run() {
    let site = Site::new(Store::Postgres).await;
    let mut first = site.start();
    site.until_all_ran().await;
    let database = site.sample.database();
    let locks = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        database.client.query_one(sql, &[]).await.expect("answers").get(0)
    };
    let waiting = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted
                   AND relation = to_regclass('nightporter_ledger.checkpoints')";
        database.client.query_one(sql, &[]).await.expect("answers").get(0)
    };
    // Both kinds of jobs are held up in the middle of their work.
    let other = database.connect().await;
    other
        .batch_execute("BEGIN; LOCK TABLE nightporter_ledger.checkpoints IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    poll("integrity and retention are held up", LONG, async || waiting().await >= 2).await;
    first.child.kill().expect("killed");
    first.child.wait().expect("ended");
    let killed = Instant::now();
    let second = site.start();
    other.batch_execute("COMMIT").await.expect("unlocked");
    poll("each job is run by the other process", LONG, async || {
        for job in JOBS {
            if site.counted(&[&second], job).await < 2 {
                return false;
            }
        }
        true
    })
    .await;
    println!("all jobs ran again {:?} after the kill", killed.elapsed());
    drop(second);
    poll("no lock is left", LONG, async || locks().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_clock_is_set_neither_storms_nor_stalls() {
    let site = Site::new(Store::Files).await;
    let offset = site.sample.folder().join("offset");
    std::fs::write(&offset, "+0").expect("writable");
    let (one, library) = (OsStr::new("1"), faketime());
    let porter = Program::start_with(
        &site.config,
        1024,
        &[
            ("LD_PRELOAD", library.as_os_str()),
            ("FAKETIME_TIMESTAMP_FILE", offset.as_os_str()),
            ("FAKETIME_NO_CACHE", one),
            ("FAKETIME_DONT_FAKE_MONOTONIC", one),
            ("DONT_FAKE_MONOTONIC", one),
            ("NO_FAKE_STAT", one),
        ],
    );
    site.until_all_ran().await;
    for step in ["+1h", "-1h", "+0", "+30d", "+0"] {
        let count = async |job: &str| site.counted(&[&porter], job).await;
        // Before anything is counted: no run of that time counts without its time.
        let set = Instant::now();
        let mut before = Vec::new();
        for job in JOBS {
            before.push(count(job).await);
        }
        std::fs::write(&offset, step).expect("writable");
        tokio::time::sleep(5 * INTERVAL).await;
        for (job, before) in JOBS.into_iter().zip(before) {
            poll(&format!("no stall of {job} after {step}"), LONG, async || {
                count(job).await - before >= 3
            })
            .await;
            // A jump may add a run.
            let most = set.elapsed().as_secs_f64() / INTERVAL.as_secs_f64() + 2.0;
            let runs = count(job).await - before;
            assert!(f64::from(u32::try_from(runs).unwrap()) <= most, "{job}: {runs} after {step}");
        }
    }
}

/// Runs a subcommand beside a process; returns its exit code and its output.
fn command(ops: &str, folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nightporter"))
        .args(arguments)
        .env("NIGHTPORTER_OPS__LISTEN", ops)
        .current_dir(folder)
        .output()
        .expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_shown_and_run_on_request() {
    for store in Store::BOTH {
        let site = Site::new(store).await;
        let text = std::fs::read_to_string(&site.config).expect("readable");
        std::fs::write(&site.config, text.replace("\"2s\"", "\"1h\"")).expect("writable");
        let porter = site.start();
        site.until_all_ran().await;
        let ask = async |method: &str, path: &str| {
            let response = ask(porter.ops, &Request::new(method, path)).await;
            let body = serde_json::from_slice::<Value>(&response.body).unwrap_or_default();
            (response.status, body)
        };
        let (status, listed) = ask("GET", "/v1/jobs").await;
        assert_eq!(status, 200);
        let listed = listed["jobs"].as_array().expect("a list").clone();
        let names: Vec<_> = listed.iter().map(|job| job["name"].as_str().unwrap()).collect();
        assert_eq!(names, ALL);
        for job in &listed {
            let interval = if job["name"] == "idempotency" { 600.0 } else { 3600.0 };
            assert_eq!(job["interval_seconds"], interval, "{job}");
            assert!(job["last_run"]["outcome"].as_str().unwrap().starts_with("done"), "{job}");
            assert!(job["last_run"]["duration_seconds"].as_f64().unwrap() >= 0.0, "{job}");
            assert!(job["next_run"].as_str() > job["last_run"]["ended"].as_str(), "{job}");
        }
        for job in JOBS {
            let before = site.counted(&[&porter], job).await;
            let (status, body) = ask("POST", &format!("/v1/jobs/{job}/run")).await;
            assert_eq!((status, &body["name"]), (202, &job.into()), "{body}");
            poll("it is run", LONG, async || site.counted(&[&porter], job).await == before + 1)
                .await;
            let (status, log) = ask("GET", &format!("/v1/jobs/{job}/runs")).await;
            let runs = log["runs"].as_array().expect("a list");
            assert_eq!((status, &log["name"], runs.is_empty()), (200, &job.into(), false));
            assert!(runs[0]["outcome"].as_str().is_some_and(|text| text.starts_with("done")));
        }
        assert_eq!(ask("GET", "/v1/jobs/nothing/runs").await.0, 404);
        assert_eq!(ask("GET", "/v1/jobs/integrity/runs?limit=0").await.0, 400);
        let (status, problem) = ask("POST", "/v1/jobs/nothing/run").await;
        assert_eq!((status, &problem["detail"]), (404, &"there is no job `nothing`".into()));

        let (ops, folder) = (porter.ops.to_string(), site.sample.folder());
        let (code, table) = command(&ops, folder, &["jobs"]);
        assert_eq!(code, 0, "{table}");
        assert!(table.starts_with("JOB "), "{table}");
        assert!(JOBS.iter().all(|job| table.contains(&format!("\n{job} "))), "{table}");
        let (code, json) = command(&ops, folder, &["jobs", "--json"]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((code, json["jobs"].as_array().map(Vec::len)), (0, Some(ALL.len())));
        let (code, table) = command(&ops, folder, &["jobs", "integrity", "--limit", "5"]);
        assert_eq!(code, 0, "{table}");
        assert!(table.starts_with("STARTED ") && table.contains(" done"), "{table}");
        let (code, json) = command(&ops, folder, &["jobs", "integrity", "--json"]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((code, &json["next"]), (0, &Value::Null));
        let (code, text) = command(&ops, folder, &["jobs", "run", "retention"]);
        assert_eq!((code, text.as_str()), (0, "retention: due now\n"));
        assert_eq!(command(&ops, folder, &["jobs", "run", "nothing"]).0, 1);
        let metrics = porter.metrics().await;
        let counted = "nightporter_job_runs_total{job=\"retention\",outcome=\"done\"}";
        assert!(metrics.contains(counted), "{metrics}");
    }
}
