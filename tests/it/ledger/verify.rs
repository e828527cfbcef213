//! Every way to alter a record is found, and named.

mod adoption;
mod commands;
mod proofs;
mod sample;
mod tree;
mod unreadable;

use nightporter::ledger::archive::{Placed, TileKey};
use nightporter::ledger::canonical::{Hasher, Version, erased};
use nightporter::ledger::checkpoint::Checkpoint;
use nightporter::ledger::ranges::Ranges;
use nightporter::ledger::record::{Entry, Kind, Micros, Note, Record, RecordId};
use nightporter::ledger::references;
use nightporter::ledger::verify::{Finding, Report, SavedCheckpoints};

use sample::{BEGIN, Kinds, Ledger, id, kept, new_key};

const BOTH: [Kinds; 2] = [Kinds::Sqlite, Kinds::Postgres];

/// The record at position 123 has steps and a note, and a person.
const EDITED: RecordId = RecordId { writer: sample::WRITER, seq: 126 };

/// The first tile.
const TILE: TileKey = TileKey { level: 0, number: 0 };

fn texts(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

/// Returns the position of a record; ids count from 1, and all records were placed in order.
fn position(id: RecordId) -> i64 {
    id.seq - 1
}

#[tokio::test]
async fn an_unaltered_record_is_proved() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        let report = ledger.verify().await;
        assert_eq!(texts(&report), [""; 0], "{kind:?}");
        assert_eq!(report.remarks, [""; 0]);
        assert_eq!((report.records, report.uncovered, report.cut), (710, 10, 0));
        let proved = report.unaltered_since().expect("a claim");
        let last = Checkpoint::claimed(&ledger.last_checkpoint().await.note);
        assert_eq!(Ok(proved.clone()), last);
        assert_eq!(proved.size, 700);
    }
}

#[tokio::test]
async fn nothing_is_claimed_before_the_first_checkpoint() {
    let mut ledger = Ledger::empty(Kinds::Sqlite).await;
    ledger.write(5).await;
    let report = ledger.verify().await;
    assert_eq!((texts(&report), report.unaltered_since()), (Vec::new(), None));
}

#[tokio::test]
async fn an_edit_of_any_column_is_named() {
    let columns = [
        "kind = 'act'",
        "at = at + 1",
        "app = 'note'",
        "app = NULL",
        "host = ''",
        "path = '/outbox'",
        "rule = NULL",
        "client = 'peer'",
        "client_id = 'x'",
        "client_id = NULL",
        "client_name = 'Eve'",
        "address = '192.0.2.8'",
        "address = NULL",
        "verdict = 'grant'",
        "reason = 'public'",
        "trace = NULL",
        "duration = 0",
        "count = 2",
        "salt = NULL",
    ];
    let parts = [
        "UPDATE steps SET name = 'wake'",
        "UPDATE steps SET duration = 0",
        "UPDATE steps SET outcome = 'failed'",
        "DELETE FROM steps",
        "UPDATE notes SET topic = 'range'",
        "UPDATE notes SET text = ''",
        "DELETE FROM notes",
    ];
    let at = format!("writer = {} AND seq = {}", EDITED.writer.0, EDITED.seq);
    let edits = columns.iter().map(|edit| format!("UPDATE requests SET {edit} WHERE {at}"));
    let parts = parts.iter().map(|edit| format!("{edit} WHERE {at}"));
    let edits: Vec<_> = edits.chain(parts).collect();
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        let original = ledger.find(EDITED).await.record;
        for edit in &edits {
            ledger.tamper(edit).await;
            let report = ledger.verify().await;
            let position = position(EDITED);
            let expected = format!("record {EDITED} at position {position} was edited");
            assert_eq!(texts(&report), [expected], "{kind:?}: {edit}");
            assert_eq!((report.others, report.unaltered_since()), (0, None));
            ledger.replace(EDITED, |record| *record = original.clone()).await;
            assert_eq!(texts(&ledger.verify().await), [""; 0], "{kind:?}: it is restored");
        }
    }
}

