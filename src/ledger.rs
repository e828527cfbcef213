//! The record of requests, and of what was done about them.
//!
//! What is recorded is described as an [`Entry`](record::Entry) and handed to the
//! [`Recorder`], which never waits. The [`writer`] makes records of entries and writes them in
//! batches to the [`archive`], SQLite or Postgres; a batch that the archive does not take
//! becomes a [dead letter](dead_letter) on the disk. [`integrity`] gives records positions and
//! keeps a Merkle tree over them whose signed head, the [`checkpoint`], is kept outside the
//! database, so that [`verify`] can tell what was altered.
//!
//! No verdict waits for anything here, and no error here ends the process: a folder that is
//! read-only or a database that is away is a problem that probes show, and is tried again.

pub mod actions;
pub mod acts;
pub mod archive;
pub mod canonical;
pub mod checkpoint;
pub(crate) mod clock;
pub mod dead_letter;
pub mod direct;
#[cfg(test)]
pub(crate) mod fake;
pub mod form;
pub mod health;
pub mod history;
pub mod integrity;
pub mod key;
pub mod link;
pub mod losses;
pub mod proof;
pub mod ranges;
pub mod record;
pub mod recorder;
pub mod references;
mod remedy;
pub mod rollup;
pub mod seal;
pub mod sealing;
pub mod spool;
pub mod tree;
pub mod verify;
pub mod visits;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::actions::Actions;
use self::archive::Archive;
use self::archive::postgres::Postgres;
use self::archive::sqlite::{Limits, Sqlite};
use self::checkpoint::file::{CheckpointFile, FILE as CHECKPOINTS};
use self::dead_letter::DeadLetters;
use self::direct::{DirectWriter, WriterPool};
use self::integrity::Integrity;
use self::key::{SigningKey, VerifierKey};
use self::link::Link;
use self::losses::Losses;
use self::record::{Entry, Record};
use self::recorder::Recorder;
use self::rollup::Rollup;
use self::seal::{SealKey, Sealer};
use self::sealing::{KeyFile, KeySeal};
use self::spool::Spool;
use self::visits::Visits;
use self::writer::{Dependencies, Tenant, Writer};
use crate::access::Viewer;
use crate::config::{self, ArchiveKind};
use crate::postgres::ConfigError;

/// Names in `ledger.path`.
const DATABASE: &str = "ledger.db";
const SPOOL: &str = "spool";
const LOCKS: &str = "locks";

/// The parts of the ledger, connected.
#[derive(Debug)]
pub struct Ledger {
    pub archive: Arc<Archive>,
    pub recorder: Arc<Recorder>,
    pub letters: Arc<DeadLetters>,
    pub losses: Arc<Losses>,
    pub tenant: Arc<Tenant>,
    pub link: Arc<Link<Archive>>,
    pub writer: Writer<Archive>,
    rollup: Arc<Rollup>,
    grants: config::Grants,
    key: Arc<KeyFile>,
    checkpoints: CheckpointFile,
    pub checkpoint_interval: Duration,
    integrity: OnceLock<Arc<Integrity>>,
    /// What writes the records of acts that are done in a transaction.
    acts: WriterPool,
}

