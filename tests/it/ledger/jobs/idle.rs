//! A box to which nobody comes writes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::LONG;
use super::processes::Site;
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::soak;

/// The lengths and times of all files below a folder.
fn files(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        let (path, metadata) = (entry.path(), entry.metadata().expect("readable"));
        if metadata.is_dir() {
            found.extend(files(&path));
        } else if !path.to_string_lossy().ends_with("-shm") {
            // Whoever reads a database notes that in the index of its write-ahead log, which
            // is shared memory.
            let modified = metadata.modified().expect("a time");
            found.insert(path.display().to_string(), (metadata.len(), modified));
        }
    }
    found
}

/// Returns how many rows were written in the database.
async fn rows_written(site: &Site) -> i64 {
    let Some(database) = site.database() else { return 0 };
    let sql = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int8
               FROM pg_stat_user_tables";
    database.client.query_one(sql, &[]).await.expect("answers").get(0)
}

/// Returns the bytes that a process had written to a disk.
fn bytes_written(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).expect("readable");
    let value = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    value.expect("a count").parse().expect("a number")
}

async fn nothing_is_written_on(store: Store) {
    let site = Site::new(store).await;
    let porter = site.start();
    site.until_all_ran().await;
    let seconds = Duration::from_secs(soak::IDLE_SECONDS.count().into());
    let mut state = (files(&site.sample.ledger()), rows_written(&site).await);
    // The start is noted once; from then on all is quiet.
    poll("it is quiet", LONG, async || {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = (files(&site.sample.ledger()), rows_written(&site).await);
        now == std::mem::replace(&mut state, now.clone())
    })
    .await;
    let process = porter.child.id();
    let (written, runs) = (bytes_written(process), site.counted(&[&porter], "integrity").await);
    tokio::time::sleep(seconds).await;
    assert_eq!((files(&site.sample.ledger()), rows_written(&site).await), state, "{store:?}");
    assert_eq!(bytes_written(process), written, "{store:?}");
    // It was not quiet because nothing was done.
    assert!(site.counted(&[&porter], "integrity").await > runs + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_box_writes_nothing_to_its_files() {
    nothing_is_written_on(Store::Files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_box_writes_nothing_to_its_database() {
    nothing_is_written_on(Store::Postgres).await;
}