#[tokio::test]
async fn an_edit_with_a_new_leaf_is_named() {
    let edit = |record: &mut Record| {
        record.reason = Some("public".into());
        record.leaf = Hasher::default().leaf(record).expect("a leaf");
    };
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger.replace(EDITED, edit).await;
        let expected = format!("record {EDITED} at position 125 was edited");
        let found = texts(&ledger.verify().await);
        assert_eq!(found, std::slice::from_ref(&expected), "{kind:?}");

        // With the tile edited too, the tree agrees with the record: the checkpoint does not.
        let leaf = ledger.find(EDITED).await.record.leaf;
        ledger.edit_tile(TILE, |hashes| hashes[125 * 32..126 * 32].copy_from_slice(&leaf)).await;
        let report = ledger.verify().await;
        assert_eq!(texts(&report)[0], expected, "{kind:?}");
        assert!(matches!(report.findings[1], Finding::Rewritten { size: 400, .. }), "{report:?}");
    }
}

#[tokio::test]
async fn a_deleted_record_is_named() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger.tamper("DELETE FROM requests WHERE position = 125").await;
        let expected = "the record at position 125 was deleted";
        let report = ledger.verify().await;
        assert_eq!(texts(&report)[0], expected, "{kind:?}");
        // Those that follow move up, so that there is no gap.
        ledger
            .tamper(
                "UPDATE requests SET position = position + 10000 WHERE position > 125;
                 UPDATE requests SET position = position - 10001 WHERE position > 10000",
            )
            .await;
        let report = ledger.verify().await;
        assert_eq!(texts(&report)[0], expected, "{kind:?}");
    }
}

#[tokio::test]
async fn an_inserted_record_is_named() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        // One that waits for its position is sealed as all are.
        let inserted = id(703);
        ledger
            .tamper(
                "UPDATE requests SET position = position + 10000 WHERE position >= 125;
                 UPDATE requests SET position = position - 9999 WHERE position >= 10000;
                 UPDATE requests SET position = 125 WHERE seq = 703",
            )
            .await;
        let report = ledger.verify().await;
        let expected = format!("record {inserted} at position 125 was inserted");
        assert_eq!(texts(&report)[0], expected, "{kind:?}");

        let ledger = Ledger::new(kind).await;
        ledger.tamper("UPDATE requests SET position = 700 WHERE seq = 703").await;
        let expected = format!("record {inserted} at position 700 was inserted");
        assert_eq!(texts(&ledger.verify().await), [expected], "{kind:?}");
    }
}

#[tokio::test]
async fn records_that_changed_places_are_named() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger
            .tamper(
                "UPDATE requests SET position = 10000 WHERE position = 125;
                 UPDATE requests SET position = 125 WHERE position = 600;
                 UPDATE requests SET position = 600 WHERE position = 10000",
            )
            .await;
        let report = ledger.verify().await;
        let moved = id(601);
        let expected = format!("record {moved} was moved from position 600 to 125");
        assert_eq!(texts(&report), [expected], "{kind:?}");
        assert_eq!(report.others, 1);
    }
}

#[tokio::test]
async fn a_cut_tail_is_found() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        // Back to the state of the checkpoint before.
        ledger
            .tamper(
                "DELETE FROM requests WHERE position >= 400 OR position IS NULL;
                 DELETE FROM checkpoints WHERE size > 400;
                 UPDATE trees SET size = 400; DELETE FROM tiles WHERE level = 0 AND number > 1",
            )
            .await;
        ledger.edit_tile(TileKey { level: 0, number: 1 }, |hashes| hashes.truncate(144 * 32)).await;
        ledger.edit_tile(TileKey { level: 1, number: 0 }, |hashes| hashes.truncate(32)).await;
        let report = ledger.verify().await;
        let first = &texts(&report)[0];
        assert!(first.starts_with("the tail was cut: checkpoint 700 of 20"), "{kind:?}: {first}");
        assert!(first.ends_with("in checkpoints.txt covers 300 records that are gone"), "{first}");
    }
}

