//! Applies migrations to the file and records them in its table `migrations`.
//!
//! A run is one transaction under the database's write lock, so any number of processes may
//! start at once, and a migration that fails leaves nothing behind. An older process goes on
//! with a file that a newer one has migrated, if the newer migrations only add what it can
//! ignore.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rusqlite::{Connection, TransactionBehavior, params};

use super::fault::Fault;

/// A step of the schema. A released one is never changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    pub(super) version: i64,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    /// Whether a process that does not know it can go on with the file.
    pub(super) additive: bool,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "records",
        sql: include_str!("migrations/V1__records.sql"),
        additive: false,
    },
    Migration {
        version: 2,
        name: "alerts",
        sql: include_str!("migrations/V2__alerts.sql"),
        additive: true,
    },
    Migration {
        version: 3,
        name: "webhooks",
        sql: include_str!("migrations/V3__webhooks.sql"),
        additive: true,
    },
    Migration {
        version: 4,
        name: "idempotency",
        sql: include_str!("migrations/V4__idempotency.sql"),
        additive: true,
    },
    Migration {
        version: 5,
        name: "ledger_additions",
        sql: include_str!("migrations/V5__ledger_additions.sql"),
        additive: true,
    },
    Migration {
        version: 6,
        name: "access",
        sql: include_str!("migrations/V6__access.sql"),
        additive: true,
    },
    Migration {
        version: 7,
        name: "alert_counts",
        sql: include_str!("migrations/V7__alert_counts.sql"),
        additive: true,
    },
];

impl Migration {
    fn checksum(&self) -> String {
        digest(&SHA256, self.sql.as_bytes()).as_ref().iter().fold(
            String::new(),
            |mut text, byte| {
                // Writing to a string cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            },
        )
    }
}

/// A row of the history.
struct Applied {
    version: i64,
    name: String,
    checksum: String,
    additive: bool,
}

/// Applies what is missing, and marks the file. If nothing is missing, nothing is written.
pub(super) fn migrate(connection: &mut Connection, application: i32) -> Result<(), Fault> {
    run(connection, application, MIGRATIONS)
}

fn run(
    connection: &mut Connection,
    application: i32,
    migrations: &[Migration],
) -> Result<(), Fault> {
    if pending(connection, migrations)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (
             version INTEGER PRIMARY KEY,
             name TEXT NOT NULL,
             checksum TEXT NOT NULL,
             additive INTEGER NOT NULL
         ) STRICT",
    )?;
    // Another process may have applied some of them while this one waited for the lock.
    for migration in pending(&transaction, migrations)? {
        transaction.execute_batch(migration.sql)?;
        transaction.execute(
            "INSERT INTO migrations (version, name, checksum, additive) VALUES (?, ?, ?, ?)",
            params![migration.version, migration.name, migration.checksum(), migration.additive],
        )?;
    }
    transaction.pragma_update(None, "application_id", application)?;
    Ok(transaction.commit()?)
}

/// Compares the history with the list; returns the migrations to be applied.
fn pending<'a>(
    connection: &Connection,
    migrations: &'a [Migration],
) -> Result<Vec<&'a Migration>, Fault> {
    let history = history(connection)?;
    for applied in &history {
        let Applied { version, name, checksum, additive } = applied;
        match migrations.iter().find(|known| known.version == *version) {
            Some(known) if known.name == name && known.checksum() == *checksum => {}
            Some(_) => {
                return Err(Fault::Unusable(format!(
                    "the migration V{version}__{name} in it is not the one of this version"
                )));
            }
            None if *additive => {}
            None => {
                return Err(Fault::Unusable(format!(
                    "a newer version has changed it (migration V{version}__{name}); this \
                     version cannot use it"
                )));
            }
        }
    }
    let newest = history.last().map_or(0, |applied| applied.version);
    let is_missing =
        |known: &&Migration| !history.iter().any(|applied| applied.version == known.version);
    let missing: Vec<_> = migrations.iter().filter(is_missing).collect();
    match missing.first() {
        Some(first) if first.version < newest => Err(Fault::Unusable(format!(
            "it lacks the migration V{}__{}, but has the later V{newest}",
            first.version, first.name
        ))),
        _ => Ok(missing),
    }
}

fn history(connection: &Connection) -> rusqlite::Result<Vec<Applied>> {
    let exists = "SELECT EXISTS (SELECT * FROM sqlite_schema WHERE name = 'migrations')";
    if !connection.query_row(exists, [], |row| row.get::<_, bool>(0))? {
        return Ok(Vec::new());
    }
    let sql = "SELECT version, name, checksum, additive FROM migrations ORDER BY version";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Applied {
            version: row.get(0)?,
            name: row.get(1)?,
            checksum: row.get(2)?,
            additive: row.get(3)?,
        })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests;
