//! What nightporter needs in the database: its own schema, the tables it reads
//! and the triggers on them.
//!
//! Everything is done in one transaction under an advisory lock, so that any
//! number of processes may start at once. Triggers are no migration: a table
//! may be dropped, restored or recreated at any time, so they are compared and
//! put back whenever the link is made and whenever a heartbeat misses one.
//! Where all is in place nothing is locked and no privilege beyond reading is
//! needed.

use std::time::Duration;

use refinery::{AsyncMigrate, Migration, Runner};
use refinery_core::traits::r#async::{AsyncQuery, AsyncTransaction};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, GenericClient, IsolationLevel, Transaction};

use super::pool::Parameter;
use super::server::explain;

/// Where migrations that were applied are remembered.
const HISTORY: &str = "nightporter.migrations";

/// Names the advisory lock of this module: "nightport" read as a number, cut to 63 bits.
const LOCK: i64 = 0x6e69_6768_7470_6f72;

/// How long a whole run may take, other processes' before it included.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How long a trigger may wait for its table. While it waits, so do all
/// writers that come after it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";

/// Migrations, first to last. One that was released is never changed.
const MIGRATIONS: [(&str, &str); 1] = [("V1__notifications", FUNCTIONS)];

/// The trigger functions: also put back where somebody dropped them.
const FUNCTIONS: &str = include_str!("migrations/V1__notifications.sql");

/// A table of FreeShard's that the gate reads.
struct Watched {
    name: &'static str,
    columns: &'static str,
    key: &'static str,
    /// Columns that the gate reads.
    read: &'static [&'static str],
    /// Keys that the gate reads; empty for all.
    keys: &'static [&'static str],
}

/// A row's coming, change and going, and TRUNCATE.
const TRIGGERS_A_TABLE: usize = 4;

const TABLES: [Watched; 5] = [
    Watched {
        name: "installed_apps",
        columns: "name text PRIMARY KEY, installation_reason text, status text, \
                  last_access timestamptz",
        key: "name",
        read: &["name", "status"],
        keys: &[],
    },
    Watched {
        name: "identities",
        columns: "id text PRIMARY KEY, name text, email text, description text, \
                  private_key text, is_default bool",
        key: "id",
        read: &["id", "private_key", "is_default"],
        keys: &[],
    },
    Watched {
        name: "terminals",
        columns: "id text PRIMARY KEY, name text, icon text, last_connection timestamptz",
        key: "id",
        read: &["id", "name"],
        keys: &[],
    },
    Watched {
        name: "peers",
        columns: "id text PRIMARY KEY, name text, public_bytes_b64 text, is_reachable bool",
        key: "id",
        read: &["id", "name", "public_bytes_b64"],
        keys: &[],
    },
    Watched {
        name: "kv_store",
        columns: "key text PRIMARY KEY, value jsonb",
        key: "key",
        read: &["key", "value"],
        keys: &["terminal_jwt_secret", "freeshard_controller_shared_key", "profile"],
    },
];

/// Counts our triggers on the tables as this connection resolves their names,
/// and takes a fingerprint of them. `xmin` changes with every `ALTER`, so that a
/// trigger that was away for a moment is told from one that was not.
pub(super) const INSPECT: &str = "\
    SELECT count(*) AS found, coalesce(hashtextextended(\
        string_agg(concat_ws(':', t.oid, t.xmin, t.tgrelid), ',' ORDER BY t.oid), 0), 0) AS print \
    FROM pg_catalog.pg_trigger AS t \
    WHERE t.tgrelid IN (to_regclass('installed_apps'), to_regclass('identities'), \
            to_regclass('terminals'), to_regclass('peers'), to_regclass('kv_store')) \
        AND t.tgname IN ('nightporter_insert', 'nightporter_update', 'nightporter_delete', \
            'nightporter_truncate') \
        AND t.tgenabled = 'A' \
        AND t.tgfoid IN (to_regprocedure('nightporter.notify_row()'), \
            to_regprocedure('nightporter.notify_table()'))";

/// What [`INSPECT`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Triggers {
    found: i64,
    print: i64,
}

