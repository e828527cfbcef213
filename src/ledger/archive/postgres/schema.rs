//! The archive's schema: its migrations, and when they are applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tracing::info;

use super::super::ArchiveError;
use super::isolation::WithMigrations;
use crate::postgres::{MigrationError, MigrationLimits, MigrationReport, Migrations, Server};

const MIGRATIONS: Migrations = Migrations {
    schema: "nightporter_ledger",
    history: "migrations",
    list: &[
        ("V1__ledger", include_str!("V1__ledger.sql")),
        ("V2__alerts", include_str!("V2__alerts.sql")),
        ("V3__webhooks", include_str!("V3__webhooks.sql")),
        ("V4__idempotency", include_str!("V4__idempotency.sql")),
        ("V5__ledger_additions", include_str!("V5__ledger_additions.sql")),
        ("V6__access", include_str!("V6__access.sql")),
        ("V7__alert_counts", include_str!("V7__alert_counts.sql")),
        ("V9__unplaced_by_time", include_str!("V9__unplaced_by_time.sql")),
    ],
    limits: MigrationLimits::DEFAULT,
};

/// Brings the schema up to date once, for all who need it.
#[derive(Debug)]
pub(super) struct Schema {
    server: Arc<Server>,
    is_ready: AtomicBool,
    last: Mutex<Option<Attempt>>,
}

#[derive(Debug)]
struct Attempt {
    ended: Instant,
    result: Result<(), ArchiveError>,
}

impl Schema {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, is_ready: AtomicBool::new(false), last: Mutex::default() }
    }

    /// Returns when the schema is there. What was found is relied on until [`Self::doubt`].
    pub(super) async fn ready(&self) -> Result<(), ArchiveError> {
        if self.is_ready.load(Ordering::Acquire) { Ok(()) } else { self.prepare().await }
    }

    /// Has the schema looked at again before it is next used: it may have been dropped.
    pub(super) fn doubt(&self) {
        self.is_ready.store(false, Ordering::Release);
    }

    /// Applies what is missing. All who wait for the same attempt share its result, so that
    /// a server that is away costs them one time limit and not one each.
    pub(super) async fn prepare(&self) -> Result<(), ArchiveError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(attempt) = last.as_ref().filter(|attempt| attempt.ended >= asked) {
            return attempt.result.clone();
        }
        let result = self.apply().await;
        self.is_ready.store(result.is_ok(), Ordering::Release);
        *last = Some(Attempt { ended: Instant::now(), result: result.clone() });
        result
    }

    async fn apply(&self) -> Result<(), ArchiveError> {
        for applied in self.migrate(false).await?.applied {
            info!(migration = applied, "migration applied to the ledger");
        }
        Ok(())
    }

    /// Applies what is missing; with `repair` also what is missing of the role and the
    /// policies that keep tenants apart.
    pub(super) async fn migrate(&self, repair: bool) -> Result<MigrationReport, ArchiveError> {
        let repeatable = WithMigrations { repair };
        MIGRATIONS.run(&self.server, &repeatable).await.map_err(|error| {
            let remedy = if is_denied(&error) {
                "; the role needs the privilege CREATE on the database, or a schema \
                 `nightporter_ledger` of its own (`CREATE SCHEMA nightporter_ledger \
                 AUTHORIZATION ...`)"
            } else {
                ""
            };
            ArchiveError::Unavailable(
                format!("preparing the ledger's schema: {error}{remedy}").into(),
            )
        })
    }
}

fn is_denied(error: &MigrationError) -> bool {
    let refused = match error {
        MigrationError::Database(error) => Some(error),
        MigrationError::Migration(error) => std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<tokio_postgres::Error>()),
        _ => None,
    };
    refused.and_then(tokio_postgres::Error::code) == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}
