//! Removes records that have been kept for long enough, and the oldest when there are too many.
//!
//! Only what a checkpoint covers is removed; of a box without an identity, whose records have no
//! tree, [what it has sealed](unplaced). Rows go, the tree's hashes stay, so that proofs hold.
//! Each batch is one transaction, with a record of the kind [`Kind::Cut`] that names the
//! positions and the records it removed: what is missing without such a record was deleted by
//! somebody else. Cuts, which explain what is missing, are [folded](folding) into fewer, and
//! old checkpoints are [thinned](thinning).
//!
//! While the integrity job fails, nothing is removed: what it covers may have been altered, and
//! then it is what the operator needs to find out what was done.

mod folding;
mod unplaced;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::due::Outcome;
use super::{Context, Done, INTEGRITY, JobError, Lease, LongJob, Plan, Run};
use crate::config;
use crate::ledger::Ledger;
use crate::ledger::archive::{Holdings, Transaction};
use crate::ledger::checkpoint::thinning::{self, thinned};
use crate::ledger::direct::WriterPool;
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Entry, Kind, Micros, Note, RecordId, micros};
use crate::ledger::references::{self, CUT_POSITIONS, CUT_RECORDS};
use crate::telemetry::meters;

/// How many records one transaction removes.
const BATCH: usize = 1000;

/// Between two batches, so that what waits to be written is written.
const PAUSE: Duration = Duration::from_millis(5);

const LIMIT: Duration = Duration::from_secs(600);

/// Kinds that are removed before their age when the ledger is too large.
const EXPENDABLE: [Kind; 3] = [Kind::Grants, Kind::Denials, Kind::Visit];

/// In percent of `ledger.max_size`: when to warn, and what a ledger that is too large is cut
/// to, so that there is room until the next run.
const WARN: u64 = 90;
const TARGET: u64 = 95;

/// How often the size is measured again after records were removed by an estimate.
const ROUNDS: usize = 3;

/// Removes old records.
#[derive(Debug)]
pub struct Retention {
    config: config::Ledger,
    interval: Duration,
    ledger: Arc<Ledger>,
    /// What writes the records of cuts.
    writer: WriterPool,
}

/// Whose records are removed, and under which lock.
#[derive(Debug, Clone, Copy)]
struct Work<'a> {
    context: &'a Context,
    tenant: &'a Arc<str>,
    lease: &'a Lease,
}

/// Why records are removed.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Age(Duration),
    Size,
}

impl Reason {
    /// Returns the time before which records have begun that are removed.
    fn before(self, now: Micros) -> Micros {
        match self {
            Self::Age(age) => Micros(now.0.saturating_sub(micros(age))),
            Self::Size => Micros(i64::MAX),
        }
    }
}

impl Retention {
    /// The key of `ledger` seals the records of cuts.
    #[must_use]
    pub fn new(config: config::Ledger, interval: Duration, ledger: Arc<Ledger>) -> Self {
        Self { config, interval, ledger, writer: WriterPool::default() }
    }

    async fn cut(&self, work: Work<'_>) -> Result<Done, JobError> {
        if let Some(why) = work.integrity_failure().await? {
            let Holdings { bytes, tree_bytes, .. } = work.holdings().await?;
            meters::ledger_size(bytes + tree_bytes);
            let halted = format!(
                "nothing is removed from the ledger while the job {INTEGRITY} fails: {why}"
            );
            let problem = match warning(bytes, self.config.max_size) {
                Some(warning) => format!("{halted}; {warning}"),
                None => halted,
            };
            return Ok(Done { problem: Some(problem), is_idle: true, ..Done::default() });
        }
        // To count the records may take long, and what is too old is removed without it.
        let mut removed = 0;
        for kind in Kind::ALL {
            let Some(age) = self.age(kind) else { continue };
            loop {
                let batch = self.batch(work, kind, Reason::Age(age), BATCH).await?;
                removed += batch;
                if batch < BATCH {
                    break;
                }
            }
        }
        let folded = self.fold(work).await?;
        let thinned = work.thin().await?;
        let mut holdings = work.holdings().await?;
        for _ in 0..ROUNDS {
            let excess = self.shrink(work, &holdings).await?;
            if excess == 0 {
                break;
            }
            removed += excess;
            holdings = work.holdings().await?;
        }
        let Holdings { bytes, tree_bytes, .. } = holdings;
        meters::ledger_size(bytes + tree_bytes);
        let counts = [
            (removed, "removed", "records"),
            (folded, "folded", "records of cuts"),
            (thinned, "removed", "checkpoints"),
        ];
        let said = counts.iter().filter(|(count, ..)| *count > 0);
        let said: Vec<_> = said.map(|(count, did, what)| format!("{did} {count} {what}")).collect();
        Ok(Done {
            problem: warning(bytes, self.config.max_size),
            is_idle: said.is_empty(),
            what: said.join(", "),
            ..Done::default()
        })
    }

