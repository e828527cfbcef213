//! The store, for subcommands that ask it and end.

use std::sync::Arc;

use super::Failure;
use crate::config::{Config, StoreKind};
use crate::store::files::Files;
use crate::store::postgres::Postgres;
use crate::store::{Freshness, Source};

/// The configured store; nothing is connected or read yet.
pub(super) fn open(config: &Config) -> Result<(Arc<Source>, Arc<Freshness>), Failure> {
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    let fresh = Arc::clone(&freshness);
    let source = match &config.store.kind {
        StoreKind::Files { path, terminal_jwt_secret } => {
            let secret = terminal_jwt_secret.clone();
            Source::Files(Files::new(path.clone(), secret, &config.store, fresh))
        }
        StoreKind::Postgres(postgres) => Source::Postgres(
            Postgres::new(postgres, &config.store, &config.touch, fresh)
                .map_err(|error| Failure::Told(format!("store.url: {error}")))?,
        ),
    };
    Ok((Arc::new(source), freshness))
}
