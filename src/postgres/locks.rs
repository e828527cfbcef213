//! Advisory locks, so that of several processes with the same database only one at a time
//! does the work that a lock protects.
//!
//! All locks are held by one dedicated session: a pool's connections would be unavailable
//! for as long as the work under a lock takes. The session must reach the server itself:
//! behind a transaction-pooling proxy the lock would belong to some other session, so that is
//! looked for when a session is opened ([`ensure_direct`]) and whenever a lock is taken.
//!
//! A lock is never left in a session that nothing manages. The caller that requests a lock
//! may be dropped at any time: the request goes on in a task of its own, and a lock that
//! arrives too late is released. A session that does not respond in time is closed, with
//! every lock it holds, and the holders learn of that by [`AdvisoryLock::lost`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Transaction};

use super::direct::{backend, ensure_direct};
use super::{Error, Parameter, Server};

/// A namespace of lock names: the same name in another namespace is another lock. All
/// processes that must exclude each other must use the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace(i64);

impl Namespace {
    pub const fn new(seed: i64) -> Self {
        Self(seed)
    }

    /// Returns the seed with which a lock's name is hashed to its key.
    pub(crate) const fn seed(self) -> i64 {
        self.0
    }

    /// Takes the lock of that name until the transaction ends; waits while another session
    /// holds it.
    pub(super) async fn lock_until_end(
        self,
        transaction: &Transaction<'_>,
        name: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))";
        let parameters: [Parameter<'_>; 2] = [(&name, Type::TEXT), (&self.0, Type::INT8)];
        transaction.query_typed(sql, &parameters).await.map(drop)
    }
}

/// Makes the server close a session whose process is unreachable, after
/// 15 + 3 × 5 seconds. Until then the session holds its locks.
const KEEPALIVE: &str = "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; \
                         SET tcp_keepalives_count = 3";

/// The advisory locks of one namespace.
pub struct Locks {
    namespace: Namespace,
    server: Arc<Server>,
    limit: Duration,
    session: Mutex<Option<Arc<Session>>>,
}

/// A connection that only holds locks.
struct Session {
    client: Client,
    limit: Duration,
    /// The server's process that serves the session.
    backend: i32,
    /// The task that drives the connection; the connection is closed when the task ends.
    driver: AbortHandle,
    /// The sender is dropped when the connection ends.
    ended: watch::Receiver<()>,
    /// Set as soon as the session is to be closed.
    closed: AtomicBool,
}

/// An advisory lock, held until it is released. If it is dropped instead, it is released
/// shortly afterwards by a task.
pub struct AdvisoryLock {
    session: Arc<Session>,
    /// `None` once the lock was released.
    key: Option<i64>,
}

impl Locks {
    /// Creates the locks of a namespace. `limit` is the time limit of each exchange with the
    /// server.
    pub fn new(namespace: Namespace, server: Arc<Server>, limit: Duration) -> Self {
        Self { namespace, server, limit, session: Mutex::default() }
    }

    /// Takes the lock of that name; returns `None` if another session holds it.
    pub async fn try_lock(&self, name: &str) -> Result<Option<AdvisoryLock>, Error> {
        let session = self.session().await?;
        let (name, namespace) = (name.to_owned(), self.namespace);
        // If the caller is gone, the lock is dropped, and released, with the task's result.
        let request = tokio::spawn(async move { session.try_lock(&name, namespace).await });
        request.await.unwrap_or_else(|error| Err(Error::Unexpected(error.to_string())))
    }

    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| !session.has_ended()) {
            return Ok(Arc::clone(session));
        }
        let connect = async |config: tokio_postgres::Config, tls| {
            let (client, connection) = config.connect(tls).await?;
            let (alive, ended) = watch::channel(());
            let driver = tokio::spawn(async move {
                let _result = connection.await;
                drop(alive);
            });
            Ok((client, driver.abort_handle(), ended))
        };
        let (client, driver, ended) = self.server.connect(connect).await?;
        let closed = AtomicBool::new(false);
        let mut opened = Session { client, limit: self.limit, backend: 0, driver, ended, closed };
        opened.prepare(&self.server).await?;
        let opened = Arc::new(opened);
        *session = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

impl Session {
    fn has_ended(&self) -> bool {
        self.closed.load(Ordering::Acquire)
            || self.client.is_closed()
            || self.ended.has_changed().is_err()
    }

