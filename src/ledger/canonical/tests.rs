use std::collections::HashSet;

use super::*;
use crate::ledger::form::hex;
use crate::ledger::record::{Entry, Kind, Micros, Note, RecordId, Step, WriterId};
use crate::ledger::seal::{SealKey, Sealer};

fn sealer() -> Sealer {
    Sealer::new(SealKey::derive(&[7; 32])).expect("random numbers")
}

fn entry() -> Entry {
    Entry {
        app: Some("notes".into()),
        host: Some("notes.box.example".into()),
        path: Some("/inbox/2024".into()),
        rule: Some("/inbox".into()),
        client: Some("terminal".into()),
        client_id: Some("k3vw9x2a".into()),
        client_name: Some("Ada's phone".into()),
        address: Some([192, 0, 2, 7].into()),
        verdict: Some("deny".into()),
        reason: Some("private".into()),
        trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        duration: Micros(180),
        steps: ["app", "client", "decide"].map(step).into(),
        notes: vec![Note { topic: "wake".into(), text: "the app did not answer".into() }],
        ..Entry::new(Kind::Visit, Micros(1_700_000_000_000_000))
    }
}

fn step(name: &'static str) -> Step {
    Step { name: name.into(), duration: Micros(40), outcome: "ok".into() }
}

fn record() -> Record {
    let id = RecordId { writer: WriterId(0x1234), seq: 9 };
    sealer().seal(id, &"box".into(), entry())
}

fn leaf(record: &Record) -> Option<Leaf> {
    Hasher::default().leaf(record)
}

/// Each alters one field of a record.
#[expect(clippy::type_complexity, reason = "a table")]
const EDITS: &[(&str, fn(&mut Record))] = &[
    ("writer", |record| record.id.writer.0 += 1),
    ("seq", |record| record.id.seq += 1),
    ("tenant", |record| record.tenant = "other".into()),
    ("kind", |record| record.kind = Kind::Act),
    ("at", |record| record.at.0 += 1),
    ("app", |record| record.app = Some("note".into())),
    ("app absent", |record| record.app = None),
    ("app empty", |record| record.app = Some("".into())),
    ("host", |record| record.host = None),
    ("path", |record| record.path = Some("/inbox/2025".into())),
    ("path absent", |record| record.path = None),
    ("rule", |record| record.rule = None),
    // The two values together are the same text: lengths keep them apart.
    ("rule and client", |record| {
        record.rule = Some("/inboxt".into());
        record.client = Some("erminal".into());
    }),
    ("client", |record| record.client = None),
    ("client id", |record| record.client_id = Some(Personal::Clear("k3vw9x2b".into()))),
    ("client id absent", |record| record.client_id = None),
    ("client name", |record| record.client_name = Some(Personal::Clear("Eve".into()))),
    ("address", |record| record.address = Some(Personal::Clear("192.0.2.8".into()))),
    ("address digest", |record| record.address = Some(Personal::Digest([1; 32]))),
    ("verdict", |record| record.verdict = Some("grant".into())),
    ("reason", |record| record.reason = None),
    ("trace", |record| record.trace = None),
    ("duration", |record| record.duration.0 += 1),
    ("count", |record| record.count = 2),
    ("step removed", |record| drop(record.steps.pop())),
    ("steps swapped", |record| record.steps.swap(0, 1)),
    ("step name", |record| record.steps[1].name = "wake".into()),
    ("step duration", |record| record.steps[1].duration.0 += 1),
    ("step outcome", |record| record.steps[1].outcome = "failed".into()),
    ("note removed", |record| record.notes.clear()),
    ("note topic", |record| record.notes[0].topic = "range".into()),
    ("note text", |record| record.notes[0].text = "".into()),
    ("salt", |record| record.salt = Some([0; 16])),
];

#[test]
fn every_field_enters_the_leaf() {
    let original = record();
    assert_eq!(leaf(&original), Some(original.leaf));
    let mut seen = HashSet::from([Some(original.leaf)]);
    for (name, edit) in EDITS {
        let mut edited = original.clone();
        edit(&mut edited);
        assert!(seen.insert(leaf(&edited)), "{name}");
    }
}

#[test]
fn a_masked_record_has_the_same_leaf_and_shows_no_one() {
    let original = record();
    let masked = masked(original.clone());
    assert_eq!(leaf(&masked), Some(original.leaf));
    assert_eq!(masked.salt, None);
    let shown = format!("{masked:?}");
    assert!(!shown.contains("Ada") && !shown.contains("k3vw9x2a") && !shown.contains("192.0"));
    assert_eq!(super::masked(masked.clone()), masked);
}

#[test]
fn the_same_value_has_another_digest_in_another_record_and_field() {
    let id = |seq| RecordId { writer: WriterId(1), seq };
    let mut sealer = sealer();
    let mut seal = |seq| {
        let entry = Entry { client_name: Some("k3vw9x2a".into()), ..entry() };
        masked(sealer.seal(id(seq), &"box".into(), entry))
    };
    let (first, second) = (seal(1), seal(2));
    assert_ne!(first.client_id, second.client_id);
    assert_ne!(first.client_id, first.client_name);
}

#[test]
fn a_salt_is_there_exactly_if_there_is_a_clear_value() {
    let mut without_salt = record();
    without_salt.salt = None;
    assert_eq!(leaf(&without_salt), None);
    let mut masked = masked(record());
    masked.salt = record().salt;
    assert_eq!(leaf(&masked), None, "the salt of a masked record would let it be guessed");
    let anonymous = Entry::new(Kind::Wake, Micros(1));
    let id = RecordId { writer: WriterId(1), seq: 1 };
    let anonymous = sealer().seal(id, &"".into(), anonymous);
    assert_eq!(anonymous.salt, None);
    assert_eq!(leaf(&anonymous), Some(anonymous.leaf));
}

/// The form must not change: leaves that were computed by earlier versions are in trees. This
/// one was computed by another program.
#[test]
fn the_form_is_version_1() {
    let mut record = record();
    record.salt = Some([3; 16]);
    let hex = hex(&leaf(&record).expect("a leaf"));
    assert_eq!(hex, "8ee1377a94b5b0ec1ab3eac38e7403459e9af0acf1b8acb7d5729dd64af33df5");
}

#[test]
fn a_seal_belongs_to_one_leaf_and_one_id() {
    let key = SealKey::derive(&[7; 32]);
    let Record { id, leaf, seal, .. } = record();
    assert!(key.matches(id, &leaf, &seal));
    assert!(!SealKey::derive(&[8; 32]).matches(id, &leaf, &seal));
    assert!(!key.matches(RecordId { seq: id.seq + 1, ..id }, &leaf, &seal));
    assert!(!key.matches(id, &[0; 32], &seal));
}
