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

/// Returns what `masked` leaves, and checks that it shows no one.
fn masked(record: &Record) -> Masked {
    let masked = super::masked(record.clone());
    assert_eq!(masked.record.salt, None);
    let shown = format!("{masked:?}");
    for personal in ["Ada", "k3vw9x2a", "192.0", "2024", "answer"] {
        assert!(!shown.contains(personal), "{personal} in {shown}");
    }
    masked
}

fn masked_leaf(masked: &Masked) -> Option<Leaf> {
    Hasher::default().masked_leaf_in(Version::Two, masked)
}

#[test]
fn a_masked_record_has_the_same_leaf_and_shows_no_one() {
    let original = record();
    let masked = masked(&original);
    assert_eq!(masked_leaf(&masked), Some(original.leaf));
    let alter: [fn(&mut Masked); 7] = [
        |masked| masked.texts = None,
        |masked| masked.texts = Some(Texts::default()),
        |masked| masked.record.path = Some("/inbox/2024".into()),
        |masked| masked.record.notes[0].text = "the app did not answer".into(),
        |masked| masked.record.notes.clear(),
        |masked| masked.texts.as_mut().expect("hidden").path = Some([0; 32]),
        |masked| masked.texts.as_mut().expect("hidden").notes[0][31] ^= 1,
    ];
    for (number, alter) in alter.into_iter().enumerate() {
        let mut altered = masked.clone();
        alter(&mut altered);
        assert_ne!(masked_leaf(&altered), Some(original.leaf), "{number}");
    }
}

#[test]
fn an_erased_client_leaves_the_texts_and_the_leaf() {
    let original = record();
    let erased = erased(original.clone());
    assert_eq!(leaf(&erased), Some(original.leaf));
    assert_eq!((&erased.path, &erased.notes), (&original.path, &original.notes));
    let shown = format!("{erased:?}");
    assert!(!shown.contains("Ada") && !shown.contains("k3vw9x2a") && !shown.contains("192.0"));
    // The salt of the texts is another one: a client cannot be guessed with it.
    assert!(erased.salt.is_some() && erased.salt != original.salt);
    let mut guessed = erased.clone();
    guessed.client_name.clone_from(&original.client_name);
    assert_ne!(leaf(&guessed), Some(original.leaf));
    assert_eq!(super::erased(erased.clone()), erased);
    assert_eq!(masked(&erased), masked(&original));
}

#[test]
fn the_same_value_has_another_digest_in_another_record_and_field() {
    let id = |seq| RecordId { writer: WriterId(1), seq };
    let mut sealer = sealer();
    let mut seal = |seq| {
        let note = Note { topic: "wake".into(), text: "k3vw9x2a".into() };
        let entry = Entry {
            client_name: Some("k3vw9x2a".into()),
            path: Some("k3vw9x2a".into()),
            notes: vec![note.clone(), note],
            ..entry()
        };
        masked(&sealer.seal(id(seq), &"box".into(), entry))
    };
    let mut digests = HashSet::new();
    for Masked { record, texts } in [seal(1), seal(2)] {
        let Texts { path, notes } = texts.expect("hidden");
        for value in [record.client_id, record.client_name] {
            let Some(Personal::Digest(digest)) = value else { panic!("{value:?}") };
            digests.insert(digest);
        }
        digests.extend(path.into_iter().chain(notes));
    }
    assert_eq!(digests.len(), 10);
}

#[test]
fn a_salt_is_there_exactly_if_there_is_a_clear_value() {
    let mut without_salt = record();
    without_salt.salt = None;
    assert_eq!(leaf(&without_salt), None);
    let mut masked = masked(&record());
    masked.record.salt = record().salt;
    assert_eq!(masked_leaf(&masked), None, "the salt of a masked record would let it be guessed");
    let id = RecordId { writer: WriterId(1), seq: 1 };
    let anonymous = sealer().seal(id, &"".into(), Entry::new(Kind::Wake, Micros(1)));
    assert_eq!(anonymous.salt, None);
    assert_eq!(leaf(&anonymous), Some(anonymous.leaf));
    assert_eq!(masked_leaf(&super::masked(anonymous.clone())), Some(anonymous.leaf));
    let with_path = Entry { path: Some("/".into()), ..Entry::new(Kind::Visit, Micros(1)) };
    let with_path = sealer().seal(id, &"".into(), with_path);
    assert!(with_path.salt.is_some());
    assert_eq!(leaf(&with_path), Some(with_path.leaf));
    assert_eq!(masked_leaf(&super::masked(with_path.clone())), Some(with_path.leaf));
}

/// The forms must not change: leaves that were computed by earlier versions are in trees.
/// These were computed by another program.
#[test]
fn the_forms_are_versions_1_and_2() {
    let mut record = record();
    record.salt = Some([3; 16]);
    let mut hasher = Hasher::default();
    let mut leaf = |version| hasher.leaf_in(version, &record).expect("a leaf");
    let (first, second) = (leaf(Version::One), leaf(Version::Two));
    assert_eq!(
        [hex(&first), hex(&second)],
        [
            "8ee1377a94b5b0ec1ab3eac38e7403459e9af0acf1b8acb7d5729dd64af33df5",
            "47b6b767cad56538bf0e15bdb088ddb0e2b5e361e02cfd27fdba2ec4f51ea5b7",
        ]
    );
    for (leaf, version) in [(first, Some(Version::One)), (second, Some(Version::Two))] {
        record.leaf = leaf;
        assert_eq!(hasher.version(&record), version);
    }
    record.leaf = [0; 32];
    assert_eq!(hasher.version(&record), None);
}

/// A record of version 1 can be erased and verified, but not shown without its texts.
#[test]
fn a_record_of_version_1_keeps_its_texts() {
    let mut first = record();
    first.leaf = Hasher::default().leaf_in(Version::One, &first).expect("a leaf");
    let erased = erased(first.clone());
    assert_eq!(erased.salt, None);
    assert_eq!(Hasher::default().version(&erased), Some(Version::One));
    let masked = super::masked(first.clone());
    assert_eq!((&masked.record, &masked.texts), (&erased, &None));
    let mut without_client = first;
    (without_client.client_id, without_client.client_name) = (None, None);
    (without_client.address, without_client.salt) = (None, None);
    let leaf = Hasher::default().leaf_in(Version::One, &without_client);
    without_client.leaf = leaf.expect("it needs no salt");
    assert_eq!(Hasher::default().version(&without_client), Some(Version::One));
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