    /// Removes the oldest records if the ledger is too large; returns how many.
    async fn shrink(&self, work: Work<'_>, holdings: &Holdings) -> Result<usize, JobError> {
        let records: u64 = holdings.kinds.iter().map(|(_, records)| records).sum();
        let mut excess = excess(holdings.bytes, records, self.config.max_size);
        let kinds = holdings.kinds.iter().copied();
        let mut kinds: Vec<_> = kinds.filter(|(kind, _)| EXPENDABLE.contains(kind)).collect();
        let mut removed = 0;
        while excess > 0
            && let Some((kind, left)) = kinds.iter_mut().max_by_key(|(_, left)| *left)
            && *left > 0
        {
            let limit = usize::try_from(excess).unwrap_or(BATCH).min(BATCH);
            let batch = self.batch(work, *kind, Reason::Size, limit).await?;
            // If it was less, the rest has no checkpoint yet.
            *left = if batch < limit { 0 } else { left.saturating_sub(limit as u64) };
            excess = excess.saturating_sub(batch as u64);
            removed += batch;
        }
        Ok(removed)
    }

    /// Removes up to `limit` records of a kind, the oldest ones; returns how many.
    async fn batch(
        &self,
        work: Work<'_>,
        kind: Kind,
        reason: Reason,
        limit: usize,
    ) -> Result<usize, JobError> {
        let Work { context, tenant, .. } = work;
        if tenant.is_empty() {
            return self.unplaced_batch(work, kind, reason, limit).await;
        }
        let mut transaction = context.archive.begin().await?;
        let covered = transaction.checkpoint(tenant).await?.map_or(0, |checkpoint| checkpoint.size);
        let now = transaction.now().await?;
        let before = reason.before(now);
        let removed = transaction.remove_before(tenant, kind, before, covered, limit).await?;
        if removed.is_empty() {
            transaction.roll_back().await?;
            return Ok(0);
        }
        let count = removed.len();
        let positions = removed.iter().map(|placed| placed.position).collect();
        let ids = removed.iter().map(|placed| placed.id);
        self.commit(work, transaction, entry(kind, reason, now, &positions, ids)).await?;
        sleep(PAUSE).await;
        Ok(count)
    }

    /// Writes the record of a cut and commits.
    async fn commit(
        &self,
        work: Work<'_>,
        mut transaction: Transaction<'_>,
        entry: Entry,
    ) -> Result<(), JobError> {
        let key = self.ledger.seal_key().await.map_err(JobError::Failed)?;
        let no_numbers = |_| JobError::Failed("the system provides no random numbers".into());
        let mut writer = self.writer.take(key).map_err(no_numbers)?;
        transaction.write(&[writer.record(work.tenant, entry)]).await?;
        work.lease.commit(transaction).await?;
        self.writer.give_back(writer);
        Ok(())
    }

    /// Returns how long records of a kind are kept; `None` if for ever.
    fn age(&self, kind: Kind) -> Option<Duration> {
        let config::Ledger { keep_visits, keep_grants, keep_wakes, keep_acts, keep_jobs, .. } =
            self.config;
        match kind {
            Kind::Visit => Some(keep_visits),
            Kind::Grants | Kind::Denials => Some(keep_grants),
            Kind::Wake | Kind::Sleep => Some(keep_wakes),
            Kind::Act => Some(keep_acts),
            Kind::Job => Some(keep_jobs),
            // They are folded.
            Kind::Loss | Kind::Cut => None,
        }
    }
}

impl LongJob for Retention {
    fn plan(&self) -> Plan {
        Plan::new("retention", self.interval, LIMIT)
    }

    fn run<'a>(&'a self, context: &'a Context, tenant: &'a Arc<str>, lease: &'a Lease) -> Run<'a> {
        Box::pin(self.cut(Work { context, tenant, lease }))
    }
}

