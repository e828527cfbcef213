//! The rows of new records, and the cursor that says which are new.

use crate::ledger::archive::sql::{Row, query};
use crate::ledger::archive::{ArchiveError, Transaction};
use crate::ledger::record::{Micros, RecordId, WriterId};
use crate::webhooks::events::RecordSummary;

/// Returns the position of the first record that has not been told; `None` if none ever was.
pub(in crate::webhooks) async fn cursor(
    transaction: &mut Transaction<'_>,
    tenant: &str,
) -> Result<Option<i64>, ArchiveError> {
    let sql = "SELECT position FROM nightporter_ledger.event_cursors WHERE tenant = $1";
    let rows = query(transaction, sql, vec![tenant.into()]).await?;
    rows.first().map(|row| row.integer(0)).transpose()
}

pub(in crate::webhooks) async fn move_cursor(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    to: i64,
) -> Result<(), ArchiveError> {
    let sql = "INSERT INTO nightporter_ledger.event_cursors (tenant, position)
               VALUES ($1, $2)
               ON CONFLICT (tenant) DO UPDATE SET position = excluded.position";
    query(transaction, sql, vec![tenant.into(), to.into()]).await.map(drop)
}

/// Returns the records from one position to before another one of which endpoints are told,
/// with their positions.
pub(in crate::webhooks) async fn reportable(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, RecordSummary)>, ArchiveError> {
    if from >= to {
        return Ok(Vec::new());
    }
    let sql = "SELECT r.writer, r.seq, r.kind, r.at, r.app, r.client_id, r.client_name,
                   r.verdict, r.reason, r.duration,
                   (SELECT min(n.text) FROM nightporter_ledger.notes AS n
                    WHERE n.writer = r.writer AND n.seq = r.seq AND n.topic = r.kind), r.position
               FROM nightporter_ledger.requests AS r
               JOIN nightporter_ledger.tenants AS t ON t.id = r.tenant
               WHERE t.name = $1 AND r.position >= $2 AND r.position < $3
               AND r.kind IN ('wake', 'sleep', 'act') ORDER BY r.position";
    let rows = query(transaction, sql, vec![tenant.into(), from.into(), to.into()]).await?;
    let record = |row: &Row| {
        let record = RecordSummary {
            id: RecordId { writer: WriterId(row.integer(0)?), seq: row.integer(1)? },
            kind: row.text(2)?,
            at: Micros(row.integer(3)?),
            app: row.optional_text(4)?,
            client_id: row.optional_text(5)?,
            client_name: row.optional_text(6)?,
            verdict: row.optional_text(7)?,
            reason: row.optional_text(8)?,
            duration: row.integer(9)?,
            note: row.optional_text(10)?,
        };
        Ok((row.integer(11)?, record))
    };
    rows.iter().map(record).collect()
}
