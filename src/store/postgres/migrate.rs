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
    MigrationError, MigrationLimits, MigrationReport, Migrations, Parameter, Repeatable, Server,
    Status, explain,
};

/// The migrations of the schema that belongs to nightporter.
const MIGRATIONS: Migrations = Migrations {
    schema: "nightporter",
    history: "migrations",
    list: &[
        ("V1__notifications", FUNCTIONS),
        ("V2__invitations", include_str!("migrations/V2__invitations.sql")),
    ],
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
    let is_in_place = pending.is_empty() && are_definitions_in_place(client, &newer).await?;
    Ok(Inspection { is_in_place, newer })
}

async fn are_definitions_in_place(
    client: &Client,
    newer: &[String],
) -> Result<bool, tokio_postgres::Error> {
    if newer.is_empty() {
        Ok(Function::faults(client).await?.is_empty() && Table::faults(client).await?.is_empty())
    } else {
        // The definitions come from a newer process.
        Ok(inspect(client).await?.are_complete())
    }
}

/// Creates and repairs what is missing or differs.
pub(super) async fn prepare(
    server: &Server,
    create_tables: bool,
) -> Result<MigrationReport, PrepareError> {
    MIGRATIONS.run(server, &Definitions { create_tables }).await
}

/// The tables, functions and triggers.
struct Definitions {
    create_tables: bool,
}

impl Repeatable for Definitions {
    type Error = PrepareError;

    async fn is_in_place(&self, client: &Client, newer: &[String]) -> Result<bool, PrepareError> {
        Ok(are_definitions_in_place(client, newer).await?)
    }

    async fn put_in_place(
        &self,
        transaction: &Transaction<'_>,
        newer: &[String],
    ) -> Result<(), PrepareError> {
        // Definitions that come from a newer process are not replaced.
        let may_replace = newer.is_empty();
        repair_functions(transaction, may_replace).await?;
        for table in &TABLES {
            create(transaction, table, self.create_tables).await?;
        }
        repair_triggers(transaction, may_replace).await
    }
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
