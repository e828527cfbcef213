//! Old records of a box that has no identity yet.
//!
//! They have no positions, and no checkpoint covers them. Of several such boxes in one database,
//! each removes what its own key has sealed.

use tokio::time::sleep;

use super::{PAUSE, Reason, Retention, Work, entry};
use crate::jobs::JobError;
use crate::ledger::archive::{Transaction, UnplacedFilter};
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Kind, Micros, RecordId};

/// How many records are looked at together.
const PAGE: usize = 1000;

impl Retention {
    /// Removes up to `limit` records of a kind, the oldest ones; returns how many.
    pub(super) async fn unplaced_batch(
        &self,
        work: Work<'_>,
        kind: Kind,
        reason: Reason,
        limit: usize,
    ) -> Result<usize, JobError> {
        let mut transaction = work.context.archive.begin().await?;
        let now = transaction.now().await?;
        let ids = self.own_unplaced(&mut transaction, kind, reason.before(now), limit).await?;
        if ids.is_empty() {
            transaction.roll_back().await?;
            return Ok(0);
        }
        transaction.remove(work.tenant, &ids).await?;
        let cut = entry(kind, reason, now, &Ranges::default(), ids.iter().copied());
        self.commit(work, transaction, cut).await?;
        sleep(PAUSE).await;
        Ok(ids.len())
    }

    /// Returns up to `limit` records of a kind that belong to no tenant, are this box's and
    /// began before `before`, oldest first.
    pub(super) async fn own_unplaced(
        &self,
        transaction: &mut Transaction<'_>,
        kind: Kind,
        before: Micros,
        limit: usize,
    ) -> Result<Vec<RecordId>, JobError> {
        let key = self.ledger.seal_key().await.map_err(JobError::Failed)?;
        // In a file there are no other boxes' records.
        let is_shared = transaction.is_shared();
        let mut filter = UnplacedFilter { kind: Some(kind), before: Some(before), after: None };
        let mut own = Vec::new();
        loop {
            let page = transaction.unplaced_of("", filter, PAGE).await?;
            filter.after = page.last().map(|record| (record.at, record.id));
            let is_last = page.len() < PAGE;
            let ours = page
                .into_iter()
                .filter(|record| !is_shared || key.matches(record.id, &record.leaf, &record.seal));
            own.extend(ours.map(|record| record.id));
            if is_last || own.len() >= limit {
                own.truncate(limit);
                return Ok(own);
            }
        }
    }
}
