//! Writing and finding records.

use std::time::Duration;

use nightporter::ledger::archive::ArchiveError;
use nightporter::ledger::record::{Kind, Micros, Personal, Record, Stored};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Database;
use crate::ledger::samples::{
    TENANT, all_ids, bare, id, ids, pages, place, readable, record, records, request,
};

const LONG: Duration = Duration::from_secs(60);

pub async fn what_is_written_is_read_back(database: &impl Database) {
    let archive = database.archive();
    let mut written = vec![
        record(7, 1),
        // Erased: digests, and no salt by which they could be guessed.
        Record {
            client_id: Some(Personal::Digest([1; 32])),
            client_name: Some(Personal::Digest([2; 32])),
            address: Some(Personal::Digest([3; 32])),
            salt: None,
            ..record(7, 2)
        },
        // Empty is not absent.
        Record {
            app: Some("".into()),
            path: Some("".into()),
            client_name: Some(Personal::Clear("".into())),
            verdict: Some("".into()),
            ..bare(Kind::Visit, 7, 3)
        },
        Record {
            at: Micros(i64::MIN),
            duration: Micros(i64::MAX),
            count: i64::MAX,
            ..record(i64::MAX, i64::MAX)
        },
    ];
    written.extend((4_i64..).zip(Kind::ALL).map(|(seq, kind)| bare(kind, 7, seq)));
    archive.write(&written).await.expect("writes");
    let reader = database.archive();
    for record in &written {
        let found = reader.find(TENANT, record.id).await.expect("reads").expect("is there");
        assert_eq!(found, Stored { record: record.clone(), position: None });
    }
    assert_eq!(reader.find(TENANT, id(7, 99)).await.expect("reads"), None);
    let all = pages(&reader, &request(2), async || ()).await;
    assert_eq!(all.len(), written.len());
    for stored in all {
        let whole = written.iter().find(|record| record.id == stored.record.id).expect("written");
        let without = Record { steps: vec![], notes: vec![], ..whole.clone() };
        assert_eq!(stored.record, without, "a page has neither steps nor notes");
    }
    archive.write(&[]).await.expect("nothing is to be done");
}

pub async fn a_batch_that_is_written_again_changes_nothing(database: &impl Database) {
    let archive = database.archive();
    let batch = records(7, 1..=100);
    archive.write(&batch[..40]).await.expect("writes");
    assert_eq!(place(&archive, 30).await, 30);
    // The whole of it, half of it, and one record twice in a batch.
    for again in [&batch[..], &batch[30..70], &[batch[5].clone(), batch[5].clone()]] {
        archive.write(again).await.expect("writes");
    }
    // What is there stays as it is.
    let other = Record { app: Some("other".into()), steps: vec![], ..batch[5].clone() };
    archive.write(&[other]).await.expect("writes");
    assert_eq!(all_ids(&archive).await.len(), 100);
    for (record, n) in batch.iter().zip(0_i64..) {
        let found = archive.find(TENANT, record.id).await.expect("reads").expect("is there");
        assert_eq!(&found.record, record);
        assert_eq!(found.position, (n < 30).then_some(n));
    }
}

pub async fn one_bad_record_leaves_nothing_of_its_batch(database: &impl Database) {
    let archive = database.archive();
    archive.prepare().await.expect("prepares");
    let good = record(7, 50);
    let mut note = good.clone();
    note.notes[0].text = "a\0b".into();
    let mut step = good.clone();
    step.steps[1].outcome = "\0".into();
    let bad = [
        Record { path: Some("/a\0b".into()), ..good.clone() },
        Record { client_name: Some(Personal::Clear("\0".into())), ..good.clone() },
        note,
        step,
        Record { id: id(7, -1), ..good.clone() },
        Record { count: -1, ..good },
    ];
    for bad in bad {
        let mut batch = records(7, 1..=100);
        batch[49] = bad;
        let error = archive.write(&batch).await.expect_err("refused");
        assert!(matches!(error, ArchiveError::Content(_)), "{error:?}");
        assert_eq!(all_ids(&archive).await.len(), 0);
        assert_eq!(archive.problem(), None, "the archive is well");
    }
    archive.write(&records(7, 1..=100)).await.expect("writes");
    assert_eq!(all_ids(&archive).await.len(), 100);
}

