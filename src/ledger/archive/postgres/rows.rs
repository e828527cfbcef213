//! Records as rows: the columns in which they are written and from which they are read.

use std::borrow::Cow;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};

use super::super::{ArchiveError, JobRow, Unplaced};
use crate::ledger::record::{
    Kind, Micros, Note, Personal, Record, RecordId, RecordRow, Step, Word, WriterId,
};
use crate::postgres::{Error, Parameter};

/// A column of many rows.
type Column<'a> = (Box<dyn ToSql + Sync + Send + 'a>, Type);

/// The columns of many rows, one parameter each.
pub(super) struct Columns<'a>(Vec<Column<'a>>);

impl<'a> Columns<'a> {
    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        self.0.iter().map(|(column, of)| (&**column as &(dyn ToSql + Sync), of.clone())).collect()
    }

    fn push<T: ToSql + Sync + Send + 'a>(&mut self, of: Type, column: Vec<T>) {
        self.0.push((Box::new(column), of));
    }

    fn int8<R>(&mut self, rows: &[&'a R], get: impl Fn(&'a R) -> i64) {
        self.push(Type::INT8_ARRAY, rows.iter().map(|row| get(row)).collect());
    }

    fn text<R>(&mut self, rows: &[&'a R], get: impl Fn(&'a R) -> Option<&'a str>) {
        self.push(Type::TEXT_ARRAY, rows.iter().map(|row| get(row)).collect());
    }

    fn bytea<R>(&mut self, rows: &[&'a R], get: impl Fn(&'a R) -> Option<&'a [u8]>) {
        self.push(Type::BYTEA_ARRAY, rows.iter().map(|row| get(row)).collect());
    }
}

/// Returns the parameters of [`INSERT_REQUESTS`]. `tenant` returns the number of a tenant.
pub(super) fn requests<'a>(
    records: &[&'a Record],
    tenant: impl Fn(&str) -> Option<i32>,
) -> Columns<'a> {
    let mut columns = Columns(Vec::with_capacity(24));
    columns.int8(records, |record| record.id.writer.0);
    columns.int8(records, |record| record.id.seq);
    columns.push(Type::INT4_ARRAY, records.iter().map(|record| tenant(&record.tenant)).collect());
    columns.text(records, |record| Some(record.kind.as_str()));
    columns.int8(records, |record| record.at.0);
    columns.text(records, |record| record.app.as_deref());
    columns.text(records, |record| record.host.as_deref());
    columns.text(records, |record| record.path.as_deref());
    columns.text(records, |record| record.rule.as_deref());
    columns.text(records, |record| record.client.as_deref());
    columns.text(records, |record| clear(record.client_id.as_ref()));
    columns.text(records, |record| clear(record.client_name.as_ref()));
    columns.text(records, |record| clear(record.address.as_ref()));
    columns.bytea(records, |record| digest(record.client_id.as_ref()));
    columns.bytea(records, |record| digest(record.client_name.as_ref()));
    columns.bytea(records, |record| digest(record.address.as_ref()));
    columns.text(records, |record| record.verdict.as_deref());
    columns.text(records, |record| record.reason.as_deref());
    columns.text(records, |record| record.trace.as_deref());
    columns.int8(records, |record| record.duration.0);
    columns.int8(records, |record| record.count);
    columns.bytea(records, |record| record.salt.as_ref().map(<[u8; 16]>::as_slice));
    columns.bytea(records, |record| Some(&record.leaf));
    columns.bytea(records, |record| Some(&record.seal));
    columns
}

/// A part of a record, and its place in it.
struct Part<'a, T> {
    of: RecordId,
    n: usize,
    what: &'a T,
}

fn parts<'a, T>(
    records: &[&'a Record],
    parts_of: impl Fn(&'a Record) -> &'a [T],
) -> Vec<Part<'a, T>> {
    let of = |record: &&'a Record| {
        let id = record.id;
        parts_of(record).iter().enumerate().map(move |(n, what)| Part { of: id, n, what })
    };
    records.iter().flat_map(of).collect()
}

fn keys<T>(parts: &[Part<'_, T>]) -> Columns<'static> {
    let mut columns = Columns(Vec::with_capacity(6));
    let n = |part: &Part<'_, T>| i32::try_from(part.n).unwrap_or(i32::MAX);
    columns.push(Type::INT8_ARRAY, parts.iter().map(|part| part.of.writer.0).collect());
    columns.push(Type::INT8_ARRAY, parts.iter().map(|part| part.of.seq).collect());
    columns.push(Type::INT4_ARRAY, parts.iter().map(n).collect());
    columns
}

/// Returns the parameters of [`INSERT_STEPS`]; `None` without any step.
pub(super) fn steps<'a>(records: &[&'a Record]) -> Option<Columns<'a>> {
    let parts: Vec<Part<'a, Step>> = parts(records, |record| &record.steps);
    let mut columns: Columns<'a> = keys(&parts);
    let name = |part: &Part<'a, Step>| -> &'a str { &part.what.name };
    let outcome = |part: &Part<'a, Step>| -> &'a str { &part.what.outcome };
    columns.push(Type::TEXT_ARRAY, parts.iter().map(name).collect());
    columns.push(Type::INT8_ARRAY, parts.iter().map(|part| part.what.duration.0).collect());
    columns.push(Type::TEXT_ARRAY, parts.iter().map(outcome).collect());
    (!parts.is_empty()).then_some(columns)
}

