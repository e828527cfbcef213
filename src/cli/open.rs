//! The store, for subcommands that ask it and end.

use std::sync::Arc;

use super::Failure;
use crate::config::Config;
use crate::store::{Freshness, Source};

/// The configured store; nothing is connected or read yet.
pub(super) fn open(config: &Config) -> Result<(Arc<Source>, Arc<Freshness>), Failure> {
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    let source = Source::open(config, &freshness)
        .map_err(|error| Failure::Told(format!("store.url: {error}")))?;
    Ok((Arc::new(source), freshness))
}
