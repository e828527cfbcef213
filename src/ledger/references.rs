//! Notes that name records by their writers and numbers: `4f1d... 1-3 7`.
//!
//! A record of a loss, of a cut or of an adoption has one for each writer.

use std::collections::BTreeMap;

use super::ranges::Ranges;
use super::record::{Kind, Note, Record, RecordId, Word, WriterId};

/// The topic of the positions that a cut has removed.
pub const CUT_POSITIONS: &str = "range";

/// The topic of the records that a cut has removed, or that earlier records explained which
/// it has removed.
pub const CUT_RECORDS: &str = "records";

/// The topic of the records of a loss and of an adoption.
pub const RECORDS: &str = "range";

/// Numbers by their writers.
pub type Numbers = BTreeMap<WriterId, Ranges>;

/// Returns the numbers of records.
#[must_use]
pub fn numbers(ids: impl IntoIterator<Item = RecordId>) -> Numbers {
    let mut numbers = Numbers::new();
    for id in ids {
        numbers.entry(id.writer).or_default().insert(id.seq);
    }
    numbers
}

/// Returns a note for each writer.
pub fn notes(topic: &'static str, numbers: &Numbers) -> impl Iterator<Item = Note> {
    numbers.iter().map(move |(writer, numbers)| Note {
        topic: Word::Borrowed(topic),
        text: format!("{:016x} {numbers}", writer.0).into(),
    })
}

/// Returns the numbers that a record of a loss or of a cut names.
#[must_use]
pub fn referenced(record: &Record) -> Numbers {
    let topic = match record.kind {
        Kind::Loss => RECORDS,
        Kind::Cut => CUT_RECORDS,
        _ => return Numbers::new(),
    };
    let mut named = Numbers::new();
    for note in record.notes.iter().filter(|note| note.topic == topic) {
        if let Some((writer, numbers)) = read(&note.text) {
            let known = named.entry(writer).or_default();
            numbers.iter().for_each(|(first, last)| known.insert_range(first, last));
        }
    }
    named
}

/// Returns the positions that a record of a cut names.
#[must_use]
pub fn cut_positions(record: &Record) -> Ranges {
    let mut positions = Ranges::default();
    if record.kind == Kind::Cut {
        for note in record.notes.iter().filter(|note| note.topic == CUT_POSITIONS) {
            let ranges = note.text.parse::<Ranges>().unwrap_or_default();
            ranges.iter().for_each(|(first, last)| positions.insert_range(first, last));
        }
    }
    positions
}

/// Reads the text of a note.
#[must_use]
pub fn read(text: &str) -> Option<(WriterId, Ranges)> {
    let (writer, numbers) = text.split_once(' ')?;
    Some((WriterId(i64::from_str_radix(writer, 16).ok()?), numbers.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_read_again() {
        let ids = [(7, 1), (7, 2), (9, 4), (7, 3)];
        let ids = ids.map(|(writer, seq)| RecordId { writer: WriterId(writer), seq });
        let numbers = numbers(ids);
        let notes: Vec<_> = notes(CUT_RECORDS, &numbers).collect();
        let texts: Vec<_> = notes.iter().map(|note| &*note.text).collect();
        assert_eq!(texts, ["0000000000000007 1-3", "0000000000000009 4"]);
        let mut cut = crate::ledger::fake::records(Kind::Cut, [1]).remove(0);
        cut.notes = notes;
        assert_eq!(referenced(&cut), numbers);
        cut.kind = Kind::Visit;
        assert!(referenced(&cut).is_empty(), "only a cut or a loss explains what is missing");
    }
}
