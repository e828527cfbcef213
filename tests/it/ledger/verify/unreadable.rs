//! Rows that are no records: a later version has written them, or they were altered.

use nightporter::ledger::history::{Cursor, Filter, Order, PageRequest};
use nightporter::ledger::record::RecordId;

use super::sample::{Kinds, Ledger, id};
use super::{BOTH, EDITED, texts};

/// The record that has no position and has steps and a note.
const UNPLACED: RecordId = RecordId { writer: EDITED.writer, seq: 705 };

#[tokio::test]
async fn records_that_cannot_be_read_are_named_and_all_others_verified() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        ledger.tamper("UPDATE requests SET kind = 'nonsense' WHERE seq IN (126, 705)").await;
        let placed = format!("record {EDITED} at position 125 cannot be read: invalid kind");
        let unplaced = format!("record {UNPLACED} cannot be read: invalid kind");
        let report = ledger.verify().await;
        assert_eq!(texts(&report), [placed.clone(), unplaced.clone()], "{kind:?}");
        assert_eq!((report.records, report.unreadable, report.others), (710, 2, 0));
        assert_eq!(report.unaltered_since(), None);

        ledger.tamper("UPDATE requests SET path = '/outbox' WHERE seq = 500").await;
        let edited = format!("record {} at position 499 was edited", id(500));
        let report = ledger.verify().await;
        assert_eq!(texts(&report), [placed, edited, unplaced], "{kind:?}");

        ledger.tamper("UPDATE requests SET kind = 'nonsense'").await;
        let report = ledger.verify().await;
        let texts = texts(&report);
        assert_eq!((texts.len(), report.records, report.unreadable), (10, 710, 710), "{kind:?}");
        assert!(texts.iter().all(|text| text.ends_with("cannot be read: invalid kind")));
        assert_eq!(report.unaltered_since(), None);
    }
}

#[tokio::test]
async fn whatever_of_a_record_cannot_be_read_the_record_is_named() {
    let sqlite = [
        ("requests SET leaf = x'00'", "leaf"),
        ("requests SET seal = x'00'", "seal"),
        ("requests SET salt = x'00'", "salt"),
        ("requests SET client_id = NULL, client_id_digest = x'00'", "client_id_digest"),
        ("requests SET path = CAST(x'ff' AS TEXT)", "path"),
        ("steps SET name = CAST(x'ff' AS TEXT)", "name"),
        ("notes SET text = CAST(x'ff' AS TEXT)", "text"),
    ];
    let postgres = [
        (r"requests SET leaf = '\x00'", "leaf"),
        (r"requests SET seal = '\x00'", "seal"),
        (r"requests SET salt = '\x00'", "salt"),
        (r"requests SET client_id = NULL, client_id_digest = '\x00'", "client_id_digest"),
        ("requests SET at = NULL", "at"),
        ("steps SET name = NULL", "name"),
        ("notes SET text = NULL", "text"),
    ];
    for (kind, edits) in [(Kinds::Sqlite, sqlite), (Kinds::Postgres, postgres)] {
        let ledger = Ledger::new(kind).await;
        if kind == Kinds::Postgres {
            let tables = "ALTER TABLE requests ALTER COLUMN at DROP NOT NULL;
                          ALTER TABLE steps ALTER COLUMN name DROP NOT NULL;
                          ALTER TABLE notes ALTER COLUMN text DROP NOT NULL";
            ledger.tamper(tables).await;
        }
        let original = ledger.find(EDITED).await.record;
        for (edit, column) in edits {
            ledger.tamper(&format!("UPDATE {edit} WHERE seq = {}", EDITED.seq)).await;
            let report = ledger.verify().await;
            let expected =
                format!("record {EDITED} at position 125 cannot be read: invalid {column}");
            assert_eq!(texts(&report), [expected], "{kind:?}: {edit}");
            assert_eq!((report.unreadable, report.unaltered_since()), (1, None));
            let error = ledger.archive.find(&ledger.tenant, EDITED).await.expect_err("unreadable");
            let expected = format!("the record {EDITED} cannot be read: invalid {column}");
            assert_eq!(error.to_string(), expected, "{kind:?}: {edit}");
            ledger.put_back(&original, 125).await;
            assert_eq!(texts(&ledger.verify().await), [""; 0], "{kind:?}: it is restored");
        }
    }
}

/// What was altered before it had a position gets none, and the others get theirs.
#[tokio::test]
async fn records_whose_leaf_or_seal_cannot_be_read_do_not_stop_the_tree() {
    for (kind, value) in [(Kinds::Sqlite, "x'00'"), (Kinds::Postgres, r"'\x00'")] {
        let ledger = Ledger::new(kind).await;
        ledger.tamper(&format!("UPDATE requests SET seal = {value} WHERE seq = 705")).await;
        ledger.tamper(&format!("UPDATE requests SET leaf = {value} WHERE seq = 707")).await;
        let extended = ledger.extend().await.expect("it goes on");
        assert_eq!(
            (extended.placed, &*extended.altered),
            (8, &[UNPLACED, id(707)][..]),
            "{kind:?}"
        );
        let expected = [
            format!("record {UNPLACED} cannot be read: invalid seal"),
            format!("record {} cannot be read: invalid leaf", id(707)),
        ];
        assert_eq!(texts(&ledger.verify().await), expected, "{kind:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_no_text_is_named() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    ledger.tamper("UPDATE checkpoints SET note = CAST(x'ff' AS TEXT) WHERE size = 400").await;
    let report = ledger.verify().await;
    let texts = texts(&report);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].starts_with("a text in the database is "), "{texts:?}");
}

/// A later version may know more kinds than this one.
#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_block_the_pages_that_it_is_on() {
    for kind in BOTH {
        let mut ledger = Ledger::new(kind).await;
        ledger.tamper("UPDATE requests SET kind = 'nonsense' WHERE seq IN (126, 700, 710)").await;
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let (mut seen, mut unreadable, mut after) = (Vec::new(), 0, None);
            loop {
                let request = PageRequest {
                    tenant: ledger.tenant.to_string(),
                    filter: Filter::default(),
                    order,
                    after,
                    // The last row of a page is one of them, too.
                    limit: 7,
                    with_unplaced: true,
                };
                let page = ledger.archive.page(&request).await.expect("a page");
                seen.extend(page.records.iter().map(|stored| stored.record.id.seq));
                unreadable += page.unreadable;
                let Some(next) = page.next else { break };
                after = Some(next);
            }
            seen.sort_unstable();
            let expected: Vec<_> = (1..=710).filter(|seq| ![126, 700, 710].contains(seq)).collect();
            assert_eq!((seen, unreadable), (expected, 3), "{kind:?} {order:?}");
        }
        // Nor the newest one: events are sent up to it.
        ledger.tamper("UPDATE requests SET kind = 'nonsense' WHERE position = 699").await;
        let newest = PageRequest {
            tenant: ledger.tenant.to_string(),
            filter: Filter::default(),
            order: Order::NewestFirst,
            after: None,
            limit: 1,
            with_unplaced: false,
        };
        let page = ledger.archive.page(&newest).await.expect("a page");
        assert_eq!((page.records.len(), page.last), (0, Some(Cursor::Position(699))), "{kind:?}");
        ledger.write(1).await;
        assert_eq!(ledger.extend().await.expect("it goes on").placed, 11, "{kind:?}");
    }
}
