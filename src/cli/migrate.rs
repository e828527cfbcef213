//! `nightporter migrate`: applies the migrations that `serve` applies at its start.

use std::io::Write;
use std::process::ExitCode;

use super::open::open;
use super::{CommandResult, wait};
use crate::config::Config;
use crate::postgres::MigrationReport;
use crate::store::Source;

pub(super) fn run(config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (source, _) = open(config)?;
        match &*source {
            Source::Files(_) => writeln!(out, "the files store has no schema")?,
            Source::Postgres(postgres) => {
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
        Ok(ExitCode::SUCCESS)
    })
}
