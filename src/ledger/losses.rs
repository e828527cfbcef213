//! What was lost, until a record says so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ranges::Ranges;
use super::record::{Entry, Kind, Micros, Note, Record, RecordId, WriterId};
use super::references;

/// Why accepted records were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// They made room for others in the spool.
    SpoolFull,
    /// The operator has dismissed them.
    Dismissed,
    /// No record could be made of what was accepted.
    Unsealable,
}

impl Cause {
    pub const ALL: [Self; 3] = [Self::SpoolFull, Self::Dismissed, Self::Unsealable];

    /// Returns its name, which is the reason of the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::Dismissed => "dismissed",
            Self::Unsealable => "unsealable",
        }
    }
}

/// The reason of a record of what was not accepted.
pub const QUEUE_FULL: &str = "queue_full";

const KINDS: usize = Kind::ALL.len();

/// Counts what was lost, and keeps what no record says yet.
#[derive(Debug, Default)]
pub struct Losses {
    /// What was not accepted, by kind, since the process started.
    refused: [AtomicU64; KINDS],
    lost: [AtomicU64; Cause::ALL.len()],
    unrecorded: Mutex<Unrecorded>,
}

#[derive(Debug, Default)]
struct Unrecorded {
    /// How many of those that were not accepted are recorded as lost.
    refused: [u64; KINDS],
    /// How many were recorded as lost by a record that was lost itself.
    again: [u64; KINDS],
    lost: BTreeMap<(Cause, WriterId), Ranges>,
}

impl Unrecorded {
    /// Takes back what a note of a lost record said.
    fn say_again(&mut self, reason: Option<&str>, note: &Note) {
        if reason == Some(QUEUE_FULL) {
            let counts = note.text.split(", ").filter_map(|count| {
                let (kind, number) = count.split_once(' ')?;
                Some((Kind::parse(kind)?, number.parse::<u64>().ok()?))
            });
            for (kind, number) in counts {
                self.again[kind as usize] += number;
            }
            return;
        }
        let cause = Cause::ALL.into_iter().find(|cause| Some(cause.as_str()) == reason);
        if let Some((cause, (writer, ranges))) = cause.zip(references::read(&note.text)) {
            let lost = self.lost.entry((cause, writer)).or_default();
            ranges.iter().for_each(|(first, last)| lost.insert_range(first, last));
        }
    }
}

impl Losses {
    /// Counts what was not accepted for lack of room.
    pub(super) fn count_refused(&self, kind: Kind, number: u64) {
        self.refused[kind as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// Notes accepted records that are lost.
    pub(super) fn add(&self, cause: Cause, ids: impl IntoIterator<Item = RecordId>) {
        let mut unrecorded = self.lock();
        let mut number = 0;
        for id in ids {
            unrecorded.lost.entry((cause, id.writer)).or_default().insert(id.seq);
            number += 1;
        }
        self.lost[cause as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// Notes that records are lost. One that says what else was lost leaves that to be said
    /// again.
    pub(super) fn add_records(&self, cause: Cause, records: &[Record]) {
        self.add(cause, records.iter().map(|record| record.id));
        let mut unrecorded = self.lock();
        for record in records.iter().filter(|record| record.kind == Kind::Loss) {
            for note in &record.notes {
                unrecorded.say_again(record.reason.as_deref(), note);
            }
        }
    }

    /// Returns what was not accepted since the process started, by kind.
    #[must_use]
    pub fn refused(&self) -> Vec<(Kind, u64)> {
        let counts =
            Kind::ALL.map(|kind| (kind, self.refused[kind as usize].load(Ordering::Relaxed)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Returns how many accepted records were lost since the process started, by cause.
    #[must_use]
    pub fn lost(&self) -> [(Cause, u64); Cause::ALL.len()] {
        Cause::ALL.map(|cause| (cause, self.lost[cause as usize].load(Ordering::Relaxed)))
    }

    /// Takes what no record says yet, as entries. Lost records are named by the note `range`:
    /// their writer, as in an id, and their numbers.
    pub(super) fn take(&self, now: Micros) -> Vec<Entry> {
        let mut unrecorded = self.lock();
        let lost = std::mem::take(&mut unrecorded.lost);
        let mut entries: Vec<_> = lost
            .into_iter()
            .map(|((cause, writer), ranges)| {
                let text = format!("{:016x} {ranges}", writer.0);
                loss(now, cause.as_str(), ranges.count(), "range", text)
            })
            .collect();
        let (mut number, mut kinds) = (0, Vec::new());
        for kind in Kind::ALL {
            let total = self.refused[kind as usize].load(Ordering::Relaxed);
            let again = std::mem::take(&mut unrecorded.again[kind as usize]);
            let recorded = std::mem::replace(&mut unrecorded.refused[kind as usize], total);
            let new = total - recorded + again;
            if new > 0 {
                number += new;
                kinds.push(format!("{} {new}", kind.as_str()));
            }
        }
        if number > 0 {
            entries.push(loss(now, QUEUE_FULL, number, "dropped", kinds.join(", ")));
        }
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Unrecorded> {
        self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn loss(now: Micros, reason: &'static str, count: u64, topic: &'static str, text: String) -> Entry {
    Entry {
        reason: Some(reason.into()),
        count: i64::try_from(count).unwrap_or(i64::MAX),
        notes: vec![Note { topic: topic.into(), text: text.into() }],
        ..Entry::new(Kind::Loss, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_said_once() {
        let losses = Losses::default();
        let writer = WriterId(0x4f);
        let ids = [1, 2, 3, 7].map(|seq| RecordId { writer, seq });
        losses.add(Cause::SpoolFull, ids);
        losses.count_refused(Kind::Visit, 2);
        losses.count_refused(Kind::Wake, 1);
        let entries = losses.take(Micros(5));
        let said: Vec<_> = entries
            .iter()
            .map(|entry| (entry.reason.as_deref(), entry.count, &*entry.notes[0].text))
            .collect();
        let expected = [
            (Some("spool_full"), 4, "000000000000004f 1-3 7"),
            (Some("queue_full"), 3, "visit 2, wake 1"),
        ];
        assert_eq!(said, expected);
        assert!(entries.iter().all(|entry| entry.kind == Kind::Loss));
        assert!(losses.take(Micros(6)).is_empty());
        losses.count_refused(Kind::Visit, 1);
        assert_eq!(losses.take(Micros(7))[0].count, 1);
        assert_eq!(losses.refused(), [(Kind::Visit, 3), (Kind::Wake, 1)]);
        assert_eq!(losses.lost()[0], (Cause::SpoolFull, 4));
    }

    #[test]
    fn what_a_lost_record_said_is_said_again() {
        let (losses, writer) = (Losses::default(), WriterId(0x4f));
        losses.add(Cause::SpoolFull, [1, 2].map(|seq| RecordId { writer, seq }));
        losses.count_refused(Kind::Visit, 5);
        let said = losses.take(Micros(0));
        assert_eq!(said.len(), 2);
        let mut lost = crate::ledger::fake::records(Kind::Loss, [3, 4]);
        for (record, entry) in lost.iter_mut().zip(said) {
            (record.reason, record.notes) = (entry.reason, entry.notes);
        }
        losses.add_records(Cause::SpoolFull, &lost);
        losses.count_refused(Kind::Visit, 1);
        let texts: Vec<_> = losses
            .take(Micros(0))
            .into_iter()
            .map(|mut entry| entry.notes.remove(0).text)
            .collect();
        assert_eq!(texts, ["000000000000004f 1-4".into(), Box::<str>::from("visit 6")]);
        assert!(losses.take(Micros(0)).is_empty());
    }
}
