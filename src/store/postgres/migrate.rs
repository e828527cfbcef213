//! Creates what nightporter needs in the database: its own schema, the tables it reads
//! and the triggers on them.
//!
//! Everything is done in the transaction of the [migrations](Migrations), under their lock,
//! on a connection of its own. Triggers are not part of a migration: a table may be dropped,
//! restored or re-created at any time, so triggers are compared whenever the link is
//! established and whenever a heartbeat finds one missing, and are repaired if they differ.
//! If everything is in place, nothing is locked and no privilege beyond reading is needed.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};
use tracing::warn;

use super::triggers::{FUNCTIONS, Fault, Function, TABLES, Table, inspect};
use crate::postgres::{
    ConnectError, MigrationError, MigrationLimits, MigrationReport, Migrations, Parameter, Server,
    Status, explain,
};

/// The migrations of the schema that belongs to nightporter.
const MIGRATIONS: Migrations = Migrations {
    schema: "nightporter",
    history: "migrations",
    list: &[("V1__notifications", FUNCTIONS)],
    limits: MigrationLimits::DEFAULT,
};

#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Migration(#[from] MigrationError),
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
}

impl From<ConnectError> for PrepareError {
    fn from(error: ConnectError) -> Self {
        Self::Migration(error.into())
    }
}

/// Whether everything is in place.
#[derive(Debug)]
pub(super) struct Inspection {
    pub(super) is_in_place: bool,
    /// Migrations that only a newer process has.
    pub(super) newer: Vec<String>,
}

/// Compares everything with what is expected; only reads.
pub(super) async fn inspect_all(client: &Client) -> Result<Inspection, PrepareError> {
    let Status { pending, newer } = MIGRATIONS.status(client).await?;
    let is_in_place = if !pending.is_empty() {
        false
    } else if newer.is_empty() {
        Function::faults(client).await?.is_empty() && Table::faults(client).await?.is_empty()
    } else {
        // The definitions come from a newer process.
        inspect(client).await?.are_complete()
    };
    Ok(Inspection { is_in_place, newer })
}

/// Creates and repairs what is missing or differs.
pub(super) async fn prepare(
    server: &Server,
    create_tables: bool,
) -> Result<MigrationReport, PrepareError> {
    let work = async {
        let mut client = server.open().await?;
        let Inspection { is_in_place, newer } = inspect_all(&client).await?;
        if is_in_place {
            return Ok(MigrationReport { applied: Vec::new(), newer });
        }
        let run = MIGRATIONS.begin(&mut client).await?;
        // Definitions that come from a newer process are not replaced.
        let may_replace = run.report.newer.is_empty();
        repair_functions(&run.transaction, may_replace).await?;
        for table in &TABLES {
            create(&run.transaction, table, create_tables).await?;
        }
        repair_triggers(&run.transaction, may_replace).await?;
        Ok(run.commit().await?)
    };
    MIGRATIONS.within_total(work).await
}

/// Creates the functions that are missing and replaces those that differ. The others are
/// not touched, since they may come from a newer process.
async fn repair_functions(
    transaction: &Transaction<'_>,
    may_replace: bool,
) -> Result<(), PrepareError> {
    let faults = Function::faults(transaction).await?.into_iter();
    for (function, fault) in
        faults.filter(|(_, fault)| may_replace || fault.is_version_independent())
    {
        let created = transaction.batch_execute(function.sql).await;
        let function = function.name;
        created.map_err(|error| PrepareError::Function { function, fault, error })?;
        warn!(function, "replaced a function that {fault}");
    }
    Ok(())
}

/// Creates the table if it is missing and `create_tables` allows it.
async fn create(
    transaction: &Transaction<'_>,
    table: &Table,
    create_tables: bool,
) -> Result<(), PrepareError> {
    let Table { name, columns, .. } = table;
    let exists = "SELECT to_regclass($1) IS NOT NULL";
    let parameter: Parameter<'_> = (name, Type::TEXT);
    let rows = transaction.query_typed(exists, &[parameter]).await?;
    if rows.first().map_or(Ok(false), |row| row.try_get(0))? {
        return Ok(());
    }
    if !create_tables {
        return Err(PrepareError::MissingTable(name));
    }
    let create = format!("CREATE TABLE IF NOT EXISTS {name} ({columns})");
    Ok(transaction.batch_execute(&create).await?)
}

/// Creates the triggers that are missing and replaces those that differ. The others are
/// not touched, since that would lock their tables.
async fn repair_triggers(
    transaction: &Transaction<'_>,
    may_replace: bool,
) -> Result<(), PrepareError> {
    let faults = Table::faults(transaction).await?.into_iter();
    for (table, trigger, fault) in
        faults.filter(|(.., fault)| may_replace || fault.is_version_independent())
    {
        let created = transaction.batch_execute(&trigger.sql(table.name, fault)).await;
        created.map_err(|error| PrepareError::Trigger {
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