/// Returns the parameters of [`INSERT_NOTES`]; `None` without any note.
pub(super) fn notes<'a>(records: &[&'a Record]) -> Option<Columns<'a>> {
    let parts: Vec<Part<'a, Note>> = parts(records, |record| &record.notes);
    let mut columns: Columns<'a> = keys(&parts);
    let topic = |part: &Part<'a, Note>| -> &'a str { &part.what.topic };
    let text = |part: &Part<'a, Note>| -> &'a str { &part.what.text };
    columns.push(Type::TEXT_ARRAY, parts.iter().map(topic).collect());
    columns.push(Type::TEXT_ARRAY, parts.iter().map(text).collect());
    (!parts.is_empty()).then_some(columns)
}

/// Returns ids as two columns.
pub(super) fn ids(ids: impl Iterator<Item = RecordId> + Clone) -> (Vec<i64>, Vec<i64>) {
    (ids.clone().map(|id| id.writer.0).collect(), ids.map(|id| id.seq).collect())
}

fn clear(value: Option<&Personal>) -> Option<&str> {
    match value {
        Some(Personal::Clear(text)) => Some(text),
        Some(Personal::Digest(_)) | None => None,
    }
}

fn digest(value: Option<&Personal>) -> Option<&[u8]> {
    match value {
        Some(Personal::Digest(digest)) => Some(digest),
        Some(Personal::Clear(_)) | None => None,
    }
}

pub(super) const INSERT_REQUESTS: &str = "
    INSERT INTO nightporter_ledger.requests (writer, seq, tenant, kind, at, app, host, path, rule,
        client, client_id, client_name, address, client_id_digest, client_name_digest,
        address_digest, verdict, reason, trace, duration, count, salt, leaf, seal)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        $17, $18, $19, $20, $21, $22, $23, $24)
    ON CONFLICT (writer, seq) DO NOTHING
    RETURNING writer, seq";

pub(super) const INSERT_STEPS: &str = "
    INSERT INTO nightporter_ledger.steps (writer, seq, n, name, duration, outcome)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6)";

pub(super) const INSERT_NOTES: &str = "
    INSERT INTO nightporter_ledger.notes (writer, seq, n, topic, text)
    SELECT * FROM unnest($1, $2, $3, $4, $5)";

/// The columns of a record, read by [`record_row`].
macro_rules! columns {
    () => {
        "r.writer, r.seq, r.position, r.kind, r.at, r.app, r.host, r.path, r.rule, r.client, \
         r.client_id, r.client_name, r.address, r.client_id_digest, r.client_name_digest, \
         r.address_digest, r.verdict, r.reason, r.trace, r.duration, r.count, r.salt, r.leaf, \
         r.seal"
    };
}
/// How many these are.
pub(super) const COLUMN_COUNT: usize = 24;

/// The number of the tenant whose name is the first parameter.
macro_rules! tenant {
    () => {
        "(SELECT id FROM nightporter_ledger.tenants WHERE name = $1)"
    };
}
pub(super) use {columns, tenant};

/// Reads the steps of records, given as two columns.
pub(super) const SELECT_STEPS: &str = "
    SELECT p.writer, p.seq, p.name, p.duration, p.outcome
    FROM unnest($1, $2) AS r (writer, seq) JOIN nightporter_ledger.steps AS p USING (writer, seq)
    ORDER BY p.writer, p.seq, p.n";

/// Reads the notes of records, given as two columns.
pub(super) const SELECT_NOTES: &str = "
    SELECT p.writer, p.seq, p.topic, p.text
    FROM unnest($1, $2) AS r (writer, seq) JOIN nightporter_ledger.notes AS p USING (writer, seq)
    ORDER BY p.writer, p.seq, p.n";

/// Returns a row that begins with the [`columns`].
pub(super) fn record_row(row: &Row, tenant: &Arc<str>) -> Result<RecordRow, ArchiveError> {
    let id = id(row)?;
    Ok(RecordRow { id, position: get(row, 2)?, record: record(row, id, tenant) })
}

