use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::letter::{decode, encode};
use super::*;
use crate::ledger::fake::records;
use crate::ledger::record::{Personal, RecordId};

fn spool(max_bytes: u64) -> (Spool, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (Spool::new(folder.path().join("spool"), max_bytes), folder)
}

/// Writes a letter; returns its name and the records that made room for it.
fn put(spool: &Spool, records: &[Record]) -> (String, Vec<RecordId>) {
    let mut removed = Vec::new();
    let name = spool.put(records, None, |evicted| {
        removed.extend(evicted.iter().map(|record| record.id));
    });
    (name.expect("room"), removed)
}

fn names(spool: &Spool) -> Vec<String> {
    spool.list().expect("readable").into_keys().collect()
}

fn held(spool: &Spool, name: &str) -> LockedLetter {
    match spool.open(name).expect("readable") {
        OpenedLetter::Locked(held) => *held,
        other => panic!("{name}: {other:?}"),
    }
}

fn ids(seqs: impl IntoIterator<Item = i64>) -> Vec<RecordId> {
    records(Kind::Visit, seqs).iter().map(|record| record.id).collect()
}

#[test]
fn a_letter_holds_the_records_exactly() {
    let mut all = records(Kind::Visit, 1..=3);
    all[1].client_id = Some(Personal::Digest([7; 32]));
    all[1].salt = None;
    all[2] = Record {
        app: None,
        host: None,
        path: None,
        rule: None,
        steps: vec![],
        notes: vec![],
        ..all[2].clone()
    };
    all[2].count = i64::MAX;
    for error in [None, Some("it has a NUL")] {
        let letter = decode(&encode(&all, error).expect("encoded")).expect("whole");
        assert_eq!(letter.records, all);
        assert_eq!(letter.error.as_deref(), error);
    }
}

#[test]
fn every_kind_of_record_is_read_again() {
    for kind in Kind::ALL {
        let all = records(kind, [1]);
        assert_eq!(decode(&encode(&all, None).expect("encoded")).expect("whole").records, all);
    }
}

#[test]
fn a_letter_that_is_cut_anywhere_is_torn() {
    let whole = encode(&records(Kind::Visit, [1]), None).expect("encoded");
    for length in 0..whole.len() {
        let outcome = decode(&whole[..length]);
        assert!(matches!(outcome, Err(Damage::Torn { .. })), "{length}: {outcome:?}");
    }
    let longer = [whole.as_slice(), b"\0"].concat();
    assert_eq!(decode(&longer), Err(Damage::Longer(1)));
}

#[test]
fn every_bit_of_a_letter_is_covered() {
    let whole = encode(&records(Kind::Wake, [1]), Some("refused")).expect("encoded");
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[index] ^= 1 << bit;
            let outcome = decode(&flipped);
            let is_named = match index {
                0..16 => outcome == Err(Damage::Foreign),
                16..20 => matches!(outcome, Err(Damage::Version(_))),
                20..28 => matches!(outcome, Err(Damage::Torn { .. } | Damage::Longer(_))),
                _ => outcome == Err(Damage::Checksum),
            };
            assert!(is_named, "byte {index}, bit {bit}: {outcome:?}");
        }
    }
}

