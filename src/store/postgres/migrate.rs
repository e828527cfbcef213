//! What nightporter needs in the database: its own schema, the tables it reads
//! and the triggers on them.
//!
//! Everything is done in one transaction under an advisory lock, so that any
//! number of processes may start at once. Triggers are no migration: a table
//! may be dropped, restored or recreated at any time, so they are compared and
//! put back whenever the link is made and whenever a heartbeat misses one.
//! Where all is in place nothing is locked and no privilege beyond reading is
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

/// Where migrations that were applied are remembered.
const HISTORY: &str = "nightporter.migrations";
const HAS_HISTORY: &str = "SELECT to_regclass('nightporter.migrations') IS NOT NULL";

/// Names the advisory lock of this module: "nightport" read as a number, cut to 63 bits.
const LOCK: i64 = 0x6e69_6768_7470_6f72;

/// How long a whole run may take, other processes' before it included.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How long a trigger may wait for its table. While it waits, so do all
/// writers that come after it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";

/// Migrations, first to last. One that was released is never changed.
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
        "the trigger `{trigger}` on `{table}` {fault}, and making it anew fails: {}; its owner can \
         run `nightporter migrate`",
        explain(.error)
    )]
    Trigger {
        table: &'static str,
        trigger: &'static str,
        fault: Fault,
        error: tokio_postgres::Error,
    },
    #[error(
        "the function `nightporter.{function}` {fault}, and making it anew fails: {}; its owner \
         can run `nightporter migrate`",
        explain(.error)
    )]
    Function { function: &'static str, fault: Fault, error: tokio_postgres::Error },
    #[error("not done within {TIME_LIMIT:?}")]
    TooSlow,
}

/// refinery's text and the database's own, which it only carries along.
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

/// Puts in place what is missing and names the migrations that were applied.
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
    if !is_so(client, HAS_HISTORY, &[]).await? {
        return Ok(false);
    }
    Ok(match newest(client).await?.cmp(&wanted()) {
        Ordering::Less => false,
        Ordering::Equal => {
            Function::faults(client).await?.is_empty() && Table::faults(client).await?.is_empty()
        }
        // The definitions are a newer process's.
        Ordering::Greater => inspect(client).await?.are_complete(),
    })
}

fn wanted() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// The newest migration that was applied.
async fn newest(client: &impl GenericClient) -> Result<i32, tokio_postgres::Error> {
    let sql = "SELECT coalesce(max(version), 0) FROM nightporter.migrations";
    client.query_typed(sql, &[]).await?.first().map_or(Ok(0), |row| row.try_get(0))
}

/// The answer to a question of yes or no.
async fn is_so(
    client: &impl GenericClient,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<bool, tokio_postgres::Error> {
    let rows = client.query_typed(sql, parameters).await?;
    rows.first().map_or(Ok(false), |row| row.try_get(0))
}

/// The schema, the migrations in it, and the functions should they be gone. Where no
/// migration is to be applied nothing of that needs a privilege.
async fn apply(transaction: &mut Transaction<'_>) -> Result<Vec<String>, MigrateError> {
    let mut applied = Vec::new();
    if !is_so(&*transaction, HAS_HISTORY, &[]).await? || newest(&*transaction).await? < wanted() {
        applied = apply_migrations(transaction).await?;
    }
    let is_ours = newest(&*transaction).await? <= wanted();
    let mut faults = Function::faults(&*transaction).await?.into_iter();
    if let Some((function, fault)) = faults.find(|(_, fault)| is_ours || fault.is_plain()) {
        let made = transaction.batch_execute(FUNCTIONS).await;
        made.map_err(|error| MigrateError::Function { function, fault, error })?;
        warn!(function, "a function that {fault} is made anew");
    }
    Ok(applied)
}

async fn apply_migrations(transaction: &mut Transaction<'_>) -> Result<Vec<String>, MigrateError> {
    // CREATE SCHEMA IF NOT EXISTS would need the privilege even where it exists.
    let schema = "SELECT to_regnamespace('nightporter') IS NOT NULL";
    if !is_so(&*transaction, schema, &[]).await? {
        transaction.batch_execute("CREATE SCHEMA nightporter").await?;
    }
    let migrations = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql))
        .collect::<Result<Vec<_>, _>>()?;
    let report = Runner::new(&migrations)
        // A newer process may have been here: its migrations only add.
        .set_abort_missing(false)
        .set_migration_table_name(HISTORY)
        .run_async(&mut Within(transaction))
        .await?;
    let applied = report.applied_migrations().iter();
    Ok(applied.map(|migration| format!("V{}__{}", migration.version(), migration.name())).collect())
}

/// Makes the table where it is missing and that is allowed.
async fn create(
    transaction: &Transaction<'_>,
    table: &Table,
    create_tables: bool,
) -> Result<(), MigrateError> {
    let Table { name, columns, .. } = table;
    let there = "SELECT to_regclass($1) IS NOT NULL";
    if is_so(transaction, there, &[(name, Type::TEXT)]).await? {
        return Ok(());
    }
    if !create_tables {
        return Err(MigrateError::MissingTable(name));
    }
    let create = format!("CREATE TABLE IF NOT EXISTS {name} ({columns})");
    Ok(transaction.batch_execute(&create).await?)
}

/// Makes anew what is missing or is not as it has to be; what is in order is not
/// touched, since that would lock its table.
async fn repair(transaction: &Transaction<'_>) -> Result<(), MigrateError> {
    let is_ours = newest(transaction).await? <= wanted();
    let faults = Table::faults(transaction).await?.into_iter();
    for (table, trigger, fault) in faults.filter(|(.., fault)| is_ours || fault.is_plain()) {
        let made = transaction.batch_execute(&trigger.sql(table.name, fault)).await;
        made.map_err(|error| MigrateError::Trigger {
            table: table.name,
            trigger: trigger.name,
            fault,
            error,
        })?;
        if fault != Fault::Missing {
            warn!(
                table = table.name,
                trigger = trigger.name,
                "a trigger that {fault} is made anew"
            );
        }
    }
    Ok(())
}

/// Lets refinery work within a transaction that is already open: it would
/// begin its own, and the lock would not cover it.
struct Within<'a, 'b>(&'a Transaction<'b>);

impl AsyncTransaction for Within<'_, '_> {
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

impl AsyncQuery<Vec<Migration>> for Within<'_, '_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Self::Error> {
        let rows = self.0.query_typed(query, &[]).await?;
        rows.iter()
            .map(|row| {
                let (version, name) = (row.try_get("version")?, row.try_get("name")?);
                let applied_on: &str = row.try_get("applied_on")?;
                let checksum: &str = row.try_get("checksum")?;
                // Garbage becomes a checksum that differs, which refinery reports.
                let applied_on = OffsetDateTime::parse(applied_on, &Rfc3339)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH);
                let checksum = checksum.parse().unwrap_or_default();
                Ok(Migration::applied(version, name, applied_on, checksum))
            })
            .collect()
    }
}

impl AsyncMigrate for Within<'_, '_> {}
