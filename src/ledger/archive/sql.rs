//! Statements that are one text for both kinds of database.
//!
//! They are written for Postgres. SQLite has no schema and no row locks (a transaction that
//! writes holds the lock of the whole file), so those words are left out for it. `{now}` stands
//! for the time of the database's clock now (not of the transaction's begin), in microseconds.

use std::borrow::Cow;
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, Value as SqliteValue, ValueRef};
use rusqlite::{Connection, params_from_iter};
use tokio_postgres::types::Type;

use super::postgres::get;
use super::sqlite::Fault;
use super::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::{Micros, micros};
use crate::postgres::Parameter;

/// What only Postgres has.
const ROW_LOCKS: &str = " FOR UPDATE SKIP LOCKED";
const SCHEMA: &str = "nightporter_ledger.";

const NOW: &str = "{now}";
const NOW_POSTGRES: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
/// SQLite tells milliseconds, as a fraction that is rounded anew.
const NOW_SQLITE: &str = "(CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000)";

/// A parameter of a statement.
#[derive(Debug, Clone)]
pub(crate) enum Param {
    Text(Option<String>),
    Integer(Option<i64>),
    Bytes(Vec<u8>),
}

impl From<&str> for Param {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Param {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<&str>> for Param {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Param {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Micros> for Param {
    fn from(at: Micros) -> Self {
        Self::Integer(Some(at.0))
    }
}

impl From<Option<Micros>> for Param {
    fn from(at: Option<Micros>) -> Self {
        Self::Integer(at.map(|at| at.0))
    }
}

impl From<Option<i64>> for Param {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

/// In microseconds.
impl From<Duration> for Param {
    fn from(duration: Duration) -> Self {
        Self::Integer(Some(micros(duration)))
    }
}

impl From<&[u8]> for Param {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Param {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl ToSql for Param {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Integer(Some(number)) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Self::Text(None) | Self::Integer(None) => ToSqlOutput::Owned(SqliteValue::Null),
        })
    }
}

/// A row of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(Vec<Cell>);

/// A value in a row. The tables have no other types.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Null,
    Text(String),
    Integer(i64),
    Bytes(Vec<u8>),
}

impl Row {
    pub(crate) fn text(&self, at: usize) -> Result<String, ArchiveError> {
        self.optional_text(at)?.ok_or_else(|| unexpected(at))
    }

    pub(crate) fn optional_text(&self, at: usize) -> Result<Option<String>, ArchiveError> {
        match self.0.get(at) {
            Some(Cell::Text(text)) => Ok(Some(text.clone())),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected(at)),
        }
    }

    pub(crate) fn integer(&self, at: usize) -> Result<i64, ArchiveError> {
        self.optional_integer(at)?.ok_or_else(|| unexpected(at))
    }

    pub(crate) fn bytes(&self, at: usize) -> Result<Vec<u8>, ArchiveError> {
        self.optional_bytes(at)?.ok_or_else(|| unexpected(at))
    }

    pub(crate) fn optional_bytes(&self, at: usize) -> Result<Option<Vec<u8>>, ArchiveError> {
        match self.0.get(at) {
            Some(Cell::Bytes(bytes)) => Ok(Some(bytes.clone())),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected(at)),
        }
    }

    pub(crate) fn optional_integer(&self, at: usize) -> Result<Option<i64>, ArchiveError> {
        match self.0.get(at) {
            Some(Cell::Integer(number)) => Ok(Some(*number)),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected(at)),
        }
    }
}

/// A row that was altered may hold anything.
fn unexpected(at: usize) -> ArchiveError {
    ArchiveError::Content(format!("column {at} of a row has another type than expected").into())
}

/// Runs a statement in a transaction.
pub(crate) async fn query(
    transaction: &mut Transaction<'_>,
    sql: &str,
    params: Vec<Param>,
) -> Result<Vec<Row>, ArchiveError> {
    match transaction {
        Transaction::Sqlite(transaction) => {
            let sql = for_sqlite(sql);
            transaction.run(move |connection| sqlite(connection, &sql, &params)).await
        }
        Transaction::Postgres(transaction) => {
            postgres(&transaction.query(&for_postgres(sql), &parameters(&params)).await?)
        }
    }
}

/// Runs a statement that reads.
pub(crate) async fn read(
    snapshot: &mut Snapshot<'_>,
    sql: &str,
    params: Vec<Param>,
) -> Result<Vec<Row>, ArchiveError> {
    match snapshot {
        Snapshot::Sqlite(snapshot) => {
            let sql = for_sqlite(sql);
            snapshot.run(move |connection| sqlite(connection, &sql, &params)).await
        }
        Snapshot::Postgres(snapshot) => {
            postgres(&snapshot.query(&for_postgres(sql), &parameters(&params)).await?)
        }
    }
}

