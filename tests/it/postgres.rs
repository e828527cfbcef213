//! Pools of connections to one real server, which knows nothing of a box.

mod locks;

use std::sync::Arc;
use std::time::Duration;

use nightporter::postgres::{Access, Error, Pool, PoolLimits, Server};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::support::client::poll;
use crate::support::pooler::Pooler;
use crate::support::postgres::{Cluster, Database};

/// What anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn pool(database: &Database, query: Duration) -> Pool {
    let limits = PoolLimits { query, ..LIMITS };
    pool_with(&database.url(), limits)
}

const LIMITS: PoolLimits = PoolLimits {
    connections: 2,
    wait: LONG,
    query: LONG,
    statement: None,
    idle: None,
    access: Access::ReadWrite,
    settings: &[],
};

fn pool_with(url: &str, limits: PoolLimits) -> Pool {
    Pool::new(limits, server(url, limits.query))
}

fn server(url: &str, query_timeout: Duration) -> Arc<Server> {
    Arc::new(Server::parse(url, LONG, query_timeout).expect("a valid connection string"))
}

/// Which of the server's processes answers.
async fn backend(pool: &Pool) -> Result<i32, Error> {
    let rows = pool.query("SELECT pg_backend_pid()", &[]).await?;
    Ok(rows[0].get(0))
}

async fn count(pool: &Pool) -> i64 {
    pool.query("SELECT count(*) FROM notes", &[]).await.expect("answers")[0].get(0)
}