impl Triggers {
    pub(super) fn of(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { found: row.try_get("found")?, print: row.try_get("print")? })
    }

    pub(super) fn are_complete(self) -> bool {
        usize::try_from(self.found) == Ok(TRIGGERS_A_TABLE * TABLES.len())
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    #[error("{}", explain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("{}", migration_text(.0))]
    Migration(#[from] refinery::Error),
    #[error("table `{0}` is missing; create it, or set `store.create_tables = true`")]
    MissingTable(&'static str),
    #[error("triggers on `{table}`: {}", explain(.error))]
    Trigger { table: &'static str, error: tokio_postgres::Error },
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
            table.create(&transaction, create_tables).await?;
            let triggers = table.install_triggers(&transaction).await;
            triggers.map_err(|error| MigrateError::Trigger { table: table.name, error })?;
        }
        transaction.commit().await?;
        Ok(applied)
    };
    timeout(TIME_LIMIT, work).await.unwrap_or(Err(MigrateError::TooSlow))
}

/// The state of the triggers now.
pub(super) async fn inspect(
    client: &impl GenericClient,
) -> Result<Triggers, tokio_postgres::Error> {
    let rows = client.query_typed(INSPECT, &[]).await?;
    rows.first().map_or(Ok(Triggers { found: 0, print: 0 }), Triggers::of)
}

async fn is_in_place(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let history = "SELECT to_regclass('nightporter.migrations') IS NOT NULL";
    let newest = "SELECT coalesce(max(version) >= $1, false) FROM nightporter.migrations";
    let wanted = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    Ok(is_so(client, history, &[]).await?
        && is_so(client, newest, &[(&wanted, Type::INT4)]).await?
        && inspect(client).await?.are_complete())
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

/// The schema, the migrations in it, and the functions should they be gone.
async fn apply(transaction: &mut Transaction<'_>) -> Result<Vec<String>, MigrateError> {
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
    let functions = "SELECT to_regprocedure('nightporter.notify_row()') IS NOT NULL \
        AND to_regprocedure('nightporter.notify_table()') IS NOT NULL";
    if !is_so(&*transaction, functions, &[]).await? {
        transaction.batch_execute(FUNCTIONS).await?;
    }
    Ok(report
        .applied_migrations()
        .iter()
        .map(|migration| format!("V{}__{}", migration.version(), migration.name()))
        .collect())
}

impl Watched {
    async fn create(
        &self,
        transaction: &Transaction<'_>,
        create_tables: bool,
    ) -> Result<(), MigrateError> {
        let Self { name, columns, .. } = self;
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

    /// Puts back the triggers that are missing, switched off or not ours; one
    /// that is in order is not touched, since that would lock its table.
    async fn install_triggers(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<(), tokio_postgres::Error> {
        let Self { name, .. } = self;
        let in_order = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger \
            WHERE tgrelid = to_regclass($1) AND tgname = $2 AND tgenabled = 'A' \
            AND tgfoid IN (to_regprocedure('nightporter.notify_row()'), \
                to_regprocedure('nightporter.notify_table()')))";
        for (trigger, event) in self.triggers() {
            let named = [(name as &(dyn ToSql + Sync), Type::TEXT), (&trigger, Type::TEXT)];
            if !is_so(transaction, in_order, &named).await? {
                transaction
                    .batch_execute(&format!(
                        "CREATE OR REPLACE TRIGGER {trigger} AFTER {event}; \
                         ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}"
                    ))
                    .await?;
            }
        }
        Ok(())
    }

    /// Names of the triggers and what follows `AFTER` in each.
    fn triggers(&self) -> [(&'static str, String); TRIGGERS_A_TABLE] {
        let Self { name, key, .. } = self;
        let row = format!("EXECUTE FUNCTION nightporter.notify_row('{name}', '{key}')");
        let old = self.is_read("OLD").map(|read| format!("WHEN ({read})")).unwrap_or_default();
        let new = self.is_read("NEW").map(|read| format!("WHEN ({read})")).unwrap_or_default();
        let columns = |row: &str| {
            let columns: Vec<_> =
                self.read.iter().map(|column| format!("{row}.{column}")).collect();
            columns.join(", ")
        };
        let changed = format!("({}) IS DISTINCT FROM ({})", columns("OLD"), columns("NEW"));
        let updated = match (self.is_read("OLD"), self.is_read("NEW")) {
            (Some(old), Some(new)) => format!("{changed} AND ({old} OR {new})"),
            _ => changed,
        };
        [
            ("nightporter_insert", format!("INSERT ON {name} FOR EACH ROW {new} {row}")),
            ("nightporter_update", format!("UPDATE ON {name} FOR EACH ROW WHEN ({updated}) {row}")),
            ("nightporter_delete", format!("DELETE ON {name} FOR EACH ROW {old} {row}")),
            (
                "nightporter_truncate",
                format!(
                    "TRUNCATE ON {name} FOR EACH STATEMENT \
                     EXECUTE FUNCTION nightporter.notify_table('{name}')"
                ),
            ),
        ]
    }

    /// The condition on a row's key, where only some keys are read.
    fn is_read(&self, row: &str) -> Option<String> {
        let Self { key, keys, .. } = self;
        (!keys.is_empty()).then(|| format!("{row}.{key} IN ('{}')", keys.join("', '")))
    }
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
