//! Errors: why the server cannot be used, or why a statement failed.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;

/// What is wrong with a connection string. The text does not quote the string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

impl ConfigError {
    pub(super) fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// Why there is no connection, worded for the operator.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub(super) String);

/// Why a statement failed, or why its outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no connection in the pool became free in time")]
    PoolTimeout,
    #[error("{what} took longer than {limit:?}")]
    TooSlow { what: &'static str, limit: Duration },
    #[error(
        "a proxy in between lets connections share the server's sessions, as pgbouncer does with \
         `pool_mode = transaction`, so advisory locks cannot be held; use the address of the \
         server itself, or `pool_mode = session`"
    )]
    Pooled,
    /// The server refused the statement, or the connection ended.
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The server's response does not fit the request.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// Returns the server's error code, if it was the server that refused.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            _ => None,
        }
    }

    /// Returns the column that the server's error names, if any.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Database(error) => error.as_db_error()?.column(),
            _ => None,
        }
    }
}

/// Returns the whole chain of an error as text, without the details of a database error,
/// because those quote rows.
pub(crate) fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", refused.message(), refused.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
