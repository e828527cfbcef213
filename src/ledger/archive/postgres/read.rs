//! Reading single records, and long reads of one state.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::{ArchiveError, Holdings, JobRow, JobRun, StoredCheckpoint, TileKey};
use super::holdings;
use super::rows::{self, JOB_COLUMNS, SELECT_NOTES, SELECT_STEPS, columns, get, tenant};
use crate::ledger::record::{Micros, Record, RecordId, RecordRow, Stored};
use crate::postgres::{self, AssumedRole, Parameter, Pool};

/// Reads one record with its steps and notes.
pub(super) async fn find(
    pool: &Pool,
    reader: Option<&AssumedRole<'_>>,
    tenant: &str,
    id: RecordId,
) -> Result<Option<Stored>, ArchiveError> {
    let mut snapshot = pool.snapshot_as(reader).await?;
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM nightporter_ledger.requests AS r WHERE r.tenant = ",
        tenant!(),
        " AND r.writer = $2 AND r.seq = $3"
    );
    let parameters: [Parameter<'_>; 3] =
        [(&tenant, Type::TEXT), (&id.writer.0, Type::INT8), (&id.seq, Type::INT8)];
    let mut found = whole(&mut snapshot, tenant, sql, &parameters).await?;
    snapshot.commit().await?;
    let Some(RecordRow { id, position, record }) = found.pop() else { return Ok(None) };
    let record = record.map_err(|problem| rows::unreadable(id, &problem))?;
    Ok(Some(Stored { record, position }))
}