pub async fn a_removed_record_leaves_no_step_and_no_note(database: &impl Database) {
    let archive = database.archive();
    archive.write(&records(7, 1..=20)).await.expect("writes");
    place(&archive, 20).await;
    let mut transaction = archive.begin().await.expect("begins");
    let removed = transaction.remove_before(TENANT, Kind::Visit, Micros(i64::MAX), 20, 100);
    assert_eq!(removed.await.expect("removes").len(), 20);
    transaction.commit().await.expect("commits");
    // A part that had stayed behind would now belong to the new record, or be in its way.
    let anew: Vec<_> = records(7, 1..=20)
        .into_iter()
        .map(|record| Record { steps: record.steps[..1].to_vec(), notes: vec![], ..record })
        .collect();
    archive.write(&anew).await.expect("writes");
    for record in anew {
        let found = archive.find(TENANT, record.id).await.expect("reads").expect("is there");
        assert_eq!(found.record, record);
    }
}

pub async fn tenants_see_nothing_of_each_other(database: &impl Database) {
    let archive = database.archive();
    let theirs = Record { tenant: "other".into(), ..record(8, 1) };
    let nobodys = Record { tenant: "".into(), ..record(9, 1) };
    archive.write(&[record(7, 1), theirs.clone(), nobodys, record(7, 2)]).await.expect("writes");
    assert_eq!(place(&archive, 10).await, 2);
    assert_eq!(ids(&pages(&archive, &request(10), async || ()).await), [id(7, 2), id(7, 1)]);
    assert_eq!(archive.find(TENANT, theirs.id).await.expect("reads"), None);
    assert!(archive.find("other", theirs.id).await.expect("reads").is_some());
    let mut snapshot = archive.snapshot().await.expect("begins");
    assert_eq!(snapshot.records("other", 0, 10).await.expect("reads"), []);
    let without_tenant = snapshot.unplaced("", None, 10).await.expect("reads");
    assert_eq!(ids(&readable(without_tenant)), [id(9, 1)]);
    assert_eq!(snapshot.tree_size("other").await.expect("reads"), 0);
    drop(snapshot);
    let mut transaction = archive.begin().await.expect("begins");
    let removed = transaction.remove_before("other", Kind::Visit, Micros(i64::MAX), 99, 99);
    assert_eq!(removed.await.expect("removes"), [], "it has no position");
    transaction.place("other", 0, &[theirs.id]).await.expect("each tenant has its own positions");
    transaction.commit().await.expect("commits");
}

pub async fn several_processes_write_at_once(database: &impl Database) {
    const BATCHES: i64 = 20;
    let mut writers = JoinSet::new();
    for writer in 1..=4 {
        let archive = database.archive();
        writers.spawn(async move {
            for batch in 0..BATCHES {
                let batch = records(writer, batch * 10 + 1..=batch * 10 + 10);
                archive.write(&batch).await.expect("waits for the others");
            }
        });
    }
    timeout(LONG, writers.join_all()).await.expect("in time");
    assert_eq!(all_ids(&database.archive()).await.len(), 4 * 10 * 20);
}

pub async fn a_change_wakes_those_who_wait(database: &impl Database) {
    let archive = database.archive();
    archive.prepare().await.expect("prepares");
    let mut changes = archive.changes();
    let waiting = async { timeout(LONG, changes.changed()).await.expect("woken") };
    let writing = async { archive.write(&records(7, [1])).await.expect("writes") };
    tokio::join!(waiting, writing);
    // Another process's writes are noticed too.
    let other = database.archive();
    let waiting = async { timeout(LONG, changes.changed()).await.expect("woken") };
    let writing = async { other.write(&records(8, [1])).await.expect("writes") };
    tokio::join!(waiting, writing);
    // And so is what was written before anybody waits.
    let mut changes = archive.changes();
    archive.write(&records(7, [2])).await.expect("writes");
    timeout(LONG, changes.changed()).await.expect("it is told");
}
