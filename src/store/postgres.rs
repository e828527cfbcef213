//! The box's authoritative data in Postgres, in the tables of FreeShard's core.
//!
//! [`queries`] has the statements on those tables, [`listen`] receives their changes, and
//! [`migrate`] creates what both need. [`crate::postgres`] connects to the server.

mod invitations;
mod listen;
mod migrate;
mod queries;
mod triggers;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::listen::fuzz_payload;
use self::migrate::PrepareError;
use super::{Freshness, Health, Unavailable};
use crate::config;
use crate::postgres::{ConfigError, Locks, MigrationReport, Namespace, Pool, Problems, Server};

/// Separates the locks of apps from other programs' locks in the same database: "nightport"
/// read as a number, cut to 63 bits.
const APP_LOCKS: Namespace = Namespace::new(0x6e69_6768_7470_6f72);

/// The kinds of problem of the store: what the problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ProblemKind {
    Link,
    Identity,
    Peers,
    TerminalSecret,
    ManagementSecret,
    Status,
}

/// A store in a Postgres database.
#[derive(Debug)]
pub struct Postgres {
    server: Arc<Server>,
    pool: Pool,
    locks: Locks,
    freshness: Arc<Freshness>,
    problems: Problems<ProblemKind>,
    create_tables: bool,
    /// How many migrations a newer process has applied, when that was last looked at.
    newer: AtomicUsize,
    query_timeout: Duration,
    zone: String,
    prefix_length: usize,
    last_access_every: Duration,
}

impl Postgres {
    /// Parses the connection string; does not connect yet.
    ///
    /// # Errors
    /// What is wrong with the connection string, worded for the operator.
    pub fn new(
        config: &config::Postgres,
        store: &config::Store,
        touch: &config::Touch,
        freshness: Arc<Freshness>,
    ) -> Result<Self, ConfigError> {
        let url = config.url.expose();
        let server = Server::parse(url, config.connect_timeout, config.query_timeout)?;
        let server = Arc::new(server);
        Ok(Self {
            pool: Pool::new(config, Arc::clone(&server)),
            locks: Locks::new(APP_LOCKS, Arc::clone(&server), config.query_timeout),
            server,
            freshness,
            problems: Problems::default(),
            create_tables: config.create_tables,
            newer: AtomicUsize::new(0),
            query_timeout: config.query_timeout,
            zone: store.zone.clone(),
            prefix_length: store.prefix_length,
            last_access_every: touch.last_access_every,
        })
    }

    /// Prepares the database now, on a connection of its own.
    ///
    /// # Errors
    /// What failed, worded for the operator.
    pub async fn migrate(&self) -> Result<MigrationReport, Unavailable> {
        self.prepare().await.map_err(Unavailable::new)
    }

    async fn prepare(&self) -> Result<MigrationReport, PrepareError> {
        migrate::prepare(&self.server, self.create_tables).await
    }

    pub fn health(&self) -> Health {
        Health { pool: Some(self.pool.size()), problems: self.problems.list() }
    }
}

/// Returns 128 random bits as hexadecimal text.
fn random_number() -> String {
    let mut bytes = [0; 16];
    // aws-lc aborts the process rather than return bytes that are not random.
    let _never_fails = aws_lc_rs::rand::fill(&mut bytes);
    format!("{:032x}", u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `check` subcommand does so.
    #[test]
    fn a_store_can_be_made_without_a_runtime_and_a_server() {
        let second = Duration::from_secs(1);
        let config = config::Postgres {
            url: config::Secret::new("postgres://nobody@nowhere.invalid/box"),
            pool_size: 4,
            pool_timeout: second,
            connect_timeout: second,
            query_timeout: second,
            create_tables: true,
        };
        let store = config::Store {
            kind: config::StoreKind::Postgres(config.clone()),
            labels: false,
            installed_apps_dir: "/nowhere".into(),
            zone: "box.example".into(),
            prefix_length: 6,
        };
        let touch = config::Touch { flush_interval: second, last_access_every: second };
        let freshness = Arc::new(Freshness::new(config::Cache {
            capacity: 1,
            ttl: second,
            degraded_ttl: second,
            max_stale: second,
            heartbeat: second,
        }));
        let store = Postgres::new(&config, &store, &touch, freshness).expect("valid");
        assert_eq!(store.health().pool, Some((0, 0)));
    }
}
