//! `nightporter ledger`: who sent requests, and what was done about them.

mod export;
mod list;
mod progress;
mod query;
mod record;
mod show;
mod tail;
mod verify;

use std::io::Write;
use std::sync::Arc;

use clap::Subcommand;

use super::{CliError, CommandResult};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::key::{self, SigningKey};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List records, the newest first
    List(list::Options),
    /// Show a record with its steps and notes; exit code 1 if there is none with this id
    Show(show::Options),
    /// Print the last records, and new ones as they come
    Tail(tail::Options),
    /// Print all records as lines of JSON, oldest first; exit code 1 if some cannot be read
    Export(export::Options),
    /// Prove that the record is unaltered since a checkpoint; exit code 1 if it is not
    Verify(verify::Options),
    /// Print the public key that verifies proofs and checkpoints; keep it elsewhere
    Key,
}

pub(super) fn run(
    action: &Action,
    load: impl FnOnce() -> Result<Config, CliError>,
    out: &mut dyn Write,
) -> CommandResult {
    match action {
        Action::List(options) => list::run(options, &load()?, out),
        Action::Show(options) => show::run(options, &load()?, out),
        Action::Tail(options) => tail::run(options, &load()?, out),
        Action::Export(options) => export::run(options, &load()?, out),
        Action::Verify(options) => verify::run(options, load, out),
        Action::Key => verify::key(&load()?, out),
    }
}

/// Connects to the ledger's database; returns it and the tenant.
async fn open(config: &Config) -> Result<(Ledger, Arc<str>), CliError> {
    let ledger = Ledger::new(&config.ledger)
        .map_err(|error| CliError::Message(format!("ledger.url: {error}")))?;
    let (source, _) = super::open::open(config)?;
    let tenant = source.identity().await?.map(|identity| identity.id.into());
    Ok((ledger, tenant.unwrap_or_default()))
}

/// Reads the ledger's key; does not create one.
fn own_key(config: &Config) -> Result<SigningKey, CliError> {
    SigningKey::load(&config.ledger.path.join(key::FILE))
        .map_err(|error| CliError::Message(format!("there is no key: {error}")))
}
