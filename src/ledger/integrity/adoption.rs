//! Records of a box that had no identity yet.
//!
//! They belong to no tenant, and to no tree: a tenant is part of what is hashed. Once the box
//! has an identity they are adopted: hashed and sealed again as the box's, before any
//! checkpoint covers them, so no proof is about what they were. A record says which these
//! are. Of several boxes in one archive, each adopts the records that its own key has sealed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::IntegrityError;
use crate::ledger::archive::{Transaction, UnplacedFilter};
use crate::ledger::canonical::Hasher;
use crate::ledger::record::{Entry, Kind, Micros, Record, RecordId};
use crate::ledger::references;
use crate::ledger::seal::SealKey;

/// How many records are looked at together; those of them that are the box's are adopted by one
/// run.
const BATCH: usize = 1_000;

/// How often one run looks further if none of them are.
const LOOKS: usize = 10;

/// The last record of no tenant that was looked at, by time and id.
pub(super) type Passed = (Micros, RecordId);

/// What was found among the records of no tenant.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    pub(super) ids: Vec<RecordId>,
    /// Records that are not what this box has sealed.
    pub(super) altered: Vec<RecordId>,
    /// Where the next run goes on, so that it need not pass over the records of other boxes
    /// again; `None` if that is the beginning.
    pub(super) passed: Option<Passed>,
    pub(super) is_more: bool,
}

/// Gives the box's records of no tenant to `tenant`, from those on that follow `passed`.
pub(super) async fn adopt(
    transaction: &mut Transaction<'_>,
    tenant: &Arc<str>,
    key: &SealKey,
    mut passed: Option<Passed>,
) -> Result<Adopted, IntegrityError> {
    if tenant.is_empty() {
        return Ok(Adopted::default());
    }
    let (mut ours, mut altered) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let filter = UnplacedFilter { after: passed, ..UnplacedFilter::default() };
        let found = transaction.unplaced_of("", filter, BATCH).await?;
        let is_last = found.len() < BATCH;
        passed = found.last().filter(|_| !is_last).map(|record| (record.at, record.id));
        for record in found {
            if key.matches(record.id, &record.leaf, &record.seal) {
                ours.push(record.id);
            } else if !transaction.is_shared() {
                // In a file there are no other boxes' records.
                altered.push(record.id);
            }
        }
        if is_last || !ours.is_empty() {
            break;
        }
    }
    let mut adopted = Vec::new();
    if !ours.is_empty() {
        let mut hasher = Hasher::default();
        let mut unread: BTreeSet<_> = ours.iter().copied().collect();
        for stored in transaction.find_all("", &ours).await? {
            let mut record = stored.record;
            unread.remove(&record.id);
            if let Some(version) = hasher.version(&record) {
                record.tenant = Arc::clone(tenant);
                record.leaf = hasher.leaf_in(version, &record).unwrap_or_default();
                record.seal = key.seal(record.id, &record.leaf);
                adopted.push(record);
            } else {
                altered.push(record.id);
            }
        }
        altered.extend(unread);
        transaction.adopt(&adopted).await?;
    }
    let ids: Vec<_> = adopted.iter().map(|record: &Record| record.id).collect();
    Ok(Adopted { is_more: passed.is_some() && !ids.is_empty(), ids, altered, passed })
}

/// Returns what is recorded of an adoption: the writers of the records, and their numbers.
pub(super) fn entry(at: Micros, ids: &[RecordId]) -> Entry {
    Entry {
        client: Some("integrity".into()),
        verdict: Some("done".into()),
        reason: Some("adopted".into()),
        count: i64::try_from(ids.len()).unwrap_or(i64::MAX),
        notes: references::notes(references::RECORDS, &references::numbers(ids.iter().copied()))
            .collect(),
        ..Entry::new(Kind::Job, at)
    }
}