#[tokio::test]
async fn a_full_rewrite_is_found() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        // Another ledger takes the place of this one, with the database's own key.
        let log = std::fs::read(ledger.file().path()).expect("readable");
        let folder = tempfile::tempdir().expect("a folder");
        let forger = new_key(folder.path());
        let mut sealer = nightporter::ledger::seal::Sealer::new(forger.seal_key().clone())
            .expect("random numbers");
        ledger
            .tamper(
                "DELETE FROM requests; DELETE FROM tiles; DELETE FROM trees;
                 DELETE FROM checkpoints",
            )
            .await;
        let records: Vec<_> = (1..=700)
            .map(|seq| {
                let entry = Entry::new(Kind::Visit, Micros(BEGIN + seq));
                sealer.seal(id(seq), &ledger.tenant, entry)
            })
            .collect();
        ledger.archive.write(&records).await.expect("written");
        let integrity = sample::integrity(&forger, folder.path(), std::time::Duration::ZERO);
        let _ = ledger.extend_with(&integrity).await.expect("extended");
        assert_eq!(std::fs::read(ledger.file().path()).expect("readable"), log);
        let report = ledger.verify().await;
        let texts = texts(&report);
        let rewritten = "the tree was rewritten after its first 0 records: it does not have the \
                         hash of checkpoint 400";
        assert!(texts.iter().any(|text| text.starts_with(rewritten)), "{kind:?}: {texts:#?}");
        let signed = "checkpoint 700 in the database is signed by another key";
        assert!(texts.iter().any(|text| text == signed), "{kind:?}: {texts:#?}");
        let edited = format!("record {} at position 0 was edited", id(1));
        assert_eq!(texts[0], edited, "the first record, by its seal");
    }
}

#[tokio::test]
async fn a_swapped_key_is_found() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let path = ledger.folder.path().join("ledger.key");
    std::fs::remove_file(&path).expect("removed");
    new_key(ledger.folder.path());
    let report = ledger.verify().await;
    assert_eq!(texts(&report)[0], "the key was replaced: another one signed the checkpoints");
    assert_eq!(texts(&report)[1], "checkpoint 400 in the database is signed by another key");
    assert_eq!(report.unaltered_since(), None);

    // With every checkpoint signed anew, a checkpoint that was kept elsewhere tells.
    let old = ledger.last_checkpoint().await.note;
    ledger.tamper("DELETE FROM checkpoints").await;
    std::fs::remove_file(ledger.file().path()).expect("removed");
    let new = new_key(ledger.folder.path());
    let integrity = sample::integrity(&new, ledger.folder.path(), std::time::Duration::ZERO);
    let _ = ledger.extend_with(&integrity).await.expect("extended");
    let report = ledger.verify_with(vec![kept("kept.txt", &old)]).await;
    let texts = texts(&report);
    let expected = "checkpoint 700 in kept.txt is signed by another key";
    assert!(texts.iter().any(|text| text == expected), "{texts:#?}");
}

#[tokio::test]
async fn a_swapped_checkpoint_file_is_found() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let log = ledger.file().path().to_owned();
    let first = |report: &Report| texts(report).first().cloned().unwrap_or_default();

    // That of another box, also one of the same name.
    let other = Ledger::new(Kinds::Sqlite).await;
    std::fs::copy(other.file().path(), &log).expect("copied");
    let report = ledger.verify().await;
    assert_eq!(first(&report), "checkpoint 400 in checkpoints.txt is signed by another key");

    std::fs::write(&log, "hello\n\nworld\n").expect("written");
    let report = ledger.verify().await;
    assert_eq!(first(&report), "a text in checkpoints.txt is not a checkpoint");

    // With a size that was edited.
    let note = ledger.last_checkpoint().await.note;
    let edited = note.replacen("700", "600", 1);
    let report = ledger.verify_with(vec![kept("kept.txt", &edited)]).await;
    let expected = "checkpoint 600 in kept.txt is forged, or was altered after it was signed";
    assert!(texts(&report).iter().any(|text| text == expected), "{report:#?}");

    // An older one proves less, and an interrupted append is no alteration.
    std::fs::write(&log, format!("{note}\n{}", &note[..40])).expect("written");
    let report = ledger.verify().await;
    assert_eq!(texts(&report), [""; 0]);
    assert_eq!(report.remarks, ["checkpoints.txt: texts that are not checkpoints: 1"]);
    std::fs::remove_file(&log).expect("removed");
    assert_eq!(texts(&ledger.verify().await), [""; 0]);
}

