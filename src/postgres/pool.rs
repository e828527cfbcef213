//! Connections for queries, each used by one query at a time and under a time limit.
//!
//! A connection whose query did not finish (it timed out, or its caller was
//! dropped) is never used again: its next response would belong to that query.
//! If a query times out, all connections of its pool may be dead and are
//! discarded with it, so that a dead network link costs one time limit and not
//! twenty. Connections of other pools are kept, since their queries may be slow or fast
//! for other reasons. A pool for queries that may be slow lets the server end them first
//! ([`PoolLimits::statement`]), which costs no connection.
//!
//! A pool's settings are part of each transaction and not of the connection: behind a
//! transaction-pooling proxy, those of a connection would apply to other programs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use futures_util::FutureExt;
use futures_util::future::{join, join4};
use tokio::pin;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{ConnectError, Error, Namespace, Parameter, Server};
use crate::config;

/// How many connections a pool has, and what may be done with them.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    pub connections: u32,
    /// For the wait for a connection.
    pub wait: Duration,
    /// For a statement. After this time its connection is given up.
    pub query: Duration,
    /// For a statement, by the server. Shorter than `query`, so that a statement that is
    /// merely slow does not count as a dead connection.
    pub statement: Option<Duration>,
    /// For the time that the server waits for a transaction's next statement. A process that
    /// hangs holds its locks no longer than this.
    pub idle: Option<Duration>,
    pub access: Access,
    /// Settings of each transaction, such as `jit = off`.
    pub settings: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    /// Each query is a read-only transaction.
    ReadOnly,
}

impl From<&config::Postgres> for PoolLimits {
    fn from(config: &config::Postgres) -> Self {
        Self {
            connections: config.pool_size,
            wait: config.pool_timeout,
            query: config.query_timeout,
            statement: None,
            idle: None,
            access: Access::ReadWrite,
            settings: &[],
        }
    }
}

impl PoolLimits {
    /// Returns the statements that begin a transaction.
    fn begin(&self, isolation: &str, access: Access) -> String {
        let access = match access {
            Access::ReadWrite => "READ WRITE",
            Access::ReadOnly => "READ ONLY",
        };
        // Zero would mean no limit.
        let set = |setting: &str, limit: Option<Duration>| {
            let limit = limit.map(|limit| limit.as_millis().max(1));
            limit.map_or_else(String::new, |limit| format!("; SET LOCAL {setting} = {limit}"))
        };
        let statement = set("statement_timeout", self.statement);
        let idle = set("idle_in_transaction_session_timeout", self.idle);
        let mut begin = format!("BEGIN ISOLATION LEVEL {isolation} {access}{statement}{idle}");
        for setting in self.settings {
            begin.push_str("; SET LOCAL ");
            begin.push_str(setting);
        }
        begin
    }
}

const READ_COMMITTED: &str = "READ COMMITTED";

/// A role that a read-only transaction takes on, and a setting that the policies of row-level
/// security read. Both end with the transaction.
#[derive(Debug, Clone, Copy)]
pub struct AssumedRole<'a> {
    /// A plain identifier of SQL.
    pub role: &'static str,
    pub setting: &'static str,
    pub value: &'a str,
}

impl AssumedRole<'_> {
    /// Returns the statement that takes on the role, to follow one that begins a transaction.
    fn take_on(role: Option<&Self>) -> String {
        role.map_or_else(String::new, |AssumedRole { role, .. }| format!("; SET LOCAL ROLE {role}"))
    }

    async fn set(role: Option<&Self>, client: &Client) -> Result<(), tokio_postgres::Error> {
        let Some(AssumedRole { setting, value, .. }) = role else { return Ok(()) };
        let sql = "SELECT set_config($1, $2, true)";
        client.query_typed(sql, &[(setting, Type::TEXT), (value, Type::TEXT)]).await.map(drop)
    }
}

/// A pool of connections to one server, for one user of it.
#[derive(Debug)]
pub struct Pool {
    /// Created by the first query, because bb8 needs a runtime when it is created.
    connections: OnceLock<bb8::Pool<Connector>>,
    server: Arc<Server>,
    epoch: Arc<AtomicU64>,
    failures: watch::Sender<Option<ConnectError>>,
    limits: PoolLimits,
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
    pub fn new(limits: impl Into<PoolLimits>, server: Arc<Server>) -> Self {
        Self {
            connections: OnceLock::new(),
            server,
            epoch: Arc::default(),
            failures: watch::Sender::new(None),
            limits: limits.into(),
        }
    }

