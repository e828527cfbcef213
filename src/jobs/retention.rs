//! Removes records that have been kept for long enough, and the oldest when there are too many.
//!
//! Only what a checkpoint covers is removed. Rows go, the tree's hashes stay, so that proofs
//! hold. Each batch is one transaction, with a record of the kind [`Kind::Cut`] that names the
//! positions it removed: what is missing without such a record was deleted by somebody else.
//! Cuts, and records of losses, stay: they explain what is missing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::{Context, Done, JobError, Lease, LongJob, Plan, Run};
use crate::config;
use crate::ledger::Ledger;
use crate::ledger::archive::{Holdings, Transaction};
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Entry, Kind, Micros, Note, Record, RecordId, WriterId, micros};
use crate::ledger::recorder::random_writer;
use crate::ledger::seal::Sealer;
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
    cuts: Mutex<Option<Cuts>>,
}

/// The writer of the records of cuts: one of its own, whose next number counts only once a
/// batch is committed. So a batch that is rolled back leaves no gap in the numbers.
#[derive(Debug)]
struct Cuts {
    writer: WriterId,
    last: i64,
    sealer: Sealer,
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

impl Retention {
    /// The key of `ledger` seals the records of cuts.
    #[must_use]
    pub fn new(config: config::Ledger, interval: Duration, ledger: Arc<Ledger>) -> Self {
        Self { config, interval, ledger, cuts: Mutex::default() }
    }

    async fn cut(&self, work: Work<'_>) -> Result<Done, JobError> {
        let mut removed = 0;
        for (kind, _) in work.holdings().await?.kinds {
            let Some(age) = self.age(kind) else { continue };
            loop {
                let batch = self.batch(work, kind, Reason::Age(age), BATCH).await?;
                removed += batch;
                if batch < BATCH {
                    break;
                }
            }
        }
        for _ in 0..ROUNDS {
            let excess = self.shrink(work).await?;
            removed += excess;
            if excess == 0 {
                break;
            }
        }
        let bytes = work.holdings().await?.bytes;
        meters::ledger_size(bytes);
        let what = if removed == 0 { String::new() } else { format!("removed {removed} records") };
        Ok(Done { what, problem: warning(bytes, self.config.max_size), ..Done::default() })
    }

    /// Removes the oldest records if the ledger is too large; returns how many.
    async fn shrink(&self, work: Work<'_>) -> Result<usize, JobError> {
        let Holdings { mut kinds, bytes } = work.holdings().await?;
        let records: u64 = kinds.iter().map(|(_, records)| records).sum();
        let mut excess = excess(bytes, records, self.config.max_size);
        kinds.retain(|(kind, _)| EXPENDABLE.contains(kind));
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
        let mut transaction = context.archive.begin().await?;
        let covered = transaction.checkpoint(tenant).await?.map_or(0, |checkpoint| checkpoint.size);
        let now = transaction.now().await?;
        let before = match reason {
            Reason::Age(age) => Micros(now.0.saturating_sub(micros(age))),
            Reason::Size => Micros(i64::MAX),
        };
        let removed = transaction.remove_before(tenant, kind, before, covered, limit).await?;
        if removed.is_empty() {
            transaction.roll_back().await?;
            return Ok(0);
        }
        let count = removed.len();
        self.commit(work, transaction, entry(kind, reason, now, removed)).await?;
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
        // Taken out: if it is not committed, or nobody knows whether, a new writer follows.
        let cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut cuts = match cuts {
            Some(cuts) => cuts,
            None => Cuts::new(&self.ledger).await?,
        };
        transaction.write(&[cuts.next(work.tenant, entry)]).await?;
        work.lease.commit(transaction).await?;
        *self.cuts.lock().unwrap_or_else(PoisonError::into_inner) = Some(cuts);
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
}

impl Cuts {
    async fn new(ledger: &Ledger) -> Result<Self, JobError> {
        let sealer = ledger.sealer().await.map_err(JobError::Failed)?;
        Ok(Self { writer: random_writer(), last: 0, sealer })
    }

    fn next(&mut self, tenant: &Arc<str>, entry: Entry) -> Record {
        self.last += 1;
        let id = RecordId { writer: self.writer, seq: self.last };
        self.sealer.seal(id, tenant, entry)
    }
}

/// Returns the record of a cut.
fn entry(kind: Kind, reason: Reason, now: Micros, removed: Vec<i64>) -> Entry {
    let mut entry = Entry::new(Kind::Cut, now);
    entry.client = Some("retention".into());
    entry.verdict = Some("done".into());
    entry.reason = Some(match reason {
        Reason::Age(_) => "age".into(),
        Reason::Size => "size".into(),
    });
    entry.count = i64::try_from(removed.len()).unwrap_or(i64::MAX);
    let ranges: Ranges = removed.into_iter().collect();
    entry.notes = vec![
        Note { topic: "kind".into(), text: kind.as_str().into() },
        Note { topic: "range".into(), text: ranges.to_string().into() },
    ];
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
        let cut = entry(Kind::Visit, Reason::Age(Duration::ZERO), Micros(5), vec![1, 2, 3, 9]);
        let notes: Vec<_> = cut.notes.iter().map(|note| (&*note.topic, &*note.text)).collect();
        assert_eq!(notes, [("kind", "visit"), ("range", "1-3 9")]);
        assert_eq!((cut.kind, cut.count, cut.reason.as_deref()), (Kind::Cut, 4, Some("age")));
    }
}
