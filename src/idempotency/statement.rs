//! One text of SQL for both kinds of archive.
//!
//! Both understand what the table needs, `ON CONFLICT` and `RETURNING` included. They differ in
//! the table's name, in how parameters are written and in how the clock is read.

use rusqlite::params_from_iter;
use rusqlite::types::{Value as SqliteValue, ValueRef};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::ledger::archive::postgres::get;
use crate::ledger::archive::sqlite::Fault;
use crate::ledger::archive::{ArchiveError, Snapshot, Transaction};
use crate::postgres::Parameter;

/// A value of a column or a parameter. The tables use no other types.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The rows that a statement returns.
pub(super) type Rows = Vec<Vec<Value>>;

/// Returns the statement as SQLite understands it. `{table}` and `{now}`, in microseconds, are
/// replaced.
fn for_sqlite(sql: &str) -> String {
    let now = "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000";
    sql.replace("{table}", "idempotency_keys").replace("{now}", &format!("({now})"))
}

/// Returns the statement as Postgres understands it.
fn for_postgres(sql: &str) -> String {
    let now = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    sql.replace("{table}", "nightporter_ledger.idempotency_keys")
        .replace("{now}", now)
        .replace('?', "$")
}

/// Runs a statement in a transaction.
pub(super) async fn run(
    transaction: &mut Transaction<'_>,
    sql: &str,
    values: Vec<Value>,
) -> Result<Rows, ArchiveError> {
    match transaction {
        Transaction::Sqlite(transaction) => {
            let sql = for_sqlite(sql);
            transaction.run(move |connection| on_sqlite(connection, &sql, values)).await
        }
        Transaction::Postgres(transaction) => {
            let rows = transaction.query(&for_postgres(sql), &parameters(&values)).await?;
            rows.iter().map(of_postgres).collect()
        }
    }
}

/// Runs a statement that only reads.
pub(super) async fn read(
    snapshot: &mut Snapshot<'_>,
    sql: &str,
    values: Vec<Value>,
) -> Result<Rows, ArchiveError> {
    match snapshot {
        Snapshot::Sqlite(snapshot) => {
            let sql = for_sqlite(sql);
            snapshot.run(move |connection| on_sqlite(connection, &sql, values)).await
        }
        Snapshot::Postgres(snapshot) => {
            let rows = snapshot.query(&for_postgres(sql), &parameters(&values)).await?;
            rows.iter().map(of_postgres).collect()
        }
    }
}

fn on_sqlite(
    connection: &rusqlite::Connection,
    sql: &str,
    values: Vec<Value>,
) -> Result<Rows, Fault> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let values = values.into_iter().map(|value| match value {
        Value::Null => SqliteValue::Null,
        Value::Int(number) => SqliteValue::Integer(number),
        Value::Text(text) => SqliteValue::Text(text),
        Value::Bytes(bytes) => SqliteValue::Blob(bytes),
    });
    let rows = statement.query_map(params_from_iter(values), |row| {
        (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Integer(number) => Value::Int(number),
                    ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
                    ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                    ValueRef::Null | ValueRef::Real(_) => Value::Null,
                })
            })
            .collect()
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn parameters(values: &[Value]) -> Vec<Parameter<'_>> {
    values.iter().map(parameter).collect()
}

fn parameter(value: &Value) -> Parameter<'_> {
    match value {
        Value::Null => (&None::<&str> as &(dyn ToSql + Sync), Type::TEXT),
        Value::Int(number) => (number, Type::INT8),
        Value::Text(text) => (text, Type::TEXT),
        Value::Bytes(bytes) => (bytes, Type::BYTEA),
    }
}

fn of_postgres(row: &Row) -> Result<Vec<Value>, ArchiveError> {
    let value = |(index, column): (usize, &tokio_postgres::Column)| {
        Ok(match *column.type_() {
            Type::INT8 => get::<Option<i64>>(row, index)?.map_or(Value::Null, Value::Int),
            Type::BYTEA => get::<Option<Vec<u8>>>(row, index)?.map_or(Value::Null, Value::Bytes),
            _ => get::<Option<String>>(row, index)?.map_or(Value::Null, Value::Text),
        })
    };
    row.columns().iter().enumerate().map(value).collect()
}
