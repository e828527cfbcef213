//! `nightporter migrate`: applies the migrations that `serve` applies at its start.

use std::io::Write;
use std::process::ExitCode;

use super::open::open;
use super::{CliError, CommandResult, wait};
use crate::config::{self, ArchiveKind, Config};
use crate::ledger::archive::postgres::Postgres;
use crate::postgres::MigrationReport;
use crate::store::Backend;

pub(super) fn run(config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (source, _) = open(config)?;
        match source.backend() {
            Backend::Files(_) => writeln!(out, "the files store has no schema")?,
            Backend::Postgres(postgres) => {
                let MigrationReport { applied, newer } = postgres.migrate().await?;
                for migration in &applied {
                    writeln!(out, "applied {migration}")?;
                }
                for migration in &newer {
                    writeln!(out, "{migration} was applied by a newer version")?;
                }
                if applied.is_empty() {
                    writeln!(out, "the schema is up to date")?;
                }
            }
        }
        if let (true, ArchiveKind::Postgres(server)) =
            (config.ledger.enabled, &config.ledger.archive)
        {
            ledger(server, out).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The same for the ledger, with what keeps tenants apart.
async fn ledger(server: &config::Postgres, out: &mut dyn Write) -> Result<(), CliError> {
    let archive =
        Postgres::new(server).map_err(|error| CliError::Message(format!("ledger.url: {error}")))?;
    let MigrationReport { applied, newer: _ } = archive.migrate().await?;
    for migration in &applied {
        writeln!(out, "applied {migration} to the ledger")?;
    }
    if let Some(problem) = archive.isolation_problem() {
        writeln!(out, "{problem}")?;
    }
    Ok(())
}
