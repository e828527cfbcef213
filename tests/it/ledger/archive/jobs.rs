//! The rows of jobs.

use std::time::SystemTime;

use nightporter::ledger::archive::JobRow;
use nightporter::ledger::record::Micros;

use super::Database;
use crate::ledger::samples::TENANT;

pub async fn a_row_is_read_back(database: &impl Database) {
    let archive = database.archive();
    let asked_for = JobRow {
        name: "integrity".to_owned(),
        due: Micros(5),
        started: None,
        ended: None,
        outcome: None,
        by: None,
    };
    let ran = JobRow {
        due: Micros(9),
        started: Some(Micros(6)),
        ended: Some(Micros(7)),
        outcome: Some("failed: it's full".to_owned()),
        by: Some(i64::MAX),
        ..asked_for.clone()
    };
    for row in [&asked_for, &ran] {
        let mut transaction = archive.begin().await.expect("begins");
        assert!(transaction.try_lock("integrity").await.expect("answers"));
        transaction.put_job(TENANT, row).await.expect("writes");
        transaction.log_run(TENANT, row).await.expect("writes");
        assert_eq!(transaction.job(TENANT, "integrity").await.expect("reads").as_ref(), Some(row));
        assert_eq!(transaction.job(TENANT, "retention").await.expect("reads"), None);
        assert_eq!(transaction.job("other", "integrity").await.expect("reads"), None);
        transaction.commit().await.expect("commits");
    }
    let other = JobRow { name: "a".to_owned(), ..ran.clone() };
    let mut transaction = archive.begin().await.expect("begins");
    transaction.put_job(TENANT, &other).await.expect("writes");
    transaction.commit().await.expect("commits");
    let mut snapshot = archive.snapshot().await.expect("begins");
    assert_eq!(snapshot.jobs(TENANT).await.expect("reads"), [other, ran]);
    assert_eq!(snapshot.jobs("other").await.expect("reads"), []);
}

pub async fn the_clock_is_that_of_the_database(database: &impl Database) {
    let archive = database.archive();
    let mut transaction = archive.begin().await.expect("begins");
    let first = transaction.now().await.expect("answers");
    let here = Micros::from(SystemTime::UNIX_EPOCH + elapsed());
    // Both are on one machine.
    assert!((first.0 - here.0).abs() < 5_000_000, "{first:?} {here:?}");
    // Not the time at which the transaction began.
    while transaction.now().await.expect("answers") == first {}
}

#[allow(clippy::disallowed_methods, reason = "a test reads the clock")]
fn elapsed() -> std::time::Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970")
}
