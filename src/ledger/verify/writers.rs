//! Numbers that a writer gave to records that are nowhere: of a record that no checkpoint
//! covered, the gap is the only trace.

use std::collections::BTreeMap;

use super::finding::Finding;
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Micros, Record, RecordId, WriterId};
use crate::ledger::references::referenced;

/// Records that are younger may be on their way to the archive, in microseconds. A roll-up is
/// written up to 70 s after its minute began.
const ON_THEIR_WAY: i64 = 180 * 1_000_000;

#[derive(Debug)]
pub(super) struct Writers {
    /// Records before this time have been written.
    settled: Micros,
    writers: BTreeMap<WriterId, Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    known: Ranges,
    /// The greatest number of a record that is not on its way.
    settled: i64,
}

impl Writers {
    pub(super) fn new(now: Micros) -> Self {
        let settled = Micros(now.0.saturating_sub(ON_THEIR_WAY));
        Self { settled, writers: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, record: &Record) {
        let numbers = self.writers.entry(record.id.writer).or_default();
        numbers.known.insert(record.id.seq);
        if record.at < self.settled {
            numbers.settled = numbers.settled.max(record.id.seq);
        }
    }

    pub(super) fn account_for(&mut self, id: RecordId) {
        self.writers.entry(id.writer).or_default().known.insert(id.seq);
    }

    /// Returns whether any record of the writer is known.
    pub(super) fn knows(&self, writer: WriterId) -> bool {
        self.writers.contains_key(&writer)
    }

    /// Accounts for records that are not in the archive.
    pub(super) fn account(&mut self, writer: WriterId, numbers: &Ranges) {
        let known = &mut self.writers.entry(writer).or_default().known;
        for (first, last) in numbers.iter() {
            known.insert_range(first, last);
        }
    }

    /// Accounts for the numbers that an unaltered record of a loss or of a cut names: those of
    /// records that are nowhere, or that retention has removed.
    pub(super) fn account_for_referenced(&mut self, record: &Record) {
        for (writer, numbers) in referenced(record) {
            self.account(writer, &numbers);
        }
    }

    /// Returns the numbers that are missing.
    pub(super) fn missing(self) -> Vec<Finding> {
        self.writers
            .into_iter()
            .filter_map(|(writer, Numbers { known, settled })| {
                let mut numbers = Ranges::default();
                numbers.insert_range(1, settled);
                numbers.remove_all(&known);
                (!numbers.is_empty()).then_some(Finding::Missing { writer, numbers })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::key::SigningKey;
    use crate::ledger::record::{Entry, Kind, Note};
    use crate::ledger::references::CUT_RECORDS;
    use crate::ledger::seal::Sealer;

    const NOW: Micros = Micros(1_700_000_000_000_000);

    /// Returns the missing numbers after these records: number, and age in seconds.
    fn missing(records: &[(i64, i64)], cut: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SigningKey::load_or_create(&folder.path().join("key")).expect("a key");
        let mut sealer = Sealer::new(key.seal_key().clone()).expect("random numbers");
        let mut writers = Writers::new(NOW);
        for (seq, age) in records {
            let id = RecordId { writer: WriterId(1), seq: *seq };
            let entry = Entry::new(Kind::Visit, Micros(NOW.0 - age * 1_000_000));
            writers.add(&sealer.seal(id, &"box".into(), entry));
        }
        let id = RecordId { writer: WriterId(2), seq: 1 };
        let mut entry = Entry::new(Kind::Cut, NOW);
        let text = format!("{:016x} {cut}", 1).into();
        entry.notes.push(Note { topic: CUT_RECORDS.into(), text });
        writers.account_for_referenced(&sealer.seal(id, &"box".into(), entry));
        let numbers = |finding| match finding {
            Finding::Missing { numbers, .. } => numbers.to_string(),
            other => panic!("{other:?}"),
        };
        writers.missing().into_iter().map(numbers).collect()
    }

    #[test]
    fn gaps_are_missing_unless_records_are_on_their_way() {
        assert_eq!(missing(&[(1, 900), (2, 800), (3, 700)], ""), [""; 0]);
        assert_eq!(missing(&[(3, 900), (4, 800), (9, 700)], ""), ["1-2 5-8"]);
        assert_eq!(missing(&[(1, 900), (3, 10)], ""), [""; 0], "2 may come yet");
        assert_eq!(missing(&[(1, 900), (3, 10), (4, 600)], ""), ["2"], "4 came long ago");
    }

    #[test]
    fn exactly_what_was_cut_may_be_missing() {
        assert_eq!(missing(&[(4, 900)], "1-3"), [""; 0]);
        assert_eq!(missing(&[(5, 900)], "1-3"), ["4"]);
        assert_eq!(missing(&[(5, 900)], "2-4"), ["1"], "as many were cut, but others");
    }
}