/// Files that are not dead letters, and why.
fn damaged() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let whole = encode(&records(Kind::Visit, 1..=3), None).expect("encoded");
    let with = |at: usize, bytes: &[u8]| {
        let mut other = whole.clone();
        other[at..at + bytes.len()].copy_from_slice(bytes);
        other
    };
    let cut = |length: usize| whole[..length].to_vec();
    let sealed = |content: &[u8]| {
        let mut bytes = whole[..20].to_vec();
        bytes.extend((content.len() as u64).to_be_bytes());
        bytes.extend(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content).as_ref());
        bytes.extend(content);
        bytes
    };
    let text = String::from_utf8(whole[60..].to_vec()).expect("JSON");
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}: {text}");
        sealed(text.replacen(from, to, 1).as_bytes())
    };
    let length = whole.len();
    vec![
        ("empty.letter", Vec::new(), "torn"),
        ("one-byte.letter", cut(1), "torn"),
        ("half-a-magic.letter", cut(8), "torn"),
        ("magic-only.letter", cut(16), "torn"),
        ("half-a-version.letter", cut(18), "torn"),
        ("half-a-length.letter", cut(24), "torn"),
        ("half-a-checksum.letter", cut(40), "torn"),
        ("head-only.letter", cut(60), "torn"),
        ("half.letter", cut(length / 2), "torn"),
        ("last-byte-missing.letter", cut(length - 1), "torn"),
        ("one-byte-more.letter", [whole.as_slice(), b"\n"].concat(), "too many"),
        ("written-twice.letter", [whole.as_slice(), &whole].concat(), "too many"),
        ("zeros.letter", vec![0; length], "not a dead letter"),
        ("ones.letter", vec![0xff; length], "not a dead letter"),
        ("zeros-at-the-end.letter", with(length - 512, &[0; 512]), "checksum"),
        ("magic-flipped.letter", with(0, b"N"), "not a dead letter"),
        ("version-0.letter", with(16, &0u32.to_be_bytes()), "version 0"),
        ("version-2.letter", with(16, &2u32.to_be_bytes()), "version 2"),
        ("version-max.letter", with(16, &u32::MAX.to_be_bytes()), "version 4294967295"),
        ("length-0.letter", with(20, &0u64.to_be_bytes()), "too many"),
        ("length-max.letter", with(20, &u64::MAX.to_be_bytes()), "torn"),
        ("checksum-flipped.letter", with(28, &[!whole[28]]), "checksum"),
        ("content-flipped.letter", with(80, &[!whole[80]]), "checksum"),
        ("no-json.letter", sealed(b"records"), "cannot be read"),
        ("no-content.letter", sealed(b""), "cannot be read"),
        ("other-json.letter", sealed(b"{\"records\": 1}"), "cannot be read"),
        ("unknown-field.letter", replaced("{\"error\"", "{\"new\":1,\"error\""), "unknown field"),
        ("unknown-kind.letter", replaced("\"visit\"", "\"vision\""), "unknown kind"),
        ("short-leaf.letter", replaced("\"leaf\":\"", "\"leaf\":\"AA"), "base64"),
        ("notes.txt", b"call Paul".to_vec(), "not a dead letter"),
        ("ledger.db", b"SQLite format 3\0".repeat(20), "not a dead letter"),
        ("letter.gz", [b"\x1f\x8b".as_slice(), &whole].concat(), "not a dead letter"),
    ]
}

#[test]
fn what_is_no_dead_letter_is_set_aside_under_its_name_with_the_reason() {
    let (spool, folder) = spool(1 << 30);
    let good = put(&spool, &records(Kind::Visit, 1..=3)).0;
    let damaged = damaged();
    assert!(damaged.len() >= 30, "{}", damaged.len());
    for (name, bytes, _) in &damaged {
        fs::write(folder.path().join("spool").join(name), bytes).expect("written");
    }
    for name in names(&spool) {
        match spool.open(&name).expect("readable") {
            OpenedLetter::SetAside(_) => assert_ne!(name, good),
            OpenedLetter::Locked(held) => {
                assert_eq!((name, held.letter.records.len()), (good.clone(), 3));
            }
            OpenedLetter::Taken => panic!("{name}"),
        }
    }
    assert_eq!(names(&spool), [good]);
    let bad = spool.bad().expect("readable");
    assert_eq!(bad.len(), damaged.len());
    for (name, bytes, reason) in &damaged {
        let found = bad.iter().find(|bad| bad.name == *name).expect(name);
        assert!(found.reason.contains(reason), "{name}: {}", found.reason);
        let kept = fs::read(folder.path().join("spool/bad").join(name)).expect("kept");
        assert_eq!(kept, *bytes, "{name}");
    }
    // The same name once more keeps both.
    fs::write(folder.path().join("spool/notes.txt"), "again").expect("written");
    assert!(matches!(spool.open("notes.txt"), Ok(OpenedLetter::SetAside(Damage::Foreign))));
    assert_eq!(spool.bad().expect("readable").len(), damaged.len() + 1);
}

