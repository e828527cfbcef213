//! What the file holds.

use rusqlite::Connection;

use super::rows::TENANT;
use super::tree;
use crate::ledger::archive::Holdings;
use crate::ledger::record::Kind;

/// Counts the records. The bytes are those of the whole file, which is
/// one box's, without its tree.
pub(super) fn count(connection: &Connection, tenant: &str) -> rusqlite::Result<Holdings> {
    let sql = format!(
        "SELECT kind, count(*) AS records FROM requests
         WHERE tenant = {TENANT} GROUP BY kind ORDER BY records DESC"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([tenant])?;
    let mut kinds = Vec::new();
    while let Some(row) = rows.next()? {
        // A kind that a later version writes is left to that version.
        if let Some(kind) = Kind::parse(&row.get::<_, String>(0)?) {
            kinds.push((kind, u64::from(row.get::<_, u32>(1)?)));
        }
    }
    let pragma = |sql| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).map(u64::from);
    let pages = pragma("PRAGMA page_count")?.saturating_sub(pragma("PRAGMA freelist_count")?);
    let tree_bytes = tree::bytes(connection, tenant)?;
    let bytes = (pages * pragma("PRAGMA page_size")?).saturating_sub(tree_bytes);
    Ok(Holdings { kinds, bytes, tree_bytes })
}
