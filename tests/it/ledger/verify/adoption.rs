//! Records of a box that had no identity yet.

use std::sync::Arc;

use nightporter::access::Viewer;
use nightporter::ledger::proof::{Audit, Proof, audit};
use nightporter::ledger::record::{Kind, RecordId, WriterId};
use nightporter::ledger::references::{self, RECORDS};
use nightporter::ledger::seal::Sealer;

use super::sample::{Kinds, Ledger, id, new_key};
use super::{BOTH, texts};
use crate::ledger::samples::readable;

/// A ledger with so many records of no tenant, and its box's id.
async fn without_identity(kind: Kinds, count: i64) -> (Ledger, Arc<str>) {
    let mut ledger = Box::pin(Ledger::empty(kind)).await;
    let tenant = std::mem::replace(&mut ledger.tenant, "".into());
    ledger.write(count).await;
    (ledger, tenant)
}

#[tokio::test]
async fn records_of_a_box_without_an_identity_become_its_own() {
    for kind in BOTH {
        let (mut ledger, tenant) = without_identity(kind, 40).await;
        ledger.tenant = tenant;
        ledger.write(5).await;
        let extended = ledger.extend().await.expect("extended");
        // And one that says so.
        assert_eq!((extended.adopted, extended.placed), (40, 46), "{kind:?}");
        assert_eq!(extended.altered, []);
        let report = ledger.verify().await;
        assert_eq!((texts(&report), report.records), (Vec::new(), 46), "{kind:?}");
        assert!(report.unaltered_since().is_some());
        let stored = ledger.find(id(6)).await;
        assert_eq!(stored.record.tenant, ledger.tenant);
        assert_eq!(stored.record.steps.len(), 3, "with steps and notes");

        let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
        let all = readable(snapshot.records(&ledger.tenant, 0, 100).await.expect("read"));
        drop(snapshot);
        let said: Vec<_> = all.iter().filter(|stored| stored.record.kind == Kind::Job).collect();
        assert_eq!(said.len(), 1);
        let note = &said[0].record.notes[0];
        assert_eq!((&*note.topic, &*note.text), (RECORDS, "0000000000004f1d 1-40"));
        assert_eq!(said[0].record.reason.as_deref(), Some("adopted"));

        let (archive, clear) = (&ledger.archive, Viewer::clear());
        let proof = audit(archive, &ledger.tenant, id(6), true, &clear).await.expect("read");
        let Audit::Covered(proof) = proof else { panic!("{proof:?}") };
        let json = serde_json::to_string(&proof).expect("JSON");
        let key = ledger.key.verifier(&ledger.tenant);
        Proof::parse(&json).expect("a proof").verify(&key).expect("valid");

        let extended = ledger.extend().await.expect("extended");
        assert!(extended.is_idle(), "{extended:?}");
    }
}

#[tokio::test]
async fn a_replay_after_the_adoption_changes_nothing() {
    for kind in BOTH {
        let (mut ledger, tenant) = without_identity(kind, 0).await;
        let records = [ledger.next(), ledger.next()];
        ledger.archive.write(&records).await.expect("written");
        ledger.tenant = tenant;
        let _ = ledger.extend().await.expect("extended");
        ledger.archive.write(&records).await.expect("written again");
        assert!(ledger.extend().await.expect("extended").is_idle());
        let report = ledger.verify().await;
        assert_eq!((texts(&report), report.records), (Vec::new(), 3), "{kind:?}");
    }
}

#[tokio::test]
async fn an_altered_one_is_not_adopted_and_is_missed() {
    for kind in BOTH {
        let no_seal = match kind {
            Kinds::Sqlite => "seal = zeroblob(16)",
            Kinds::Postgres => "seal = decode(repeat('00', 16), 'hex')",
        };
        for edit in ["reason = 'public'", no_seal] {
            let (mut ledger, tenant) = without_identity(kind, 10).await;
            ledger.tamper(&format!("UPDATE requests SET {edit} WHERE seq = 4")).await;
            ledger.tenant = tenant;
            let extended = ledger.extend().await.expect("extended");
            assert_eq!(extended.adopted, 9, "{kind:?} {edit}");
            // In a database of several boxes, one with another seal may be another box's.
            let is_known = kind == Kinds::Sqlite || edit != no_seal;
            let altered = if is_known { vec![id(4)] } else { Vec::new() };
            assert_eq!(extended.altered, altered, "{kind:?} {edit}");
            let expected = "records 4 of writer 0000000000004f1d were deleted before a checkpoint \
                            covered them";
            assert_eq!(texts(&ledger.verify().await), [expected], "{kind:?} {edit}");
        }
    }
}