impl Ledger {
    /// Connects the parts. Opens and creates nothing yet.
    ///
    /// # Errors
    /// What is wrong with the connection string, worded for the operator.
    pub fn new(config: &config::Ledger) -> Result<Self, ConfigError> {
        let archive = Arc::new(archive(config)?);
        let path = &config.path;
        let (losses, rollup) = (Arc::new(Losses::default()), Arc::new(Rollup::default()));
        let (recorder, queue) = Recorder::new(Arc::clone(&losses));
        let files = Arc::new(Spool::new(spool(path), config.max_spool));
        let letters = Arc::new(DeadLetters::new(files, Arc::clone(&losses), config.max_retries));
        let link = Arc::new(Link::new(Arc::clone(&archive)));
        let tenant = Arc::new(Tenant::default());
        let key = KeyFile::new(path.join(key::FILE));
        let parts = Dependencies {
            recorder: Arc::clone(&recorder),
            rollup: Arc::clone(&rollup),
            losses: Arc::clone(&losses),
            letters: Arc::clone(&letters),
            link: Arc::clone(&link),
            tenant: Arc::clone(&tenant),
            seal: Box::new(KeySeal::new(Arc::clone(&key))),
            flush_interval: config.flush_interval,
        };
        let writer = Writer::new(parts, queue);
        Ok(Self {
            archive,
            recorder,
            letters,
            losses,
            tenant,
            link,
            writer,
            rollup,
            grants: config.grants,
            key,
            checkpoints: CheckpointFile::new(path.join(CHECKPOINTS)),
            checkpoint_interval: config.checkpoint_interval,
            integrity: OnceLock::new(),
            acts: WriterPool::default(),
        })
    }

    /// Returns the observer that records decided requests.
    #[must_use]
    pub fn visits(&self) -> Visits {
        Visits::new(Arc::clone(&self.recorder), Arc::clone(&self.rollup), self.grants)
    }

    /// Returns the observer that records wakes and sleeps.
    #[must_use]
    pub fn actions(&self) -> Actions {
        Actions::new(Arc::clone(&self.recorder))
    }

    /// Returns what extends the tree, or why it cannot be extended yet.
    pub async fn integrity(&self) -> Result<Arc<Integrity>, String> {
        let key = self.key.get().await?;
        let made = self.integrity.get_or_init(|| {
            let file = self.checkpoints.clone();
            Arc::new(Integrity::new(key.clone(), file, self.checkpoint_interval))
        });
        Ok(Arc::clone(made))
    }

    /// Returns a sealer for records that do not pass the recorder, or why there is none yet.
    pub async fn sealer(&self) -> Result<Sealer, String> {
        let key = self.seal_key().await?.clone();
        Sealer::new(key).map_err(|_| "the system provides no random numbers".to_owned())
    }

    /// Returns the key that seals records, or why there is none yet.
    pub async fn seal_key(&self) -> Result<&SealKey, String> {
        Ok(self.key.get().await?.seal_key())
    }

    /// Returns someone who reads a tenant's records without the right to personal values.
    pub async fn masked_viewer(&self, tenant: &str) -> Viewer {
        let key = self.key.get().await.ok();
        Viewer::masked(key.map(SigningKey::mask_key), tenant)
    }

    /// Returns an entry's record for a transaction that the caller commits, and its writer, which
    /// the caller gives back after that; or why it cannot be sealed yet.
    pub async fn act(&self, entry: Entry) -> Result<(Record, DirectWriter), String> {
        let key = self.seal_key().await?;
        let writer = self.acts.take(key);
        let mut writer = writer.map_err(|_| "the system provides no random numbers".to_owned())?;
        Ok((writer.record(&self.tenant.get(), entry), writer))
    }

    /// Takes back the writer of an act whose transaction is committed.
    pub fn give_back(&self, writer: DirectWriter) {
        self.acts.give_back(writer);
    }

    /// Returns the public key that verifies this box's checkpoints, or why it is not known.
    pub async fn verifier(&self) -> Result<VerifierKey, String> {
        Ok(self.key.get().await?.verifier(&self.tenant.get()))
    }
}

/// Returns the configured archive, not opened yet.
pub fn archive(config: &config::Ledger) -> Result<Archive, ConfigError> {
    Ok(match &config.archive {
        ArchiveKind::Sqlite => {
            Archive::Sqlite(Sqlite::new(config.path.join(DATABASE), Limits::default()))
        }
        ArchiveKind::Postgres(server) => Archive::Postgres(Postgres::new(server)?),
    })
}

/// Returns the folder of the locks of long jobs.
#[must_use]
pub fn locks(path: &Path) -> PathBuf {
    path.join(LOCKS)
}

/// Returns the folder of the spool.
#[must_use]
pub fn spool(path: &Path) -> PathBuf {
    path.join(SPOOL)
}
