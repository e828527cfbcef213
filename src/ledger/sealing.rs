//! The ledger's key, read when it is first needed, and the sealing of records with it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::key::SigningKey;
use super::record::{Entry, Record, RecordId};
use super::seal::Sealer;
use super::writer::Seal;

/// The file of the ledger's key. That it cannot be read or created now is not a reason not to
/// start: it is tried again.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    key: OnceLock<SigningKey>,
}

impl KeyFile {
    /// Reads nothing.
    #[must_use]
    pub fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, key: OnceLock::new() })
    }

    /// Returns the key; reads or creates it if that was not done yet.
    pub async fn get(self: &Arc<Self>) -> Result<&SigningKey, String> {
        if self.key.get().is_none() {
            let path = self.path.clone();
            let loaded = spawn_blocking(move || SigningKey::load_or_create(&path)).await;
            let key = loaded.map_err(|_| "reading the ledger's key panicked".to_owned())?;
            // If two have read it, it is the same one.
            let _ = self.key.set(key.map_err(|error| error.to_string())?);
        }
        self.key.get().ok_or_else(|| "the ledger's key is not known".to_owned())
    }
}

/// Seals records with the ledger's key.
#[derive(Debug)]
pub struct KeySeal {
    key: Arc<KeyFile>,
    sealer: Option<Sealer>,
}

impl KeySeal {
    #[must_use]
    pub fn new(key: Arc<KeyFile>) -> Self {
        Self { key, sealer: None }
    }
}

impl Seal for KeySeal {
    fn prepare(&mut self) -> BoxFuture<'_, Result<(), String>> {
        async {
            if self.sealer.is_none() {
                let key = self.key.get().await?.seal_key().clone();
                let sealer = Sealer::new(key).map_err(|_| "no random numbers".to_owned())?;
                self.sealer = Some(sealer);
            }
            Ok(())
        }
        .boxed()
    }

    fn seal(&mut self, id: RecordId, tenant: &Arc<str>, entry: Entry) -> Option<Record> {
        Some(self.sealer.as_mut()?.seal(id, tenant, entry))
    }
}
