//! Advisory locks of apps, so that several processes on one box do one thing at a time.
//!
//! All are held by one session of their own: a pool's connections would be gone for as
//! long as containers take to start. The session must reach the server itself; behind a
//! proxy that hands out servers by transaction a lock would be some other session's, and
//! there no notification arrives either, which the link tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::super::Unavailable;
use super::pool::Parameter;
use super::server::{Server, explain};

/// Keeps the locks of apps apart from those of others in one database: "nightport"
/// read as a number, cut to 63 bits.
const SEED: i64 = 0x6e69_6768_7470_6f72;

pub(super) struct Locks {
    server: Arc<Server>,
    limit: Duration,
    session: Mutex<Option<Arc<Client>>>,
}

/// Held until it is released. Merely dropped, it is released a moment later.
pub struct AdvisoryLock {
    session: Arc<Client>,
    /// `None` once it was released.
    key: Option<i64>,
    limit: Duration,
}

impl Locks {
    pub(super) fn new(server: Arc<Server>, limit: Duration) -> Self {
        Self { server, limit, session: Mutex::default() }
    }

    /// Takes the lock of an app, if no other session has it.
    pub(super) async fn try_lock(&self, app: &str) -> Result<Option<AdvisoryLock>, Unavailable> {
        let sql = "SELECT key, pg_try_advisory_lock(key) FROM hashtextextended($1, $2) AS key";
        let session = self.session().await?;
        let parameters: &[Parameter<'_>] = &[(&app, Type::TEXT), (&SEED, Type::INT8)];
        let answer = timeout(self.limit, session.query_typed(sql, parameters)).await;
        let Ok(answer) = answer else {
            // Whatever it answers later belongs to another question. By now others may
            // have a session that does answer.
            let mut current = self.session.lock().await;
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &session)) {
                *current = None;
            }
            return Err(Unavailable::new("an advisory lock took too long"));
        };
        let rows = answer.map_err(|error| Unavailable::new(explain(&error)))?;
        let row =
            rows.first().ok_or_else(|| Unavailable::new("a lock was answered with nothing"))?;
        let read = |error: tokio_postgres::Error| Unavailable::new(explain(&error));
        let key = row.try_get(0).map_err(read)?;
        let is_ours: bool = row.try_get(1).map_err(read)?;
        Ok(is_ours.then_some(AdvisoryLock { session, key: Some(key), limit: self.limit }))
    }

    async fn session(&self) -> Result<Arc<Client>, Unavailable> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| !session.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let connect = async |config: tokio_postgres::Config, tls| {
            let (client, connection) = config.connect(tls).await?;
            tokio::spawn(connection);
            Ok(client)
        };
        let client = Arc::new(self.server.connect(connect).await.map_err(Unavailable::new)?);
        *session = Some(Arc::clone(&client));
        Ok(client)
    }
}

impl AdvisoryLock {
    pub async fn release(mut self) {
        if let Some(key) = self.key.take() {
            unlock(&self.session, key, self.limit).await;
        }
    }
}

impl Drop for AdvisoryLock {
    fn drop(&mut self) {
        if let Some(key) = self.key.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (session, limit) = (Arc::clone(&self.session), self.limit);
            runtime.spawn(async move { unlock(&session, key, limit).await });
        }
    }
}

/// Where it fails the session is gone, and the lock with it.
async fn unlock(session: &Client, key: i64, limit: Duration) {
    let parameters: &[Parameter<'_>] = &[(&key, Type::INT8)];
    let unlocked = session.query_typed("SELECT pg_advisory_unlock($1)", parameters);
    if !matches!(timeout(limit, unlocked).await, Ok(Ok(_))) {
        tracing::debug!("a lock was not given back; its session is gone");
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").finish_non_exhaustive()
    }
}

impl fmt::Debug for AdvisoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdvisoryLock").field("key", &self.key).finish_non_exhaustive()
    }
}
