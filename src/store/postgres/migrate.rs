//! Creates what nightporter needs in the database: its own schema, the tables it reads
//! and the triggers on them.
//!
//! Everything is done in one transaction under an advisory lock, so that any
//! number of processes may start at once. Triggers are not part of a migration: a table
//! may be dropped, restored or re-created at any time, so triggers are compared and
//! repaired whenever the link is established and whenever a heartbeat finds one missing.
//! If everything is in place, nothing is locked and no privilege beyond reading is
//! needed.

use std::cmp::Ordering;
use std::time::Duration;

use refinery::{AsyncMigrate, Migration, Runner};
use refinery_core::traits::r#async::{AsyncQuery, AsyncTransaction};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, IsolationLevel, Transaction};
use tracing::warn;

use super::triggers::{FUNCTIONS, Fault, Function, TABLES, Table, inspect};
use crate::postgres::{Parameter, explain};

/// The table that records the applied migrations.
const HISTORY: &str = "nightporter.migrations";
const HAS_HISTORY: &str = "SELECT to_regclass('nightporter.migrations') IS NOT NULL";

/// The key of this module's advisory lock: "nightport" read as a number, cut to 63 bits.
const LOCK: i64 = 0x6e69_6768_7470_6f72;

/// Time limit of a whole run, including the wait for other processes' runs.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How long creating a trigger may wait for the lock of its table. While it waits, all
/// later writers wait too.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";

/// The migrations, in order. A released migration is never changed.
const MIGRATIONS: [(&str, &str); 1] = [("V1__notifications", FUNCTIONS)];

#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("{}", migration_text(.0))]
    Migration(#[from] refinery::Error),
    #[error("table `{0}` is missing; create it, or set `store.create_tables = true`")]
    MissingTable(&'static str),
    #[error(
        "the trigger `{trigger}` on `{table}` {fault}, and re-creating it fails: {}; the owner of \
         the table can run `nightporter migrate`",
        explain(.error)
    )]
    Trigger {
        table: &'static str,
        trigger: &'static str,
        fault: Fault,
        error: tokio_postgres::Error,
    },
    #[error(
        "the function `nightporter.{function}` {fault}, and re-creating it fails: {}; its owner \
         can run `nightporter migrate`",
        explain(.error)
    )]
    Function { function: &'static str, fault: Fault, error: tokio_postgres::Error },
    #[error("not finished within {TIME_LIMIT:?}")]
    TooSlow,
}

/// Returns refinery's text and that of the database error inside it, which refinery leaves
/// out.
fn migration_text(error: &refinery::Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<tokio_postgres::Error>() {
            return format!("{error}: {}", explain(error));
        }
        source = cause.source();
    }
    error.to_string()
}

/// Creates what is missing and returns the names of the migrations that were applied.
pub(super) async fn migrate(
    client: &mut Client,
    create_tables: bool,
) -> Result<Vec<String>, MigrateError> {
    let work = async {
        if is_in_place(client).await? {
            return Ok(Vec::new());
        }
        let mut transaction = client
            .build_transaction()
            // Each statement sees what others committed while it waited for the lock.
            .isolation_level(IsolationLevel::ReadCommitted)
            .start()
            .await?;
        transaction
            .execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])
            .await?;
        transaction.batch_execute(LOCK_TIMEOUT).await?;
        let applied = apply(&mut transaction).await?;
        for table in &TABLES {
            create(&transaction, table, create_tables).await?;
        }
        repair(&transaction).await?;
        transaction.commit().await?;
        Ok(applied)
    };
    timeout(TIME_LIMIT, work).await.unwrap_or(Err(MigrateError::TooSlow))
}

async fn is_in_place(client: &Client) -> Result<bool, tokio_postgres::Error> {
    if !query_bool(client, HAS_HISTORY, &[]).await? {
        return Ok(false);
    }
    Ok(match newest_applied(client).await?.cmp(&newest_known()) {
        Ordering::Less => false,
        Ordering::Equal => {
            Function::faults(client).await?.is_empty() && Table::faults(client).await?.is_empty()
        }
        // The definitions come from a newer process.
        Ordering::Greater => inspect(client).await?.are_complete(),
    })
}

