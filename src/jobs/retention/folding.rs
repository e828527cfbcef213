//! Records that explain what is missing, folded into fewer.
//!
//! A cut names positions and numbers as ranges, and those of neighbouring cuts join: once all
//! that surrounds them is removed as well, what was said in a thousand records takes one line.
//! Records of losses are folded when they are as old as the oldest acts: a cut names their
//! numbers, too.

use std::time::Duration;

use tokio::time::sleep;

use super::{PAUSE, Retention, Work};
use crate::jobs::JobError;
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Entry, Kind, Micros, Note, RecordId, Stored, micros};
use crate::ledger::references::{self, CUT_POSITIONS, CUT_RECORDS, Numbers};

/// Fewer are left as they are, so that a record is not folded again by every run.
const WORTHWHILE: usize = 16;

/// How many are read at once.
const MOST: usize = 500;

/// The most bytes that a folded record names positions and numbers with.
const MAX_TEXT: usize = 64 * 1024;

/// One that names more stays as it is: little would join.
const LARGE: usize = MAX_TEXT / 2;

/// Kinds of what explains missing records.
const EXPLAINING: [Kind; 2] = [Kind::Cut, Kind::Loss];

/// For each of them, the last record of those that were looked at and left as they are, by time
/// and position.
type PassedOver = [Option<(Micros, i64)>; EXPLAINING.len()];

/// What several records explain together.
#[derive(Debug, Default)]
struct Folded {
    ids: Vec<RecordId>,
    positions: Ranges,
    numbers: Numbers,
}

impl Folded {
    /// Adds what a record explains, and the record itself.
    fn add(&mut self, stored: &Stored) {
        let record = &stored.record;
        let add = |to: &mut Ranges, from: &Ranges| {
            from.iter().for_each(|(first, last)| to.insert_range(first, last));
        };
        add(&mut self.positions, &references::cut_positions(record));
        self.positions.extend(stored.position);
        for (writer, numbers) in references::referenced(record) {
            add(self.numbers.entry(writer).or_default(), &numbers);
        }
        self.numbers.entry(record.id.writer).or_default().insert(record.id.seq);
        self.ids.push(record.id);
    }

    fn entry(&self, now: Micros) -> Entry {
        let mut notes = vec![
            Note { topic: "kind".into(), text: Kind::Cut.as_str().into() },
            Note { topic: CUT_POSITIONS.into(), text: self.positions.to_string().into() },
        ];
        notes.extend(references::notes(CUT_RECORDS, &self.numbers));
        Entry {
            client: Some("retention".into()),
            verdict: Some("done".into()),
            reason: Some("folded".into()),
            count: i64::try_from(self.positions.count()).unwrap_or(i64::MAX),
            notes,
            ..Entry::new(Kind::Cut, now)
        }
    }
}

/// Returns what is worth folding of these records, the oldest first. One that is large already
/// stays.
fn folded(found: &[Stored]) -> Option<Folded> {
    let mut folded = Folded::default();
    let mut bytes = 0;
    for stored in found {
        let size: usize = stored.record.notes.iter().map(|note| note.text.len()).sum();
        // Ranges that join take less.
        if size <= LARGE && bytes + size <= MAX_TEXT {
            bytes += size;
            folded.add(stored);
        }
    }
    (folded.ids.len() >= WORTHWHILE).then_some(folded)
}

impl Retention {
    /// Folds what explains missing records; returns how many records that took the place of.
    pub(super) async fn fold(&self, work: Work<'_>) -> Result<usize, JobError> {
        let (mut count, mut passed_over) = (0, PassedOver::default());
        while let Some(folded) = self.fold_once(work, &mut passed_over).await? {
            count += folded;
            sleep(PAUSE).await;
        }
        Ok(count)
    }

