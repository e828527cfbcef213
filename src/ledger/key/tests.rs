use std::os::unix::fs::PermissionsExt;
use std::thread;

use signed_note::{StandardVerifier, Verifier};

use super::*;
use crate::ledger::form::hex;

#[test]
fn a_key_is_created_once_and_private() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger").join(FILE);
    let keys: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn({
                let path = path.clone();
                move || SigningKey::load_or_create(&path).expect("a key").verifier("box")
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .collect();
    assert!(keys.windows(2).all(|two| two[0] == two[1]), "all get the same key");
    assert_eq!(SigningKey::load(&path).expect("a key").verifier("box"), keys[0]);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
    let files = fs::read_dir(path.parent().expect("a folder")).expect("readable").count();
    assert_eq!(files, 1, "no temporary file is left");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    SigningKey::load_or_create(&path).expect("a key");
    for mode in [0o640, 0o604, 0o644, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions");
        let error = SigningKey::load_or_create(&path).expect_err("exposed");
        assert!(matches!(error, KeyError::Exposed { .. }), "{error}");
        assert!(error.to_string().contains(&format!("mode {mode:o}")), "{error}");
    }
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let rsa = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let damaged = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (number, content) in
        [&b""[..], b"hello", &[0xff; 40], rsa.as_bytes(), damaged.as_bytes()].iter().enumerate()
    {
        let path = folder.path().join(number.to_string());
        fs::write(&path, content).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        let error = SigningKey::load_or_create(&path).expect_err("a foreign file");
        assert!(matches!(error, KeyError::Invalid { .. }), "{error}");
        assert_eq!(fs::read(&path).expect("readable"), *content);
    }
    let error = SigningKey::load_or_create(folder.path()).expect_err("a folder");
    assert!(matches!(error, KeyError::Invalid { .. }), "{error}");
}

#[test]
fn others_read_the_verifier_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::load_or_create(&folder.path().join(FILE)).expect("a key");
    for tenant in ["", "k3vw9x2a", "a b+c%d\n", "bücher"] {
        let verifier = key.verifier(tenant);
        let text = verifier.to_string();
        assert_eq!(text.parse(), Ok(verifier.clone()));
        let theirs = StandardVerifier::new(&text).expect("a verifier key");
        assert_eq!(theirs.name(), verifier.name());
        assert_eq!(theirs.key_id().to_be_bytes(), verifier.id());
        assert!(theirs.verify(b"text", &key.sign(b"text")));
        assert!(verifier.verifies(b"text", &key.sign(b"text")));
        assert!(!verifier.verifies(b"texT", &key.sign(b"text")));
    }
    assert_ne!(key.verifier("a").id(), key.verifier("b").id());
}

#[test]
fn what_is_not_a_verifier_key_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::load_or_create(&folder.path().join(FILE)).expect("a key");
    let text = key.verifier("box").to_string();
    let renamed = text.replacen("box", "bax", 1);
    for text in ["", "box", "box+12345678", &text[..text.len() - 4], &renamed, &format!("{text} ")]
    {
        assert_eq!(text.parse::<VerifierKey>(), Err(InvalidVerifierKey), "{text}");
    }
}

#[test]
fn debug_does_not_show_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    let key = SigningKey::load_or_create(&path).expect("a key");
    let shown = format!("{key:?}");
    let document = pem::parse(fs::read(&path).expect("readable")).expect("PEM");
    let seed = &document.contents()[document.contents().len() - 32..];
    let hex = hex(seed);
    assert!(!shown.contains(&hex) && !shown.contains(&format!("{seed:?}")), "{shown}");
}
