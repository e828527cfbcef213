//! Certificate files that change while they are in use.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn files(folder: &Path) -> config::Tls {
    let certificate =
        Certificate::Files { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    config::Tls { certificate, client_ca: None }
}

/// Writes a certificate whose validity begins and ends at these days from now.
fn write_certificate(folder: &Path, from: i64, until: i64) -> Vec<u8> {
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

fn active(tls: &ServerTls) -> Vec<u8> {
    tls.active.lock().expect("no panic").0.certificate.clone()
}

/// Reads the files again and returns the problem with them.
fn problem(tls: &ServerTls, now: SystemTime) -> Option<String> {
    tls.try_refresh(now).1.map(|problem| problem.to_string())
}

#[test]
fn a_certificate_that_is_not_valid_now_does_not_replace_one_that_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = write_certificate(folder.path(), -1, 10);
    let tls = ServerTls::load(&files(folder.path())).expect("good");
    assert_eq!(problem(&tls, wall_clock()), None);

    write_certificate(folder.path(), -20, -1);
    let expired = problem(&tls, wall_clock()).expect("refused");
    assert!(expired.contains("expired at 20"), "{expired}");
    assert_eq!(active(&tls), good);

    let later = write_certificate(folder.path(), 2, 30);
    let early = problem(&tls, wall_clock()).expect("refused");
    assert!(early.contains("not valid before 20"), "{early}");
    assert_eq!(active(&tls), good);
    // It is used as soon as it is valid, without being written again.
    assert_eq!(problem(&tls, wall_clock() + DAY * 3), None);
    assert_eq!(active(&tls), later);

    let over = problem(&tls, wall_clock() + DAY * 31).expect("the active one is reported, too");
    assert!(over.contains("expired"), "{over}");
}

#[test]
fn trouble_that_goes_on_is_told_once_and_then_rarely() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = write_certificate(folder.path(), -1, 10);
    let tls = ServerTls::load(&files(folder.path())).expect("good");
    fs::remove_file(folder.path().join("key.pem")).expect("was there");
    let missing = problem(&tls, wall_clock());
    assert!(missing.as_ref().is_some_and(|problem| problem.contains("key.pem")), "{missing:?}");
    assert_eq!(active(&tls), good);

    let start = Instant::now();
    let report = |problem: &Option<String>, seconds, on_request| {
        tls.report(problem.clone(), start + Duration::from_secs(seconds), on_request)
    };
    let expected = |problem: &Option<String>| problem.clone().map(Report::Problem);
    assert_eq!(report(&missing, 0, false), expected(&missing));
    assert_eq!(report(&missing, 5, false), None);
    assert_eq!(report(&missing, 6, true), expected(&missing), "requested by the operator");
    assert_eq!(report(&missing, 3000, false), None);
    assert_eq!(report(&missing, 4000, false), expected(&missing));
    let other = Some("another".to_owned());
    assert_eq!(report(&other, 4001, false), expected(&other));
    assert_eq!(report(&None, 4002, false), Some(Report::Resolved), "the end is reported");
    assert_eq!(report(&None, 4003, false), None);
}

#[test]
fn an_expired_certificate_is_better_than_none() {
    let folder = tempfile::tempdir().expect("a folder");
    write_certificate(folder.path(), -20, -1);
    let tls = ServerTls::load(&files(folder.path())).expect("the clock may be wrong");
    assert!(problem(&tls, wall_clock()).is_some());
    let good = write_certificate(folder.path(), -1, 1);
    assert_eq!(problem(&tls, wall_clock()), None);
    assert_eq!(active(&tls), good);
}