    /// Folds the oldest records that are worth it, or passes over the oldest; returns how many
    /// records were folded, or `None` if none are left to look at.
    async fn fold_once(
        &self,
        work: Work<'_>,
        passed_over: &mut PassedOver,
    ) -> Result<Option<usize>, JobError> {
        let Work { context, tenant, .. } = work;
        let mut transaction = context.archive.begin().await?;
        let covered = transaction.checkpoint(tenant).await?.map_or(0, |checkpoint| checkpoint.size);
        let now = transaction.now().await?;
        let losses_before = Micros(now.0.saturating_sub(micros(self.oldest_age())));
        let mut ids = Vec::new();
        let mut beyond = *passed_over;
        for (kind, after) in EXPLAINING.into_iter().zip(&mut beyond) {
            let before = if kind == Kind::Loss { losses_before } else { Micros(i64::MAX) };
            if tenant.is_empty() {
                // Its own records have numbers that join: none of them grows large.
                ids.extend(self.own_unplaced(&mut transaction, kind, before, MOST).await?);
                continue;
            }
            let oldest =
                transaction.oldest_after(tenant, kind, before, covered, *after, MOST).await?;
            if let Some(last) = oldest.last().filter(|_| oldest.len() == MOST) {
                *after = Some((last.at, last.position));
            }
            ids.extend(oldest.into_iter().map(|placed| placed.id));
        }
        if ids.len() < WORTHWHILE {
            transaction.roll_back().await?;
            return Ok(None);
        }
        let mut found = transaction.find_all(tenant, &ids).await?;
        found.sort_by_key(|stored| stored.position);
        let Some(folded) = folded(&found) else {
            transaction.roll_back().await?;
            let is_more = beyond != *passed_over;
            *passed_over = beyond;
            return Ok(is_more.then_some(0));
        };
        transaction.remove(tenant, &folded.ids).await?;
        self.commit(work, transaction, folded.entry(now)).await?;
        Ok(Some(folded.ids.len()))
    }

    /// Returns how long any record is kept at most.
    fn oldest_age(&self) -> Duration {
        let ages = Kind::ALL.into_iter().filter_map(|kind| self.age(kind));
        ages.max().unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fake;

    fn cut(seq: i64, position: i64, positions: &str, records: &str) -> Stored {
        let mut record = fake::records(Kind::Cut, [seq]).remove(0);
        record.notes = vec![
            Note { topic: CUT_POSITIONS.into(), text: positions.into() },
            Note { topic: CUT_RECORDS.into(), text: format!("0000000000000050 {records}").into() },
        ];
        Stored { record, position: Some(position) }
    }

    #[test]
    fn what_joins_becomes_one_range() {
        let cuts: Vec<_> = (0..20)
            .map(|n| {
                let numbers = format!("{}-{}", n * 100, n * 100 + 99);
                cut(n + 1, 2000 + n, &numbers, &numbers)
            })
            .collect();
        assert!(folded(&cuts[..15]).is_none(), "too few");
        let folded = folded(&cuts).expect("enough");
        assert_eq!(folded.positions.to_string(), "0-2019", "the cuts' own positions included");
        let entry = folded.entry(Micros(5));
        let texts: Vec<_> = entry.notes.iter().map(|note| &*note.text).collect();
        assert_eq!(texts[..2], ["cut", "0-2019"]);
        assert!(texts.contains(&"0000000000000050 0-1999"), "{texts:?}");
        assert_eq!((entry.kind, entry.count), (Kind::Cut, 2020));
        let writer = cuts[0].record.id.writer;
        assert_eq!(folded.numbers[&writer].to_string(), "1-20");
    }

    #[test]
    fn a_record_does_not_grow_without_bound() {
        // Ranges that never join.
        let cuts: Vec<_> = (0..100)
            .map(|n| {
                let numbers = (0..200).map(|k| (n * 1000 + k * 2).to_string() + " ");
                cut(n + 1, 900_000 + n, &numbers.collect::<String>(), "1")
            })
            .collect();
        let folded = folded(&cuts).expect("enough");
        assert!(folded.ids.len() < cuts.len());
        let text: usize = folded.entry(Micros(5)).notes.iter().map(|note| note.text.len()).sum();
        assert!(text <= MAX_TEXT + 4096, "{text}");
    }
}
