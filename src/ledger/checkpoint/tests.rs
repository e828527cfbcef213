use std::io::Write;

use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList};

use super::file::{CheckpointFile, Notes};
use super::*;
use crate::ledger::key::FILE;

const AT: Micros = Micros(1_764_503_220_123_456);

fn key(folder: &tempfile::TempDir) -> SigningKey {
    SigningKey::load_or_create(&folder.path().join(FILE)).expect("a key")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_checkpoint_has_the_form_of_c2sp() {
    let folder = folder();
    let key = key(&folder);
    let note = Checkpoint::sign("box", 1234, &[7; 32], AT, &key);
    let lines: Vec<_> = note.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "nightporter/box",
            "1234",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
            "time 2025-11-30T11:47:00.123456Z",
            "",
        ]
    );
    assert!(lines[5].starts_with("\u{2014} nightporter/box "), "{note}");
    assert_eq!(lines.len(), 6);
    let checkpoint = Checkpoint::verify(&note, &key.verifier("box")).expect("ours");
    let Checkpoint { origin, size, root, at } = &checkpoint;
    assert_eq!((origin.as_str(), *size, *root, *at), ("nightporter/box", 1234, [7; 32], AT));
    assert_eq!(Checkpoint::claimed(&note), Ok(checkpoint));
}

#[test]
fn another_implementation_verifies_ours_and_we_verify_its() {
    let folder = folder();
    let key = key(&folder);
    let note = Checkpoint::sign("box", 1, &[0; 32], AT, &key);
    let verifier = StandardVerifier::new(&key.verifier("box").to_string()).expect("a verifier key");
    let list = VerifierList::new(vec![Box::new(verifier)]);
    let parsed = Note::from_bytes(note.as_bytes()).expect("a note");
    let (verified, unverified) = parsed.verify(&list).expect("verified");
    assert_eq!((verified.len(), unverified.len()), (1, 0));

    // Its signer's key is a seed in base64.
    let pem = std::fs::read(folder.path().join(FILE)).expect("readable");
    let der = pem::parse(pem).expect("PEM").into_contents();
    let verifier = key.verifier("box");
    let seed = [&[1], &der[der.len() - 32..]].concat();
    let id = u32::from_be_bytes(verifier.id());
    let signer = format!("PRIVATE+KEY+{}+{id:08x}+{}", verifier.name(), STANDARD.encode(seed));
    let signer = StandardSigner::new(&signer).expect("a signer");
    let text = Checkpoint::claimed(&note).expect("a checkpoint").to_string();
    let mut theirs = Note::new(text.as_bytes(), &[]).expect("a note");
    theirs.add_sigs(&[&signer]).expect("signed");
    let theirs = String::from_utf8(theirs.to_bytes()).expect("text");
    assert_eq!(theirs, note, "Ed25519 is deterministic");
    assert!(Checkpoint::verify(&theirs, &verifier).is_ok());
}

#[test]
fn what_is_not_ours_is_refused_with_the_reason() {
    let (folder, other_folder) = (folder(), folder());
    let (ours, other) = (key(&folder), key(&other_folder));
    let verifier = ours.verifier("box");
    let verify = |note: &str| Checkpoint::verify(note, &verifier);
    let note = Checkpoint::sign("box", 1234, &[7; 32], AT, &ours);

    let by_other = Checkpoint::sign("box", 1234, &[7; 32], AT, &other);
    assert_eq!(verify(&by_other), Err(CheckpointError::OtherKey));
    let of_other = Checkpoint::sign("boy", 1234, &[7; 32], AT, &ours);
    let origin = "nightporter/boy".into();
    assert_eq!(verify(&of_other), Err(CheckpointError::OtherOrigin(origin)));
    for (from, to) in [("1234", "1235"), ("BwcH", "AwcH"), ("11:47", "11:46")] {
        let altered = note.replacen(from, to, 1);
        assert_eq!(verify(&altered), Err(CheckpointError::BadSignature), "{to}");
    }
    // A witness's signature beside ours does not matter, and cannot replace ours.
    let line = by_other.lines().last().expect("a line");
    assert!(verify(&format!("{note}{line}\n")).is_ok());
    let (text, _) = split(&note).expect("a note");
    assert_eq!(verify(&format!("{text}\n{line}\n")), Err(CheckpointError::OtherKey));
    for end in 0..note.len() {
        if note.is_char_boundary(end) {
            assert!(verify(&note[..end]).is_err(), "cut at {end}");
        }
    }
    for text in ["", "\n\n", "a\n\nb\n", &note.replace("time ", "tame "), &format!("{note}x\n")] {
        assert_eq!(verify(text), Err(CheckpointError::Malformed), "{text}");
    }
}

