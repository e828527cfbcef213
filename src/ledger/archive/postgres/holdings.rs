//! What the schema holds of one tenant.

use tokio_postgres::types::Type;

use super::super::{ArchiveError, Holdings};
use super::rows::{get, tenant};
use crate::ledger::record::Kind;
use crate::postgres;

/// Counts the records by kind: those that have a position along an index, and the others, of
/// which there are few as a rule.
const KINDS: &str = concat!(
    "SELECT kind, sum(n)::int8 FROM (
         SELECT kind, count(*) AS n FROM nightporter_ledger.requests WHERE tenant = ",
    tenant!(),
    "    AND position IS NOT NULL GROUP BY kind
         UNION ALL
         SELECT kind, count(*) FROM nightporter_ledger.requests WHERE tenant = ",
    tenant!(),
    "    AND position IS NULL GROUP BY kind
     ) AS parts GROUP BY kind ORDER BY sum(n) DESC"
);

/// The bytes of a record with its steps and notes, on average over some 1,000 of them. An entry of
/// an index takes some 40 bytes: a record is in five indexes, a step or a note in one.
const BYTES: &str = concat!(
    "WITH sample AS MATERIALIZED (
         (SELECT * FROM nightporter_ledger.requests WHERE tenant = ",
    tenant!(),
    "        AND position IS NOT NULL LIMIT 1000)
         UNION ALL
         (SELECT * FROM nightporter_ledger.requests WHERE tenant = ",
    tenant!(),
    "        AND position IS NULL LIMIT 100))
     SELECT ((SELECT coalesce(sum(pg_column_size(s.*) + 200), 0) FROM sample AS s)
         + (SELECT coalesce(sum(pg_column_size(p.*) + 40), 0)
            FROM nightporter_ledger.steps AS p JOIN sample USING (writer, seq))
         + (SELECT coalesce(sum(pg_column_size(n.*) + 40), 0)
            FROM nightporter_ledger.notes AS n JOIN sample USING (writer, seq)))::int8
         / greatest(1, (SELECT count(*) FROM sample))"
);

/// The bytes of the tree: a complete tile is kept out of line in five pieces, with some 600
/// bytes beside its hashes; a checkpoint has some 300 beside its text.
const TREE_BYTES: &str =
    "SELECT ((SELECT coalesce(sum(octet_length(hashes) + 600), 0) FROM nightporter_ledger.tiles
              WHERE tenant = $1)
         + (SELECT coalesce(sum(octet_length(note) + 300), 0) FROM nightporter_ledger.checkpoints
            WHERE tenant = $1))::int8";

pub(super) async fn count(
    transaction: &mut postgres::Transaction<'_>,
    tenant: &str,
) -> Result<Holdings, ArchiveError> {
    let (mut kinds, mut records) = (Vec::new(), 0_u64);
    for row in transaction.query(KINDS, &[(&tenant, Type::TEXT)]).await? {
        let count = u64::try_from(get::<i64>(&row, 1)?).unwrap_or(0);
        records += count;
        // A kind that a later version writes is left to that version.
        if let Some(kind) = Kind::parse(get(&row, 0)?) {
            kinds.push((kind, count));
        }
    }
    let rows = transaction.query(BYTES, &[(&tenant, Type::TEXT)]).await?;
    let average: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    let bytes = records.saturating_mul(u64::try_from(average).unwrap_or(0));
    let rows = transaction.query(TREE_BYTES, &[(&tenant, Type::TEXT)]).await?;
    let tree_bytes: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    Ok(Holdings { kinds, bytes, tree_bytes: u64::try_from(tree_bytes).unwrap_or(0) })
}