#[test]
fn what_is_no_file_neither_blocks_nor_is_followed() {
    let (spool, folder) = spool(1 << 30);
    put(&spool, &records(Kind::Visit, [1]));
    let at = |name: &str| folder.path().join("spool").join(name);
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").expect("written");
    std::os::unix::fs::symlink(&secret, at("link.letter")).expect("a link");
    pipe(&at("pipe.letter"));
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.letter")).expect("a socket");
    fs::create_dir(at("lost+found")).expect("a folder");
    fs::write(at(".hidden"), "").expect("written");
    for name in ["link.letter", "pipe.letter", "socket.letter"] {
        let opened = spool.open(name);
        assert!(
            matches!(opened, Ok(OpenedLetter::SetAside(Damage::Foreign))),
            "{name}: {opened:?}"
        );
    }
    assert_eq!(names(&spool).len(), 1);
    assert_eq!(fs::read_to_string(&secret).expect("there"), "secret");
    for name in ["", ".hidden", "../secret", "a/b", "bad/../x"] {
        assert!(matches!(spool.open(name), Ok(OpenedLetter::Taken)), "{name}");
    }
}

#[test]
fn a_full_spool_drops_counts_of_grants_first_and_then_what_is_oldest() {
    let (spool, _folder) = spool(4 * BLOCK);
    let put_one = |kind, seq| {
        let (_, evicted) = put(&spool, &records(kind, [seq]));
        evicted
    };
    assert_eq!(put_one(Kind::Visit, 1), []);
    assert_eq!(put_one(Kind::Grants, 2), []);
    assert_eq!(put_one(Kind::Wake, 3), []);
    assert_eq!(put_one(Kind::Grants, 4), []);
    assert_eq!(put_one(Kind::Visit, 5), ids([2]));
    assert_eq!(put_one(Kind::Visit, 6), ids([4]));
    assert_eq!(put_one(Kind::Visit, 7), ids([1]));
    assert_eq!(put_one(Kind::Visit, 8), ids([3]));
    let left = names(&spool)
        .iter()
        .flat_map(|name| held(&spool, name).letter.records)
        .map(|record| record.id.seq)
        .collect::<Vec<_>>();
    assert_eq!(left, [5, 6, 7, 8]);
    assert_eq!(spool.size(), (4, 4 * BLOCK));
    let outcome = spool.put(&records(Kind::Visit, 1..=100), None, |_| {});
    assert!(matches!(outcome, Err(SpoolError::TooLarge(_))), "{outcome:?}");
    assert_eq!(names(&spool).len(), 4, "nothing was removed in vain");
}

#[test]
fn what_was_removed_for_a_letter_that_cannot_be_written_is_told_all_the_same() {
    let (spool, folder) = spool(BLOCK);
    put(&spool, &records(Kind::Visit, [1]));
    let mut removed = Vec::new();
    let at = folder.path().join("spool");
    let outcome = spool.put(&records(Kind::Visit, [2]), None, |evicted| {
        removed.extend(evicted.iter().map(|record| record.id));
        // As if the disk had failed: nothing can be written any more.
        fs::remove_dir_all(&at).expect("removed");
    });
    assert!(matches!(outcome, Err(SpoolError::Io { .. })), "{outcome:?}");
    assert_eq!(removed, ids([1]));
}

