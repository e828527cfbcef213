//! A Postgres server, and what whoever keeps something in it needs: [`Server`] is where
//! it is and how to connect (TLS too), a [`Pool`] answers queries and runs transactions,
//! each statement under a time limit, [`Locks`] keeps processes apart, [`Problems`] says
//! what is wrong now.
//!
//! It knows no table. Each user has a pool and locks of its own: what is slow for one
//! takes no connection from another. No error here ends the process, and no text here
//! quotes a password, a secret or a row.

mod error;
mod locks;
mod pool;
mod problems;
mod server;
mod tls;

use tokio_postgres::types::{ToSql, Type};

pub(crate) use self::error::explain;
pub use self::error::{ConfigError, ConnectError, Error};
pub use self::locks::{AdvisoryLock, Locks, Namespace};
pub use self::pool::{Pool, Transaction};
pub(crate) use self::problems::Problems;
pub use self::server::Server;

/// A parameter with its type: no round trip is spent on asking the server.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);
