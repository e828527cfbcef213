//! The locks of jobs.

use nightporter::ledger::archive::JobRow;
use nightporter::ledger::record::Micros;

use super::{LONG, archive};
use crate::support::client::poll;
use crate::support::postgres::{Cluster, Database};

async fn locks_held(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    database.client.query_one(sql, &[]).await.expect("answers").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_and_long_jobs_exclude_each_other_and_the_holder_is_told() {
    let database = Cluster::shared().database().await;
    let (one, other) = (archive(&database.url()), archive(&database.url()));
    assert_eq!(one.lock_holder("box/integrity").await.expect("read"), None);

    let mut short = one.begin().await.expect("begins");
    assert!(short.try_lock("box/integrity").await.expect("asked"));
    let mut second = other.begin().await.expect("begins");
    assert!(!second.try_lock("box/integrity").await.expect("asked"));
    drop(second);
    let mut another = other.begin().await.expect("begins");
    assert!(another.try_lock("other/integrity").await.expect("asked"), "another box's");
    let long = other.session_locks();
    assert!(long.try_lock("box/integrity").await.expect("asked").is_none());
    let holder = other.lock_holder("box/integrity").await.expect("read").expect("is held");
    let sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = database.client.query(sql, &[]).await.expect("answers");
    let pids: Vec<String> = rows.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
    assert!(pids.iter().any(|pid| holder.starts_with(&format!("process {pid}, nightporter"))));
    assert!(holder.contains("since 20") && holder.ends_with('Z'), "{holder}");
    short.commit().await.expect("committed");
    another.roll_back().await.expect("rolled back");

    let held = long.try_lock("box/integrity").await.expect("asked").expect("is free");
    let mut short = one.begin().await.expect("begins");
    assert!(!short.try_lock("box/integrity").await.expect("asked"));
    drop(short);
    assert!(one.lock_holder("box/integrity").await.expect("read").is_some());
    held.confirm().await.expect("still held");
    held.release().await;
    assert_eq!(one.lock_holder("box/integrity").await.expect("read"), None);

    // A job that was given up leaves nothing.
    let mut dropped = one.begin().await.expect("begins");
    assert!(dropped.try_lock("box/integrity").await.expect("asked"));
    drop(dropped);
    poll("no lock is left", LONG, async || locks_held(&database).await == 0).await;
}

#[tokio::test]
async fn the_time_of_a_transaction_is_the_servers_and_goes_on() {
    let database = Cluster::shared().database().await;
    let archive = archive(&database.url());
    let mut job = archive.begin().await.expect("begins");
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let now = async || database.client.query_one(sql, &[]).await.expect("answers").get(0);
    let mut last = 0;
    for _ in 0..3 {
        let before: i64 = now().await;
        let Micros(read) = job.now().await.expect("read");
        assert!(read > last && (before..=now().await).contains(&read), "{read}");
        last = read;
    }
}

#[tokio::test]
async fn of_the_runs_of_a_job_the_last_thousand_are_kept() {
    let database = Cluster::shared().database().await;
    let archive = archive(&database.url());
    let mut job = archive.begin().await.expect("begins");
    let mut row = JobRow {
        name: "integrity".into(),
        due: Micros(0),
        started: Some(Micros(1)),
        ended: Some(Micros(2)),
        outcome: Some("done".into()),
        by: Some(3),
    };
    let retention = JobRow { name: "retention".into(), ..row.clone() };
    job.log_run("box", &retention).await.expect("logged");
    for due in 1..=1010 {
        row.due = Micros(due);
        job.log_run("box", &row).await.expect("logged");
    }
    job.commit().await.expect("committed");
    let sql = "SELECT count(*), min(due), max(due) FROM nightporter_ledger.job_runs
               WHERE name = 'integrity'";
    let runs = database.client.query_one(sql, &[]).await.expect("answers");
    assert_eq!((runs.get(0), runs.get(1), runs.get(2)), (1000_i64, 11_i64, 1010_i64));
    assert_eq!(super::count(&database, "job_runs").await, 1001);
}
