//! Where records are kept: one interface to both kinds of database.
//!
//! The two archives, [`sqlite`] and [`postgres`], behave the same; one suite of tests runs
//! against both. A read has connections of its own, is under a time limit and never waits
//! for a write.

pub mod postgres;
pub mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::history::{Page, PageRequest};
use super::record::{Kind, Leaf, Micros, Record, RecordId, Stored};

/// Why an archive did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The archive refuses the content, and will again (SQLSTATE classes 22 and 23).
    #[error("{0}")]
    Content(Arc<str>),
    /// The archive cannot be reached, is full or is too slow; it may work later.
    #[error("{0}")]
    Unavailable(Arc<str>),
}

/// The configured archive.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process has one, behind an `Arc`")]
pub enum Archive {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

/// Calls the same method on whichever kind of archive is configured.
macro_rules! dispatch {
    ($self:ident, $kind:ident, $archive:ident => $call:expr) => {
        match $self {
            $kind::Sqlite($archive) => $call,
            $kind::Postgres($archive) => $call,
        }
    };
}

impl Archive {
    /// Brings the schema up to date. Needed once before everything else; may be repeated.
    pub async fn prepare(&self) -> Result<(), ArchiveError> {
        dispatch!(self, Self, archive => archive.prepare().await)
    }

    /// Writes records with their steps and notes, all or none of them. A record that is
    /// already there stays as it is.
    pub async fn write(&self, records: &[Record]) -> Result<(), ArchiveError> {
        dispatch!(self, Self, archive => archive.write(records).await)
    }

    /// Returns records in the order of their positions; those without one come last.
    pub async fn page(&self, request: &PageRequest) -> Result<Page, ArchiveError> {
        dispatch!(self, Self, archive => archive.page(request).await)
    }

    pub async fn find(&self, tenant: &str, id: RecordId) -> Result<Option<Stored>, ArchiveError> {
        dispatch!(self, Self, archive => archive.find(tenant, id).await)
    }

    /// Begins a transaction for a job.
    pub async fn begin(&self) -> Result<Transaction<'_>, ArchiveError> {
        Ok(match self {
            Self::Sqlite(archive) => Transaction::Sqlite(archive.begin().await?),
            Self::Postgres(archive) => Transaction::Postgres(archive.begin().await?),
        })
    }

    /// Begins a read-only transaction that sees one state of all tables.
    pub async fn snapshot(&self) -> Result<Snapshot<'_>, ArchiveError> {
        Ok(match self {
            Self::Sqlite(archive) => Snapshot::Sqlite(archive.snapshot().await?),
            Self::Postgres(archive) => Snapshot::Postgres(archive.snapshot().await?),
        })
    }

    /// The same for one tenant's rows: in Postgres, the database itself shows no others.
    pub async fn snapshot_of(&self, tenant: &str) -> Result<Snapshot<'_>, ArchiveError> {
        Ok(match self {
            Self::Sqlite(archive) => Snapshot::Sqlite(archive.snapshot().await?),
            Self::Postgres(archive) => Snapshot::Postgres(archive.snapshot_of(tenant).await?),
        })
    }

    /// Looks whether the database keeps tenants apart, where it is to.
    pub async fn check_isolation(&self) -> Result<(), ArchiveError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(archive) => archive.check_isolation().await,
        }
    }

    /// Returns why the database does not keep tenants apart, worded for the operator. In
    /// SQLite the statements alone do.
    pub fn isolation_problem(&self) -> Option<Arc<str>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(archive) => archive.isolation_problem(),
        }
    }

    /// Returns what is wrong with the archive now, worded for the operator.
    pub fn problem(&self) -> Option<String> {
        dispatch!(self, Self, archive => archive.problem())
    }

    /// Returns what tells of records that are written from now on. Needs a runtime.
    pub fn changes(&self) -> Changes {
        dispatch!(self, Self, archive => archive.changes())
    }

    /// Returns who holds the lock of that name, worded for the operator; `None` also if that
    /// cannot be known.
    pub async fn lock_holder(&self, name: &str) -> Result<Option<String>, ArchiveError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(archive) => archive.lock_holder(name).await,
        }
    }

    /// Returns the bytes that the archive occupies.
    pub async fn size(&self) -> Result<u64, ArchiveError> {
        dispatch!(self, Self, archive => archive.size().await)
    }
}

/// Tells of changes, also of those between two calls.
#[derive(Debug)]
pub struct Changes {
    told: watch::Receiver<()>,
    /// How long changes may go untold, because those of other processes are not heard.
    longest: Option<Duration>,
}

