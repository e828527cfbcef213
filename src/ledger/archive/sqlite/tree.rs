//! The tables of the tree: sizes, tiles and checkpoints.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::ledger::archive::{StoredCheckpoint, TileKey};
use crate::ledger::record::Micros;

pub(super) fn size(connection: &Connection, tenant: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT size FROM trees WHERE tenant = ?";
    Ok(connection.query_row(sql, [tenant], |row| row.get(0)).optional()?.unwrap_or(0))
}

pub(super) fn set_size(connection: &Connection, tenant: &str, size: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO trees (tenant, size) VALUES (?, ?)
               ON CONFLICT (tenant) DO UPDATE SET size = excluded.size";
    connection.execute(sql, params![tenant, size])?;
    Ok(())
}

pub(super) fn tiles(
    connection: &Connection,
    tenant: &str,
    keys: &[TileKey],
) -> rusqlite::Result<Vec<(TileKey, Vec<u8>)>> {
    let sql = "SELECT hashes FROM tiles WHERE tenant = ? AND level = ? AND number = ?";
    let mut statement = connection.prepare(sql)?;
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let params = params![tenant, key.level, key.number];
        if let Some(hashes) = statement.query_row(params, |row| row.get(0)).optional()? {
            found.push((*key, hashes));
        }
    }
    Ok(found)
}

pub(super) fn put_tiles(
    connection: &Connection,
    tenant: &str,
    tiles: &[(TileKey, Vec<u8>)],
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tiles (tenant, level, number, hashes) VALUES (?, ?, ?, ?)
               ON CONFLICT (tenant, level, number) DO UPDATE SET hashes = excluded.hashes";
    let mut statement = connection.prepare(sql)?;
    for (key, hashes) in tiles {
        statement.execute(params![tenant, key.level, key.number, hashes])?;
    }
    Ok(())
}

/// Returns the last checkpoint.
pub(super) fn checkpoint(
    connection: &Connection,
    tenant: &str,
) -> rusqlite::Result<Option<StoredCheckpoint>> {
    let sql = "SELECT size, at, note FROM checkpoints WHERE tenant = ? ORDER BY size DESC LIMIT 1";
    connection.query_row(sql, [tenant], checkpoint_row).optional()
}

/// Returns all checkpoints, oldest first.
pub(super) fn checkpoints(
    connection: &Connection,
    tenant: &str,
) -> rusqlite::Result<Vec<StoredCheckpoint>> {
    let sql = "SELECT size, at, note FROM checkpoints WHERE tenant = ? ORDER BY size";
    connection.prepare(sql)?.query_map([tenant], checkpoint_row)?.collect()
}

pub(super) fn put_checkpoint(
    connection: &Connection,
    tenant: &str,
    checkpoint: &StoredCheckpoint,
) -> rusqlite::Result<()> {
    let StoredCheckpoint { size, at, note } = checkpoint;
    let sql = "INSERT INTO checkpoints (tenant, size, at, note) VALUES (?, ?, ?, ?)
               ON CONFLICT (tenant, size) DO NOTHING";
    connection.execute(sql, params![tenant, size, at.0, note])?;
    Ok(())
}

/// Returns the size and the time of each checkpoint, the smallest first.
pub(super) fn checkpoint_times(
    connection: &Connection,
    tenant: &str,
) -> rusqlite::Result<Vec<(i64, Micros)>> {
    let sql = "SELECT size, at FROM checkpoints WHERE tenant = ? ORDER BY size";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([tenant], |row| Ok((row.get(0)?, Micros(row.get(1)?))))?.collect()
}

pub(super) fn remove_checkpoints(
    connection: &Connection,
    tenant: &str,
    sizes: &[i64],
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare("DELETE FROM checkpoints WHERE tenant = ? AND size = ?")?;
    for size in sizes {
        statement.execute(params![tenant, size])?;
    }
    Ok(())
}

/// Returns about how many bytes the tree takes up.
pub(super) fn bytes(connection: &Connection, tenant: &str) -> rusqlite::Result<u64> {
    // A complete tile takes two pages of its own, and 650 bytes beside its key; a checkpoint
    // and its key some 250 bytes beside its text.
    let sql = "SELECT (SELECT coalesce(sum(length(hashes) + 650), 0) FROM tiles WHERE tenant = ?1)
               + (SELECT coalesce(sum(length(note) + 250), 0) FROM checkpoints WHERE tenant = ?1)";
    let bytes: i64 = connection.query_row(sql, [tenant], |row| row.get(0))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

fn checkpoint_row(row: &Row<'_>) -> rusqlite::Result<StoredCheckpoint> {
    // A text that was altered may be none; its signature says so.
    let note = String::from_utf8_lossy(row.get_ref(2)?.as_bytes()?).into_owned();
    Ok(StoredCheckpoint { size: row.get(0)?, at: Micros(row.get(1)?), note })
}
