//! Access to a Postgres server: [`Server`] holds the address and how to connect (TLS
//! included), a [`Pool`] runs queries and transactions, each statement under a time limit,
//! [`Locks`] takes advisory locks for a session, [`Migrations`] brings a schema up to date, and
//! [`Problems`] lists the current problems.
//!
//! This module knows no table. Each user of it has its own pool and locks, so that slow
//! queries of one take no connection from another. No error here ends the process, and no
//! text here quotes a password, a secret or a row.

mod direct;
mod error;
mod locks;
mod migrations;
mod notifications;
mod pool;
mod problems;
mod server;
mod tls;

use tokio_postgres::types::{ToSql, Type};

pub(crate) use self::direct::ensure_direct;
pub(crate) use self::error::explain;
pub use self::error::{ConfigError, ConnectError, Error};
pub use self::locks::{AdvisoryLock, Locks, Namespace};
pub(crate) use self::migrations::Status;
pub use self::migrations::{
    MigrationError, MigrationLimits, MigrationReport, Migrations, Repeatable,
};
pub(crate) use self::notifications::notifications;
pub use self::pool::{Access, AssumedRole, Pool, PoolLimits, Transaction};
pub(crate) use self::problems::Problems;
pub use self::server::Server;

/// A parameter with its type, which saves the round trip of asking the server for it.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);
