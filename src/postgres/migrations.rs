//! Applies a list of migrations to a schema and records them in a table of that schema.
//!
//! A run is one transaction under an advisory lock of its own, so any number of processes
//! may start at once, and a migration that fails leaves nothing behind. Each statement has
//! a time limit, and so has each wait for a lock: a migration that waits for a table makes
//! all later writers of the table wait as well. A run that gives up tries again later.
//!
//! During an upgrade, processes of two versions share a database. The older one accepts the
//! migrations that it does not know and leaves them alone; for that, a migration may only
//! add what an older process can ignore.

use std::future::Future;
use std::time::Duration;

use refinery_core::error::Kind;
use refinery_core::traits::r#async::{AsyncQuery, AsyncTransaction};
use refinery_core::{AsyncMigrate, Migration, Runner};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, IsolationLevel, Row, Transaction};

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
    Migration(#[from] refinery_core::Error),
    #[error("`{history}` lacks the migration {missing}, but has the later {newest}")]
    Gap { history: String, missing: String, newest: String },
    #[error("the migration {applied} in `{history}` is not the one of this version")]
    Divergent { history: String, applied: String },
    #[error("not finished within {0:?}")]
    TooSlow(Duration),
}

/// Returns refinery's text and that of the database error inside it, which refinery leaves
/// out.
fn text_of(error: &refinery_core::Error) -> String {
    match error.kind() {
        Kind::Connection(what, source) => match source.downcast_ref() {
            Some(source) => format!("{what}: {}", explain(source)),
            None => format!("{what}: {source}"),
        },
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

/// A repeatable migration: definitions that a run puts in place again if they differ, in the
/// transaction of the versioned migrations and under their lock. `newer` is that of the
/// [report](MigrationReport).
pub trait Repeatable: Sync {
    type Error: From<MigrationError>;

    /// Returns whether there is nothing to do; only reads. The migrations are applied.
    fn is_in_place(
        &self,
        client: &Client,
        newer: &[String],
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    fn put_in_place(
        &self,
        transaction: &Transaction<'_>,
        newer: &[String],
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Migrations without anything else.
impl Repeatable for () {
    type Error = MigrationError;

    async fn is_in_place(&self, _: &Client, _: &[String]) -> Result<bool, MigrationError> {
        Ok(true)
    }

    async fn put_in_place(&self, _: &Transaction<'_>, _: &[String]) -> Result<(), MigrationError> {
        Ok(())
    }
}

/// A run whose migrations are applied and not committed yet.
struct Run<'a> {
    transaction: Transaction<'a>,
    report: MigrationReport,
}

impl Migrations {
    /// Applies what is missing, on a connection of its own, and puts `repeatable` in place. If
    /// nothing is missing, nothing is locked, and no privilege beyond reading is needed.
    pub async fn run<C: Repeatable>(
        &self,
        server: &Server,
        repeatable: &C,
    ) -> Result<MigrationReport, C::Error> {
        let work = async {
            let mut client = server.open().await.map_err(MigrationError::from)?;
            let Status { pending, newer } = self.status(&client).await?;
            if pending.is_empty() && repeatable.is_in_place(&client, &newer).await? {
                return Ok(MigrationReport { applied: Vec::new(), newer });
            }
            let Run { transaction, report } = self.begin(&mut client).await?;
            repeatable.put_in_place(&transaction, &report.newer).await?;
            transaction.commit().await.map_err(MigrationError::from)?;
            Ok(report)
        };
        let limit = self.limits.total;
        let done = timeout(limit, work).await;
        done.unwrap_or_else(|_| Err(MigrationError::TooSlow(limit).into()))
    }

    /// Begins a transaction, waits for the lock, and applies what is missing.
    async fn begin<'a>(&self, client: &'a mut Client) -> Result<Run<'a>, MigrationError> {
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

    /// Compares the history with the list. A migration that was applied must be the one of
    /// this version: a database that is not what it seems is to be told of at once, not only
    /// when there is something to apply.
    pub(crate) async fn status(
        &self,
        client: &impl GenericClient,
    ) -> Result<Status, MigrationError> {
        let applied = self.applied(client).await?;
        let newest = applied.last();
        let known = self.known()?;
        let newest_known = known.iter().max();
        let mut status = Status::default();
        for migration in &applied {
            if Some(migration) > newest_known {
                status.newer.push(migration.to_string());
            }
        }
        for migration in &known {
            if let Some(applied) = applied.iter().find(|one| one.version() == migration.version()) {
                // By name and checksum.
                if applied != migration {
                    return Err(MigrationError::Divergent {
                        history: self.history_table(),
                        applied: applied.to_string(),
                    });
                }
                continue;
            }
            if let Some(newest) = newest.filter(|newest| *newest > migration) {
                return Err(MigrationError::Gap {
                    history: self.history_table(),
                    missing: migration.to_string(),
                    newest: newest.to_string(),
                });
            }
            status.pending.push(migration.to_string());
        }
        Ok(status)
    }

    /// Returns the applied migrations, in order.
    async fn applied(
        &self,
        client: &impl GenericClient,
    ) -> Result<Vec<Migration>, tokio_postgres::Error> {
        let history = self.history_table();
        if !exists(client, "SELECT to_regclass($1) IS NOT NULL", &history).await? {
            return Ok(Vec::new());
        }
        let sql =
            format!("SELECT version, name, applied_on, checksum FROM {history} ORDER BY version");
        client.query_typed(&sql, &[]).await?.iter().map(from_row).collect()
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

    fn known(&self) -> Result<Vec<Migration>, refinery_core::Error> {
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

/// Reads a row of a history table.
fn from_row(row: &Row) -> Result<Migration, tokio_postgres::Error> {
    let (version, name) = (row.try_get("version")?, row.try_get("name")?);
    let (applied_on, checksum): (&str, &str) =
        (row.try_get("applied_on")?, row.try_get("checksum")?);
    let applied_on =
        OffsetDateTime::parse(applied_on, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // An invalid checksum becomes one that differs.
    let checksum = checksum.parse().unwrap_or_default();
    Ok(Migration::applied(version, name, applied_on, checksum))
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
        self.0.query_typed(query, &[]).await?.iter().map(from_row).collect()
    }
}

impl AsyncMigrate for InTransaction<'_, '_> {}
