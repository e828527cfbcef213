//! Connections for queries, each used by one query at a time and under a time limit.
//!
//! A connection whose query did not come to an end (timed out, or its caller
//! went away) is never used again: what it would answer next belongs to
//! another question. Where one stalls, the others of its age are suspect too
//! and are given up with it, so that a dead link costs one time limit and not
//! twenty. Connections of another pool are not touched: what they are used for may be
//! slow or quick for reasons of its own.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use tokio::pin;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{Client, Row};

use super::{ConnectError, Error, Parameter, Server};
use crate::config;

/// Connections to one server, for one use.
#[derive(Debug)]
pub struct Pool {
    /// Made by the first query: bb8 needs a runtime from the start.
    connections: OnceLock<bb8::Pool<Connector>>,
    server: Arc<Server>,
    age: Arc<AtomicU64>,
    failures: watch::Sender<Option<ConnectError>>,
    max_size: u32,
    wait_timeout: Duration,
    query_timeout: Duration,
}

/// Makes connections.
#[derive(Debug)]
struct Connector {
    server: Arc<Server>,
    /// Connections of an earlier age are suspect.
    age: Arc<AtomicU64>,
}

struct Connection {
    client: Client,
    server: Arc<Server>,
    age: u64,
    /// Set while a query or a transaction is under way, hence for good where it did not end.
    busy: bool,
}

/// Why bb8 did not get or keep a connection.
#[derive(Debug)]
enum Lost {
    Connect(ConnectError),
    Suspect,
}

impl Pool {
    pub fn new(config: &config::Postgres, server: Arc<Server>) -> Self {
        Self {
            connections: OnceLock::new(),
            server,
            age: Arc::default(),
            failures: watch::Sender::new(None),
            max_size: config.pool_size,
            wait_timeout: config.pool_timeout,
            query_timeout: config.query_timeout,
        }
    }

    fn connections(&self) -> &bb8::Pool<Connector> {
        self.connections.get_or_init(|| {
            let (server, age) = (Arc::clone(&self.server), Arc::clone(&self.age));
            bb8::Pool::builder()
                .max_size(self.max_size)
                .connection_timeout(self.wait_timeout)
                .test_on_check_out(true)
                // Those that are not needed grow old and are closed.
                .queue_strategy(bb8::QueueStrategy::Lifo)
                // A failure is the answer to whoever waits; who asks next tries again.
                .retry_connection(false)
                .error_sink(Box::new(FailureSink(self.failures.clone())))
                .build_unchecked(Connector { server, age })
        })
    }

    /// Connections and how many of them are idle.
    pub fn size(&self) -> (u32, u32) {
        let Some(connections) = self.connections.get() else {
            return (0, 0);
        };
        let state = connections.state();
        (state.connections, state.idle_connections)
    }

    /// Gives up every connection made so far, each when it is next touched.
    pub fn suspect_all(&self) {
        self.age.fetch_add(1, Ordering::AcqRel);
    }

    /// The rows that one statement gives.
    pub async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let mut connection = self.connection().await?;
        connection.busy = true;
        let answer = self.ask(&connection.client, sql, parameters).await?;
        connection.busy = false;
        Ok(answer?)
    }

    /// Begins a transaction; without [`Transaction::commit`] nothing of it is done.
    pub async fn transaction(&self) -> Result<Transaction<'_>, Error> {
        let mut connection = self.connection().await?;
        connection.busy = true;
        let mut transaction = Transaction { pool: self, connection, has_failed: false };
        transaction.query("BEGIN", &[]).await?;
        Ok(transaction)
    }

    /// The outer error is one after which nothing is known of the connection.
    async fn ask(
        &self,
        client: &Client,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Result<Vec<Row>, tokio_postgres::Error>, Error> {
        let limit = self.query_timeout;
        timeout(limit, client.query_typed(sql, parameters)).await.map_err(|_| {
            self.suspect_all();
            Error::TooSlow { what: "a query", limit }
        })
    }

    /// A connection: an idle one, a new one, or the first that is given back.
    ///
    /// bb8 lets a caller wait out `pool_timeout` when connecting fails; here the
    /// failure is the answer, unless there are connections to wait for.
    async fn connection(&self) -> Result<bb8::PooledConnection<'_, Connector>, Error> {
        let mut failures = self.failures.subscribe();
        let got = self.connections().get();
        pin!(got);
        loop {
            tokio::select! {
                biased;
                got = &mut got => return got.map_err(|_| Error::PoolTimeout),
                Ok(()) = failures.changed() => {
                    let failure = failures.borrow_and_update().clone();
                    if let Some(failure) = failure && self.connections().state().connections == 0 {
                        return Err(failure.into());
                    }
                }
            }
        }
    }
}

/// Statements that are all done or none of them. Dropped before its end it is undone, and
/// its connection is given up: the server undoes what it had begun there.
pub struct Transaction<'a> {
    pool: &'a Pool,
    connection: bb8::PooledConnection<'a, Connector>,
    has_failed: bool,
}

impl Transaction<'_> {
    /// The rows that one statement gives. After an error the server takes no other.
    pub async fn query(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        // Also where the caller goes away before the answer comes.
        let has_failed = std::mem::replace(&mut self.has_failed, true);
        let rows = self.pool.ask(&self.connection.client, sql, parameters).await??;
        self.has_failed = has_failed;
        Ok(rows)
    }

    /// # Errors
    /// Also where a statement has failed: the server would answer COMMIT all the same, and
    /// undo what was done.
    pub async fn commit(mut self) -> Result<(), Error> {
        if self.has_failed {
            return Err(Error::Unexpected("a statement of the transaction has failed".into()));
        }
        self.end("COMMIT").await
    }

    pub async fn roll_back(mut self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    async fn end(&mut self, sql: &str) -> Result<(), Error> {
        self.query(sql, &[]).await?;
        self.connection.busy = false;
        Ok(())
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("connection", &*self.connection).finish_non_exhaustive()
    }
}

impl ManageConnection for Connector {
    type Connection = Connection;
    type Error = Lost;

    async fn connect(&self) -> Result<Connection, Lost> {
        let age = self.age.load(Ordering::Acquire);
        let connect =
            async |config, tls| PostgresConnectionManager::new(config, tls).connect().await;
        let client = self.server.connect(connect).await.map_err(Lost::Connect)?;
        Ok(Connection { client, server: Arc::clone(&self.server), age, busy: false })
    }

    /// No round trip: a closed socket is known at once, a dead one costs a time limit.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Lost> {
        if self.has_broken(connection) { Err(Lost::Suspect) } else { Ok(()) }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.busy
            || connection.client.is_closed()
            || connection.age != self.age.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("age", &self.age).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    /// A query that is given up would go on in the server (waiting for a lock,
    /// say) and hold one of its connections.
    fn drop(&mut self) {
        if self.busy
            && !self.client.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (server, token) = (Arc::clone(&self.server), self.client.cancel_token());
            runtime.spawn(async move { server.cancel(token).await });
        }
    }
}

/// Tells those who wait for a connection that connecting failed.
#[derive(Debug, Clone)]
struct FailureSink(watch::Sender<Option<ConnectError>>);

impl bb8::ErrorSink<Lost> for FailureSink {
    fn sink(&self, lost: Lost) {
        if let Lost::Connect(error) = lost {
            self.0.send_replace(Some(error));
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Lost>> {
        Box::new(self.clone())
    }
}
