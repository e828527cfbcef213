//! Pools of connections to one real server, which knows nothing of a box.

use std::sync::Arc;
use std::time::Duration;

use nightporter::config;
use nightporter::postgres::{Error, Pool, Server};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::support::client::poll;
use crate::support::postgres::{Cluster, Database};

/// What anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn pool(database: &Database, query_timeout: Duration) -> Pool {
    let url = database.url();
    let server = Server::parse(&url, LONG, query_timeout).expect("a valid connection string");
    let config = config::Postgres {
        url: config::Secret::new(url),
        pool_size: 2,
        pool_timeout: LONG,
        connect_timeout: LONG,
        query_timeout,
        create_tables: false,
    };
    Pool::new(&config, Arc::new(server))
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
