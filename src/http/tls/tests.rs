//! Certificate files that change while they are used.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn given(folder: &Path) -> config::Tls {
    let certificate =
        Certificate::Given { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    config::Tls { certificate, client_ca: None }
}

/// Puts a certificate in place that is valid from and until so many days from now.
fn put(folder: &Path, from: i64, until: i64) -> Vec<u8> {
    let at = |days: i64| {
        let time = DAY * u32::try_from(days.unsigned_abs()).expect("few days");
        if days < 0 { wall_clock() - time } else { wall_clock() + time }
    };
    let mut params = CertificateParams::new(["gate".to_owned()]).expect("a name");
    params.not_before = at(from).into();
    params.not_after = at(until).into();
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("signed").pem();
    fs::write(folder.join("cert.pem"), &pem).expect("writable");
    fs::write(folder.join("key.pem"), key.serialize_pem()).expect("writable");
    pem.into_bytes()
}

fn in_force(tls: &Tls) -> Vec<u8> {
    tls.in_force.lock().expect("no panic").0.certificate.clone()
}

/// What is wrong, after a look at the files.
fn problem(tls: &Tls, now: SystemTime) -> Option<String> {
    tls.try_refresh(now).1.map(|problem| problem.to_string())
}

#[test]
fn a_certificate_that_is_not_valid_now_does_not_replace_one_that_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = put(folder.path(), -1, 10);
    let tls = Tls::load(&given(folder.path())).expect("good");
    assert_eq!(problem(&tls, wall_clock()), None);

    put(folder.path(), -20, -1);
    let expired = problem(&tls, wall_clock()).expect("refused");
    assert!(expired.contains("expired at 20"), "{expired}");
    assert_eq!(in_force(&tls), good);

    let later = put(folder.path(), 2, 30);
    let early = problem(&tls, wall_clock()).expect("refused");
    assert!(early.contains("not valid before 20"), "{early}");
    assert_eq!(in_force(&tls), good);
    // It need not be put there again when its time has come.
    assert_eq!(problem(&tls, wall_clock() + DAY * 3), None);
    assert_eq!(in_force(&tls), later);

    let over = problem(&tls, wall_clock() + DAY * 31).expect("told of the one in force too");
    assert!(over.contains("expired"), "{over}");
}

#[test]
fn trouble_that_goes_on_is_told_once_and_then_rarely() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = put(folder.path(), -1, 10);
    let tls = Tls::load(&given(folder.path())).expect("good");
    fs::remove_file(folder.path().join("key.pem")).expect("was there");
    let missing = problem(&tls, wall_clock());
    assert!(missing.as_ref().is_some_and(|problem| problem.contains("key.pem")), "{missing:?}");
    assert_eq!(in_force(&tls), good);

    let start = Instant::now();
    let told = |problem: &Option<String>, seconds, asked| {
        tls.news(problem.clone(), start + Duration::from_secs(seconds), asked)
    };
    let trouble = |problem: &Option<String>| problem.clone().map(News::Trouble);
    assert_eq!(told(&missing, 0, false), trouble(&missing));
    assert_eq!(told(&missing, 5, false), None);
    assert_eq!(told(&missing, 6, true), trouble(&missing), "somebody wants to know");
    assert_eq!(told(&missing, 3000, false), None);
    assert_eq!(told(&missing, 4000, false), trouble(&missing));
    let other = Some("another".to_owned());
    assert_eq!(told(&other, 4001, false), trouble(&other));
    assert_eq!(told(&None, 4002, false), Some(News::Over), "told that it is over");
    assert_eq!(told(&None, 4003, false), None);
}

#[test]
fn an_expired_certificate_is_better_than_none() {
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path(), -20, -1);
    let tls = Tls::load(&given(folder.path())).expect("the clock may be wrong");
    assert!(problem(&tls, wall_clock()).is_some());
    let good = put(folder.path(), -1, 1);
    assert_eq!(problem(&tls, wall_clock()), None);
    assert_eq!(in_force(&tls), good);
}
