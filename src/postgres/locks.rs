//! Advisory locks, so that several processes with one database do one thing at a time.
//!
//! All are held by one session of their own: a pool's connections would be gone for as
//! long as the work under a lock takes. The session must reach the server itself; behind a
//! proxy that hands out servers by transaction a lock would be some other session's, and
//! there no notification arrives either, which the link tells.
//!
//! A lock is never left to a session that nobody looks after. Whoever asks for one may
//! go away at any time: the asking goes on in a task of its own, and a lock that comes
//! too late is given back. A session that does not answer in time is closed, with every
//! lock it holds, and their holders learn of that by [`AdvisoryLock::lost`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{Error, Parameter, Server};

/// Whose the names of locks are: in another one the same name is another lock. All
/// processes that are to keep out of each other's way must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace(i64);

impl Namespace {
    pub const fn new(seed: i64) -> Self {
        Self(seed)
    }
}

/// Lets the server, too, give up a session whose process is out of reach, after
/// 15 + 3 × 5 seconds: until then it holds its locks.
const KEEPALIVE: &str = "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; \
                         SET tcp_keepalives_count = 3";

/// Takes locks of one namespace.
pub struct Locks {
    namespace: Namespace,
    server: Arc<Server>,
    limit: Duration,
    session: Mutex<Option<Arc<Session>>>,
}

/// A connection that does nothing but hold locks.
struct Session {
    client: Client,
    limit: Duration,
    /// The task that drives the connection; without it the connection is closed.
    driver: AbortHandle,
    /// Its sender is dropped when the connection ends.
    ended: watch::Receiver<()>,
    /// Set as soon as it is to be closed.
    closed: AtomicBool,
}

/// Held until it is released. Merely dropped, it is released a moment later.
pub struct AdvisoryLock {
    session: Arc<Session>,
    /// `None` once it was released.
    key: Option<i64>,
}

impl Locks {
    /// `limit` is for each word with the server.
    pub fn new(namespace: Namespace, server: Arc<Server>, limit: Duration) -> Self {
        Self { namespace, server, limit, session: Mutex::default() }
    }

    /// Takes the lock of that name, if no other session has it.
    pub async fn try_lock(&self, name: &str) -> Result<Option<AdvisoryLock>, Error> {
        let session = self.session().await?;
        let (name, namespace) = (name.to_owned(), self.namespace);
        // Where nobody waits for it any more, the lock is dropped with the task's result.
        let asking = tokio::spawn(async move { session.try_lock(&name, namespace).await });
        asking.await.unwrap_or_else(|error| Err(Error::Unexpected(error.to_string())))
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
                let _until_it_ends = connection.await;
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

    /// Closes the connection now. The server releases its locks as soon as it learns of
    /// that, and it can do nothing else with a connection that is closed.
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
        let answer = timeout(self.limit, self.client.query_typed(sql, parameters)).await;
        let Ok(rows) = answer else { return Err(self.too_slow()) };
        let nothing = || Error::Unexpected("a lock was answered with nothing".into());
        rows?.into_iter().next().ok_or_else(nothing)
    }

    /// What was asked may yet be done, and nobody would know.
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
        let (key, is_ours) = (row.try_get(0)?, row.try_get::<_, bool>(1)?);
        Ok(is_ours.then(|| AdvisoryLock { session: self, key: Some(key) }))
    }

    /// Where that fails the session is closed, and the lock goes with it.
    async fn unlock(&self, key: i64) {
        let sql = "SELECT pg_advisory_unlock($1)";
        if let Err(error) = self.query(sql, &[(&key, Type::INT8)]).await {
            tracing::debug!(%error, "a lock was not given back; its session is closed");
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
    /// Returns when the session has ended: from then on others may hold the lock.
    pub async fn lost(&self) {
        let mut ended = self.session.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Gives it back, also where nobody waits for that to be done.
    pub async fn release(mut self) {
        if let Some(released) = self.begin_release() {
            // It fails only when the process ends, and all connections with it.
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
