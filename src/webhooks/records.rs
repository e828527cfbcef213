//! Queues events of new records: once, whatever the number of processes, since the cursor
//! moves in the same transaction.

use super::deliveries;
use super::events::{Told, of_record};
use super::outbox::enqueue;
use super::table::{Row, query};
use crate::ledger::archive::{ArchiveError, Transaction};
use crate::ledger::record::{Micros, RecordId, WriterId, micros};
use std::time::Duration;

/// Positions that one run looks at.
const WINDOW: i64 = 5_000;

/// Deliveries that one run removes.
const BATCH: i64 = 500;

/// What a run has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queued {
    pub events: usize,
    pub removed: usize,
    /// More is left to do.
    pub is_more: bool,
    /// Whether the cursor has moved.
    pub has_moved: bool,
}

/// Queues what new records tell, and removes deliveries that ended longer than `keep` ago.
///
/// # Errors
/// As for every statement of the transaction.
pub async fn queue(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    keep: Duration,
) -> Result<Queued, ArchiveError> {
    let size = transaction.tree_size(tenant).await?;
    let read = "SELECT position FROM nightporter_ledger.event_cursors WHERE tenant = $1";
    let row = query(transaction, read, vec![tenant.into()]).await?.pop();
    // What happened before there was anybody to tell is not told.
    let from = row.as_ref().map_or(Ok(size), |row| row.integer(0))?;
    let to = size.min(from.saturating_add(WINDOW));
    let mut queued = Queued { is_more: to < size, ..Queued::default() };
    for event in told(transaction, tenant, from, to).await?.into_iter().filter_map(of_record) {
        enqueue(transaction, tenant, &event).await?;
        queued.events += 1;
    }
    queued.has_moved = row.is_none() || to > from;
    if queued.has_moved {
        let write = "INSERT INTO nightporter_ledger.event_cursors (tenant, position)
                     VALUES ($1, $2)
                     ON CONFLICT (tenant) DO UPDATE SET position = excluded.position";
        query(transaction, write, vec![tenant.into(), to.into()]).await?;
    }
    let now = transaction.now().await?;
    let before = Micros(now.0.saturating_sub(micros(keep)));
    queued.removed = deliveries::remove_before(transaction, tenant, before, BATCH).await?;
    queued.is_more |= i64::try_from(queued.removed).is_ok_and(|removed| removed == BATCH);
    Ok(queued)
}

async fn told(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    from: i64,
    to: i64,
) -> Result<Vec<Told>, ArchiveError> {
    if from >= to {
        return Ok(Vec::new());
    }
    let sql = "SELECT r.writer, r.seq, r.kind, r.at, r.app, r.client_id, r.client_name,
                   r.verdict, r.reason, r.duration,
                   (SELECT min(n.text) FROM nightporter_ledger.notes AS n
                    WHERE n.writer = r.writer AND n.seq = r.seq AND n.topic = r.kind)
               FROM nightporter_ledger.requests AS r
               JOIN nightporter_ledger.tenants AS t ON t.id = r.tenant
               WHERE t.name = $1 AND r.position >= $2 AND r.position < $3
               AND r.kind IN ('wake', 'sleep', 'act') ORDER BY r.position";
    let rows = query(transaction, sql, vec![tenant.into(), from.into(), to.into()]).await?;
    let told = |row: &Row| {
        Ok(Told {
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
        })
    };
    rows.iter().map(told).collect()
}