impl Work<'_> {
    async fn holdings(self) -> Result<Holdings, JobError> {
        Ok(self.context.archive.snapshot().await?.holdings(self.tenant).await?)
    }

    /// Returns why the last run of the integrity job failed; `None` if it did not.
    async fn integrity_failure(self) -> Result<Option<String>, JobError> {
        let mut snapshot = self.context.archive.snapshot().await?;
        let (row, _) = snapshot.job(self.tenant, INTEGRITY).await?;
        Ok(match row.as_ref().and_then(Outcome::from_row) {
            Some(Outcome::Failed { why, .. }) => Some(why),
            Some(Outcome::Done(_)) | None => None,
        })
    }

    /// Removes old checkpoints that are no longer kept; returns how many.
    async fn thin(self) -> Result<usize, JobError> {
        let mut transaction = self.context.archive.begin().await?;
        let checkpoints = transaction.checkpoint_times(self.tenant).await?;
        let sizes = thinned(&checkpoints, transaction.now().await?, thinning::DATABASE);
        if sizes.is_empty() {
            transaction.roll_back().await?;
            return Ok(0);
        }
        transaction.remove_checkpoints(self.tenant, &sizes).await?;
        self.lease.commit(transaction).await?;
        Ok(sizes.len())
    }
}

/// Returns the record of a cut. Records of a box without an identity have no positions.
fn entry(
    kind: Kind,
    reason: Reason,
    now: Micros,
    positions: &Ranges,
    removed: impl ExactSizeIterator<Item = RecordId>,
) -> Entry {
    let mut entry = Entry::new(Kind::Cut, now);
    entry.client = Some("retention".into());
    entry.verdict = Some("done".into());
    entry.reason = Some(match reason {
        Reason::Age(_) => "age".into(),
        Reason::Size => "size".into(),
    });
    entry.count = i64::try_from(removed.len()).unwrap_or(i64::MAX);
    entry.notes = vec![Note { topic: "kind".into(), text: kind.as_str().into() }];
    if !positions.is_empty() {
        entry.notes.push(Note { topic: CUT_POSITIONS.into(), text: positions.to_string().into() });
    }
    entry.notes.extend(references::notes(CUT_RECORDS, &references::numbers(removed)));
    entry
}

/// Returns how many of the records have to go.
fn excess(bytes: u64, records: u64, max_size: u64) -> u64 {
    if bytes <= max_size {
        return 0;
    }
    let over = u128::from(bytes - part(max_size, TARGET));
    u64::try_from((over * u128::from(records)).div_ceil(u128::from(bytes))).unwrap_or(records)
}

fn warning(bytes: u64, max_size: u64) -> Option<String> {
    (bytes >= part(max_size, WARN)).then(|| {
        format!(
            "the ledger takes up {WARN} % of ledger.max_size or more ({max_size} bytes); beyond \
             it, the oldest visits and counts are removed"
        )
    })
}

fn part(whole: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(percent) / 100).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::WriterId;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_too_large_is_cut_to_leave_room() {
        for (bytes, records, expected) in [
            (0, 0, 0),
            (100 * MIB, 100_000, 0),
            (100 * MIB + 1, 100_000, 5_001),
            (200 * MIB, 200_000, 105_000),
            (u64::MAX, u64::MAX, u64::MAX - 95 * MIB),
        ] {
            assert_eq!(excess(bytes, records, 100 * MIB), expected, "{bytes}");
        }
    }

    #[test]
    fn the_operator_is_warned_before_anything_is_lost() {
        for (bytes, expected) in [(0, false), (89, false), (90, true), (100, true), (200, true)] {
            assert_eq!(warning(bytes * MIB, 100 * MIB).is_some(), expected, "{bytes}");
        }
    }

    #[test]
    fn a_cut_names_what_it_removed() {
        let positions = [1, 2, 3, 9].into_iter().collect();
        let removed = [11, 12, 14, 13].into_iter();
        let removed = removed.map(|seq| RecordId { writer: WriterId(0x4f), seq });
        let reason = Reason::Age(Duration::ZERO);
        let cut = entry(Kind::Visit, reason, Micros(5), &positions, removed);
        let notes: Vec<_> = cut.notes.iter().map(|note| (&*note.topic, &*note.text)).collect();
        let records = ("records", "000000000000004f 11-14");
        assert_eq!(notes, [("kind", "visit"), ("range", "1-3 9"), records]);
        assert_eq!((cut.kind, cut.count, cut.reason.as_deref()), (Kind::Cut, 4, Some("age")));
    }
}