/// Reads records with their steps and notes.
async fn whole(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<RecordRow>, ArchiveError> {
    let (rows, tenant) = (transaction.query(sql, parameters).await?, Arc::from(tenant));
    let row = |row| rows::record_row(row, &tenant);
    let records = rows.iter().map(row).collect::<Result<_, _>>()?;
    with_parts(transaction, records).await
}

/// Adds their steps and notes to records.
async fn with_parts(
    transaction: &mut postgres::Transaction<'_>,
    mut records: Vec<RecordRow>,
) -> Result<Vec<RecordRow>, ArchiveError> {
    if records.is_empty() {
        return Ok(records);
    }
    let (writers, seqs) = rows::ids(records.iter().map(|row| row.id));
    let ids: [Parameter<'_>; 2] = [(&writers, Type::INT8_ARRAY), (&seqs, Type::INT8_ARRAY)];
    let steps = transaction.query(SELECT_STEPS, &ids).await?;
    let notes = transaction.query(SELECT_NOTES, &ids).await?;
    if steps.is_empty() && notes.is_empty() {
        return Ok(records);
    }
    let mut by_id: HashMap<RecordId, &mut RecordRow> =
        records.iter_mut().map(|row| (row.id, row)).collect();
    for step in &steps {
        add(&mut by_id, step, |record, row| rows::step(row).map(|step| record.steps.push(step)))?;
    }
    for note in &notes {
        add(&mut by_id, note, |record, row| rows::note(row).map(|note| record.notes.push(note)))?;
    }
    Ok(records)
}

/// Adds a step or a note to the record that it belongs to.
fn add(
    by_id: &mut HashMap<RecordId, &mut RecordRow>,
    row: &Row,
    push: impl Fn(&mut Record, &Row) -> Result<(), Box<str>>,
) -> Result<(), ArchiveError> {
    if let Some(found) = by_id.get_mut(&rows::id(row)?)
        && let Ok(record) = &mut found.record
        && let Err(problem) = push(record, row)
    {
        found.record = Err(problem);
    }
    Ok(())
}

/// See [`super::super::Snapshot`].
#[derive(Debug)]
pub struct Snapshot<'a>(pub(super) postgres::Transaction<'a>);

impl Snapshot<'_> {
    /// Runs a statement in the read transaction.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, ArchiveError> {
        Ok(self.0.query(sql, parameters).await?)
    }

    pub async fn records(
        &mut self,
        tenant: &str,
        from: i64,
        limit: usize,
    ) -> Result<Vec<RecordRow>, ArchiveError> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM nightporter_ledger.requests AS r WHERE r.tenant = ",
            tenant!(),
            " AND r.position >= $2 ORDER BY r.position LIMIT $3"
        );
        let limit = count(limit);
        let parameters: [Parameter<'_>; 3] =
            [(&tenant, Type::TEXT), (&from, Type::INT8), (&limit, Type::INT8)];
        whole(&mut self.0, tenant, sql, &parameters).await
    }

    pub async fn unplaced(
        &mut self,
        tenant: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordRow>, ArchiveError> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM nightporter_ledger.requests AS r WHERE r.tenant = ",
            tenant!(),
            " AND r.position IS NULL AND ($2::int8 IS NULL OR (r.writer, r.seq) > ($2, $3)) \
              ORDER BY r.writer, r.seq LIMIT $4"
        );
        let (writer, seq) = columns_of(after);
        let limit = count(limit);
        let parameters: [Parameter<'_>; 4] = [
            (&tenant, Type::TEXT),
            (&writer, Type::INT8),
            (&seq, Type::INT8),
            (&limit, Type::INT8),
        ];
        whole(&mut self.0, tenant, sql, &parameters).await
    }

    pub async fn tree_size(&mut self, tenant: &str) -> Result<i64, ArchiveError> {
        tree_size(&mut self.0, tenant).await
    }

    pub async fn tiles(
        &mut self,
        tenant: &str,
        keys: &[TileKey],
    ) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
        tiles(&mut self.0, tenant, keys).await
    }

    pub async fn checkpoints(
        &mut self,
        tenant: &str,
    ) -> Result<Vec<StoredCheckpoint>, ArchiveError> {
        let sql = "SELECT size, at, note FROM nightporter_ledger.checkpoints WHERE tenant = $1
                   ORDER BY size";
        let rows = self.0.query(sql, &[(&tenant, Type::TEXT)]).await?;
        rows.iter().map(checkpoint).collect()
    }

    pub async fn checkpoint(
        &mut self,
        tenant: &str,
    ) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        last_checkpoint(&mut self.0, tenant).await
    }

    pub async fn holdings(&mut self, tenant: &str) -> Result<Holdings, ArchiveError> {
        holdings::count(&mut self.0, tenant).await
    }

    pub async fn now(&mut self) -> Result<Micros, ArchiveError> {
        now(&mut self.0).await
    }

    pub async fn jobs(&mut self, tenant: &str) -> Result<Vec<JobRow>, ArchiveError> {
        let sql = format!(
            "SELECT {JOB_COLUMNS} FROM nightporter_ledger.jobs WHERE tenant = $1 ORDER BY name"
        );
        let rows = self.0.query(&sql, &[(&tenant, Type::TEXT)]).await?;
        rows.iter().map(rows::job).collect()
    }

    pub async fn job(
        &mut self,
        tenant: &str,
        name: &str,
    ) -> Result<(Option<JobRow>, Micros), ArchiveError> {
        Ok((job(&mut self.0, tenant, name).await?, now(&mut self.0).await?))
    }

    pub async fn job_runs(
        &mut self,
        tenant: &str,
        name: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<JobRun>, ArchiveError> {
        let sql = format!(
            "SELECT {JOB_COLUMNS}, n FROM nightporter_ledger.job_runs
             WHERE tenant = $1 AND name = $2 AND ($3::int8 IS NULL OR n < $3)
             ORDER BY n DESC LIMIT $4"
        );
        let limit = count(limit);
        let parameters: [Parameter<'_>; 4] = [
            (&tenant, Type::TEXT),
            (&name, Type::TEXT),
            (&before, Type::INT8),
            (&limit, Type::INT8),
        ];
        let rows = self.0.query(&sql, &parameters).await?;
        let run = |row| Ok(JobRun { number: get(row, 6)?, row: rows::job(row)? });
        rows.iter().map(run).collect()
    }
}

pub(super) async fn now(
    transaction: &mut postgres::Transaction<'_>,
) -> Result<Micros, ArchiveError> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let rows = transaction.query(sql, &[]).await?;
    let no_row = || ArchiveError::Unavailable("the server returned no time".into());
    Ok(Micros(get(rows.first().ok_or_else(no_row)?, 0)?))
}

