//! Why the server cannot be used, or did not do what it was asked for.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;

/// What is wrong with a connection string; the text does not quote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

impl ConfigError {
    pub(super) fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// Why there is no connection, in words for the operator.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub(super) String);

/// Why a statement was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no connection of the pool became free in time")]
    PoolTimeout,
    #[error("{what} took longer than {limit:?}")]
    TooSlow { what: &'static str, limit: Duration },
    /// The server's own refusal, or the end of the connection.
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    /// What the server said is not an answer to what it was asked.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// The server's code, where it is the server that refused.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            _ => None,
        }
    }

    /// The column that the server complains of, where it names one.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Database(error) => error.as_db_error()?.column(),
            _ => None,
        }
    }
}

/// The whole chain of an error, without the details of a database error: those
/// quote rows.
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
