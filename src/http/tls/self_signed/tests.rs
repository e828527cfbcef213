use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::http::tls::wall_clock;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn parsed(pem: &[u8]) -> Parsed {
    Parsed::read(pem).expect("a certificate")
}

#[test]
fn what_was_made_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().join("made/if/missing");
    let requested = names(&["gate.internal", "127.0.0.1", "::1"]);
    let now = wall_clock();
    let first = ensure(&directory, &requested, now).expect("made");
    assert_eq!(ensure(&directory, &requested, now).expect("kept"), first);

    let leaf = parsed(&first.0);
    assert_eq!(leaf.names, requested.iter().cloned().collect());
    assert!(leaf.not_before <= now && leaf.not_after > now + LEAF_LIFE - DAY);
    let authority = parsed(&fs::read(directory.join("ca.pem")).expect("an authority"));
    assert!(authority.not_after > now + CA_LIFE - DAY);
    assert_eq!(leaf.authority_key_id, authority.subject_key_id);
    for (file, expected) in
        [("ca.key", PRIVATE), ("key.pem", PRIVATE), ("ca.pem", PUBLIC), ("cert.pem", PUBLIC)]
    {
        let mode = fs::metadata(directory.join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, expected, "{file}");
    }
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life_under_the_same_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let (directory, requested) = (directory.path(), names(&["gate"]));
    let now = wall_clock();
    let (first, _) = ensure(directory, &requested, now).expect("made");
    let authority = fs::read(directory.join("ca.pem")).expect("an authority");

    let (same, _) = ensure(directory, &requested, now + DAY * 59).expect("kept");
    assert_eq!(same, first);
    let later = now + DAY * 61;
    let (renewed, _) = ensure(directory, &requested, later).expect("renewed");
    assert_ne!(renewed, first);
    assert!(parsed(&renewed).not_after > later + LEAF_LIFE - DAY);
    assert_eq!(fs::read(directory.join("ca.pem")).expect("an authority"), authority);

    let (earlier, _) = ensure(directory, &requested, now).expect("made again");
    assert_ne!(earlier, renewed, "the renewed one is not valid yet if the clock was set back");
}

#[test]
fn an_authority_never_ends_before_what_it_signs() {
    let directory = tempfile::tempdir().expect("a directory");
    let (directory, requested) = (directory.path(), names(&["gate"]));
    let now = wall_clock();
    ensure(directory, &requested, now).expect("made");
    let late = now + CA_LIFE - DAY * 30;
    let (leaf, _) = ensure(directory, &requested, late).expect("made");
    let authority = parsed(&fs::read(directory.join("ca.pem")).expect("an authority"));
    assert!(authority.not_after >= parsed(&leaf).not_after);
    assert_eq!(authority.subject_key_id, parsed(&leaf).authority_key_id);
}

#[test]
fn new_names_damage_and_a_crash_halfway_lead_to_a_new_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    let (directory, now) = (directory.path(), wall_clock());
    let (certificate, key) = leaf_files(directory);
    let (first, first_key) = ensure(directory, &names(&["gate"]), now).expect("made");

    let (same, _) = ensure(directory, &names(&["GATE"]), now).expect("the same name");
    assert_eq!(same, first);
    let requested = names(&["gate", "10.0.0.1"]);
    let (second, _) = ensure(directory, &requested, now).expect("made");
    assert_eq!(parsed(&second).names, requested.iter().cloned().collect());

    fs::write(&certificate, "not a certificate").expect("writes");
    let (third, _) = ensure(directory, &requested, now).expect("made");
    assert_ne!(third, second);

    fs::write(&key, first_key).expect("writes");
    let (fourth, fourth_key) = ensure(directory, &requested, now).expect("made");
    assert_ne!(fourth, third);
    assert_eq!(fs::read(&key).expect("a key"), fourth_key);

    fs::remove_file(&key).expect("removes");
    assert_ne!(ensure(directory, &requested, now).expect("made").0, fourth);
}