    fn connections(&self) -> &bb8::Pool<Connector> {
        self.connections.get_or_init(|| {
            let (server, epoch) = (Arc::clone(&self.server), Arc::clone(&self.epoch));
            bb8::Pool::builder()
                .max_size(self.limits.connections)
                .connection_timeout(self.limits.wait)
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
        self.query_as(None, sql, parameters).await
    }

    /// The same as somebody else, in a pool for reads.
    pub async fn query_as(
        &self,
        role: Option<&AssumedRole<'_>>,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        let mut connection = self.connection().await?;
        connection.busy = true;
        let client = &connection.client;
        let rows = match self.limits.access {
            Access::ReadWrite => self.within_limit(client.query_typed(sql, parameters)).await?,
            Access::ReadOnly => {
                let begin = self.limits.begin(READ_COMMITTED, Access::ReadOnly);
                let begin = begin + &AssumedRole::take_on(role);
                // All four are sent at once, in this order.
                let (begin, set, query, end) = (
                    client.batch_execute(&begin),
                    AssumedRole::set(role, client),
                    client.query_typed(sql, parameters),
                    client.batch_execute("COMMIT"),
                );
                let exchange = join4(begin, set, query, end);
                let (begun, set, rows, ended) = self.within_limit(exchange).await?;
                begun.and(set).and(rows).and_then(|rows| ended.map(|()| rows))
            }
        };
        connection.busy = false;
        Ok(rows?)
    }

    /// Begins a transaction; without [`Transaction::commit`] none of it takes effect. Each
    /// statement sees what others have committed before it.
    pub async fn transaction(&self) -> Result<Transaction<'_>, Error> {
        self.begin(&self.limits.begin(READ_COMMITTED, self.limits.access), None).await
    }

    /// Begins a read-only transaction whose statements all see the state of now.
    pub async fn snapshot(&self) -> Result<Transaction<'_>, Error> {
        self.snapshot_as(None).await
    }

    /// The same as somebody else.
    pub async fn snapshot_as(
        &self,
        role: Option<&AssumedRole<'_>>,
    ) -> Result<Transaction<'_>, Error> {
        // The server takes the snapshot for the first query, not for BEGIN.
        let begin = self.limits.begin("REPEATABLE READ", Access::ReadOnly);
        let begin = format!("{begin}; SELECT 1{}", AssumedRole::take_on(role));
        self.begin(&begin, role).await
    }

    async fn begin(
        &self,
        begin: &str,
        role: Option<&AssumedRole<'_>>,
    ) -> Result<Transaction<'_>, Error> {
        let mut connection = self.connection().await?;
        connection.busy = true;
        let client = &connection.client;
        let exchange = join(client.batch_execute(begin), AssumedRole::set(role, client));
        let (begun, set) = self.within_limit(exchange).await?;
        begun.and(set)?;
        let (has_begun, has_failed, is_waiting) = (false, false, false);
        Ok(Transaction { pool: self, connection, has_begun, has_failed, is_waiting })
    }

    /// Waits for a response of the server. After the error the state of the connection is
    /// unknown.
    async fn within_limit<T>(&self, response: impl Future<Output = T>) -> Result<T, Error> {
        let limit = self.limits.query;
        timeout(limit, response).await.map_err(|_| {
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

/// A transaction. If it is dropped before it ends, it is rolled back.
pub struct Transaction<'a> {
    pool: &'a Pool,
    connection: bb8::PooledConnection<'a, Connector>,
    /// Whether a statement has been run.
    has_begun: bool,
    has_failed: bool,
    /// Set until the response to a statement arrives; left set if its caller is dropped.
    is_waiting: bool,
}

impl Transaction<'_> {
    /// Takes the advisory lock of that name until the transaction ends; returns `false` if
    /// another session holds it.
    ///
    /// # Errors
    /// Also if a statement was run before: it would have seen, or waited for, the work of the
    /// lock's holder.
    pub async fn try_lock(&mut self, namespace: Namespace, name: &str) -> Result<bool, Error> {
        if self.has_begun {
            return Err(Error::Unexpected("a transaction's lock is taken first".into()));
        }
        let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, $2))";
        let seed = namespace.seed();
        let rows = self.run(sql, &[(&name, Type::TEXT), (&seed, Type::INT8)]).await?;
        rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }

    /// Runs one statement and returns its rows. After an error the server accepts no further
    /// statement.
    pub async fn query(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.has_begun = true;
        self.run(sql, parameters).await
    }

    async fn run(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let has_failed = std::mem::replace(&mut self.has_failed, true);
        self.is_waiting = true;
        let query = self.connection.client.query_typed(sql, parameters);
        let rows = self.pool.within_limit(query).await?;
        self.is_waiting = false;
        let rows = rows?;
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

impl Drop for Transaction<'_> {
    /// Rolls back without a wait: the next user of the connection is served after that. If
    /// a response is still to come, the connection is discarded instead.
    fn drop(&mut self) {
        if self.connection.busy && !self.is_waiting {
            // The first poll sends it; the response is read by the connection's own task.
            let _response = self.connection.client.batch_execute("ROLLBACK").now_or_never();
            self.connection.busy = false;
        }
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