#[tokio::test]
async fn a_slow_query_of_one_pool_gives_up_no_connection_of_another() {
    let database = Cluster::shared().database().await;
    let (impatient, other) = (pool(&database, Duration::from_secs(1)), pool(&database, LONG));
    // A machine that is too slow for it even so is asked again.
    poll("it has a connection", LONG, async || backend(&impatient).await.is_ok()).await;
    let before = (backend(&impatient).await.ok(), backend(&other).await.expect("answers"));
    let slow = impatient.query("SELECT pg_sleep(3600)", &[]).await.expect_err("it sleeps");
    assert!(matches!(slow, Error::TooSlow { .. }), "{slow}");
    assert_eq!(backend(&other).await.expect("answers"), before.1);
    poll("it has another", LONG, async || {
        backend(&impatient).await.is_ok_and(|now| Some(now) != before.0)
    })
    .await;
    // Nor does the query go on in the server.
    let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
               AND state = 'active' AND query LIKE '%pg_sleep(3600)%'
               AND pid <> pg_backend_pid()";
    poll("it is cancelled", LONG, async || other.query(sql, &[]).await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_transaction_is_done_as_a_whole_or_not_at_all() {
    let database = Cluster::shared().database().await;
    let pool = pool(&database, LONG);
    pool.query("CREATE TABLE notes (id text PRIMARY KEY)", &[]).await.expect("made");
    let insert = "INSERT INTO notes VALUES ($1)";

    let mut transaction = pool.transaction().await.expect("begins");
    for id in ["one", "two"] {
        transaction.query(insert, &[(&id, Type::TEXT)]).await.expect("written");
    }
    assert_eq!(count(&pool).await, 0, "seen by nobody else yet");
    transaction.commit().await.expect("done");
    assert_eq!(count(&pool).await, 2);

    let mut transaction = pool.transaction().await.expect("begins");
    transaction.query(insert, &[(&"three", Type::TEXT)]).await.expect("written");
    transaction.roll_back().await.expect("undone");
    let mut transaction = pool.transaction().await.expect("begins");
    transaction.query(insert, &[(&"three", Type::TEXT)]).await.expect("written");
    drop(transaction);

    // The server would answer a COMMIT after a refusal as if nothing were amiss.
    let mut transaction = pool.transaction().await.expect("begins");
    transaction.query(insert, &[(&"three", Type::TEXT)]).await.expect("written");
    let refused = transaction.query(insert, &[(&"one", Type::TEXT)]).await.expect_err("taken");
    assert_eq!(refused.sqlstate(), Some(&SqlState::UNIQUE_VIOLATION), "{refused}");
    transaction.commit().await.expect_err("it cannot be done");
    assert_eq!(count(&pool).await, 2);
    // None of them is left with a lock.
    pool.query("TRUNCATE notes", &[]).await.expect("nobody is in the way");
}

#[tokio::test]
async fn a_pool_that_only_reads_writes_nothing_and_keeps_its_connection() {
    let database = Cluster::shared().database().await;
    database.batch("CREATE TABLE notes (id text PRIMARY KEY)").await;
    let limits = PoolLimits { access: Access::ReadOnly, ..LIMITS };
    let reads = pool_with(&database.url(), limits);
    let before = backend(&reads).await.expect("answers");
    let refused = reads.query("INSERT INTO notes VALUES ('one')", &[]).await.expect_err("reads");
    assert_eq!(refused.sqlstate(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{refused}");
    let mut transaction = reads.transaction().await.expect("begins");
    transaction.query("INSERT INTO notes VALUES ('one')", &[]).await.expect_err("reads");
    transaction.roll_back().await.expect("ends");
    assert_eq!(count(&reads).await, 0);
    assert_eq!(backend(&reads).await.ok(), Some(before));
}

#[tokio::test]
async fn a_snapshot_sees_one_state() {
    let database = Cluster::shared().database().await;
    database.batch("CREATE TABLE notes (id text PRIMARY KEY)").await;
    let pool = pool(&database, LONG);
    let mut snapshot = pool.snapshot().await.expect("begins");
    let seen = async |snapshot: &mut nightporter::postgres::Transaction<'_>| -> i64 {
        snapshot.query("SELECT count(*) FROM notes", &[]).await.expect("answers")[0].get(0)
    };
    database.batch("INSERT INTO notes VALUES ('one')").await;
    assert_eq!(seen(&mut snapshot).await, 0, "it is as old as its begin");
    database.batch("INSERT INTO notes VALUES ('two')").await;
    assert_eq!(seen(&mut snapshot).await, 0);
    snapshot.commit().await.expect("ends");
    assert_eq!(count(&pool).await, 2);
}

#[tokio::test]
async fn a_dropped_transaction_gives_its_connection_back() {
    let database = Cluster::shared().database().await;
    database.batch("CREATE TABLE notes (id text PRIMARY KEY)").await;
    let pool = pool_with(&database.url(), PoolLimits { connections: 1, ..LIMITS });
    let before = backend(&pool).await.expect("answers");
    for statement in ["INSERT INTO notes VALUES ('one')", "SELECT 1 / 0", "SELECT 1"] {
        let mut transaction = pool.transaction().await.expect("begins");
        let _done_or_failed = transaction.query(statement, &[]).await;
        drop(transaction);
        // Not within that transaction: it is done at once.
        pool.query("INSERT INTO notes VALUES ($1)", &[(&statement, Type::TEXT)]).await.unwrap();
    }
    let rows = database.client.query("SELECT id FROM notes WHERE id = 'one'", &[]).await;
    assert!(rows.expect("answers").is_empty(), "it was rolled back");
    assert_eq!(count(&pool).await, 3);
    assert_eq!(backend(&pool).await.ok(), Some(before));
    // One whose statement nobody waits for any longer is not used again.
    let mut transaction = pool.transaction().await.expect("begins");
    let sleep = transaction.query("SELECT pg_sleep(3600)", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(50), sleep).await.is_err());
    drop(transaction);
    assert_ne!(backend(&pool).await.expect("answers at once"), before);
}

#[tokio::test]
async fn a_statement_that_the_server_ends_costs_no_connection() {
    let database = Cluster::shared().database().await;
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let statement = Some(Duration::from_secs(1));
        let pool = pool_with(&database.url(), PoolLimits { statement, access, ..LIMITS });
        let before = backend(&pool).await.expect("answers");
        let slow = if access == Access::ReadOnly {
            pool.query("SELECT pg_sleep(3600)", &[]).await.expect_err("it sleeps")
        } else {
            let mut transaction = pool.transaction().await.expect("begins");
            let slow = transaction.query("SELECT pg_sleep(3600)", &[]).await;
            transaction.roll_back().await.expect("the connection is good");
            slow.expect_err("it sleeps")
        };
        assert_eq!(slow.sqlstate(), Some(&SqlState::QUERY_CANCELED), "{slow}");
        assert_eq!(backend(&pool).await.ok(), Some(before), "{access:?}");
    }
}

#[tokio::test]
async fn a_transaction_whose_process_hangs_is_ended_by_the_server() {
    let database = Cluster::shared().database().await;
    let idle = Some(Duration::from_secs(2));
    let impatient = pool_with(&database.url(), PoolLimits { idle, ..LIMITS });
    let mut hanging = impatient.transaction().await.expect("begins");
    assert!(hanging.try_lock(locks::LOCKS, "job").await.expect("asked"));
    let other = pool(&database, LONG);
    poll("the lock is free", LONG, async || {
        let mut transaction = other.transaction().await.expect("begins");
        let is_free = transaction.try_lock(locks::LOCKS, "job").await.expect("asked");
        transaction.roll_back().await.expect("ends");
        is_free
    })
    .await;
    hanging.commit().await.expect_err("it is gone");
}

#[tokio::test]
async fn the_settings_of_a_pool_reach_nobody_else_behind_a_pooler() {
    let database = Cluster::shared().database().await;
    database.batch("CREATE TABLE notes (id text PRIMARY KEY)").await;
    // One connection, which all share.
    let pooler = Pooler::with_size(&database, "transaction", 1);
    let url = pooler.url(&database);
    let statement = Some(Duration::from_secs(60));
    let reads = pool_with(&url, PoolLimits { access: Access::ReadOnly, statement, ..LIMITS });
    let writes = pool_with(&url, LIMITS);
    poll("it is up", LONG, async || backend(&reads).await.is_ok()).await;
    let shared = backend(&reads).await.expect("answers");
    assert_eq!(backend(&writes).await.ok(), Some(shared));
    writes.query("INSERT INTO notes VALUES ('one')", &[]).await.expect("may write");
    let settings = writes.query("SHOW statement_timeout", &[]).await.expect("answers");
    assert_eq!(settings[0].get::<_, &str>(0), "0");
    reads.query("INSERT INTO notes VALUES ('two')", &[]).await.expect_err("may not");
    writes.query("INSERT INTO notes VALUES ('two')", &[]).await.expect("may write");
}