impl Changes {
    /// Returns when records have been written since the last call, by this process or
    /// (Postgres) another one, or may have been.
    pub async fn changed(&mut self) {
        // The sender lives as long as the archive. Without one, nobody writes any more.
        match self.longest {
            Some(longest) => drop(timeout(longest, self.told.changed()).await),
            None => drop(self.told.changed().await),
        }
    }
}

/// A transaction of a job. If it is dropped, nothing of it takes effect.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, when it begins")]
pub enum Transaction<'a> {
    Sqlite(sqlite::Transaction),
    Postgres(postgres::Transaction<'a>),
}

/// A record that has no position yet.
#[derive(Debug, Clone)]
pub struct Unplaced {
    pub id: RecordId,
    pub leaf: Leaf,
    pub seal: [u8; 16],
}

/// A record that has a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub id: RecordId,
    pub position: i64,
}

/// A tile of the tree's hashes: its level and its number on that level (C2SP tlog-tiles, with
/// 256 hashes a tile).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TileKey {
    pub level: i16,
    pub number: i64,
}

/// A signed head of the tree (C2SP tlog-checkpoint).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// How many records the tree covers.
    pub size: i64,
    pub at: Micros,
    /// The signed note.
    pub note: String,
}

/// The row of a job. All times are those of the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub name: String,
    pub due: Micros,
    pub started: Option<Micros>,
    pub ended: Option<Micros>,
    /// `done`, `failed: ...`; `None` while the first run goes on.
    pub outcome: Option<String>,
    /// Who ran it last: a writer.
    pub by: Option<i64>,
}

/// A run of a job in the log of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRun {
    /// Later runs have greater numbers.
    pub number: i64,
    pub row: JobRow,
}

/// What an archive holds of one tenant's records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// The number of records of each kind, the largest first.
    pub kinds: Vec<(Kind, u64)>,
    /// What they take up, in bytes, without space that was freed and is used again, and
    /// without the tree. Postgres: an estimate, since it says of a table's pages only how many
    /// there are.
    pub bytes: u64,
    /// What the tree takes up, which stays when records are removed: hashes and checkpoints.
    /// An estimate.
    pub tree_bytes: u64,
}

impl Transaction<'_> {
    /// Takes the lock of that name until the transaction ends; returns `false` if another
    /// session holds it.
    pub async fn try_lock(&mut self, name: &str) -> Result<bool, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.try_lock(name).await)
    }

    /// Returns the time of the database's clock now (not of the transaction's begin).
    pub async fn now(&mut self) -> Result<Micros, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.now().await)
    }

    /// Returns the row of a job; `None` if it never ran and nobody asked for it.
    pub async fn job(&mut self, tenant: &str, name: &str) -> Result<Option<JobRow>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.job(tenant, name).await)
    }

    /// Writes the row of a job.
    pub async fn put_job(&mut self, tenant: &str, row: &JobRow) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.put_job(tenant, row).await)
    }

    /// Appends a run to the log of runs, of which the last 1,000 of each job are kept.
    pub async fn log_run(&mut self, tenant: &str, row: &JobRow) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.log_run(tenant, row).await)
    }

    /// Returns records without a position, oldest first.
    pub async fn unplaced(
        &mut self,
        tenant: &str,
        limit: usize,
    ) -> Result<Vec<Unplaced>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.unplaced(tenant, limit).await)
    }

    /// Gives records consecutive positions that begin with `first`.
    pub async fn place(
        &mut self,
        tenant: &str,
        first: i64,
        ids: &[RecordId],
    ) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.place(tenant, first, ids).await)
    }

    /// Returns how many positions have been given.
    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.tree_size(tenant).await)
    }

    /// Sets how many positions have been given.
    pub async fn set_tree_size(&mut self, tenant: &str, size: i64) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.set_tree_size(tenant, size).await)
    }

    /// Returns the hashes of each tile, in the order of the keys; a missing tile is left out.
    pub async fn tiles(
        &mut self,
        tenant: &str,
        keys: &[TileKey],
    ) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.tiles(tenant, keys).await)
    }

    /// Writes tiles, in place of those with the same keys.
    pub async fn put_tiles(
        &mut self,
        tenant: &str,
        tiles: &[(TileKey, Vec<u8>)],
    ) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.put_tiles(tenant, tiles).await)
    }

    /// Returns the last checkpoint.
    pub async fn checkpoint(
        &mut self,
        tenant: &str,
    ) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.checkpoint(tenant).await)
    }

    pub async fn put_checkpoint(
        &mut self,
        tenant: &str,
        checkpoint: &StoredCheckpoint,
    ) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.put_checkpoint(tenant, checkpoint).await)
    }

    /// Returns up to `limit` records of a kind that began before `before` and have a position
    /// below `below`, oldest first.
    pub async fn oldest(
        &mut self,
        tenant: &str,
        kind: Kind,
        before: Micros,
        below: i64,
        limit: usize,
    ) -> Result<Vec<Placed>, ArchiveError> {
        dispatch!(self, Self, transaction =>
            transaction.oldest(tenant, kind, before, below, limit).await)
    }

    /// Removes records, with their steps and notes.
    pub async fn remove(&mut self, tenant: &str, ids: &[RecordId]) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.remove(tenant, ids).await)
    }

    /// Removes up to `limit` records, those that [`Self::oldest`] returns, and returns them.
    pub async fn remove_before(
        &mut self,
        tenant: &str,
        kind: Kind,
        before: Micros,
        below: i64,
        limit: usize,
    ) -> Result<Vec<Placed>, ArchiveError> {
        let found = self.oldest(tenant, kind, before, below, limit).await?;
        let ids: Vec<_> = found.iter().map(|placed| placed.id).collect();
        if !ids.is_empty() {
            self.remove(tenant, &ids).await?;
        }
        Ok(found)
    }

    /// Returns records with their steps and notes, in the order of their ids. What is not
    /// there is left out.
    pub async fn find_all(
        &mut self,
        tenant: &str,
        ids: &[RecordId],
    ) -> Result<Vec<Stored>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.find_all(tenant, ids).await)
    }

    /// Gives records without a position that belong to no tenant to that of `records`, with
    /// the leaves and seals of these.
    pub async fn adopt(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.adopt(records).await)
    }

    /// Returns whether several boxes may keep their records here.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Returns the size and the time of each checkpoint, the smallest first.
    pub async fn checkpoint_times(
        &mut self,
        tenant: &str,
    ) -> Result<Vec<(i64, Micros)>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.checkpoint_times(tenant).await)
    }

    /// Removes the checkpoints of these sizes.
    pub async fn remove_checkpoints(
        &mut self,
        tenant: &str,
        sizes: &[i64],
    ) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.remove_checkpoints(tenant, sizes).await)
    }

    /// As [`Archive::write`], within this transaction.
    pub async fn write(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        dispatch!(self, Self, transaction => transaction.write(records).await)
    }

    pub async fn commit(self) -> Result<(), ArchiveError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }

    pub async fn roll_back(self) -> Result<(), ArchiveError> {
        match self {
            Self::Sqlite(transaction) => transaction.roll_back().await,
            Self::Postgres(transaction) => transaction.roll_back().await,
        }
    }
}

