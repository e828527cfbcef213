//! Records of a box that had no identity yet.
//!
//! They belong to no tenant, and to no tree: a tenant is part of what is hashed. Once the box
//! has an identity they are adopted: hashed and sealed again as the box's, before any
//! checkpoint covers them, so no proof is about what they were. A record says which these
//! are. Of several boxes in one archive, each adopts the records that its own key has sealed.

use std::sync::Arc;

use super::IntegrityError;
use crate::ledger::archive::Transaction;
use crate::ledger::canonical::Hasher;
use crate::ledger::named;
use crate::ledger::record::{Entry, Kind, Micros, Record, RecordId};
use crate::ledger::seal::SealKey;

/// How many records one run adopts at most.
const BATCH: usize = 1_000;

/// How many records of others one run passes over at most.
const MAX_FOREIGN: usize = 100_000;

/// What was found among the records of no tenant.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    pub(super) ids: Vec<RecordId>,
    /// Records that are not what this box has sealed.
    pub(super) altered: Vec<RecordId>,
    /// Records that are not adopted; they come before others in the next run.
    pub(super) foreign: usize,
    pub(super) is_more: bool,
}

/// Gives the box's records of no tenant to `tenant`.
pub(super) async fn adopt(
    transaction: &mut Transaction<'_>,
    tenant: &Arc<str>,
    key: &SealKey,
    foreign: usize,
) -> Result<Adopted, IntegrityError> {
    if tenant.is_empty() {
        return Ok(Adopted::default());
    }
    let limit = BATCH + foreign.min(MAX_FOREIGN);
    let found = transaction.unplaced("", limit).await?;
    let is_more = found.len() == limit;
    let (ours, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|record| key.matches(record.id, &record.leaf, &record.seal));
    // In a file there are no other boxes' records.
    let mut altered = Vec::new();
    if !transaction.is_shared() {
        altered.extend(others.iter().map(|record| record.id));
    }
    let ours: Vec<_> = ours.into_iter().map(|record| record.id).collect();
    let mut adopted = Vec::new();
    if !ours.is_empty() {
        let mut hasher = Hasher::default();
        for stored in transaction.find_all("", &ours).await? {
            let mut record = stored.record;
            if hasher.leaf(&record) == Some(record.leaf) {
                record.tenant = Arc::clone(tenant);
                record.leaf = hasher.leaf(&record).unwrap_or_default();
                record.seal = key.seal(record.id, &record.leaf);
                adopted.push(record);
            } else {
                altered.push(record.id);
            }
        }
        transaction.adopt(&adopted).await?;
    }
    let ids: Vec<_> = adopted.iter().map(|record: &Record| record.id).collect();
    let foreign = others.len() + ours.len() - ids.len();
    Ok(Adopted { is_more: is_more && !ids.is_empty(), ids, altered, foreign })
}

/// Returns what is recorded of an adoption: the writers of the records, and their numbers.
pub(super) fn entry(at: Micros, ids: &[RecordId]) -> Entry {
    Entry {
        client: Some("integrity".into()),
        verdict: Some("done".into()),
        reason: Some("adopted".into()),
        count: i64::try_from(ids.len()).unwrap_or(i64::MAX),
        notes: named::notes(named::RECORDS, &named::numbers(ids.iter().copied())).collect(),
        ..Entry::new(Kind::Job, at)
    }
}
