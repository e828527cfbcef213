//! Reading records.

use std::borrow::Cow;
use std::sync::Arc;

use rusqlite::{Connection, Params, Row, params};

use super::fault::Fault;
use crate::ledger::record::{
    Kind, Micros, Note, Personal, Record, RecordId, RecordRow, Step, Stored, WriterId,
};

/// The columns of a record, as [`record`] reads them.
pub(super) const COLUMNS: &str = "r.writer, r.seq, r.position, r.kind, r.at, r.app, r.host, r.path, \
     r.rule, r.client, r.client_id, r.client_name, r.address, r.client_id_digest, \
     r.client_name_digest, r.address_digest, r.verdict, r.reason, r.trace, r.duration, r.count, \
     r.salt, r.leaf, r.seal";

/// The number of the tenant that is the first parameter.
pub(super) const TENANT: &str = "(SELECT id FROM tenants WHERE name = ?1)";

/// Returns a record with its steps and notes.
pub(super) fn find(
    connection: &Connection,
    tenant: &Arc<str>,
    id: RecordId,
) -> Result<Option<Stored>, Fault> {
    let condition = "r.tenant = ".to_owned() + TENANT + " AND r.writer = ?2 AND r.seq = ?3";
    let params = params![tenant, id.writer.0, id.seq];
    let mut found = with_parts(connection, tenant, &condition, "r.writer, r.seq", params)?;
    let Some(RecordRow { id, position, record }) = found.pop() else { return Ok(None) };
    match record {
        Ok(record) => Ok(Some(Stored { record, position })),
        Err(problem) => Err(Fault::Content(format!("the record {id} cannot be read: {problem}"))),
    }
}

/// Returns records with their steps and notes. `params` are those of the condition; `order`
/// names columns that are unique.
pub(super) fn with_parts<P: Params + Copy>(
    connection: &Connection,
    tenant: &Arc<str>,
    condition: &str,
    order: &str,
    params: P,
) -> Result<Vec<RecordRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM requests r WHERE {condition} ORDER BY {order}");
    let mut found = without_parts(connection, tenant, &sql, params)?;
    let parts = |table, columns| {
        format!(
            "SELECT p.writer, p.seq, {columns} FROM requests r CROSS JOIN {table} p
             ON p.writer = r.writer AND p.seq = r.seq WHERE {condition} ORDER BY {order}, p.n"
        )
    };
    let steps = parts("steps", "p.name, p.duration, p.outcome");
    add_parts(connection, &mut found, &steps, params, |record, row| {
        record.steps.push(Step {
            name: word(row.get(2)?),
            duration: Micros(row.get(3)?),
            outcome: word(row.get(4)?),
        });
        Ok(())
    })?;
    let notes = parts("notes", "p.topic, p.text");
    add_parts(connection, &mut found, &notes, params, |record, row| {
        record.notes.push(Note { topic: word(row.get(2)?), text: row.get(3)? });
        Ok(())
    })?;
    Ok(found)
}

/// Adds steps or notes to the records that they belong to; both are in the same order.
fn add_parts(
    connection: &Connection,
    found: &mut [RecordRow],
    sql: &str,
    params: impl Params,
    add: impl Fn(&mut Record, &Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), Fault> {
    if found.is_empty() {
        return Ok(());
    }
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = found.iter_mut().peekable();
    while let Some(row) = rows.next()? {
        let id = id(row)?;
        while records.next_if(|found| found.id != id).is_some() {}
        if let Some(found) = records.peek_mut()
            && let Ok(record) = &mut found.record
            && let Err(error) = add(record, row)
        {
            found.record = Err(unreadable(row, &error));
        }
    }
    Ok(())
}

/// Returns records without their steps and notes; `sql` selects [`COLUMNS`].
pub(super) fn without_parts(
    connection: &Connection,
    tenant: &Arc<str>,
    sql: &str,
    params: impl Params,
) -> Result<Vec<RecordRow>, Fault> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, position) = (id(row)?, row.get(2)?);
        let record = record(row, id, tenant).map_err(|error| unreadable(row, &error));
        found.push(RecordRow { id, position, record });
    }
    Ok(found)
}

/// Reads a record. A row that was edited may hold anything.
fn record(row: &Row<'_>, id: RecordId, tenant: &Arc<str>) -> rusqlite::Result<Record> {
    Ok(Record {
        id,
        tenant: Arc::clone(tenant),
        kind: kind(row)?,
        at: Micros(row.get(4)?),
        app: row.get(5)?,
        host: row.get(6)?,
        path: row.get(7)?,
        rule: row.get(8)?,
        client: row.get::<_, Option<_>>(9)?.map(word),
        client_id: personal(row, 10)?,
        client_name: personal(row, 11)?,
        address: personal(row, 12)?,
        verdict: row.get::<_, Option<_>>(16)?.map(word),
        reason: row.get::<_, Option<_>>(17)?.map(word),
        trace: row.get(18)?,
        duration: Micros(row.get(19)?),
        count: row.get(20)?,
        steps: Vec::new(),
        notes: Vec::new(),
        salt: row.get(21)?,
        leaf: row.get(22)?,
        seal: row.get(23)?,
    })
}

/// Says which value of a row cannot be read, without the value.
fn unreadable(row: &Row<'_>, error: &rusqlite::Error) -> Box<str> {
    let column = match error {
        rusqlite::Error::FromSqlConversionFailure(column, ..)
        | rusqlite::Error::IntegralValueOutOfRange(column, _)
        | rusqlite::Error::InvalidColumnType(column, ..)
        | rusqlite::Error::Utf8Error(column, _) => row.as_ref().column_name(*column).ok(),
        _ => None,
    };
    format!("invalid {}", column.unwrap_or("value")).into()
}

fn id(row: &Row<'_>) -> rusqlite::Result<RecordId> {
    Ok(RecordId { writer: WriterId(row.get(0)?), seq: row.get(1)? })
}

fn kind(row: &Row<'_>) -> rusqlite::Result<Kind> {
    let name = row.get_ref(3)?.as_str()?;
    Kind::parse(name).ok_or_else(|| {
        let problem = format!("`{name}` is not a kind");
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, problem.into())
    })
}

/// Reads the value in column `n`, or else the digest three columns later.
fn personal(row: &Row<'_>, n: usize) -> rusqlite::Result<Option<Personal>> {
    if let Some(text) = row.get(n)? {
        return Ok(Some(Personal::Clear(text)));
    }
    Ok(row.get::<_, Option<_>>(n + 3)?.map(Personal::Digest))
}

/// Returns a number of rows as SQLite takes it.
pub(super) fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn word(text: String) -> Cow<'static, str> {
    Cow::Owned(text)
}
