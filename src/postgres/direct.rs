//! Whether a connection has a session of the server to itself.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::{Error, Server};

/// Returns which of the server's processes serves a connection.
pub(super) async fn backend(client: &Client) -> Result<i32, Error> {
    let rows = client.query_typed("SELECT pg_backend_pid()", &[]).await?;
    let no_row = || Error::Unexpected("the query for the server's process returned no row".into());
    Ok(rows.first().ok_or_else(no_row)?.try_get(0)?)
}

/// Makes sure that no transaction-pooling proxy is in between, which lets other connections
/// use the session while it is idle. Returns the server's process that serves it.
///
/// A second connection begins a transaction: a pooler would serve it by the idle process of
/// the first, and then serve the first by another one.
pub(crate) async fn ensure_direct(
    server: &Server,
    client: &Client,
    limit: Duration,
) -> Result<i32, Error> {
    let second = server.open().await?;
    let compare = async {
        let before = backend(client).await?;
        second.batch_execute("BEGIN").await?;
        let other = backend(&second).await?;
        // If both have the same process, the first would wait for it.
        if other == before || backend(client).await? != before {
            return Err(Error::Pooled);
        }
        Ok(before)
    };
    let limited = timeout(limit, compare).await;
    limited.unwrap_or(Err(Error::TooSlow { what: "comparing two connections", limit }))
}
