//! A ledger with records, and a way into its database for whoever tampers with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nightporter::config::{self, Secret};
use nightporter::ledger::archive::postgres::Postgres;
use nightporter::ledger::archive::sqlite::{Limits, Sqlite};
use nightporter::ledger::archive::{Archive, ArchiveError, StoredCheckpoint, TileKey};
use nightporter::ledger::canonical::{Hasher, Version};
use nightporter::ledger::checkpoint::file::{self, CheckpointFile, Notes};
use nightporter::ledger::integrity::{Extended, Integrity, IntegrityError};
use nightporter::ledger::key::{self, SigningKey};
use nightporter::ledger::record::{
    Entry, Kind, Micros, Note, Record, RecordId, Step, Stored, WriterId,
};
use nightporter::ledger::seal::Sealer;
use nightporter::ledger::verify::{Evidence, Report, SavedCheckpoints, verify};
use tempfile::TempDir;

use crate::support::postgres::{Cluster, Database};

/// The time of the first record.
pub const BEGIN: i64 = 1_700_000_000_000_000;

/// Long after the last record.
pub const NOW: Micros = Micros(BEGIN + 3_600_000_000);

pub const WRITER: WriterId = WriterId(0x4f1d);

/// Whose database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    Sqlite,
    Postgres,
}

pub struct Ledger {
    pub folder: TempDir,
    pub archive: Archive,
    pub key: SigningKey,
    pub integrity: Integrity,
    pub tenant: Arc<str>,
    sealer: Sealer,
    written: i64,
    database: Option<Database>,
}

impl Ledger {
    /// An empty one, which signs a checkpoint whenever its tree has grown.
    pub async fn empty(kind: Kinds) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let database = match kind {
            Kinds::Sqlite => None,
            Kinds::Postgres => Some(Cluster::shared().database().await),
        };
        let archive = match &database {
            None => {
                Archive::Sqlite(Sqlite::new(folder.path().join("ledger.db"), Limits::default()))
            }
            Some(database) => {
                let limit = Duration::from_secs(60);
                let config = config::Postgres {
                    url: Secret::new(database.url()),
                    pool_size: 5,
                    pool_timeout: limit,
                    connect_timeout: limit,
                    query_timeout: limit,
                    create_tables: false,
                };
                Archive::Postgres(Postgres::new(&config).expect("a valid URL"))
            }
        };
        Box::pin(archive.prepare()).await.expect("prepared");
        let key = new_key(folder.path());
        let integrity = integrity(&key, folder.path(), Duration::ZERO);
        let sealer = Sealer::new(key.seal_key().clone()).expect("random numbers");
        let tenant = "box".into();
        Self { folder, archive, key, integrity, tenant, sealer, written: 0, database }
    }

    /// With 700 records and the checkpoints 400 and 700, and ten records without a position.
    pub async fn new(kind: Kinds) -> Self {
        let mut ledger = Box::pin(Self::empty(kind)).await;
        for count in [400, 300] {
            ledger.write(count).await;
            let _ = ledger.extend().await.expect("extended");
        }
        ledger.write(10).await;
        ledger
    }

    /// Writes records of various kinds.
    pub async fn write(&mut self, count: i64) {
        let records: Vec<_> = (0..count).map(|_| self.next()).collect();
        Box::pin(self.archive.write(&records)).await.expect("written");
    }

    /// Writes records that are hashed as an earlier version did.
    pub async fn write_in(&mut self, version: Version, count: i64) {
        let seal_key = self.key.seal_key().clone();
        let mut hasher = Hasher::default();
        let older = |mut record: Record| {
            // Only a client's values needed a salt.
            record.salt = record.salt.filter(|_| record.client_id.is_some());
            record.leaf = hasher.leaf_in(version, &record).expect("a leaf");
            record.seal = seal_key.seal(record.id, &record.leaf);
            record
        };
        let records: Vec<_> = (0..count).map(|_| self.next()).map(older).collect();
        Box::pin(self.archive.write(&records)).await.expect("written");
    }

    /// Returns the next record, not written yet.
    pub fn next(&mut self) -> Record {
        let number = self.written + 1;
        let entry = entry(number);
        self.record(entry)
    }

    pub fn record(&mut self, entry: Entry) -> Record {
        self.written += 1;
        let id = RecordId { writer: WRITER, seq: self.written };
        self.sealer.seal(id, &self.tenant, entry)
    }

    pub async fn extend(&self) -> Result<Extended, IntegrityError> {
        Box::pin(self.extend_with(&self.integrity)).await
    }

    pub async fn extend_with(&self, integrity: &Integrity) -> Result<Extended, IntegrityError> {
        let mut transaction = self.archive.begin().await?;
        assert!(transaction.try_lock("integrity").await?);
        let extended = integrity.extend(&mut transaction, &self.tenant).await?;
        transaction.commit().await?;
        integrity.settle(&extended).expect("the file is writable");
        Ok(extended)
    }

    /// Verifies with the files beside the database, as they are now.
    pub async fn verify(&self) -> Report {
        self.verify_with(Vec::new()).await
    }

    /// The same, and with other checkpoints that were kept.
    pub async fn verify_with(&self, kept: Vec<SavedCheckpoints>) -> Report {
        self.try_verify(kept).await.expect("verified")
    }

    pub async fn try_verify(&self, kept: Vec<SavedCheckpoints>) -> Result<Report, ArchiveError> {
        self.verify_as(kept, true).await
    }

    /// Verifies with the public key alone, as an auditor does.
    pub async fn verify_publicly(&self) -> Report {
        self.verify_as(Vec::new(), false).await.expect("verified")
    }

    async fn verify_as(
        &self,
        mut kept: Vec<SavedCheckpoints>,
        has_private_key: bool,
    ) -> Result<Report, ArchiveError> {
        let signer = SigningKey::load(&self.folder.path().join(key::FILE)).expect("a key");
        if let Some(notes) = self.file().read().expect("readable") {
            kept.push(SavedCheckpoints { name: file::FILE.into(), notes, is_log: true });
        }
        let evidence = Evidence {
            tenant: Arc::clone(&self.tenant),
            key: signer.verifier(&self.tenant),
            signer: has_private_key.then_some(signer),
            kept,
            spooled: BTreeMap::default(),
            now: NOW,
        };
        let mut snapshot = self.archive.snapshot().await.expect("a snapshot");
        verify(&mut snapshot, evidence, |_, _| {}).await
    }

    pub fn file(&self) -> CheckpointFile {
        CheckpointFile::new(self.folder.path().join(file::FILE))
    }

    /// Runs statements behind the archive's back.
    pub async fn tamper(&self, sql: &str) {
        if let Some(database) = &self.database {
            return database.batch(&format!("SET search_path TO nightporter_ledger; {sql}")).await;
        }
        let path = self.folder.path().join("ledger.db");
        let connection = rusqlite::Connection::open(path).expect("a database");
        connection.busy_timeout(Duration::from_secs(5)).expect("a timeout");
        let sql = format!("PRAGMA foreign_keys = ON; {sql}");
        connection.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Replaces a record, and leaves it at its position.
    pub async fn replace(&self, id: RecordId, edit: impl FnOnce(&mut Record)) {
        let Stored { mut record, position } = self.find(id).await;
        edit(&mut record);
        self.put_back(&record, position.expect("a position")).await;
    }

    /// Puts a record in place of what there is under its id.
    pub async fn put_back(&self, record: &Record, position: i64) {
        let at = format!("writer = {} AND seq = {}", record.id.writer.0, record.id.seq);
        self.tamper(&format!("DELETE FROM requests WHERE {at}")).await;
        self.archive.write(std::slice::from_ref(record)).await.expect("written");
        self.tamper(&format!("UPDATE requests SET position = {position} WHERE {at}")).await;
    }

    /// Returns where its database is; `None` if that is a file beside the key.
    pub fn url(&self) -> Option<String> {
        self.database.as_ref().map(Database::url)
    }

    /// Edits a tile.
    pub async fn edit_tile(&self, key: TileKey, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut transaction = self.archive.begin().await.expect("begun");
        let mut tiles = transaction.tiles(&self.tenant, &[key]).await.expect("read");
        edit(&mut tiles[0].1);
        transaction.put_tiles(&self.tenant, &tiles).await.expect("written");
        transaction.commit().await.expect("committed");
    }

    pub async fn find(&self, id: RecordId) -> Stored {
        self.archive.find(&self.tenant, id).await.expect("read").expect("a record")
    }

    pub async fn last_checkpoint(&self) -> StoredCheckpoint {
        let mut snapshot = self.archive.snapshot().await.expect("a snapshot");
        snapshot.checkpoint(&self.tenant).await.expect("read").expect("a checkpoint")
    }
}

