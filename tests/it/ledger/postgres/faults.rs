//! Faults in the middle of a write.

use std::time::Duration;

use nightporter::ledger::archive::ArchiveError;

use super::{all_of, archive_with, count, id, record, records};
use crate::ledger::samples::readable;
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::postgres::Cluster;
use crate::support::soak::LOST_COMMITS;

/// The statement, and not the name of an isolation level.
const COMMIT: &str = "COMMIT\0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_written_once() {
    const BATCH: i64 = 20;
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let archive = archive_with(&database.url_at(proxy.address), Duration::from_secs(20));
    archive.prepare().await.expect("prepared");
    for round in 0..i64::from(LOST_COMMITS.count()) {
        let batch = records("box", 1, round * BATCH + 1..(round + 1) * BATCH + 1);
        proxy.set(Network::CutAnswerTo(COMMIT));
        let lost = archive.write(&batch).await.expect_err("the answer did not arrive");
        assert!(matches!(lost, ArchiveError::Unavailable(_)), "{lost}");
        // The server has committed, which nobody here knows.
        assert_eq!(count(&database, "requests").await, (round + 1) * BATCH);
        proxy.set(Network::Pass);
        archive.write(&batch).await.expect("replayed");
        let ids: Vec<_> = batch.iter().map(|record| record.id).collect();
        let mut transaction = archive.begin().await.expect("begins");
        transaction.place("box", round * BATCH, &ids).await.expect("each is there once");
        transaction.commit().await.expect("committed");
    }
    let all = i64::from(LOST_COMMITS.count()) * BATCH;
    let mut snapshot = archive.snapshot().await.expect("begins");
    let read = readable(snapshot.records("box", 0, usize::MAX).await.expect("read"));
    let read: Vec<_> = read.into_iter().map(|stored| stored.record).collect();
    assert_eq!(read, records("box", 1, 1..all + 1), "nothing twice, nothing lost");
    assert_eq!(count(&database, "steps").await, 3 * all);
    assert_eq!(count(&database, "notes").await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_cut_off_anywhere_leaves_nothing_or_all_of_it() {
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let archive = archive_with(&database.url_at(proxy.address), Duration::from_secs(20));
    archive.prepare().await.expect("prepared");
    let statements = [
        "BEGIN",
        "SELECT name, id",
        "nightporter_ledger.requests",
        "nightporter_ledger.steps",
        "nightporter_ledger.notes",
        "NOTIFY",
        COMMIT,
    ];
    for (round, statement) in (0..).zip(statements) {
        let batch = records("box", 1, round * 5 + 1..round * 5 + 6);
        proxy.set(Network::CutAnswerTo(statement));
        let lost = archive.write(&batch).await.expect_err(statement);
        assert!(matches!(lost, ArchiveError::Unavailable(_)), "{statement}: {lost}");
        let is_committed = statement == COMMIT;
        let there = count(&database, "requests").await - round * 5;
        assert_eq!(there, if is_committed { 5 } else { 0 }, "{statement}");
        proxy.set(Network::Pass);
        archive.write(&batch).await.expect("replayed");
        assert_eq!(count(&database, "steps").await, (round + 1) * 15);
    }
}

#[tokio::test]
async fn what_the_server_refuses_for_its_content_is_told_apart_from_a_fault() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let archive = archive_with(&database.url(), Duration::from_secs(20));
    let mut poisoned = records("box", 1, 1..10);
    poisoned[4].notes[0].text = "a \0 in it".into();
    let mut too_small = records("box", 1, 1..10);
    too_small[4].count = -1;
    for batch in [poisoned, too_small] {
        let refused = archive.write(&batch).await.expect_err("refused");
        assert!(matches!(refused, ArchiveError::Content(_)), "{refused}");
        assert_eq!(archive.problem(), None, "the archive is well");
        for table in ["requests", "steps", "notes"] {
            assert_eq!(count(&database, table).await, 0, "{table}");
        }
    }
    archive.write(&records("box", 1, 1..3)).await.expect("written");
    // Half of it is there, twice within itself.
    let mut again = records("box", 1, 2..5);
    again.extend(records("box", 1, 3..6));
    again[0].steps.clear();
    again[0].notes[0].text = "another text".into();
    archive.write(&again).await.expect("written");
    let found = archive.find("box", id(1, 2)).await.expect("read").expect("is there");
    assert_eq!(found.record, record("box", id(1, 2)), "it stays as it was");
    assert_eq!((count(&database, "requests").await, count(&database, "steps").await), (5, 15));

    cluster.crash().await;
    for _ in 0..2 {
        let down = archive.write(&records("box", 1, 6..7)).await.expect_err("down");
        assert!(matches!(down, ArchiveError::Unavailable(_)), "{down}");
        archive.page(&all_of("box")).await.expect_err("down");
        assert!(archive.problem().is_some());
    }
    cluster.start().await;
    archive.write(&records("box", 1, 6..7)).await.expect("written without a restart");
    assert_eq!(archive.page(&all_of("box")).await.expect("read").records.len(), 6);
    assert_eq!(archive.problem(), None);
}
