//! Transactions of jobs, on either archive.

use super::{
    ArchiveError, JobRow, Placed, StoredCheckpoint, TileKey, Unplaced, UnplacedFilter, postgres,
    sqlite,
};
use crate::ledger::record::{Kind, Micros, Record, RecordId, Stored};

/// A transaction of a job. If it is dropped, nothing of it takes effect.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, when it begins")]
pub enum Transaction<'a> {
    Sqlite(sqlite::Transaction),
    Postgres(postgres::Transaction<'a>),
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
        self.unplaced_of(tenant, UnplacedFilter::default(), limit).await
    }

    /// Returns those of the records without a position that a filter selects, oldest first.
    pub async fn unplaced_of(
        &mut self,
        tenant: &str,
        filter: UnplacedFilter,
        limit: usize,
    ) -> Result<Vec<Unplaced>, ArchiveError> {
        dispatch!(self, Self, transaction => transaction.unplaced_of(tenant, filter, limit).await)
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
        self.oldest_after(tenant, kind, before, below, None, limit).await
    }

    /// The same for those that follow a record, given by its time and its position.
    pub async fn oldest_after(
        &mut self,
        tenant: &str,
        kind: Kind,
        before: Micros,
        below: i64,
        after: Option<(Micros, i64)>,
        limit: usize,
    ) -> Result<Vec<Placed>, ArchiveError> {
        dispatch!(self, Self, transaction =>
            transaction.oldest_after(tenant, kind, before, below, after, limit).await)
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
    /// there, or is not a record that this version can read, is left out.
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

    /// As [`super::Archive::write`], within this transaction.
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
