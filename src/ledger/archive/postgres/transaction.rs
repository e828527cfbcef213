//! A job's transaction.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::{
    ArchiveError, JobRow, Placed, StoredCheckpoint, TileKey, Unplaced, UnplacedFilter,
};
use super::rows::{self, JOB_COLUMNS, get, tenant};
use super::{LOCKS, read, write};
use crate::ledger::record::{Kind, Micros, Record, RecordId, Stored};
use crate::postgres::{self, Parameter};

/// See [`super::super::Transaction`].
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) inner: postgres::Transaction<'a>,
    pub(super) archive: &'a super::Postgres,
}

impl Transaction<'_> {
    /// Runs a statement in the transaction.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, ArchiveError> {
        Ok(self.inner.query(sql, parameters).await?)
    }

    pub async fn try_lock(&mut self, name: &str) -> Result<bool, ArchiveError> {
        Ok(self.inner.try_lock(LOCKS, name).await?)
    }

    pub async fn now(&mut self) -> Result<Micros, ArchiveError> {
        read::now(&mut self.inner).await
    }

    pub async fn job(&mut self, tenant: &str, name: &str) -> Result<Option<JobRow>, ArchiveError> {
        read::job(&mut self.inner, tenant, name).await
    }

    pub async fn put_job(&mut self, tenant: &str, row: &JobRow) -> Result<(), ArchiveError> {
        let sql = format!(
            "INSERT INTO nightporter_ledger.jobs (tenant, {JOB_COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant, name) DO UPDATE SET due = excluded.due,
                 started = excluded.started, ended = excluded.ended, outcome = excluded.outcome,
                 by = excluded.by"
        );
        self.write_job(&sql, tenant, row).await
    }

    pub async fn log_run(&mut self, tenant: &str, row: &JobRow) -> Result<(), ArchiveError> {
        let insert = format!(
            "INSERT INTO nightporter_ledger.job_runs (tenant, {JOB_COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7)"
        );
        self.write_job(&insert, tenant, row).await?;
        let prune = "DELETE FROM nightporter_ledger.job_runs
                     WHERE tenant = $1 AND name = $2 AND n <= (
                         SELECT n FROM nightporter_ledger.job_runs
                         WHERE tenant = $1 AND name = $2 ORDER BY n DESC OFFSET 1000 LIMIT 1)";
        let parameters: [Parameter<'_>; 2] = [(&tenant, Type::TEXT), (&row.name, Type::TEXT)];
        self.inner.query(prune, &parameters).await?;
        Ok(())
    }

    /// Runs a statement whose parameters are those of a job's row.
    async fn write_job(
        &mut self,
        sql: &str,
        tenant: &str,
        row: &JobRow,
    ) -> Result<(), ArchiveError> {
        let JobRow { name, due, started, ended, outcome, by } = row;
        let (started, ended) = (started.map(|at| at.0), ended.map(|at| at.0));
        let parameters: [Parameter<'_>; 7] = [
            (&tenant, Type::TEXT),
            (name, Type::TEXT),
            (&due.0, Type::INT8),
            (&started, Type::INT8),
            (&ended, Type::INT8),
            (outcome, Type::TEXT),
            (by, Type::INT8),
        ];
        self.inner.query(sql, &parameters).await?;
        Ok(())
    }

    pub async fn unplaced_of(
        &mut self,
        tenant: &str,
        filter: UnplacedFilter,
        limit: usize,
    ) -> Result<Vec<Unplaced>, ArchiveError> {
        let sql = concat!(
            "SELECT writer, seq, leaf, seal, at FROM nightporter_ledger.requests WHERE tenant = ",
            tenant!(),
            " AND position IS NULL AND ($2::text IS NULL OR kind = $2) \
              AND ($3::int8 IS NULL OR at < $3) \
              AND ($4::int8 IS NULL OR (at, writer, seq) > ($4, $5, $6)) \
              ORDER BY at, writer, seq LIMIT $7"
        );
        let UnplacedFilter { kind, before, after } = filter;
        let (kind, before) = (kind.map(Kind::as_str), before.map(|before| before.0));
        let after_at = after.map(|(at, _)| at.0);
        let (writer, seq) = read::columns_of(after.map(|(_, id)| id));
        let limit = read::count(limit);
        let parameters: [Parameter<'_>; 7] = [
            (&tenant, Type::TEXT),
            (&kind, Type::TEXT),
            (&before, Type::INT8),
            (&after_at, Type::INT8),
            (&writer, Type::INT8),
            (&seq, Type::INT8),
            (&limit, Type::INT8),
        ];
        let rows = self.inner.query(sql, &parameters).await?;
        rows.iter().map(rows::unplaced).collect()
    }

    pub async fn place(
        &mut self,
        tenant: &str,
        first: i64,
        ids: &[RecordId],
    ) -> Result<(), ArchiveError> {
        if ids.is_empty() {
            return Ok(());
        }
        let sql = concat!(
            "UPDATE nightporter_ledger.requests AS r SET position = $2 + p.n - 1 \
             FROM unnest($3, $4) WITH ORDINALITY AS p (writer, seq, n) \
             WHERE r.writer = p.writer AND r.seq = p.seq AND r.position IS NULL AND r.tenant = ",
            tenant!(),
            " RETURNING r.seq"
        );
        let (writers, seqs) = rows::ids(ids.iter().copied());
        let parameters: [Parameter<'_>; 4] = [
            (&tenant, Type::TEXT),
            (&first, Type::INT8),
            (&writers, Type::INT8_ARRAY),
            (&seqs, Type::INT8_ARRAY),
        ];
        let placed = self.inner.query(sql, &parameters).await?.len();
        if placed != ids.len() {
            let text = format!("{placed} of {} records could be given a position", ids.len());
            return Err(ArchiveError::Content(text.into()));
        }
        self.inner.query("NOTIFY nightporter_ledger", &[]).await?;
        Ok(())
    }

    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        read::tree_size(&mut self.inner, tenant).await
    }

    pub async fn set_tree_size(&mut self, tenant: &str, size: i64) -> Result<(), ArchiveError> {
        let sql = "INSERT INTO nightporter_ledger.trees (tenant, size) VALUES ($1, $2)
                   ON CONFLICT (tenant) DO UPDATE SET size = excluded.size";
        self.inner.query(sql, &[(&tenant, Type::TEXT), (&size, Type::INT8)]).await?;
        Ok(())
    }

    pub async fn tiles(
        &mut self,
        tenant: &str,
        keys: &[TileKey],
    ) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
        read::tiles(&mut self.inner, tenant, keys).await
    }

    pub async fn put_tiles(
        &mut self,
        tenant: &str,
        tiles: &[(TileKey, Vec<u8>)],
    ) -> Result<(), ArchiveError> {
        let sql = "INSERT INTO nightporter_ledger.tiles (tenant, level, number, hashes)
                   SELECT $1, * FROM unnest($2, $3, $4)
                   ON CONFLICT (tenant, level, number) DO UPDATE SET hashes = excluded.hashes";
        let (levels, numbers) = read::tile_keys(tiles.iter().map(|(key, _)| *key));
        let hashes: Vec<&[u8]> = tiles.iter().map(|(_, hashes)| hashes.as_slice()).collect();
        let parameters: [Parameter<'_>; 4] = [
            (&tenant, Type::TEXT),
            (&levels, Type::INT2_ARRAY),
            (&numbers, Type::INT8_ARRAY),
            (&hashes, Type::BYTEA_ARRAY),
        ];
        self.inner.query(sql, &parameters).await?;
        Ok(())
    }

    pub async fn checkpoint(
        &mut self,
        tenant: &str,
    ) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        read::last_checkpoint(&mut self.inner, tenant).await
    }

    pub async fn put_checkpoint(
        &mut self,
        tenant: &str,
        checkpoint: &StoredCheckpoint,
    ) -> Result<(), ArchiveError> {
        let sql = "INSERT INTO nightporter_ledger.checkpoints (tenant, size, at, note)
                   VALUES ($1, $2, $3, $4)
                   ON CONFLICT (tenant, size) DO NOTHING";
        let StoredCheckpoint { size, at, note } = checkpoint;
        let parameters: [Parameter<'_>; 4] =
            [(&tenant, Type::TEXT), (size, Type::INT8), (&at.0, Type::INT8), (note, Type::TEXT)];
        self.inner.query(sql, &parameters).await?;
        Ok(())
    }

    pub async fn oldest_after(
        &mut self,
        tenant: &str,
        kind: Kind,
        before: Micros,
        below: i64,
        after: Option<(Micros, i64)>,
        limit: usize,
    ) -> Result<Vec<Placed>, ArchiveError> {
        let sql = concat!(
            "SELECT writer, seq, position, at FROM nightporter_ledger.requests WHERE tenant = ",
            tenant!(),
            " AND kind = $2 AND at < $3 AND position < $4 \
              AND ($6::int8 IS NULL OR (at, position) > ($6, $7)) \
              ORDER BY at, position LIMIT $5"
        );
        let limit = read::count(limit);
        let (after_at, after_position) = (after.map(|(at, _)| at.0), after.map(|after| after.1));
        let parameters: [Parameter<'_>; 7] = [
            (&tenant, Type::TEXT),
            (&kind.as_str(), Type::TEXT),
            (&before.0, Type::INT8),
            (&below, Type::INT8),
            (&limit, Type::INT8),
            (&after_at, Type::INT8),
            (&after_position, Type::INT8),
        ];
        let rows = self.inner.query(sql, &parameters).await?;
        let placed = |row| {
            Ok(Placed { id: rows::id(row)?, position: get(row, 2)?, at: Micros(get(row, 3)?) })
        };
        rows.iter().map(placed).collect()
    }

    pub async fn remove(&mut self, tenant: &str, ids: &[RecordId]) -> Result<(), ArchiveError> {
        let sql = concat!(
            "DELETE FROM nightporter_ledger.requests AS r \
             USING unnest($2, $3) AS old (writer, seq) \
             WHERE r.writer = old.writer AND r.seq = old.seq AND r.tenant = ",
            tenant!()
        );
        let (writers, seqs) = rows::ids(ids.iter().copied());
        let parameters: [Parameter<'_>; 3] =
            [(&tenant, Type::TEXT), (&writers, Type::INT8_ARRAY), (&seqs, Type::INT8_ARRAY)];
        self.inner.query(sql, &parameters).await?;
        Ok(())
    }

    pub async fn find_all(
        &mut self,
        tenant: &str,
        ids: &[RecordId],
    ) -> Result<Vec<Stored>, ArchiveError> {
        read::find_all(&mut self.inner, tenant, ids).await
    }

    pub async fn adopt(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        write::adopt(&mut self.inner, records).await
    }

    pub async fn checkpoint_times(
        &mut self,
        tenant: &str,
    ) -> Result<Vec<(i64, Micros)>, ArchiveError> {
        let sql = "SELECT size, at FROM nightporter_ledger.checkpoints WHERE tenant = $1
                   ORDER BY size";
        let rows = self.inner.query(sql, &[(&tenant, Type::TEXT)]).await?;
        rows.iter().map(|row| Ok((get(row, 0)?, Micros(get(row, 1)?)))).collect()
    }

    pub async fn remove_checkpoints(
        &mut self,
        tenant: &str,
        sizes: &[i64],
    ) -> Result<(), ArchiveError> {
        let sql = "DELETE FROM nightporter_ledger.checkpoints
                   WHERE tenant = $1 AND size = ANY ($2)";
        self.inner.query(sql, &[(&tenant, Type::TEXT), (&sizes, Type::INT8_ARRAY)]).await?;
        Ok(())
    }

    pub async fn write(&mut self, records: &[Record]) -> Result<(), ArchiveError> {
        write::insert(&mut self.inner, records).await
    }

    pub async fn commit(self) -> Result<(), ArchiveError> {
        self.inner.commit().await?;
        self.archive.listener.wake();
        Ok(())
    }

    pub async fn roll_back(self) -> Result<(), ArchiveError> {
        Ok(self.inner.roll_back().await?)
    }
}
