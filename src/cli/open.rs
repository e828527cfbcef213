//! The store, for subcommands that query it and end.

use std::sync::Arc;

use super::CliError;
use crate::config::Config;
use crate::store::{Freshness, Source};

/// Opens the configured store; nothing is connected or read yet.
pub(super) fn open(config: &Config) -> Result<(Arc<Source>, Arc<Freshness>), CliError> {
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    let source = Source::open(config, &freshness)
        .map_err(|error| CliError::Message(format!("store.url: {error}")))?;
    Ok((Arc::new(source), freshness))
}
