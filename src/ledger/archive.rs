//! Where records are kept: one interface to both kinds of database.
//!
//! The two archives, [`sqlite`] and [`postgres`], behave the same; one suite of tests runs
//! against both. A read has connections of its own, is under a time limit and never waits
//! for a write.

/// Calls the same method on whichever kind of archive is configured.
macro_rules! dispatch {
    ($self:ident, $kind:ident, $archive:ident => $call:expr) => {
        match $self {
            $kind::Sqlite($archive) => $call,
            $kind::Postgres($archive) => $call,
        }
    };
}

pub mod postgres;
mod snapshot;
pub(crate) mod sql;
pub mod sqlite;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

pub use self::snapshot::Snapshot;
pub use self::transaction::Transaction;
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

/// A record that has no position yet.
#[derive(Debug, Clone)]
pub struct Unplaced {
    pub id: RecordId,
    pub at: Micros,
    pub leaf: Leaf,
    pub seal: [u8; 16],
}

/// Which records without a position are read; by default all.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnplacedFilter {
    pub kind: Option<Kind>,
    /// Those that began before this time.
    pub before: Option<Micros>,
    /// Those that follow this record, by time and id.
    pub after: Option<(Micros, RecordId)>,
}

/// A record that has a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub id: RecordId,
    pub at: Micros,
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
    /// The number of records of each kind, the largest first. Of a box without an identity, they
    /// are counted together with those of other such boxes in the same database.
    pub kinds: Vec<(Kind, u64)>,
    /// What they take up, in bytes, without space that was freed and is used again, and
    /// without the tree. Postgres: an estimate, since it says of a table's pages only how many
    /// there are.
    pub bytes: u64,
    /// What the tree takes up, which stays when records are removed: hashes and checkpoints.
    /// An estimate.
    pub tree_bytes: u64,
}