/// One state of all tables, for long reads.
#[derive(Debug)]
pub enum Snapshot<'a> {
    Sqlite(sqlite::Snapshot),
    Postgres(postgres::Snapshot<'a>),
}

impl Snapshot<'_> {
    /// Returns up to `limit` records at or after a position, in the order of their positions,
    /// with their steps and notes.
    pub async fn records(
        &mut self,
        tenant: &str,
        from: i64,
        limit: usize,
    ) -> Result<Vec<Stored>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.records(tenant, from, limit).await)
    }

    /// Returns up to `limit` records without a position whose id follows `after`.
    pub async fn unplaced(
        &mut self,
        tenant: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.unplaced(tenant, after, limit).await)
    }

    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.tree_size(tenant).await)
    }

    /// As [`Transaction::tiles`].
    pub async fn tiles(
        &mut self,
        tenant: &str,
        keys: &[TileKey],
    ) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.tiles(tenant, keys).await)
    }

    /// Returns the last checkpoint.
    pub async fn checkpoint(
        &mut self,
        tenant: &str,
    ) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.checkpoint(tenant).await)
    }

    /// Returns all checkpoints, oldest first.
    pub async fn checkpoints(
        &mut self,
        tenant: &str,
    ) -> Result<Vec<StoredCheckpoint>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.checkpoints(tenant).await)
    }

    /// Counts the records of a tenant that have a position.
    pub async fn holdings(&mut self, tenant: &str) -> Result<Holdings, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.holdings(tenant).await)
    }

    /// Returns the rows of all jobs.
    pub async fn jobs(&mut self, tenant: &str) -> Result<Vec<JobRow>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.jobs(tenant).await)
    }

    /// Returns the row of a job, and the time of the database's clock now.
    pub async fn job(
        &mut self,
        tenant: &str,
        name: &str,
    ) -> Result<(Option<JobRow>, Micros), ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.job(tenant, name).await)
    }

    /// Returns up to `limit` runs of a job whose number is below `before`, the latest first.
    pub async fn job_runs(
        &mut self,
        tenant: &str,
        name: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<JobRun>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.job_runs(tenant, name, before, limit).await)
    }
}
