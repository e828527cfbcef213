//! Reading the record: which records are asked for, and a page of them.

use super::record::{Kind, Micros, RecordId, RecordRow, Stored};

/// Which records are asked for; what is `None` is not filtered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub app: Option<String>,
    /// The id of a client.
    pub client: Option<String>,
    pub kind: Option<Kind>,
    pub verdict: Option<String>,
    pub reason: Option<String>,
    /// Records that began at this time or later.
    pub from: Option<Micros>,
    /// Records that began before this time.
    pub to: Option<Micros>,
}

/// The order of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    NewestFirst,
    OldestFirst,
}

/// Where a page begins: a keyset. Records without a position count as newer than all with one
/// and are ordered by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// After the record with this position.
    Position(i64),
    /// After this record, which had no position.
    Unplaced {
        id: RecordId,
        /// The first position that was not given then. What has got one since still counts as
        /// unplaced, so the pages that follow neither skip nor repeat a record.
        placed: i64,
    },
}

/// A page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    pub tenant: String,
    pub filter: Filter,
    pub order: Order,
    pub after: Option<Cursor>,
    /// The most records to return.
    pub limit: usize,
    /// Whether records that have no position yet are returned.
    pub with_unplaced: bool,
}

/// A page; its records come without steps and notes. It may have fewer than were asked for, or
/// none, although more follow: a search among many is ended after some milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub records: Vec<Stored>,
    /// How many rows of the page are not records that this version can read: a later one has
    /// written them, or they were altered.
    pub unreadable: usize,
    /// Where the page ends, readable or not; `None` if it is empty.
    pub last: Option<Cursor>,
    /// The next page begins here; `None` if this is the last one.
    pub next: Option<Cursor>,
}

impl Page {
    /// Makes a page of rows, of which there is one more than `limit` if another page follows.
    /// `placed` is the first position that was not given when the first page was read.
    pub(super) fn from_rows(mut rows: Vec<RecordRow>, limit: usize, placed: i64) -> Self {
        let has_next = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().map(|last| match last.position {
            Some(position) if position < placed => Cursor::Position(position),
            _ => Cursor::Unplaced { id: last.id, placed },
        });
        let read = rows.len();
        let records: Vec<_> = rows.into_iter().filter_map(RecordRow::into_stored).collect();
        let unreadable = read - records.len();
        Self { records, unreadable, last, next: last.filter(|_| has_next) }
    }
}