pub(super) async fn job(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
    name: &str,
) -> Result<Option<JobRow>, ArchiveError> {
    let sql = format!(
        "SELECT {JOB_COLUMNS} FROM nightporter_ledger.jobs WHERE tenant = $1 AND name = $2"
    );
    let rows = transaction.query(&sql, &[(&tenant, Type::TEXT), (&name, Type::TEXT)]).await?;
    rows.first().map(rows::job).transpose()
}

pub(super) async fn find_all(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
    ids: &[RecordId],
) -> Result<Vec<Stored>, ArchiveError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM unnest($2, $3) AS i (writer, seq) \
          JOIN nightporter_ledger.requests AS r USING (writer, seq) WHERE r.tenant = ",
        tenant!(),
        " ORDER BY r.writer, r.seq"
    );
    let (writers, seqs) = rows::ids(ids.iter().copied());
    let parameters: [Parameter<'_>; 3] =
        [(&tenant, Type::TEXT), (&writers, Type::INT8_ARRAY), (&seqs, Type::INT8_ARRAY)];
    let (rows, tenant) = (transaction.query(sql, &parameters).await?, Arc::from(tenant));
    let row = |row| rows::record_row(row, &tenant);
    let records = rows.iter().map(row).collect::<Result<_, _>>()?;
    let records = with_parts(transaction, records).await?;
    Ok(records.into_iter().filter_map(RecordRow::into_stored).collect())
}

pub(super) async fn last_checkpoint(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
) -> Result<Option<StoredCheckpoint>, ArchiveError> {
    let sql = "SELECT size, at, note FROM nightporter_ledger.checkpoints WHERE tenant = $1
               ORDER BY size DESC LIMIT 1";
    let rows = transaction.query(sql, &[(&tenant, Type::TEXT)]).await?;
    rows.first().map(checkpoint).transpose()
}

pub(super) async fn tree_size(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
) -> Result<i64, ArchiveError> {
    let sql = "SELECT size FROM nightporter_ledger.trees WHERE tenant = $1";
    let rows = transaction.query(sql, &[(&tenant, Type::TEXT)]).await?;
    rows.first().map_or(Ok(0), |row| get(row, 0))
}

pub(super) async fn tiles(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
    keys: &[TileKey],
) -> Result<Vec<(TileKey, Vec<u8>)>, ArchiveError> {
    let sql = "SELECT k.level, k.number, t.hashes
               FROM unnest($2, $3) WITH ORDINALITY AS k (level, number, n)
               JOIN nightporter_ledger.tiles AS t
                   ON t.tenant = $1 AND t.level = k.level AND t.number = k.number
               ORDER BY k.n";
    let (levels, numbers) = tile_keys(keys.iter().copied());
    let parameters: [Parameter<'_>; 3] =
        [(&tenant, Type::TEXT), (&levels, Type::INT2_ARRAY), (&numbers, Type::INT8_ARRAY)];
    let rows = transaction.query(sql, &parameters).await?;
    let tile = |row| Ok((TileKey { level: get(row, 0)?, number: get(row, 1)? }, get(row, 2)?));
    rows.iter().map(tile).collect()
}

/// Returns keys of tiles as two columns.
pub(super) fn tile_keys(keys: impl Iterator<Item = TileKey> + Clone) -> (Vec<i16>, Vec<i64>) {
    (keys.clone().map(|key| key.level).collect(), keys.map(|key| key.number).collect())
}

fn checkpoint(row: &Row) -> Result<StoredCheckpoint, ArchiveError> {
    Ok(StoredCheckpoint { size: get(row, 0)?, at: Micros(get(row, 1)?), note: get(row, 2)? })
}

/// Returns an id, if there is one, as two parameters.
pub(super) fn columns_of(id: Option<RecordId>) -> (Option<i64>, Option<i64>) {
    (id.map(|id| id.writer.0), id.map(|id| id.seq))
}

/// Returns a limit as a parameter.
pub(super) fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
