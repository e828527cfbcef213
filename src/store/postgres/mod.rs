//! The box's truth in Postgres, in the tables of FreeShard's core.
//!
//! Reads and writes go through [`pool`], each under a time limit; changes come
//! in over [`listen`]; [`migrate`] puts in place what both need. No error here
//! ends the process, and no text here quotes a password, a secret or a row.

mod listen;
mod migrate;
mod pool;
mod problems;
mod queries;
mod server;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use self::pool::Pool;
use self::problems::Problems;
use self::server::Server;
use super::{Freshness, Health, Unavailable};
use crate::config;

/// A store in a Postgres database.
#[derive(Debug)]
pub struct Postgres {
    server: Arc<Server>,
    pool: Pool,
    freshness: Arc<Freshness>,
    problems: Problems,
    create_tables: bool,
    query_timeout: Duration,
    zone: String,
    prefix_length: usize,
    last_access_every: Duration,
}

/// Why `store.url` cannot be used; the text does not quote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostgresConfigError(String);

impl PostgresConfigError {
    fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

impl Postgres {
    /// Reads the connection string; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the connection string, for the operator.
    pub fn new(
        config: &config::Postgres,
        store: &config::Store,
        touch: &config::Touch,
        freshness: Arc<Freshness>,
    ) -> Result<Self, PostgresConfigError> {
        let url = config.url.expose();
        let server = Server::parse(url, config.connect_timeout, config.query_timeout)?;
        let server = Arc::new(server);
        Ok(Self {
            pool: Pool::new(config, Arc::clone(&server)),
            server,
            freshness,
            problems: Problems::default(),
            create_tables: config.create_tables,
            query_timeout: config.query_timeout,
            zone: store.zone.clone(),
            prefix_length: store.prefix_length,
            last_access_every: touch.last_access_every,
        })
    }

    /// Prepares the database now and names the migrations that were applied.
    ///
    /// # Errors
    /// What could not be done, for the operator.
    pub async fn migrate(&self) -> Result<Vec<String>, Unavailable> {
        let connect = async |config: tokio_postgres::Config, tls| {
            let (client, connection) = config.connect(tls).await?;
            tokio::spawn(connection);
            Ok(client)
        };
        let mut client = self.server.connect(connect).await.map_err(Unavailable::new)?;
        migrate::migrate(&mut client, self.create_tables).await.map_err(Unavailable::new)
    }

    pub fn health(&self) -> Health {
        Health { pool: Some(self.pool.size()), problems: self.problems.list() }
    }
}

/// Random bytes in hex.
fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    // aws-lc aborts the process rather than give bytes that are not random.
    let _never_fails = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
