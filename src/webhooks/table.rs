//! The room's statements: one text for both kinds of database.
//!
//! They are written for Postgres. SQLite has no schema and no row locks (a transaction that
//! writes holds the lock of the whole file), so those words are left out for it.

use rusqlite::types::{ToSql, ToSqlOutput, Value as SqliteValue, ValueRef};
use rusqlite::{Connection, params_from_iter};
use tokio_postgres::types::Type;

use crate::ledger::archive::postgres::get;
use crate::ledger::archive::sqlite::Fault;
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::ledger::record::Micros;
use crate::postgres::Parameter;

/// What only Postgres has.
const ROW_LOCKS: &str = " FOR UPDATE SKIP LOCKED";
const SCHEMA: &str = "nightporter_ledger.";

/// A parameter of a statement.
#[derive(Debug, Clone)]
pub(super) enum Param {
    Text(Option<String>),
    Integer(Option<i64>),
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

impl ToSql for Param {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Integer(Some(number)) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Self::Text(None) | Self::Integer(None) => ToSqlOutput::Owned(SqliteValue::Null),
        })
    }
}

/// A row of an answer: texts, whole numbers and `NULL`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row(Vec<Cell>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Null,
    Text(String),
    Integer(i64),
}

impl Row {
    pub(super) fn text(&self, at: usize) -> Result<String, ArchiveError> {
        self.optional_text(at)?.ok_or_else(|| unexpected(at))
    }

    pub(super) fn optional_text(&self, at: usize) -> Result<Option<String>, ArchiveError> {
        match self.0.get(at) {
            Some(Cell::Text(text)) => Ok(Some(text.clone())),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected(at)),
        }
    }

    pub(super) fn integer(&self, at: usize) -> Result<i64, ArchiveError> {
        self.optional_integer(at)?.ok_or_else(|| unexpected(at))
    }

    pub(super) fn optional_integer(&self, at: usize) -> Result<Option<i64>, ArchiveError> {
        match self.0.get(at) {
            Some(Cell::Integer(number)) => Ok(Some(*number)),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected(at)),
        }
    }
}

/// A row that was edited may hold anything.
fn unexpected(at: usize) -> ArchiveError {
    ArchiveError::Content(format!("column {at} of a webhooks table has another type").into())
}

/// Runs a statement in a transaction.
pub(super) async fn query(
    transaction: &mut Transaction<'_>,
    sql: &'static str,
    params: Vec<Param>,
) -> Result<Vec<Row>, ArchiveError> {
    match transaction {
        Transaction::Sqlite(transaction) => {
            transaction.run(move |connection| sqlite(connection, sql, &params)).await
        }
        Transaction::Postgres(transaction) => {
            postgres(&transaction.query(sql, &parameters(&params)).await?)
        }
    }
}

/// Runs a statement that reads.
pub(super) async fn read(
    snapshot: &mut Snapshot<'_>,
    sql: &'static str,
    params: Vec<Param>,
) -> Result<Vec<Row>, ArchiveError> {
    match snapshot {
        Snapshot::Sqlite(snapshot) => {
            snapshot.run(move |connection| sqlite(connection, sql, &params)).await
        }
        Snapshot::Postgres(snapshot) => postgres(&snapshot.query(sql, &parameters(&params)).await?),
    }
}

fn sqlite(connection: &Connection, sql: &str, params: &[Param]) -> Result<Vec<Row>, Fault> {
    let mut statement = connection.prepare(&for_sqlite(sql))?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(params))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let cell = |at| {
            Ok(match row.get_ref(at)? {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(number) => Cell::Integer(number),
                ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Real(_) | ValueRef::Blob(_) => {
                    return Err(Fault::Content("a column has another type".to_owned()));
                }
            })
        };
        found.push(Row((0..columns).map(cell).collect::<Result<_, Fault>>()?));
    }
    Ok(found)
}

fn for_sqlite(sql: &str) -> String {
    sql.replace(SCHEMA, "").replace(ROW_LOCKS, "").replace('$', "?")
}

fn parameters(params: &[Param]) -> Vec<Parameter<'_>> {
    params.iter().map(parameter).collect()
}

fn parameter(param: &Param) -> Parameter<'_> {
    match param {
        Param::Text(text) => (text, Type::TEXT),
        Param::Integer(number) => (number, Type::INT8),
    }
}

fn postgres(rows: &[tokio_postgres::Row]) -> Result<Vec<Row>, ArchiveError> {
    let cell = |row: &tokio_postgres::Row, at: usize, type_: &Type| {
        Ok(match *type_ {
            Type::INT8 => get::<Option<i64>>(row, at)?.map(Cell::Integer),
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
    }

    #[test]
    fn rows_come_back_as_they_are_and_other_types_are_refused() {
        let connection = Connection::open_in_memory().expect("a database");
        let params = [Param::from("a"), Param::from(7), Param::from(None::<&str>)];
        let rows = sqlite(&connection, "SELECT $1, $2, $3", &params).expect("rows");
        assert_eq!(rows[0].text(0).expect("text"), "a");
        assert_eq!(rows[0].integer(1).expect("a number"), 7);
        assert_eq!(rows[0].optional_text(2).expect("nothing"), None);
        assert!(rows[0].text(1).is_err() && rows[0].integer(3).is_err());
        assert!(sqlite(&connection, "SELECT 0.5", &[]).is_err());
    }
}
