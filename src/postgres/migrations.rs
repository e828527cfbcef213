//! Applies a list of migrations to a schema and records them in a table of that schema.
//!
//! A run is one transaction under an advisory lock of its own, so any number of processes
//! may start at once, and a migration that fails leaves nothing behind. Each statement has
//! a time limit, and so has each wait for a lock: a migration that waits for a table makes
//! all later writers of the table wait as well. Whoever gives up tries again later.
//!
//! During an upgrade, processes of two versions share a database. The older one accepts the
//! migrations that it does not know and leaves them alone; for that, a migration may only
//! add what an older process can ignore.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use refinery::error::Kind;
use refinery::{AsyncMigrate, Migration, Runner};
use refinery_core::traits::r#async::{AsyncQuery, AsyncTransaction};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, IsolationLevel, Transaction};

use super::{ConnectError, Namespace, Server, explain};

/// The locks of all runs: "migratio" read as a number. A lock's name is that of its history
/// table.
const LOCKS: Namespace = Namespace::new(0x6d69_6772_6174_696f);

/// The migrations of one schema. All names must be plain identifiers of SQL.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// The schema; it is created if it is missing.
    pub schema: &'static str,
    /// The table in the schema that records the applied migrations.
    pub history: &'static str,
    /// The name of each migration, as in `V1__notifications`, and its SQL, in order. A
    /// released migration is never changed.
    pub list: &'static [(&'static str, &'static str)],
    pub limits: MigrationLimits,
}

/// The time limits of a run.
#[derive(Debug, Clone, Copy)]
pub struct MigrationLimits {
    /// For each wait for the lock of a table.
    pub lock: Duration,
    /// For each statement.
    pub statement: Duration,
    /// For the whole run, including the wait for other processes' runs.
    pub total: Duration,
}

impl MigrationLimits {
    pub const DEFAULT: Self = Self {
        lock: Duration::from_millis(500),
        statement: Duration::from_secs(30),
        total: Duration::from_secs(60),
    };
}

/// The result of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MigrationReport {
    /// The migrations that this run has applied.
    pub applied: Vec<String>,
    /// The migrations that a newer process has applied and this process does not have.
    pub newer: Vec<String>,
}

/// Why a run failed; nothing of it took effect.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("{}", text_of(.0))]
    Migration(#[from] refinery::Error),
    #[error("`{history}` lacks the migration {missing}, but has the later {newest}")]
    Gap { history: String, missing: String, newest: String },
    #[error("not finished within {0:?}")]
    TooSlow(Duration),
}

/// Returns refinery's text and that of the database error inside it, which refinery leaves
/// out.
fn text_of(error: &refinery::Error) -> String {
    match error.kind() {
        Kind::Connection(what, source) => match source.downcast_ref() {
            Some(source) => format!("{what}: {}", explain(source)),
            None => format!("{what}: {source}"),
        },
        Kind::DivergentVersion(applied, _) => format!(
            "the migration {applied} that was applied to this database is not the one of this \
             version"
        ),
        _ => error.to_string(),
    }
}

/// What a history table says, compared with the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Migrations that are to be applied.
    pub(crate) pending: Vec<String>,
    /// See [`MigrationReport::newer`].
    pub(crate) newer: Vec<String>,
}

/// A run whose migrations are applied and not committed yet. The caller may use the
/// transaction for more work under the same lock.
#[must_use]
pub(crate) struct Run<'a> {
    pub(crate) transaction: Transaction<'a>,
    pub(crate) report: MigrationReport,
}

