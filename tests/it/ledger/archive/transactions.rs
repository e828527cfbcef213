//! Transactions of jobs.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use nightporter::ledger::archive::{Archive, ArchiveError, StoredCheckpoint, TileKey};
use nightporter::ledger::record::{Kind, Micros, Record, RecordId};
use tokio::time::timeout;

use super::Database;
use crate::ledger::samples::{TENANT, all_ids, bare, id, place, readable, record, records};

const LONG: Duration = Duration::from_secs(60);

async fn tree_size(archive: &Archive) -> i64 {
    let mut snapshot = archive.snapshot().await.expect("begins");
    snapshot.tree_size(TENANT).await.expect("reads")
}

pub async fn a_dropped_transaction_leaves_nothing(database: &impl Database) {
    let archive = database.archive();
    archive.write(&records(7, 1..=3)).await.expect("writes");
    for end in ["drop", "roll back", "drop in a call", "commit"] {
        let mut transaction = archive.begin().await.expect("begins");
        assert!(transaction.try_lock("integrity").await.expect("answers"), "{end}");
        transaction.write(&records(8, 1..=3)).await.expect("writes");
        transaction.place(TENANT, 0, &[id(8, 1), id(7, 1)]).await.expect("places");
        transaction.set_tree_size(TENANT, 2).await.expect("writes");
        match end {
            "drop" => drop(transaction),
            "roll back" => transaction.roll_back().await.expect("rolls back"),
            "drop in a call" => {
                {
                    let batch = records(9, 1..=2_000);
                    let mut call = pin!(transaction.write(&batch));
                    // Begun, and then given up.
                    poll_fn(|context| {
                        assert!(call.as_mut().poll(context).is_pending());
                        Poll::Ready(())
                    })
                    .await;
                }
                transaction.commit().await.expect_err("nobody knows what the call has done");
            }
            _ => {
                transaction.commit().await.expect("commits");
                break;
            }
        }
        // The lock is free again, for this process and for others.
        for archive in [&archive, &database.archive()] {
            archive.write(&records(7, 1..=3)).await.expect("writes");
            assert_eq!(all_ids(archive).await.len(), 3, "{end}");
            assert_eq!(tree_size(archive).await, 0, "{end}");
        }
    }
    assert_eq!(all_ids(&archive).await.len(), 6);
    assert_eq!(tree_size(&archive).await, 2);
}

pub async fn a_failed_statement_ends_the_transaction(database: &impl Database) {
    let archive = database.archive();
    let mut transaction = archive.begin().await.expect("begins");
    transaction.write(&records(7, 1..=3)).await.expect("writes");
    let bad = Record { path: Some("\0".into()), ..record(7, 4) };
    let error = transaction.write(&[bad]).await.expect_err("refused");
    assert!(matches!(error, ArchiveError::Content(_)), "{error:?}");
    transaction.tree_size(TENANT).await.expect_err("has ended");
    transaction.try_lock("integrity").await.expect_err("has ended");
    transaction.commit().await.expect_err("has ended");
    assert_eq!(all_ids(&archive).await.len(), 0);
}

pub async fn one_of_two_has_the_lock(database: &impl Database) {
    let (archive, other) = (database.archive(), database.archive());
    for archive in [&archive, &other] {
        archive.prepare().await.expect("prepares");
    }
    let mut holder = archive.begin().await.expect("begins");
    assert!(holder.try_lock("integrity").await.expect("answers"));
    for archive in [&archive, &other] {
        let mut late = archive.begin().await.expect("begins");
        let answer = timeout(LONG, late.try_lock("integrity")).await.expect("does not wait");
        assert!(!answer.expect("answers"));
    }
    holder.commit().await.expect("commits");
    let mut next = other.begin().await.expect("begins");
    assert!(next.try_lock("integrity").await.expect("answers"));
    assert!(next.try_lock("integrity").await.expect("answers"), "it has it");
}

pub async fn unplaced_records_come_oldest_first(database: &impl Database) {
    let archive = database.archive();
    let at = |writer, seq, at| Record { at: Micros(at), ..record(writer, seq) };
    let batch = [at(9, 1, 30), at(3, 1, 40), at(9, 2, 10), at(5, 7, 30), at(5, 6, 30)];
    archive.write(&batch).await.expect("writes");
    let mut transaction = archive.begin().await.expect("begins");
    let unplaced = transaction.unplaced(TENANT, 4).await.expect("reads");
    let ids: Vec<_> = unplaced.iter().map(|unplaced| unplaced.id).collect();
    assert_eq!(ids, [id(9, 2), id(5, 6), id(5, 7), id(9, 1)]);
    assert_eq!((unplaced[0].leaf, unplaced[0].seal), (batch[2].leaf, batch[2].seal));
    drop(transaction);
    let mut snapshot = archive.snapshot().await.expect("begins");
    let mut by_id = snapshot.unplaced(TENANT, None, 3).await.expect("reads");
    let last = by_id.last().map(|row| row.id);
    by_id.extend(snapshot.unplaced(TENANT, last, 3).await.expect("reads"));
    let mut expected = batch.to_vec();
    expected.sort_by_key(|record| record.id);
    let by_id = readable(by_id).into_iter().map(|stored| stored.record);
    assert_eq!(by_id.collect::<Vec<_>>(), expected);
    assert_eq!(snapshot.unplaced(TENANT, Some(id(9, 2)), 3).await.expect("reads"), []);
}