#[test]
fn the_file_keeps_every_note_once() {
    let folder = folder();
    let key = key(&folder);
    let file = CheckpointFile::new(folder.path().join(file::FILE));
    assert_eq!(file.read().expect("no error"), None);
    let notes: Vec<_> =
        (1..200).map(|size| Checkpoint::sign("box", size, &[1; 32], AT, &key)).collect();
    for note in &notes {
        file.append(note).expect("appended");
        file.append(note).expect("appended");
    }
    let read = file.read().expect("readable").expect("a file");
    assert_eq!(read, Notes { notes, fragments: Vec::new() });
}

#[test]
fn an_interrupted_append_costs_no_other_note() {
    let folder = folder();
    let key = key(&folder);
    let [first, second, third] =
        [1, 2, 3].map(|size| Checkpoint::sign("box", size, &[1; 32], AT, &key));
    for end in (1..second.len()).filter(|end| second.is_char_boundary(*end)) {
        let path = folder.path().join(format!("{end}.txt"));
        let file = CheckpointFile::new(path.clone());
        file.append(&first).expect("appended");
        let mut torn = std::fs::OpenOptions::new().append(true).open(path).expect("a file");
        torn.write_all(&second.as_bytes()[..end]).expect("written");
        file.append(&third).expect("appended");
        let Notes { notes, fragments } = file.read().expect("readable").expect("a file");
        assert!(notes.contains(&first) && notes.contains(&third), "cut at {end}");
        // If only its signature is cut, the piece looks like a note, but is none.
        for note in notes.iter().filter(|note| **note != first && **note != third) {
            let verified = Checkpoint::verify(note, &key.verifier("box"));
            let is_whole = end == second.len() - 1;
            assert_eq!(verified.is_ok(), is_whole, "cut at {end}: {verified:?}");
            assert!(is_whole || verified == Err(CheckpointError::Malformed), "cut at {end}");
        }
        assert!(notes.len() == 3 || !fragments.is_empty(), "cut at {end}");
    }
}

#[test]
fn a_file_with_pieces_that_are_no_notes_is_thinned_and_keeps_them() {
    let folder = folder();
    let key = key(&folder);
    let path = folder.path().join(file::FILE);
    let day = 24 * 3600 * 1_000_000;
    let note = |size: u64, at| Checkpoint::sign("box", size, &[1; 32], Micros(at), &key);
    // A text, notes, and a signature without a text: an append was interrupted.
    let (first, last) = (note(1, AT.0 - 400 * day), note(5000, AT.0));
    let (_, signature) = last.split_once("\n\n").expect("a note");
    let mut text = format!("written by hand\n\n{first}\n{signature}\n");
    for size in 2..4000 {
        text += &note(size, AT.0 - 300 * day + i64::try_from(size).expect("small"));
        text += "\n";
    }
    std::fs::write(&path, &text).expect("written");
    let file = CheckpointFile::new(path.clone());
    let before = file.read().expect("readable").expect("a file");
    assert_eq!((before.notes.len(), before.fragments.len()), (3999, 2));
    file.append(&last).expect("appended");
    let after = file.read().expect("readable").expect("a file");
    assert!(after.notes.len() < 100, "{}", after.notes.len());
    assert!(after.notes.iter().all(|note| Checkpoint::verify(note, &key.verifier("box")).is_ok()));
    assert_eq!(after.notes.last(), Some(&last));
    let mut fragments = after.fragments;
    fragments.sort();
    let mut expected = before.fragments;
    expected.sort();
    assert_eq!(fragments, expected);
}