#[tokio::test]
async fn an_edited_checkpoint_in_the_database_is_found() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    ledger.tamper("UPDATE checkpoints SET size = 699 WHERE size = 700").await;
    let report = ledger.verify().await;
    assert_eq!(texts(&report), ["checkpoint 700 in the database is stored as 699"]);
    ledger.tamper("UPDATE checkpoints SET size = 700 WHERE size = 699").await;
    ledger
        .tamper("UPDATE checkpoints SET note = replace(note, 'time 2', 'time 3') WHERE size = 700")
        .await;
    let report = ledger.verify().await;
    assert!(texts(&report)[0].starts_with("checkpoint 700 in the database is "), "{report:#?}");
    assert_eq!(report.unaltered_since(), None);
}

#[tokio::test]
async fn an_edit_before_coverage_is_named() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger.tamper("UPDATE requests SET reason = 'public' WHERE seq = 703").await;
        let expected =
            format!("record {} was edited or inserted before a checkpoint covered it", id(703));
        let found = texts(&ledger.verify().await);
        assert_eq!(found, std::slice::from_ref(&expected), "{kind:?}");
        // With a new leaf, too.
        let stored = ledger.find(id(703)).await.record;
        let leaf = Hasher::default().leaf(&stored).expect("a leaf");
        let mut edited = stored.clone();
        edited.leaf = leaf;
        ledger.tamper("DELETE FROM requests WHERE seq = 703").await;
        ledger.archive.write(&[edited]).await.expect("written");
        assert_eq!(texts(&ledger.verify().await), [expected], "{kind:?}");

        ledger.tamper("DELETE FROM requests WHERE seq IN (703, 705)").await;
        let expected = "records 703 705 of writer 0000000000004f1d were deleted before a checkpoint covered \
             them";
        assert_eq!(texts(&ledger.verify().await), [expected], "{kind:?}");
    }
}

#[tokio::test]
async fn a_loss_accounts_for_what_is_missing() {
    let mut ledger = Ledger::new(Kinds::Sqlite).await;
    ledger.tamper("DELETE FROM requests WHERE seq IN (703, 704, 706)").await;
    let note = |text: &str| Note { topic: "range".into(), text: text.into() };
    let loss = Entry {
        notes: vec![note("0000000000004f1d 703-704")],
        ..Entry::new(Kind::Loss, Micros(BEGIN + 900_000))
    };
    let loss = ledger.record(loss);
    ledger.archive.write(&[loss]).await.expect("written");
    let expected =
        "records 706 of writer 0000000000004f1d were deleted before a checkpoint covered them";
    assert_eq!(texts(&ledger.verify().await), [expected]);
}

