//! The table of tokens in SQLite.

use rusqlite::{Connection, OptionalExtension, params};

use super::{COLUMNS, Row, Scope, Token, TokenHash, tenant_of};
use crate::ledger::archive::sqlite::Fault;
use crate::ledger::record::Micros;

pub(super) fn insert(connection: &Connection, token: &Token) -> Result<(), Fault> {
    let Token { id, hash, name, scope, rights, created, expires, last_use } = token;
    let sql = format!("INSERT INTO tokens ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    let (expires, last_use) = (expires.map(|at| at.0), last_use.map(|at| at.0));
    connection.execute(
        &sql,
        params![
            scope.as_str(),
            id,
            hash.as_bytes(),
            name,
            rights.to_string(),
            created.0,
            expires,
            last_use
        ],
    )?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, scope: &Scope, id: &str) -> Result<bool, Fault> {
    let sql = "DELETE FROM tokens WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)";
    Ok(connection.execute(sql, params![id, tenant_of(scope)])? > 0)
}

pub(super) fn note_use(
    connection: &Connection,
    id: &str,
    now: Micros,
    unless_since: Micros,
) -> Result<(), Fault> {
    let sql = "UPDATE tokens SET last_use = ?2
               WHERE id = ?1 AND (last_use IS NULL OR last_use < ?3)";
    connection.execute(sql, params![id, now.0, unless_since.0])?;
    Ok(())
}

pub(super) fn by_hash(connection: &Connection, hash: &TokenHash) -> Result<Option<Token>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE hash = ?");
    Ok(connection.query_row(&sql, [hash.as_bytes()], token).optional()?)
}

pub(super) fn list(connection: &Connection, scope: &Scope) -> Result<Vec<Token>, Fault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tokens WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created, id"
    );
    let mut statement = connection.prepare(&sql)?;
    let tokens = statement.query_map([tenant_of(scope)], token)?;
    Ok(tokens.collect::<Result<_, _>>()?)
}

fn token(row: &rusqlite::Row<'_>) -> rusqlite::Result<Token> {
    Ok(Row {
        tenant: row.get(0)?,
        id: row.get(1)?,
        hash: row.get(2)?,
        name: row.get(3)?,
        rights: row.get(4)?,
        created: row.get(5)?,
        expires: row.get(6)?,
        last_use: row.get(7)?,
    }
    .into())
}