#[test]
fn a_letter_that_another_process_has_is_left_to_it() {
    let (spool, folder) = spool(BLOCK);
    let name = put(&spool, &records(Kind::Visit, [1])).0;
    // Locks belong to an open file: another spool is as good as another process.
    let other = Spool::new(folder.path().join("spool"), BLOCK);
    let mine = held(&other, &name);
    assert!(matches!(spool.open(&name), Ok(OpenedLetter::Taken)));
    let (new, evicted) = put(&spool, &records(Kind::Visit, [2]));
    assert_eq!(evicted, [], "it is not lost, but being replayed");
    other.remove(&mine).expect("removed");
    drop(mine);
    assert!(matches!(spool.open(&name), Ok(OpenedLetter::Taken)), "it is gone");
    assert_eq!(names(&spool), [new]);
}

#[test]
fn what_an_ended_process_was_writing_is_removed() {
    let (spool, folder) = spool(1 << 20);
    let good = put(&spool, &records(Kind::Visit, [1])).0;
    let at = |name: &str| folder.path().join("spool").join(name);
    fs::write(at("0001-1-1.letter.tmp"), "nightporter").expect("written");
    fs::write(at("mine.tmp"), "not of a spool").expect("written");
    let live = File::create(at("0002-1-1.letter.tmp")).expect("created");
    live.lock().expect("locked");
    spool.remove_leftovers().expect("removed");
    assert!(!at("0001-1-1.letter.tmp").exists());
    assert!(at("0002-1-1.letter.tmp").exists() && at("mine.tmp").exists());
    assert_eq!(names(&spool), [good, "mine.tmp".to_owned()]);
}

fn pipe(path: &Path) {
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).expect("a pipe");
}

#[test]
fn foreign_files_in_the_place_of_leftovers_stop_nothing() {
    let (spool, folder) = spool(1 << 20);
    put(&spool, &records(Kind::Visit, [1]));
    let at = |name: &str| folder.path().join("spool").join(name);
    fs::create_dir(at("0001.letter.tmp")).expect("a folder");
    pipe(&at("0002.letter.tmp"));
    std::os::unix::fs::symlink("nowhere", at("0003.letter.tmp")).expect("a link");
    fs::write(at("0004.letter.tmp"), "nightporter").expect("written");
    spool.remove_leftovers().expect("the others are removed");
    assert!(!at("0004.letter.tmp").exists());
    assert!(at("0001.letter.tmp").exists() && at("0002.letter.tmp").exists());
}

#[test]
fn a_foreign_file_does_not_block_what_makes_room() {
    let (spool, folder) = spool(2 * BLOCK);
    put(&spool, &records(Kind::Visit, [1]));
    pipe(&folder.path().join("spool/0000-1-1.letter"));
    fs::write(folder.path().join("spool/0000-1-2.letter"), vec![0; 8192]).expect("written");
    names(&spool);
    let (_, evicted) = put(&spool, &records(Kind::Visit, [2]));
    assert_eq!(evicted, [], "nothing is waited for, and nothing is lost");
}

#[test]
fn a_name_that_is_no_text_is_set_aside_as_well() {
    use std::os::unix::ffi::OsStrExt as _;
    let (spool, folder) = spool(1 << 20);
    let good = put(&spool, &records(Kind::Visit, [1])).0;
    let name = std::ffi::OsStr::from_bytes(b"\xff.letter");
    fs::write(folder.path().join("spool").join(name), "foreign").expect("written");
    let found = names(&spool);
    assert_eq!(found, [good, "\u{fffd}.letter".to_owned()]);
    assert!(matches!(spool.open(&found[1]), Ok(OpenedLetter::SetAside(Damage::Foreign))));
    assert_eq!(spool.bad().expect("readable").len(), 1);
}

#[test]
fn only_the_owner_can_read_letters() {
    let (spool, folder) = spool(1 << 20);
    let name = put(&spool, &records(Kind::Visit, [1])).0;
    let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(folder.path().join("spool")), 0o700);
    assert_eq!(mode(folder.path().join("spool").join(name)), 0o600);
}

#[test]
fn a_spool_without_a_folder_is_empty() {
    let (spool, _folder) = spool(1 << 20);
    assert!(names(&spool).is_empty());
    assert!(spool.bad().expect("readable").is_empty());
    spool.remove_leftovers().expect("nothing to remove");
}
