//! Advisory locks, so that of several processes with the same database only one at a time
//! does the work that a lock protects.
//!
//! All locks are held by one dedicated session: a pool's connections would be unavailable
//! for as long as the work under a lock takes. The session must reach the server itself.
//! Behind a transaction-pooling proxy the lock would belong to some other session. No
//! notification arrives there either, so the link that waits for them reports the problem.
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

use super::{Error, Parameter, Server};

/// A namespace of lock names: the same name in another namespace is another lock. All
/// processes that must exclude each other must use the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace(i64);

impl Namespace {
    pub const fn new(seed: i64) -> Self {
        Self(seed)
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
        let connected = self.server.connect(connect).await?;
        let (client, driver, ended) = connected;
        let closed = AtomicBool::new(false);
        let opened = Session { client, limit: self.limit, driver, ended, closed };
        opened.prepare().await?;
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

    async fn prepare(&self) -> Result<(), Error> {
        match timeout(self.limit, self.client.batch_execute(KEEPALIVE)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(self.too_slow()),
        }
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
        let sql = "SELECT key, pg_try_advisory_lock(key) FROM hashtextextended($1, $2) AS key";
        let row = self.query(sql, &[(&name, Type::TEXT), (&seed, Type::INT8)]).await?;
        let (key, is_acquired) = (row.try_get(0)?, row.try_get::<_, bool>(1)?);
        Ok(is_acquired.then(|| AdvisoryLock { session: self, key: Some(key) }))
    }

    /// Releases a lock. If that fails, the session is closed, which releases the lock.
    async fn unlock(&self, key: i64) {
        let sql = "SELECT pg_advisory_unlock($1)";
        if let Err(error) = self.query(sql, &[(&key, Type::INT8)]).await {
            tracing::debug!(%error, "an advisory lock was not released; its session is closed");
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
