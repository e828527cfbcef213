//! Long reads, on either archive.

use super::{ArchiveError, Holdings, JobRow, JobRun, StoredCheckpoint, TileKey, postgres, sqlite};
use crate::ledger::record::{Micros, RecordId, RecordRow};

/// One state of all tables, for long reads.
#[derive(Debug)]
pub enum Snapshot<'a> {
    Sqlite(sqlite::Snapshot),
    Postgres(postgres::Snapshot<'a>),
}

impl Snapshot<'_> {
    /// Returns up to `limit` records at or after a position, in the order of their positions,
    /// with their steps and notes. What cannot be read is a row like the others.
    pub async fn records(
        &mut self,
        tenant: &str,
        from: i64,
        limit: usize,
    ) -> Result<Vec<RecordRow>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.records(tenant, from, limit).await)
    }

    /// Returns up to `limit` records without a position whose id follows `after`.
    pub async fn unplaced(
        &mut self,
        tenant: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordRow>, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.unplaced(tenant, after, limit).await)
    }

    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.tree_size(tenant).await)
    }

    /// As [`super::Transaction::tiles`].
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

    /// Counts the records of a tenant, also those that have no position yet.
    pub async fn holdings(&mut self, tenant: &str) -> Result<Holdings, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.holdings(tenant).await)
    }

    /// Returns the time of the database's clock now.
    pub async fn now(&mut self) -> Result<Micros, ArchiveError> {
        dispatch!(self, Self, snapshot => snapshot.now().await)
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
