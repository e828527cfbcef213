//! Reading the record: which records are asked for, and a page of them.

use super::record::{Kind, Micros, RecordId, Stored};

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

/// A page; its records come without steps and notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub records: Vec<Stored>,
    /// The next page begins here; `None` if this is the last one.
    pub next: Option<Cursor>,
}