#[tokio::test]
async fn what_retention_removed_is_explained_by_its_record() {
    for kind in BOTH {
        let mut ledger = Ledger::new(kind).await;
        let cut = cut(&mut ledger, 250).await;
        assert_eq!(cut.len(), 250);
        let _ = ledger.extend().await.expect("extended");
        let report = ledger.verify().await;
        assert_eq!(texts(&report), [""; 0], "{kind:?}");
        assert_eq!((report.cut, report.records), (250, 461));
        assert_eq!(report.unaltered_since().map(|checkpoint| checkpoint.size), Some(711));

        // A record of a cut that was not sealed here explains nothing.
        ledger.tamper("DELETE FROM requests WHERE position = 300").await;
        let mut forged = cut_record(&mut ledger, &[300]);
        forged.seal = [0; 16];
        ledger.archive.write(&[forged]).await.expect("written");
        let report = ledger.verify().await;
        assert_eq!(texts(&report)[0], "the record at position 300 was deleted", "{kind:?}");

        // What is inserted where a record was cut is found by its leaf.
        let ledger = Ledger::new(kind).await;
        let mut ledger = ledger;
        let _ = self::cut(&mut ledger, 250).await;
        ledger.tamper("UPDATE requests SET position = 7 WHERE seq = 703").await;
        let report = ledger.verify().await;
        let expected = format!("record {} at position 7 was inserted", id(703));
        assert_eq!(texts(&report)[0], expected, "{kind:?}");
    }
}

#[tokio::test]
async fn with_the_public_key_alone_a_forged_explanation_is_not_believed() {
    for kind in BOTH {
        let mut ledger = Ledger::new(kind).await;
        assert_eq!(texts(&ledger.verify_publicly().await), [""; 0], "{kind:?}");
        // A covered record is deleted, and a cut says that retention did it.
        ledger.tamper("DELETE FROM requests WHERE position = 300").await;
        let mut forged = cut_record(&mut ledger, &[300]);
        forged.seal = [0; 16];
        let leaf = forged.leaf;
        ledger.archive.write(&[forged]).await.expect("written");
        let report = ledger.verify_publicly().await;
        assert_eq!(texts(&report)[0], "the record at position 300 was deleted", "{kind:?}");
        assert_eq!(report.unaltered_since(), None);
        assert!(report.remarks.iter().any(|remark| remark.contains("yet: 1")), "{report:?}");

        // The same at a position that no checkpoint covers, with its hash in the tree.
        ledger.edit_tile(TileKey { level: 0, number: 2 }, |hashes| hashes.extend(leaf)).await;
        ledger.tamper("UPDATE requests SET position = 700 WHERE seq = 711").await;
        ledger.tamper("UPDATE trees SET size = 701").await;
        let report = ledger.verify_publicly().await;
        assert!(
            texts(&report).contains(&"the record at position 300 was deleted".to_owned()),
            "{kind:?} {report:?}"
        );
    }
}

#[tokio::test]
async fn with_the_public_key_alone_a_cut_is_believed_once_it_is_covered() {
    for kind in BOTH {
        let mut ledger = Ledger::new(kind).await;
        let _ = cut(&mut ledger, 250).await;
        let report = ledger.verify_publicly().await;
        assert!(!report.findings.is_empty() && !report.remarks.is_empty(), "{kind:?} {report:?}");
        let _ = ledger.extend().await.expect("extended");
        let report = ledger.verify_publicly().await;
        assert_eq!((texts(&report), report.cut), (Vec::new(), 250), "{kind:?}");
        assert_eq!(report.remarks, [""; 0]);
    }
}

#[tokio::test]
async fn a_file_of_checkpoints_that_is_gone_is_named() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    std::fs::remove_file(ledger.file().path()).expect("removed");
    let empty = || SavedCheckpoints { is_log: true, ..kept("checkpoints.txt", "") };
    let expected =
        "checkpoints.txt is missing or empty: 2 checkpoints of the database were appended to it";
    assert_eq!(texts(&ledger.verify_with(vec![empty()]).await), [expected]);
    // The last one is appended after it is committed.
    ledger.tamper("DELETE FROM checkpoints WHERE size = 400").await;
    assert_eq!(texts(&ledger.verify_with(vec![empty()]).await), [""; 0]);
}