/// Reads a record, or says which value of it cannot be read, without the value.
fn record(row: &Row, id: RecordId, tenant: &Arc<str>) -> Result<Record, Box<str>> {
    let personal = |text, digest_of| match value::<Option<&str>>(row, text)? {
        Some(text) => Ok(Some(Personal::Clear(text.into()))),
        None => Ok::<_, Box<str>>(bytes(row, digest_of)?.map(Personal::Digest)),
    };
    Ok(Record {
        id,
        tenant: Arc::clone(tenant),
        kind: Kind::parse(value(row, 3)?).ok_or_else(|| invalid(row, 3))?,
        at: Micros(value(row, 4)?),
        app: value::<Option<&str>>(row, 5)?.map(Arc::from),
        host: value::<Option<&str>>(row, 6)?.map(Box::from),
        path: value::<Option<&str>>(row, 7)?.map(Box::from),
        rule: value::<Option<&str>>(row, 8)?.map(Arc::from),
        client: value::<Option<String>>(row, 9)?.map(Cow::Owned),
        client_id: personal(10, 13)?,
        client_name: personal(11, 14)?,
        address: personal(12, 15)?,
        verdict: value::<Option<String>>(row, 16)?.map(Cow::Owned),
        reason: value::<Option<String>>(row, 17)?.map(Cow::Owned),
        trace: value::<Option<&str>>(row, 18)?.map(Box::from),
        duration: Micros(value(row, 19)?),
        count: value(row, 20)?,
        steps: Vec::new(),
        notes: Vec::new(),
        salt: bytes(row, 21)?,
        leaf: bytes(row, 22)?.ok_or_else(|| invalid(row, 22))?,
        seal: bytes(row, 23)?.ok_or_else(|| invalid(row, 23))?,
    })
}

/// Returns the error about a record of which not everything can be read.
pub(super) fn unreadable(id: RecordId, problem: &str) -> ArchiveError {
    ArchiveError::Content(format!("the record {id} cannot be read: {problem}").into())
}

/// Returns a row of an id, a leaf, a seal and a time.
pub(super) fn unplaced(row: &Row) -> Result<Unplaced, ArchiveError> {
    // A value of another length was altered. Nothing is sealed with zeros, so the record gets no
    // position, and is no reason for others to get none.
    let leaf = bytes(row, 2).ok().flatten().unwrap_or_default();
    let seal = bytes(row, 3).ok().flatten().unwrap_or_default();
    Ok(Unplaced { id: id(row)?, at: Micros(get(row, 4)?), leaf, seal })
}

/// Returns the first two columns of a row, an id.
pub(super) fn id(row: &Row) -> Result<RecordId, ArchiveError> {
    Ok(RecordId { writer: WriterId(get(row, 0)?), seq: get(row, 1)? })
}

/// Returns a row of [`SELECT_STEPS`].
pub(super) fn step(row: &Row) -> Result<Step, Box<str>> {
    Ok(Step { name: word(row, 2)?, duration: Micros(value(row, 3)?), outcome: word(row, 4)? })
}

/// Returns a row of [`SELECT_NOTES`].
pub(super) fn note(row: &Row) -> Result<Note, Box<str>> {
    Ok(Note { topic: word(row, 2)?, text: value::<&str>(row, 3)?.into() })
}

/// Returns a row with the columns [`JOB_COLUMNS`].
pub(super) fn job(row: &Row) -> Result<JobRow, ArchiveError> {
    Ok(JobRow {
        name: get(row, 0)?,
        due: Micros(get(row, 1)?),
        started: get::<Option<i64>>(row, 2)?.map(Micros),
        ended: get::<Option<i64>>(row, 3)?.map(Micros),
        outcome: get(row, 4)?,
        by: get(row, 5)?,
    })
}

pub(super) const JOB_COLUMNS: &str = "name, due, started, ended, outcome, by";

/// Returns a value that has a certain length unless it was altered.
fn bytes<const LENGTH: usize>(row: &Row, column: usize) -> Result<Option<[u8; LENGTH]>, Box<str>> {
    let Some(bytes) = value::<Option<&[u8]>>(row, column)? else { return Ok(None) };
    bytes.try_into().map(Some).map_err(|_| invalid(row, column))
}

fn word(row: &Row, column: usize) -> Result<Word, Box<str>> {
    Ok(Cow::Owned(value(row, column)?))
}

/// Returns a value of a row that may have been altered.
fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Box<str>> {
    row.try_get(column).map_err(|_| invalid(row, column))
}

fn invalid(row: &Row, column: usize) -> Box<str> {
    let name = row.columns().get(column).map_or("value", tokio_postgres::Column::name);
    format!("invalid {name}").into()
}

pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, ArchiveError> {
    row.try_get(column).map_err(|error| Error::from(error).into())
}