pub fn new_key(folder: &Path) -> SigningKey {
    SigningKey::load_or_create(&folder.join(key::FILE)).expect("a key")
}

pub fn integrity(key: &SigningKey, folder: &Path, interval: Duration) -> Integrity {
    Integrity::new(key.clone(), CheckpointFile::new(folder.join(file::FILE)), interval)
}

pub fn kept(name: &str, notes: &str) -> SavedCheckpoints {
    SavedCheckpoints { name: name.into(), notes: Notes::parse(notes), is_log: false }
}

pub fn id(seq: i64) -> RecordId {
    RecordId { writer: WRITER, seq }
}

/// Every third has steps and a note, every other a person.
fn entry(number: i64) -> Entry {
    let mut entry = Entry {
        app: Some("notes".into()),
        host: Some("notes.box.example".into()),
        path: Some(format!("/inbox/{number}").into()),
        rule: Some("/inbox".into()),
        client: Some("anonymous".into()),
        verdict: Some("deny".into()),
        reason: Some("private".into()),
        trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        duration: Micros(180),
        ..Entry::new(Kind::Visit, Micros(BEGIN + number * 1000))
    };
    if number % 2 == 0 {
        entry.client = Some("terminal".into());
        entry.client_id = Some("k3vw9x2a".into());
        entry.client_name = Some("Ada's phone".into());
        entry.address = Some([192, 0, 2, 7].into());
    }
    if number % 3 == 0 {
        let step = |name| Step { name, duration: Micros(40), outcome: "ok".into() };
        entry.steps = ["app", "client", "decide"].map(|name| step(name.into())).into();
        entry.notes = vec![Note { topic: "wake".into(), text: "no answer".into() }];
    }
    entry
}
