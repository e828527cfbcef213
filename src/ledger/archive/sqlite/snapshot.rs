//! Long reads of one state of the tables.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::Fault;
use super::readers::Reader;
use super::rows::{self, TENANT};
use super::{holdings, jobs, tree};
use crate::ledger::archive::{ArchiveError, Holdings, JobRow, JobRun, StoredCheckpoint, TileKey};
use crate::ledger::record::{Micros, RecordId, RecordRow, WriterId};

/// A read transaction. Each call has the time limit of a read; while the snapshot lives, the
/// write-ahead log grows by what is written.
#[derive(Debug)]
pub struct Snapshot(Reader);

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.0.end_transaction();
    }
}

impl Snapshot {
    pub(super) async fn begin(mut reader: Reader) -> Result<Self, ArchiveError> {
        // A transaction sees the state of its first read.
        let begin = "BEGIN; SELECT count(*) FROM migrations";
        reader.run(move |connection| Ok(connection.execute_batch(begin)?)).await?;
        Ok(Self(reader))
    }

    /// Runs `work` in the read transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        self.0.run(work).await
    }

    pub async fn records(
        &mut self,
        tenant: &str,
        from: i64,
        limit: usize,
    ) -> Result<Vec<RecordRow>, ArchiveError> {
        let (tenant, limit): (Arc<str>, _) = (tenant.into(), rows::count(limit));
        self.0
            .run(move |connection| {
                let last = format!(
                    "SELECT max(position) FROM (SELECT position FROM requests
                     WHERE tenant = {TENANT} AND position >= ?2 ORDER BY position LIMIT ?3)"
                );
                let last: Option<i64> =
                    connection.query_row(&last, params![tenant, from, limit], |row| row.get(0))?;
                let Some(last) = last else { return Ok(Vec::new()) };
                let condition = format!("r.tenant = {TENANT} AND r.position BETWEEN ?2 AND ?3");
                let params = params![tenant, from, last];
                rows::with_parts(connection, &tenant, &condition, "r.position", params)
            })
            .await
    }

    pub async fn unplaced(
        &mut self,
        tenant: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordRow>, ArchiveError> {
        let (tenant, limit): (Arc<str>, _) = (tenant.into(), rows::count(limit));
        let RecordId { writer: WriterId(writer), seq } =
            after.unwrap_or(RecordId { writer: WriterId(0), seq: 0 });
        self.0
            .run(move |connection| {
                let last = format!(
                    "SELECT writer, seq FROM (SELECT writer, seq FROM requests
                         WHERE tenant = {TENANT} AND position IS NULL
                         AND (writer, seq) > (?2, ?3) ORDER BY writer, seq LIMIT ?4)
                     ORDER BY writer DESC, seq DESC LIMIT 1"
                );
                let id = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
                let found = connection
                    .query_row(&last, params![tenant, writer, seq, limit], id)
                    .optional()?;
                let Some((last_writer, last_seq)) = found else { return Ok(Vec::new()) };
                let condition = format!(
                    "r.tenant = {TENANT} AND r.position IS NULL
                     AND (r.writer, r.seq) > (?2, ?3) AND (r.writer, r.seq) <= (?4, ?5)"
                );
                let params = params![tenant, writer, seq, last_writer, last_seq];
                rows::with_parts(connection, &tenant, &condition, "r.writer, r.seq", params)
            })
            .await
    }

    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        let tenant = tenant.to_owned();
        self.0.run(move |connection| Ok(tree::size(connection, &tenant)?)).await
    }

    pub async fn tiles(
        &mut self,
        tenant: &str,
        keys: &[TileKey],
    ) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
        let (tenant, keys) = (tenant.to_owned(), keys.to_vec());
        self.0.run(move |connection| Ok(tree::tiles(connection, &tenant, &keys)?)).await
    }

    pub async fn checkpoints(
        &mut self,
        tenant: &str,
    ) -> Result<Vec<StoredCheckpoint>, ArchiveError> {
        let tenant = tenant.to_owned();
        self.0.run(move |connection| Ok(tree::checkpoints(connection, &tenant)?)).await
    }

    pub async fn checkpoint(
        &mut self,
        tenant: &str,
    ) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        let tenant = tenant.to_owned();
        self.0.run(move |connection| Ok(tree::checkpoint(connection, &tenant)?)).await
    }

    pub async fn holdings(&mut self, tenant: &str) -> Result<Holdings, ArchiveError> {
        let tenant = tenant.to_owned();
        self.0.run(move |connection| Ok(holdings::count(connection, &tenant)?)).await
    }

    pub async fn now(&mut self) -> Result<Micros, ArchiveError> {
        self.0.run(|connection| Ok(jobs::now(connection)?)).await
    }

    pub async fn jobs(&mut self, tenant: &str) -> Result<Vec<JobRow>, ArchiveError> {
        let tenant = tenant.to_owned();
        self.0.run(move |connection| Ok(jobs::all(connection, &tenant)?)).await
    }

    pub async fn job(
        &mut self,
        tenant: &str,
        name: &str,
    ) -> Result<(Option<JobRow>, Micros), ArchiveError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.0
            .run(move |connection| {
                Ok((jobs::get(connection, &tenant, &name)?, jobs::now(connection)?))
            })
            .await
    }

    pub async fn job_runs(
        &mut self,
        tenant: &str,
        name: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<JobRun>, ArchiveError> {
        let (tenant, name, limit) = (tenant.to_owned(), name.to_owned(), rows::count(limit));
        self.0
            .run(move |connection| Ok(jobs::runs(connection, &tenant, &name, before, limit)?))
            .await
    }
}