impl Run<'_> {
    pub(crate) async fn commit(self) -> Result<MigrationReport, tokio_postgres::Error> {
        self.transaction.commit().await?;
        Ok(self.report)
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Migrations {
    /// Applies what is missing, on a connection of its own. If nothing is missing, nothing
    /// is locked, and no privilege beyond reading the history is needed.
    pub async fn run(&self, server: &Server) -> Result<MigrationReport, MigrationError> {
        let work = async {
            let mut client = server.open().await?;
            let Status { pending, newer } = self.status(&client).await?;
            if pending.is_empty() {
                return Ok(MigrationReport { applied: Vec::new(), newer });
            }
            Ok(self.begin(&mut client).await?.commit().await?)
        };
        self.within_total(work).await
    }

    /// Runs `work` within the time limit of a whole run.
    pub(crate) async fn within_total<T, E: From<MigrationError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let limit = self.limits.total;
        let done = timeout(limit, work).await;
        done.unwrap_or_else(|_| Err(MigrationError::TooSlow(limit).into()))
    }

    /// Begins a transaction, waits for the lock, and applies what is missing.
    pub(crate) async fn begin<'a>(
        &self,
        client: &'a mut Client,
    ) -> Result<Run<'a>, MigrationError> {
        let MigrationLimits { lock, statement, total } = self.limits;
        let mut transaction = client
            .build_transaction()
            // Each statement sees what others committed while it waited for the lock.
            .isolation_level(IsolationLevel::ReadCommitted)
            .start()
            .await?;
        set_limits(&transaction, Duration::ZERO, total).await?;
        LOCKS.lock_until_end(&transaction, &self.history_table()).await?;
        set_limits(&transaction, lock, statement).await?;
        let Status { pending, newer } = self.status(&transaction).await?;
        let mut report = MigrationReport { applied: Vec::new(), newer };
        if !pending.is_empty() {
            report.applied = self.apply(&mut transaction).await?;
        }
        Ok(Run { transaction, report })
    }

    /// Compares the history with the list.
    pub(crate) async fn status(
        &self,
        client: &impl GenericClient,
    ) -> Result<Status, MigrationError> {
        let applied = self.applied(client).await?;
        let newest = applied.last();
        let known = self.known()?;
        let is_known = |version| known.iter().any(|migration| migration.version() == version);
        let newest_known = known.iter().map(Migration::version).max();
        let mut status = Status::default();
        for (version, name) in &applied {
            if !is_known(*version) && Some(*version) > newest_known {
                status.newer.push(name.clone());
            }
        }
        for migration in &known {
            if applied.iter().any(|(version, _)| *version == migration.version()) {
                continue;
            }
            if let Some((version, newest)) = newest
                && *version > migration.version()
            {
                return Err(MigrationError::Gap {
                    history: self.history_table(),
                    missing: migration.to_string(),
                    newest: newest.clone(),
                });
            }
            status.pending.push(migration.to_string());
        }
        Ok(status)
    }

    /// Returns the versions and names of the applied migrations, in order.
    async fn applied(
        &self,
        client: &impl GenericClient,
    ) -> Result<Vec<(i32, String)>, tokio_postgres::Error> {
        let history = self.history_table();
        if !exists(client, "SELECT to_regclass($1) IS NOT NULL", &history).await? {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT version, name FROM {history} ORDER BY version");
        let rows = client.query_typed(&sql, &[]).await?;
        let row = |row: &tokio_postgres::Row| {
            let (version, name): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
            Ok((version, format!("V{version}__{name}")))
        };
        rows.iter().map(row).collect()
    }

    async fn apply(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<String>, MigrationError> {
        let Self { schema, .. } = self;
        // CREATE SCHEMA IF NOT EXISTS would need the privilege even if the schema exists.
        if !exists(&*transaction, "SELECT to_regnamespace($1) IS NOT NULL", schema).await? {
            transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
        }
        let mut runner = Runner::new(&self.known()?)
            // A newer process may have applied migrations that are unknown here.
            .set_abort_missing(false);
        runner.set_migration_table_name(self.history_table());
        let report = runner.run_async(&mut InTransaction(transaction)).await?;
        Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
    }

    fn known(&self) -> Result<Vec<Migration>, refinery::Error> {
        self.list.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect()
    }

    fn history_table(&self) -> String {
        let Self { schema, history, .. } = self;
        format!("{schema}.{history}")
    }
}

/// Sets the limits of a transaction's further statements; zero means no limit.
async fn set_limits(
    transaction: &Transaction<'_>,
    lock: Duration,
    statement: Duration,
) -> Result<(), tokio_postgres::Error> {
    let (lock, statement) = (lock.as_millis(), statement.as_millis());
    let sql = format!("SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {statement}");
    transaction.batch_execute(&sql).await
}

/// Runs a query for a boolean about a name.
async fn exists(
    client: &impl GenericClient,
    sql: &str,
    name: &str,
) -> Result<bool, tokio_postgres::Error> {
    let rows = client.query_typed(sql, &[(&name, Type::TEXT)]).await?;
    rows.first().map_or(Ok(false), |row| row.try_get(0))
}

/// Makes refinery use a transaction that is already open. Otherwise it would
/// begin its own, which the lock would not cover.
struct InTransaction<'a, 'b>(&'a Transaction<'b>);

impl AsyncTransaction for InTransaction<'_, '_> {
    type Error = tokio_postgres::Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Self::Error> {
        let mut count = 0;
        for query in queries {
            self.0.batch_execute(query).await?;
            count += 1;
        }
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for InTransaction<'_, '_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Self::Error> {
        let rows = self.0.query_typed(query, &[]).await?;
        rows.iter()
            .map(|row| {
                let (version, name) = (row.try_get("version")?, row.try_get("name")?);
                let applied_on: &str = row.try_get("applied_on")?;
                let checksum: &str = row.try_get("checksum")?;
                // An invalid checksum becomes one that differs, which refinery reports.
                let applied_on = OffsetDateTime::parse(applied_on, &Rfc3339)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH);
                let checksum = checksum.parse().unwrap_or_default();
                Ok(Migration::applied(version, name, applied_on, checksum))
            })
            .collect()
    }
}

impl AsyncMigrate for InTransaction<'_, '_> {}