pub async fn a_position_is_given_once(database: &impl Database) {
    let archive = database.archive();
    archive.write(&records(7, 1..=3)).await.expect("writes");
    assert_eq!(place(&archive, 2).await, 2);
    let refused: [(i64, &[RecordId]); 4] = [
        // One that has a position, one that is not there, one of which another record has
        // the position, and the same one twice.
        (2, &[id(7, 1)]),
        (2, &[id(7, 99)]),
        (1, &[id(7, 3)]),
        (2, &[id(7, 3), id(7, 3)]),
    ];
    for (first, ids) in refused {
        let mut transaction = archive.begin().await.expect("begins");
        let error = transaction.place(TENANT, first, ids).await.expect_err("refused");
        assert!(matches!(error, ArchiveError::Content(_)), "{error:?}");
    }
    for (seq, position) in [(1, Some(0)), (2, Some(1)), (3, None)] {
        let found = archive.find(TENANT, id(7, seq)).await.expect("reads").expect("is there");
        assert_eq!(found.position, position);
    }
}

pub async fn tiles_and_checkpoints_are_read_back(database: &impl Database) {
    let archive = database.archive();
    let key = |level, number| TileKey { level, number };
    let tiles = [(key(0, 0), vec![1; 8192]), (key(0, 1), vec![2; 32]), (key(1, 0), vec![])];
    let checkpoint = |size: i64| StoredCheckpoint {
        size,
        at: Micros(size * 10),
        note: format!("nightporter/box\n{size}\n\n— signed\n"),
    };
    let mut transaction = archive.begin().await.expect("begins");
    assert_eq!(transaction.checkpoint(TENANT).await.expect("reads"), None);
    assert_eq!(transaction.tree_size(TENANT).await.expect("reads"), 0);
    transaction.put_tiles(TENANT, &tiles).await.expect("writes");
    transaction.put_tiles(TENANT, &[(key(0, 1), vec![3; 64])]).await.expect("writes over it");
    for size in [3, 12, 200] {
        transaction.put_checkpoint(TENANT, &checkpoint(size)).await.expect("writes");
        transaction.set_tree_size(TENANT, size).await.expect("writes");
    }
    transaction.put_checkpoint("other", &checkpoint(999)).await.expect("writes");
    let last = transaction.checkpoint(TENANT).await.expect("reads");
    assert_eq!(last, Some(checkpoint(200)));
    transaction.commit().await.expect("commits");

    let mut snapshot = archive.snapshot().await.expect("begins");
    let keys = [key(1, 0), key(0, 7), key(0, 1), key(0, 0)];
    let found = snapshot.tiles(TENANT, &keys).await.expect("reads");
    assert_eq!(found, [tiles[2].clone(), (key(0, 1), vec![3; 64]), tiles[0].clone()]);
    assert_eq!(snapshot.tiles("other", &keys).await.expect("reads"), []);
    let all = snapshot.checkpoints(TENANT).await.expect("reads");
    assert_eq!(all, [3, 12, 200].map(checkpoint));
    assert_eq!(snapshot.tree_size(TENANT).await.expect("reads"), 200);
}

pub async fn removal_keeps_to_its_bounds(database: &impl Database) {
    let archive = database.archive();
    let mut batch = Vec::new();
    for seq in 1..=10 {
        batch.push(Record { at: Micros(seq * 10), ..record(7, seq) });
        batch.push(Record { at: Micros(seq * 10), ..bare(Kind::Grants, 8, seq) });
    }
    archive.write(&batch).await.expect("writes");
    // The visits of the times 10 to 90 have the positions 0, 2, 4, ... 16.
    assert_eq!(place(&archive, 18).await, 18);
    let cases = [
        // Of what began before, and not at, 30.
        (Micros(30), 100, 100, vec![0, 2]),
        // Nothing at or above a position.
        (Micros(i64::MAX), 6, 100, vec![4]),
        // The oldest.
        (Micros(i64::MAX), 100, 2, vec![6, 8]),
        // Nothing without a position.
        (Micros(i64::MAX), 100, 100, vec![10, 12, 14, 16]),
        (Micros(i64::MAX), 100, 100, vec![]),
    ];
    for (before, below, limit, expected) in cases {
        let mut transaction = archive.begin().await.expect("begins");
        let removed = transaction.remove_before(TENANT, Kind::Visit, before, below, limit).await;
        let removed = removed.expect("removes").into_iter().map(|placed| placed.position);
        assert_eq!(removed.collect::<Vec<_>>(), expected);
        transaction.commit().await.expect("commits");
    }
    let mut left: Vec<_> = (1..=10).map(|seq| id(8, seq)).collect();
    left.insert(0, id(7, 10));
    assert_eq!(all_ids(&archive).await.into_iter().collect::<Vec<_>>(), left);
}