#[tokio::test]
async fn one_that_cannot_be_read_keeps_no_other_from_being_adopted() {
    for kind in BOTH {
        let (mut ledger, tenant) = without_identity(kind, 10).await;
        ledger.tamper("UPDATE requests SET kind = 'nonsense' WHERE seq = 4").await;
        ledger.tenant = tenant;
        let extended = ledger.extend().await.expect("extended");
        assert_eq!((extended.adopted, extended.altered), (9, vec![id(4)]), "{kind:?}");
    }
}

#[tokio::test]
async fn each_box_adopts_what_it_has_sealed_itself() {
    let (mut ledger, tenant) = without_identity(Kinds::Postgres, 3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let other_key = new_key(folder.path());
    let mut sealer = Sealer::new(other_key.seal_key().clone()).expect("random numbers");
    let theirs: Vec<_> = (1..=5)
        .map(|seq| {
            let id = RecordId { writer: WriterId(0xa), seq };
            let entry = nightporter::ledger::record::Entry::new(
                Kind::Visit,
                nightporter::ledger::record::Micros(seq),
            );
            sealer.seal(id, &"".into(), entry)
        })
        .collect();
    ledger.archive.write(&theirs).await.expect("written");
    ledger.tenant = tenant;
    let extended = ledger.extend().await.expect("extended");
    assert_eq!((extended.adopted, extended.altered.len()), (3, 0));
    let found = ledger.archive.find("", theirs[0].id).await.expect("read");
    assert_eq!(found.expect("still there").record, theirs[0]);
    // The other box comes later.
    let integrity = super::sample::integrity(&other_key, folder.path(), std::time::Duration::ZERO);
    let ours = std::mem::replace(&mut ledger.tenant, "other box".into());
    let extended = ledger.extend_with(&integrity).await.expect("extended");
    assert_eq!((extended.adopted, extended.placed), (5, 6));
    ledger.tenant = ours;
    assert_eq!(texts(&ledger.verify().await), [""; 0]);
    let numbers = references::numbers(theirs.iter().map(|record| record.id));
    assert_eq!(numbers[&WriterId(0xa)].to_string(), "1-5");
}

#[tokio::test]
async fn many_records_of_a_neighbour_are_passed_over_once() {
    let (mut ledger, tenant) = without_identity(Kinds::Postgres, 0).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut sealer =
        Sealer::new(new_key(folder.path()).seal_key().clone()).expect("random numbers");
    // More, and older, than one run looks at.
    let theirs: Vec<_> = (1..=10_500)
        .map(|seq| {
            let id = RecordId { writer: WriterId(0xa), seq };
            let entry = nightporter::ledger::record::Entry::new(
                Kind::Visit,
                nightporter::ledger::record::Micros(seq),
            );
            sealer.seal(id, &"".into(), entry)
        })
        .collect();
    for theirs in theirs.chunks(5000) {
        ledger.archive.write(theirs).await.expect("written");
    }
    ledger.write(3).await;
    ledger.tenant = tenant;
    let adopted = [
        ledger.extend().await.expect("extended").adopted,
        ledger.extend().await.expect("extended").adopted,
    ];
    assert_eq!(adopted, [0, 3], "the second run goes on where the first has ended");
    // And begins anew after the last one.
    let ours = std::mem::replace(&mut ledger.tenant, "".into());
    ledger.write(2).await;
    ledger.tenant = ours;
    let mut adopted = 0;
    for _ in 0..3 {
        adopted += ledger.extend().await.expect("extended").adopted;
    }
    assert_eq!(adopted, 2);
    assert_eq!(texts(&ledger.verify().await), [""; 0]);
}