    /// Closes the connection now. The server releases the session's locks when it notices
    /// that the connection is closed.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.driver.abort();
    }

    async fn prepare(&mut self, server: &Server) -> Result<(), Error> {
        self.backend = ensure_direct(server, &self.client, self.limit).await?;
        match timeout(self.limit, self.client.batch_execute(KEEPALIVE)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(self.too_slow()),
        }
    }

    /// Makes sure that the server still serves the session, which keeps its locks.
    async fn confirm(&self) -> Result<(), Error> {
        if self.has_ended() {
            return Err(Error::Unexpected("the session of an advisory lock has ended".into()));
        }
        let Ok(now) = timeout(self.limit, backend(&self.client)).await else {
            return Err(self.too_slow());
        };
        if now? == self.backend { Ok(()) } else { Err(self.is_pooled()) }
    }

    /// Closes the session, because its statements reach several sessions of the server.
    fn is_pooled(&self) -> Error {
        self.close();
        Error::Pooled
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row, Error> {
        let response = timeout(self.limit, self.client.query_typed(sql, parameters)).await;
        let Ok(rows) = response else { return Err(self.too_slow()) };
        let no_row = || Error::Unexpected("the query for an advisory lock returned no row".into());
        rows?.into_iter().next().ok_or_else(no_row)
    }

    /// Closes the session, because the server may still execute the request unnoticed.
    fn too_slow(&self) -> Error {
        self.close();
        Error::TooSlow { what: "an advisory lock", limit: self.limit }
    }

    async fn try_lock(
        self: Arc<Self>,
        name: &str,
        Namespace(seed): Namespace,
    ) -> Result<Option<AdvisoryLock>, Error> {
        // In another session's process no lock is taken: nobody would release it.
        let sql = "SELECT key, CASE WHEN pg_backend_pid() = $3 THEN pg_try_advisory_lock(key) END \
                   FROM hashtextextended($1, $2) AS key";
        let parameters: [Parameter<'_>; 3] =
            [(&name, Type::TEXT), (&seed, Type::INT8), (&self.backend, Type::INT4)];
        let row = self.query(sql, &parameters).await?;
        let (key, is_acquired) = (row.try_get(0)?, row.try_get::<_, Option<bool>>(1)?);
        let is_acquired = is_acquired.ok_or_else(|| self.is_pooled())?;
        Ok(is_acquired.then(|| AdvisoryLock { session: self, key: Some(key) }))
    }

    /// Releases a lock. If that fails, the session is closed, which releases the lock.
    async fn unlock(&self, key: i64) {
        let sql = "SELECT pg_advisory_unlock($1)";
        let released = self.query(sql, &[(&key, Type::INT8)]).await;
        let released = released.and_then(|row| Ok(row.try_get::<_, bool>(0)?));
        if !matches!(released, Ok(true)) {
            tracing::debug!(?released, "an advisory lock was not released; its session is closed");
            self.close();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

impl AdvisoryLock {
    /// Returns when the session has ended: from then on another process may hold the lock.
    pub async fn lost(&self) {
        let mut ended = self.session.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Returns whether the session is known to have ended; see [`AdvisoryLock::lost`].
    pub fn is_lost(&self) -> bool {
        self.session.has_ended()
    }

    /// Asks the server whether the lock is still held. What is committed soon after is
    /// committed under the lock; [`AdvisoryLock::is_lost`] alone may not know of a broken
    /// network yet.
    pub async fn confirm(&self) -> Result<(), Error> {
        self.session.confirm().await
    }

    /// Releases the lock. The release goes on even if the caller stops waiting for it.
    pub async fn release(mut self) {
        if let Some(released) = self.begin_release() {
            // The task fails only when the process ends, which closes all connections.
            let _ = released.await;
        }
    }

    fn begin_release(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let key = self.key.take()?;
        let session = Arc::clone(&self.session);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            Some(runtime.spawn(async move { session.unlock(key).await }))
        } else {
            session.close();
            None
        }
    }
}

impl Drop for AdvisoryLock {
    fn drop(&mut self) {
        self.begin_release();
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl fmt::Debug for AdvisoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdvisoryLock").field("key", &self.key).finish_non_exhaustive()
    }
}