fn sqlite(connection: &Connection, sql: &str, params: &[Param]) -> Result<Vec<Row>, Fault> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(params))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let cell = |at| {
            Ok(match row.get_ref(at)? {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(number) => Cell::Integer(number),
                ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
                ValueRef::Real(_) => {
                    return Err(Fault::Content("a column has another type".to_owned()));
                }
            })
        };
        found.push(Row((0..columns).map(cell).collect::<Result<_, Fault>>()?));
    }
    Ok(found)
}

fn for_sqlite(sql: &str) -> String {
    sql.replace(SCHEMA, "").replace(ROW_LOCKS, "").replace('$', "?").replace(NOW, NOW_SQLITE)
}

fn for_postgres(sql: &str) -> Cow<'_, str> {
    if sql.contains(NOW) { sql.replace(NOW, NOW_POSTGRES).into() } else { sql.into() }
}

fn parameters(params: &[Param]) -> Vec<Parameter<'_>> {
    params.iter().map(parameter).collect()
}

fn parameter(param: &Param) -> Parameter<'_> {
    match param {
        Param::Text(text) => (text, Type::TEXT),
        Param::Integer(number) => (number, Type::INT8),
        Param::Bytes(bytes) => (bytes, Type::BYTEA),
    }
}

fn postgres(rows: &[tokio_postgres::Row]) -> Result<Vec<Row>, ArchiveError> {
    let cell = |row: &tokio_postgres::Row, at: usize, type_: &Type| {
        Ok(match *type_ {
            Type::INT8 => get::<Option<i64>>(row, at)?.map(Cell::Integer),
            Type::BYTEA => get::<Option<Vec<u8>>>(row, at)?.map(Cell::Bytes),
            _ => get::<Option<String>>(row, at)?.map(Cell::Text),
        }
        .unwrap_or(Cell::Null))
    };
    let row = |row: &tokio_postgres::Row| {
        let columns = row.columns().iter().enumerate();
        let cells = columns.map(|(at, column)| cell(row, at, column.type_()));
        Ok(Row(cells.collect::<Result<_, ArchiveError>>()?))
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_does_not_have_is_left_out_for_it() {
        let sql = "SELECT id FROM nightporter_ledger.endpoints WHERE tenant = $1 AND id = $12 \
                   FOR UPDATE SKIP LOCKED";
        assert_eq!(for_sqlite(sql), "SELECT id FROM endpoints WHERE tenant = ?1 AND id = ?12");
        assert_eq!(for_postgres(sql), sql);
    }

    #[test]
    fn the_clock_is_that_of_the_database() {
        let connection = Connection::open_in_memory().expect("a database");
        let rows = sqlite(&connection, &for_sqlite("SELECT {now}"), &[]).expect("rows");
        let now = rows[0].integer(0).expect("a number");
        // Some time between 2020 and 2100, in microseconds.
        assert!((1_577_836_800_000_000..4_102_444_800_000_000).contains(&now), "{now}");
        let expected = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 + $1";
        assert_eq!(for_postgres("SELECT {now} + $1"), expected);
    }

    #[test]
    fn rows_come_back_as_they_are_and_other_types_are_refused() {
        let connection = Connection::open_in_memory().expect("a database");
        let params = [Param::from("a"), 7.into(), Param::from(None::<&str>), vec![0, 255].into()];
        let rows = sqlite(&connection, "SELECT ?1, ?2, ?3, ?4", &params).expect("rows");
        let row = &rows[0];
        assert_eq!(row.text(0).expect("text"), "a");
        assert_eq!(row.integer(1).expect("a number"), 7);
        assert_eq!(row.optional_text(2).expect("nothing"), None);
        assert_eq!(row.optional_bytes(2).expect("nothing"), None);
        assert_eq!(row.bytes(3).expect("bytes"), [0, 255]);
        for wrong in [row.text(1).err(), row.text(2).err(), row.text(3).err(), row.text(4).err()] {
            assert!(matches!(wrong, Some(ArchiveError::Content(_))), "{wrong:?}");
        }
        assert!(row.integer(0).is_err() && row.integer(3).is_err() && row.bytes(0).is_err());
        assert!(sqlite(&connection, "SELECT 0.5", &[]).is_err());
    }
}