#[test]
fn an_authority_that_does_not_fit_its_key_is_left_to_a_person() {
    let directory = tempfile::tempdir().expect("a directory");
    let (directory, requested) = (directory.path(), names(&["gate"]));
    let now = wall_clock();
    ensure(directory, &requested, now).expect("made");
    let authority = fs::read(directory.join("ca.pem")).expect("an authority");
    let other = KeyPair::generate().expect("a key").serialize_pem();
    fs::write(directory.join("ca.key"), other).expect("writes");
    let error = ensure(directory, &requested, now).expect_err("refused").to_string();
    assert!(error.contains("does not belong"), "{error}");
    assert_eq!(fs::read(directory.join("ca.pem")).expect("an authority"), authority);
}

#[test]
fn half_an_authority_is_never_replaced_and_its_certificate_serves_on() {
    for (lost, kept) in [("ca.key", "ca.pem"), ("ca.pem", "ca.key")] {
        let directory = tempfile::tempdir().expect("a directory");
        let (directory, requested) = (directory.path(), names(&["gate"]));
        let now = wall_clock();
        let pair = ensure(directory, &requested, now).expect("made");
        let authority = fs::read(directory.join(kept)).expect("an authority");
        fs::remove_file(directory.join(lost)).expect("was there");

        let served = ensure_or_stored(directory, &requested, now).expect("serves on");
        assert_eq!(served.0, pair);
        let problem = served.1.expect("a problem").to_string();
        assert!(problem.contains(lost) && problem.contains("restore it"), "{problem}");
        // It is not replaced when its renewal is due, nor for other names.
        let late = now + DAY * 80;
        let served = ensure_or_stored(directory, &names(&["other"]), late).expect("serves on");
        assert_eq!(served.0, pair);
        let expired = ensure_or_stored(directory, &requested, now + LEAF_LIFE + DAY);
        assert!(expired.is_err(), "an expired certificate is not used");
        assert_eq!(fs::read(directory.join(kept)).expect("untouched"), authority);
        assert!(!directory.join(lost).exists());

        fs::remove_file(directory.join(kept)).expect("was there");
        let (new, problem) = ensure_or_stored(directory, &requested, now).expect("made again");
        assert!(problem.is_none() && new != pair);
    }
}

#[test]
fn a_start_that_ended_before_anybody_saw_its_authority_is_begun_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = KeyPair::generate().expect("a key").serialize_pem();
    fs::write(directory.path().join("ca.key"), key).expect("writable");
    ensure(directory.path(), &names(&["gate"]), wall_clock()).expect("made");
}

#[test]
fn those_who_start_at_once_agree() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, requested) = (directory.path(), names(&["gate"]));
    let now = wall_clock();
    let made: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> =
            (0..16).map(|_| scope.spawn(|| ensure(path, &requested, now).expect("made"))).collect();
        starts.into_iter().map(|start| start.join().expect("no panic")).collect()
    });
    assert!(made.iter().all(|pair| *pair == made[0]));
}

/// A box without a clock of its own starts in 1970, or with whatever its firmware says.
#[test]
fn an_authority_made_while_the_clock_was_wrong_keeps_nobody_out() {
    let now = wall_clock();
    for wrong in [UNIX_EPOCH, now + DAY * 365 * 14] {
        let directory = tempfile::tempdir().expect("a directory");
        let (directory, requested) = (directory.path(), names(&["gate"]));
        ensure(directory, &requested, wrong).expect("made");
        let (leaf, _) = ensure(directory, &requested, now).expect("made again");
        let authority = parsed(&fs::read(directory.join("ca.pem")).expect("an authority"));
        for certificate in [&authority, &parsed(&leaf)] {
            assert!((certificate.not_before..=certificate.not_after).contains(&now));
        }
        assert_eq!(authority.subject_key_id, parsed(&leaf).authority_key_id);
    }
}
