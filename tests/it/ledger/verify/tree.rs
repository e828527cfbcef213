//! The tree grows only over what it left, and what is sealed.

use std::collections::HashSet;
use std::time::Duration;

use nightporter::ledger::archive::TileKey;
use nightporter::ledger::integrity::IntegrityError;

use super::sample::{Kinds, Ledger, id, integrity, new_key};
use super::{BOTH, TILE};

#[tokio::test]
async fn records_are_placed_once_and_in_bounded_runs() {
    for kind in BOTH {
        let mut ledger = Ledger::empty(kind).await;
        ledger.write(5_010).await;
        let first = ledger.extend().await.expect("extended");
        assert_eq!((first.placed, first.is_more, first.size()), (5_000, true, 5_000));
        let second = ledger.extend().await.expect("extended");
        assert_eq!((second.placed, second.is_more, second.size()), (10, false, 5_010));
        let third = ledger.extend().await.expect("extended");
        assert_eq!((third.placed, third.is_new, third.size()), (0, false, 5_010));
        let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
        let records = snapshot.records(&ledger.tenant, 0, 10_000).await.expect("read");
        let positions: HashSet<_> = records.iter().filter_map(|row| row.position).collect();
        assert_eq!(positions, (0..5_010).collect());
    }
}

#[tokio::test]
async fn a_checkpoint_is_signed_when_it_is_due() {
    let mut ledger = Ledger::empty(Kinds::Sqlite).await;
    let hourly = integrity(&ledger.key, ledger.folder.path(), Duration::from_secs(3600));
    ledger.write(3).await;
    let first = ledger.extend_with(&hourly).await.expect("extended");
    assert!(first.is_new, "the first is due at once");
    ledger.write(3).await;
    let second = ledger.extend_with(&hourly).await.expect("extended");
    assert_eq!((second.placed, second.is_new), (3, false));
    let third = ledger.extend().await.expect("extended");
    assert_eq!((third.is_new, third.size()), (true, 6));
}

#[tokio::test]
async fn an_altered_record_gets_no_position_and_holds_up_no_other() {
    for kind in BOTH {
        let mut ledger = Ledger::empty(kind).await;
        ledger.write(20).await;
        let zeros = match kind {
            Kinds::Sqlite => "x'00000000000000000000000000000000'",
            Kinds::Postgres => r"'\x00000000000000000000000000000000'",
        };
        ledger.tamper(&format!("UPDATE requests SET seal = {zeros} WHERE seq IN (3, 7)")).await;
        for _ in 0..2 {
            let mut altered = ledger.extend().await.expect("extended").altered;
            altered.sort();
            assert_eq!(altered, [id(3), id(7)], "{kind:?}");
        }
        ledger.write(5).await;
        let extended = ledger.extend().await.expect("extended");
        assert_eq!((extended.placed, extended.size()), (5, 23), "{kind:?}");
        assert_eq!(ledger.find(id(3)).await.position, None);
    }
}

#[tokio::test]
async fn nothing_is_signed_over_a_rewritten_tree() {
    for kind in BOTH {
        let mut ledger = Ledger::new(kind).await;
        ledger.edit_tile(TileKey { level: 1, number: 0 }, |hashes| hashes[40] ^= 1).await;
        let error = ledger.extend().await.expect_err("rewritten");
        assert!(matches!(error, IntegrityError::Rewritten { size: 700 }), "{error}");
        ledger.edit_tile(TileKey { level: 1, number: 0 }, |hashes| hashes[40] ^= 1).await;
        let _ = ledger.extend().await.expect("extended");

        // The edge since the last checkpoint is known to the process that left it.
        let hourly = integrity(&ledger.key, ledger.folder.path(), Duration::from_secs(3600));
        ledger.write(5).await;
        let extended = ledger.extend_with(&hourly).await.expect("extended");
        assert_eq!((extended.is_new, extended.size()), (false, 715));
        let last = TileKey { level: 0, number: 2 };
        ledger.edit_tile(last, |hashes| *hashes.last_mut().expect("a hash") ^= 1).await;
        let error = ledger.extend_with(&hourly).await.expect_err("rewritten");
        assert!(matches!(error, IntegrityError::Rewritten { size: 715 }), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_signed_over_a_cut_tree() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    ledger.tamper("UPDATE trees SET size = 699").await;
    let error = ledger.extend().await.expect_err("cut");
    assert!(matches!(error, IntegrityError::Cut { tree: 699, covered: 700 }), "{error}");
    ledger.tamper("UPDATE trees SET size = -1").await;
    let error = ledger.extend().await.expect_err("no size");
    assert!(matches!(error, IntegrityError::Tree(_)), "{error}");
    ledger.tamper("UPDATE trees SET size = 700; DELETE FROM tiles WHERE number = 0").await;
    let error = ledger.extend().await.expect_err("no tile");
    assert!(error.to_string().contains("is missing or too short"), "{error}");
}

#[tokio::test]
async fn nothing_is_signed_after_another_keys_checkpoint() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let folder = tempfile::tempdir().expect("a folder");
    let other = integrity(&new_key(folder.path()), folder.path(), Duration::ZERO);
    let error = ledger.extend_with(&other).await.expect_err("another key");
    let expected = "the checkpoint of 700 records in the database is signed by another key";
    assert_eq!(error.to_string(), expected);
    assert!(!folder.path().join("checkpoints.txt").exists());
}

#[tokio::test]
async fn the_file_catches_up_with_the_database() {
    let mut ledger = Ledger::new(Kinds::Sqlite).await;
    // As if the process had ended between the commit and the append.
    ledger.write(1).await;
    let mut transaction = ledger.archive.begin().await.expect("begun");
    let unsettled = ledger.integrity.extend(&mut transaction, &ledger.tenant).await;
    transaction.commit().await.expect("committed");
    assert!(unsettled.expect("extended").is_new);
    let sizes = || -> Vec<u64> {
        let notes = ledger.file().read().expect("readable").expect("a file").notes;
        let size = |note: &String| {
            nightporter::ledger::checkpoint::Checkpoint::claimed(note).expect("ours").size
        };
        notes.iter().map(size).collect()
    };
    assert_eq!(sizes(), [400, 700]);
    let _ = ledger.extend().await.expect("extended");
    assert_eq!(sizes(), [400, 700, 711]);
}

#[tokio::test]
async fn a_run_that_was_rolled_back_leaves_nothing() {
    let mut ledger = Ledger::new(Kinds::Sqlite).await;
    ledger.write(1).await;
    let mut transaction = ledger.archive.begin().await.expect("begun");
    let extended = ledger.integrity.extend(&mut transaction, &ledger.tenant).await;
    assert_eq!(extended.expect("extended").size(), 711);
    drop(transaction);
    assert_eq!(ledger.last_checkpoint().await.size, 700);
    assert_eq!(ledger.extend().await.expect("extended").size(), 711);
    assert!(ledger.verify().await.unaltered_since().is_some());
    assert_eq!(TILE.number, 0);
}
