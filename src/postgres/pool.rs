//! Connections for queries, each used by one query at a time and under a time limit.
//!
//! A connection whose query did not finish (it timed out, or its caller was
//! dropped) is never used again: its next response would belong to that query.
//! If a query times out, all connections of its pool may be dead and are
//! discarded with it, so that a dead network link costs one time limit and not
//! twenty. Connections of other pools are kept, since their queries may be slow or fast
//! for other reasons.

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

/// A pool of connections to one server, for one user of it.
#[derive(Debug)]
pub struct Pool {
    /// Created by the first query, because bb8 needs a runtime when it is created.
    connections: OnceLock<bb8::Pool<Connector>>,
    server: Arc<Server>,
    epoch: Arc<AtomicU64>,
    failures: watch::Sender<Option<ConnectError>>,
    max_size: u32,
    wait_timeout: Duration,
    query_timeout: Duration,
}

/// Opens the pool's connections.
#[derive(Debug)]
struct Connector {
    server: Arc<Server>,
    /// Connections of an earlier epoch are discarded.
    epoch: Arc<AtomicU64>,
}

struct Connection {
    client: Client,
    server: Arc<Server>,
    epoch: u64,
    /// Set while a query or a transaction is running, and left set if it did not finish.
    busy: bool,
}

/// Why bb8 could not open a connection, or must not reuse one.
#[derive(Debug)]
enum ConnectionError {
    Connect(ConnectError),
    Discarded,
}

impl Pool {
    pub fn new(config: &config::Postgres, server: Arc<Server>) -> Self {
        Self {
            connections: OnceLock::new(),
            server,
            epoch: Arc::default(),
            failures: watch::Sender::new(None),
            max_size: config.pool_size,
            wait_timeout: config.pool_timeout,
            query_timeout: config.query_timeout,
        }
    }

    fn connections(&self) -> &bb8::Pool<Connector> {
        self.connections.get_or_init(|| {
            let (server, epoch) = (Arc::clone(&self.server), Arc::clone(&self.epoch));
            bb8::Pool::builder()
                .max_size(self.max_size)
                .connection_timeout(self.wait_timeout)
                .test_on_check_out(true)
                // Connections that are not needed stay idle and are closed.
                .queue_strategy(bb8::QueueStrategy::Lifo)
                // A failure is returned to the waiting callers; the next caller tries again.
                .retry_connection(false)
                .error_sink(Box::new(FailureSink(self.failures.clone())))
                .build_unchecked(Connector { server, epoch })
        })
    }

    /// Returns the number of connections and how many of them are idle.
    pub fn size(&self) -> (u32, u32) {
        let Some(connections) = self.connections.get() else {
            return (0, 0);
        };
        let state = connections.state();
        (state.connections, state.idle_connections)
    }

    /// Discards every connection opened so far, each when it is next checked.
    pub fn discard_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Runs one statement and returns its rows.
    pub async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let mut connection = self.connection().await?;
        connection.busy = true;
        let rows = self.query_within_limit(&connection.client, sql, parameters).await?;
        connection.busy = false;
        Ok(rows?)
    }

    /// Begins a transaction; without [`Transaction::commit`] none of it takes effect.
    pub async fn transaction(&self) -> Result<Transaction<'_>, Error> {
        let mut connection = self.connection().await?;
        connection.busy = true;
        let mut transaction = Transaction { pool: self, connection, has_failed: false };
        transaction.query("BEGIN", &[]).await?;
        Ok(transaction)
    }

    /// Runs one statement. After the outer error the state of the connection is unknown;
    /// after the inner one the connection can be used again.
    async fn query_within_limit(
        &self,
        client: &Client,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Result<Vec<Row>, tokio_postgres::Error>, Error> {
        let limit = self.query_timeout;
        timeout(limit, client.query_typed(sql, parameters)).await.map_err(|_| {
            self.discard_all();
            Error::TooSlow { what: "a query", limit }
        })
    }

    /// Returns a connection: an idle one, a new one, or the first that becomes free.
    ///
    /// bb8 lets a caller wait for the whole `pool_timeout` when connecting fails. Here the
    /// failure is returned at once, unless there are connections to wait for.
    async fn connection(&self) -> Result<bb8::PooledConnection<'_, Connector>, Error> {
        let mut failures = self.failures.subscribe();
        let checkout = self.connections().get();
        pin!(checkout);
        loop {
            tokio::select! {
                biased;
                connection = &mut checkout => return connection.map_err(|_| Error::PoolTimeout),
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

/// A transaction. If it is dropped before it ends, its connection is discarded and the
/// server rolls it back.
pub struct Transaction<'a> {
    pool: &'a Pool,
    connection: bb8::PooledConnection<'a, Connector>,
    has_failed: bool,
}

impl Transaction<'_> {
    /// Runs one statement and returns its rows. After an error the server accepts no further
    /// statement.
    pub async fn query(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        // Set until the response arrives, so that it stays set if the caller is dropped.
        let has_failed = std::mem::replace(&mut self.has_failed, true);
        let client = &self.connection.client;
        let rows = self.pool.query_within_limit(client, sql, parameters).await??;
        self.has_failed = has_failed;
        Ok(rows)
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// Also if a statement has failed: the server would accept the COMMIT, and
    /// roll the transaction back.
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
    type Error = ConnectionError;

    async fn connect(&self) -> Result<Connection, ConnectionError> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let connect =
            async |config, tls| PostgresConnectionManager::new(config, tls).connect().await;
        let client = self.server.connect(connect).await.map_err(ConnectionError::Connect)?;
        Ok(Connection { client, server: Arc::clone(&self.server), epoch, busy: false })
    }

    /// Makes no round trip: a closed socket is noticed at once, and a dead one costs one time
    /// limit.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if self.has_broken(connection) { Err(ConnectionError::Discarded) } else { Ok(()) }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.busy
            || connection.client.is_closed()
            || connection.epoch != self.epoch.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    /// Cancels a query that did not finish. Otherwise it would go on in the server (for
    /// example waiting for a lock) and occupy one of the server's connections.
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

/// Tells the callers that wait for a connection that connecting failed.
#[derive(Debug, Clone)]
struct FailureSink(watch::Sender<Option<ConnectError>>);

impl bb8::ErrorSink<ConnectionError> for FailureSink {
    fn sink(&self, error: ConnectionError) {
        if let ConnectionError::Connect(error) = error {
            self.0.send_replace(Some(error));
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<ConnectionError>> {
        Box::new(self.clone())
    }
}
