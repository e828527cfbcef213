//! Queues events of new records: once, whatever the number of processes, since the cursor
//! moves in the same transaction.

use std::time::Duration;

use super::deliveries;
use super::events::of_record;
use super::outbox::enqueue;
use super::table::records::{cursor, move_cursor, reportable};
use crate::ledger::archive::{ArchiveError, Transaction};
use crate::ledger::record::{Micros, micros};

/// Positions that one run looks at.
const WINDOW: i64 = 5_000;

/// Events that one run queues: each is several rows for every endpoint, in one transaction.
const MOST_EVENTS: usize = 200;

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
    let cursor = cursor(transaction, tenant).await?;
    // What happened before there was anybody to tell is not told.
    let from = cursor.unwrap_or(size);
    let mut to = size.min(from.saturating_add(WINDOW));
    let mut queued = Queued::default();
    for (position, record) in reportable(transaction, tenant, from, to).await? {
        let Some(event) = of_record(record) else { continue };
        enqueue(transaction, tenant, &event).await?;
        queued.events += 1;
        if queued.events == MOST_EVENTS {
            to = position.saturating_add(1);
            break;
        }
    }
    queued.is_more = to < size;
    queued.has_moved = cursor.is_none() || to > from;
    if queued.has_moved {
        move_cursor(transaction, tenant, to).await?;
    }
    let now = transaction.now().await?;
    let before = Micros(now.0.saturating_sub(micros(keep)));
    queued.removed = deliveries::remove_before(transaction, tenant, before, BATCH).await?;
    queued.is_more |= i64::try_from(queued.removed).is_ok_and(|removed| removed == BATCH);
    Ok(queued)
}