#[tokio::test]
async fn a_cut_explains_the_records_that_it_names_and_no_others() {
    for kind in BOTH {
        let mut ledger = Ledger::new(kind).await;
        let _ = cut(&mut ledger, 250).await;
        assert_eq!(texts(&ledger.verify().await), [""; 0], "{kind:?}");
        // Far fewer than were cut, and of no position: only its number is missing.
        ledger.tamper("DELETE FROM requests WHERE seq = 705").await;
        let expected =
            "records 705 of writer 0000000000004f1d were deleted before a checkpoint covered them";
        assert_eq!(texts(&ledger.verify().await), [expected], "{kind:?}");
    }
}

/// Removes the oldest records as retention does.
async fn cut(ledger: &mut Ledger, count: usize) -> Vec<Placed> {
    let tenant = ledger.tenant.to_string();
    let record = cut_record(ledger, &(0..250).collect::<Vec<_>>());
    let mut transaction = ledger.archive.begin().await.expect("begun");
    let before = Micros(i64::MAX);
    let removed = transaction.remove_before(&tenant, Kind::Visit, before, 700, count).await;
    transaction.write(&[record]).await.expect("written");
    transaction.commit().await.expect("committed");
    removed.expect("removed")
}

fn cut_record(ledger: &mut Ledger, positions: &[i64]) -> Record {
    let ranges: Ranges = positions.iter().copied().collect();
    let count = i64::try_from(positions.len()).expect("few");
    let ids = references::numbers(positions.iter().map(|position| id(position + 1)));
    let mut notes = vec![Note { topic: "range".into(), text: ranges.to_string().into() }];
    notes.extend(references::notes(references::CUT_RECORDS, &ids));
    let entry = Entry { count, notes, ..Entry::new(Kind::Cut, Micros(BEGIN + 800_000)) };
    ledger.record(entry)
}

#[tokio::test]
async fn erased_records_verify() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger.replace(EDITED, |record| *record = erased(record.clone())).await;
        let report = ledger.verify().await;
        assert_eq!(texts(&report), [""; 0], "{kind:?}");
        assert!(report.unaltered_since().is_some());
    }
}

#[tokio::test]
async fn records_of_version_1_verify_beside_newer_ones() {
    for kind in BOTH {
        let mut ledger = Ledger::empty(kind).await;
        for version in [Version::One, Version::Two, Version::One] {
            match version {
                Version::One => ledger.write_in(version, 60).await,
                Version::Two => ledger.write(60).await,
            }
            let _ = ledger.extend().await.expect("extended");
        }
        ledger.write_in(Version::One, 3).await;
        assert_eq!(texts(&ledger.verify().await), [""; 0], "{kind:?}");
        ledger.tamper("UPDATE requests SET path = '/outbox' WHERE seq IN (10, 182)").await;
        let found = texts(&ledger.verify().await);
        let expected = [
            format!("record {} at position 9 was edited", id(10)),
            format!("record {} was edited or inserted before a checkpoint covered it", id(182)),
        ];
        assert!(expected.iter().all(|text| found.contains(text)), "{kind:?}: {found:#?}");
    }
}

#[tokio::test]
async fn an_edited_tile_is_told_from_an_edited_record() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger.edit_tile(TILE, |hashes| hashes[125 * 32] ^= 1).await;
        let expected = "tile 0 of level 0 was edited; the records that it stands for were not";
        assert_eq!(texts(&ledger.verify().await)[0], expected, "{kind:?}");
        ledger.edit_tile(TILE, |hashes| hashes[125 * 32] ^= 1).await;
        ledger.edit_tile(TileKey { level: 1, number: 0 }, |hashes| hashes[40] ^= 1).await;
        let expected = "tile 0 of level 1 was edited; the records that it stands for were not";
        assert_eq!(texts(&ledger.verify().await), [expected], "{kind:?}");
    }
}

#[tokio::test]
async fn a_size_that_was_edited_is_found() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    for size in [-1, i64::MAX, 0, 699, 701] {
        ledger.tamper(&format!("UPDATE trees SET size = {size}")).await;
        let report = ledger.verify().await;
        assert!(!report.findings.is_empty(), "{size}");
        assert_eq!(report.unaltered_since(), None, "{size}");
    }
}