/// Returns the version of the newest migration that this process has.
fn newest_known() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Returns the version of the newest migration that was applied.
async fn newest_applied(client: &impl GenericClient) -> Result<i32, tokio_postgres::Error> {
    let sql = "SELECT coalesce(max(version), 0) FROM nightporter.migrations";
    client.query_typed(sql, &[]).await?.first().map_or(Ok(0), |row| row.try_get(0))
}

/// Runs a query for a boolean; no row counts as `false`.
async fn query_bool(
    client: &impl GenericClient,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<bool, tokio_postgres::Error> {
    let rows = client.query_typed(sql, parameters).await?;
    rows.first().map_or(Ok(false), |row| row.try_get(0))
}

/// Creates the schema, applies the migrations, and repairs the functions. If no
/// migration is to be applied and the functions are in order, no privilege is needed.
async fn apply(transaction: &mut Transaction<'_>) -> Result<Vec<String>, MigrateError> {
    let mut applied = Vec::new();
    if !query_bool(&*transaction, HAS_HISTORY, &[]).await?
        || newest_applied(&*transaction).await? < newest_known()
    {
        applied = apply_migrations(transaction).await?;
    }
    let may_replace = newest_applied(&*transaction).await? <= newest_known();
    let mut faults = Function::faults(&*transaction).await?.into_iter();
    if let Some((function, fault)) =
        faults.find(|(_, fault)| may_replace || fault.is_version_independent())
    {
        let created = transaction.batch_execute(FUNCTIONS).await;
        created.map_err(|error| MigrateError::Function { function, fault, error })?;
        warn!(function, "replaced a function that {fault}");
    }
    Ok(applied)
}

async fn apply_migrations(transaction: &mut Transaction<'_>) -> Result<Vec<String>, MigrateError> {
    // CREATE SCHEMA IF NOT EXISTS would need the privilege even if the schema exists.
    let schema = "SELECT to_regnamespace('nightporter') IS NOT NULL";
    if !query_bool(&*transaction, schema, &[]).await? {
        transaction.batch_execute("CREATE SCHEMA nightporter").await?;
    }
    let migrations = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql))
        .collect::<Result<Vec<_>, _>>()?;
    let report = Runner::new(&migrations)
        // A newer process may have applied migrations that are unknown here: they only add.
        .set_abort_missing(false)
        .set_migration_table_name(HISTORY)
        .run_async(&mut InTransaction(transaction))
        .await?;
    let applied = report.applied_migrations().iter();
    Ok(applied.map(|migration| format!("V{}__{}", migration.version(), migration.name())).collect())
}

/// Creates the table if it is missing and `create_tables` allows it.
async fn create(
    transaction: &Transaction<'_>,
    table: &Table,
    create_tables: bool,
) -> Result<(), MigrateError> {
    let Table { name, columns, .. } = table;
    let exists = "SELECT to_regclass($1) IS NOT NULL";
    if query_bool(transaction, exists, &[(name, Type::TEXT)]).await? {
        return Ok(());
    }
    if !create_tables {
        return Err(MigrateError::MissingTable(name));
    }
    let create = format!("CREATE TABLE IF NOT EXISTS {name} ({columns})");
    Ok(transaction.batch_execute(&create).await?)
}

/// Creates the triggers that are missing and replaces those that differ. The others are
/// not touched, since that would lock their tables.
async fn repair(transaction: &Transaction<'_>) -> Result<(), MigrateError> {
    let may_replace = newest_applied(transaction).await? <= newest_known();
    let faults = Table::faults(transaction).await?.into_iter();
    for (table, trigger, fault) in
        faults.filter(|(.., fault)| may_replace || fault.is_version_independent())
    {
        let created = transaction.batch_execute(&trigger.sql(table.name, fault)).await;
        created.map_err(|error| MigrateError::Trigger {
            table: table.name,
            trigger: trigger.name,
            fault,
            error,
        })?;
        if fault != Fault::Missing {
            warn!(table = table.name, trigger = trigger.name, "replaced a trigger that {fault}");
        }
    }
    Ok(())
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
