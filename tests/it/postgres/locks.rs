//! Advisory locks, of sessions and of transactions.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nightporter::postgres::{Error, Locks, Namespace};
use tokio::time::timeout;

use super::{LIMITS, LONG, pool, pool_with, server};
use crate::support::client::poll;
use crate::support::pooler::Pooler;
use crate::support::postgres::{Cluster, Database};

pub const LOCKS: Namespace = Namespace::new(1);

fn locks(url: &str) -> Locks {
    Locks::new(LOCKS, server(url, LONG), LONG)
}

async fn locks_held(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    database.client.query_one(sql, &[]).await.expect("answers").get(0)
}

#[tokio::test]
async fn a_transactions_lock_ends_with_it() {
    let database = Cluster::shared().database().await;
    let (one, other) = (pool(&database, LONG), pool(&database, LONG));
    for ending in ["commit", "rollback", "failure", "drop"] {
        let mut holder = one.transaction().await.expect("begins");
        assert!(holder.try_lock(LOCKS, "job").await.expect("asked"), "{ending}");
        let mut second = other.transaction().await.expect("begins");
        assert!(!second.try_lock(LOCKS, "job").await.expect("asked"));
        second.roll_back().await.expect("ends");
        let mut second = other.transaction().await.expect("begins");
        let elsewhere = Namespace::new(2);
        assert!(second.try_lock(elsewhere, "job").await.expect("asked"), "another namespace");
        second.roll_back().await.expect("ends");
        match ending {
            "commit" => holder.commit().await.expect("ends"),
            "rollback" => holder.roll_back().await.expect("ends"),
            "failure" => {
                holder.query("SELECT 1 / 0", &[]).await.expect_err("impossible");
                holder.commit().await.expect_err("it has failed");
            }
            _ => drop(holder),
        }
        poll(ending, LONG, async || locks_held(&database).await == 0).await;
    }
}

#[tokio::test]
async fn a_transactions_locks_are_its_first_statements() {
    let database = Cluster::shared().database().await;
    let pool = pool(&database, LONG);
    let mut transaction = pool.transaction().await.expect("begins");
    transaction.query("SELECT 1", &[]).await.expect("answers");
    transaction.try_lock(LOCKS, "job").await.expect_err("too late");
    let mut transaction = pool.transaction().await.expect("begins");
    for name in ["job", "job", "another"] {
        assert!(transaction.try_lock(LOCKS, name).await.expect("asked"));
    }
}

/// Polls until the pooler is up; returns the first answer of it.
async fn first_answer(locks: &Locks) -> Result<bool, Error> {
    let mut answer = Ok(false);
    poll("the pooler answers", LONG, async || {
        answer = locks.try_lock("job").await.map(|lock| lock.is_some());
        !matches!(answer, Err(Error::Connect(_)))
    })
    .await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_that_shares_sessions_no_lock_is_taken() {
    let database = Cluster::shared().database().await;
    for size in [1, 20] {
        let pooler = Pooler::with_size(&database, "transaction", size);
        let locks = locks(&pooler.url(&database));
        for _ in 0..3 {
            let refused = first_answer(&locks).await.expect_err("refused");
            assert!(matches!(refused, Error::Pooled), "{refused}");
            for part in ["pgbouncer", "address of the server itself", "`pool_mode = session`"] {
                assert!(refused.to_string().contains(part), "{refused}");
            }
        }
        assert_eq!(locks_held(&database).await, 0);
        // A transaction's lock needs no session.
        let pool = pool_with(&pooler.url(&database), LIMITS);
        let mut transaction = pool.transaction().await.expect("begins");
        assert!(transaction.try_lock(LOCKS, "job").await.expect("asked"));
        transaction.commit().await.expect("ends");
        assert_eq!(locks_held(&database).await, 0);
    }
    let pooler = Pooler::before(&database, "statement");
    let locks = locks(&pooler.url(&database));
    first_answer(&locks).await.expect_err("it allows no transaction");
    assert_eq!(locks_held(&database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_that_keeps_sessions_a_lock_is_as_good_as_any() {
    let database = Cluster::shared().database().await;
    let pooler = Pooler::before(&database, "session");
    let (far, near) = (locks(&pooler.url(&database)), locks(&database.url()));
    assert!(first_answer(&far).await.expect("answers"));
    let mut lock = None;
    poll("it was released", LONG, async || {
        lock = far.try_lock("job").await.expect("answers");
        lock.is_some()
    })
    .await;
    let lock = lock.expect("just taken");
    assert!(near.try_lock("job").await.expect("answers").is_none());
    lock.confirm().await.expect("still held");
    assert!(!lock.is_lost());
    assert!(timeout(Duration::from_millis(50), lock.lost()).await.is_err());
    drop(pooler);
    timeout(LONG, lock.lost()).await.expect("the pooler has ended");
    assert!(lock.is_lost());
    lock.confirm().await.expect_err("lost");
    poll("it is free", LONG, async || near.try_lock("job").await.expect("answers").is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_was_lost_unnoticed_is_not_confirmed() {
    let database = Cluster::shared().database().await;
    let locks = locks(&database.url());
    let lock = locks.try_lock("job").await.expect("answers").expect("free");
    lock.confirm().await.expect("still held");
    database.terminate_backends().await;
    lock.confirm().await.expect_err("its session has ended");
    timeout(LONG, lock.lost()).await.expect("told");
    let again = locks.try_lock("job").await.expect("answers over a new session");
    again.expect("free").release().await;
}

/// A lock that a pool's connection took outside a transaction would go back to the pool with
/// it, so the pool and the lock session are the only ones that call these functions.
#[test]
fn no_other_statement_takes_an_advisory_lock() {
    fn visit(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, found);
            } else if fs::read_to_string(&path).is_ok_and(|text| {
                ["advisory_lock(", "advisory_xact_lock("].iter().any(|call| text.contains(call))
            }) {
                found.push(path.file_name().expect("a name").to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    found.sort();
    assert_eq!(found, ["locks.rs", "pool.rs"]);
}
