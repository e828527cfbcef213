//! What verification can find, worded for the operator.

use std::fmt;
use std::sync::Arc;

use crate::ledger::archive::TileKey;
use crate::ledger::checkpoint::{CheckpointError, rfc3339};
use crate::ledger::ranges::Ranges;
use crate::ledger::record::{Micros, RecordId, WriterId};

/// How many findings of one kind are named; one is enough to know that there is something.
pub(super) const MAX_FINDINGS: usize = 10;

/// Where a checkpoint is kept: the database, or the name of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Database,
    File(Arc<str>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str("the database"),
            Self::File(name) => f.write_str(name),
        }
    }
}

/// Something that was altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The content of a record is not what it was.
    Edited {
        id: RecordId,
        position: u64,
    },
    /// The record at a position is gone, and no cut by retention removed it.
    Deleted {
        position: u64,
    },
    /// A record is at a position that was not given to it: it was added later.
    Inserted {
        id: RecordId,
        position: i64,
    },
    /// A record is at another's position.
    Moved {
        id: RecordId,
        from: u64,
        to: u64,
    },
    /// The content of a record that no checkpoint covers yet is not what it was.
    EditedUncovered {
        id: RecordId,
    },
    /// A row is no record that this version can read: what it was can be neither shown nor
    /// compared.
    Unreadable {
        id: RecordId,
        /// `None` if it has none yet, or one that cannot be.
        position: Option<u64>,
        problem: Box<str>,
    },
    /// Records of a writer are gone that neither a loss nor a cut accounts for.
    Missing {
        writer: WriterId,
        numbers: Ranges,
    },
    /// The hashes of a tile are not those of the records, which are what they were.
    Tile {
        key: TileKey,
    },
    /// The stored size of the tree is not one that was stored here.
    Size {
        stored: i64,
    },
    /// A checkpoint covers more records than there are.
    CutTail {
        source: Source,
        covered: u64,
        at: Micros,
        size: u64,
    },
    /// The first records do not have the hash that a checkpoint signed.
    Rewritten {
        source: Source,
        size: u64,
        at: Micros,
        matches_until: u64,
    },
    /// A checkpoint that this ledger's key did not sign, or that is stored under other values
    /// than it has.
    Checkpoint {
        source: Source,
        size: Option<u64>,
        problem: CheckpointError,
    },
    MisplacedCheckpoint {
        stored: i64,
        signed: u64,
    },
    /// The file beside the key, to which every checkpoint was appended, has none of them.
    Log {
        name: Arc<str>,
        missing: usize,
    },
    /// The private key is not that of the public one, or signed none of the checkpoints.
    Key,
}

impl Finding {
    /// Returns the position of the record that was altered.
    pub(super) fn position(&self) -> Option<u64> {
        match self {
            Self::Edited { position, .. } | Self::Deleted { position } => Some(*position),
            Self::Inserted { position, .. } => Some(u64::try_from(*position).unwrap_or_default()),
            Self::Moved { to, .. } => Some(*to),
            Self::Unreadable { position, .. } => *position,
            _ => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited { id, position } => {
                write!(f, "record {id} at position {position} was edited")
            }
            Self::Deleted { position } => {
                write!(f, "the record at position {position} was deleted")
            }
            Self::Inserted { id, position } => {
                write!(f, "record {id} at position {position} was inserted")
            }
            Self::Moved { id, from, to } => {
                write!(f, "record {id} was moved from position {from} to {to}")
            }
            Self::EditedUncovered { id } => {
                write!(f, "record {id} was edited or inserted before a checkpoint covered it")
            }
            Self::Unreadable { id, position: Some(position), problem } => {
                write!(f, "record {id} at position {position} cannot be read: {problem}")
            }
            Self::Unreadable { id, position: None, problem } => {
                write!(f, "record {id} cannot be read: {problem}")
            }
            Self::Missing { writer, numbers } => write!(
                f,
                "records {numbers} of writer {:016x} were deleted before a checkpoint covered them",
                writer.0
            ),
            Self::Tile { key } => write!(
                f,
                "tile {} of level {} was edited; the records that it stands for were not",
                key.number, key.level
            ),
            Self::Size { stored } => write!(f, "the size of the tree was edited: it is {stored}"),
            Self::CutTail { source, covered, at, size } => write!(
                f,
                "the tail was cut: checkpoint {covered} of {} in {source} covers {} records that \
                 are gone",
                rfc3339(*at),
                covered.saturating_sub(*size)
            ),
            Self::Rewritten { source, size, at, matches_until } => write!(
                f,
                "the tree was rewritten after its first {matches_until} records: it does not have \
                 the hash of checkpoint {size} of {} in {source}",
                rfc3339(*at)
            ),
            Self::Checkpoint { source, size: Some(size), problem } => {
                write!(f, "checkpoint {size} in {source} is {problem}")
            }
            Self::Checkpoint { source, size: None, problem } => {
                write!(f, "a text in {source} is {problem}")
            }
            Self::MisplacedCheckpoint { stored, signed } => {
                write!(f, "checkpoint {signed} in the database is stored as {stored}")
            }
            Self::Log { name, missing } => write!(
                f,
                "{name} is missing or empty: {missing} checkpoints of the database were appended \
                 to it"
            ),
            Self::Key => f.write_str("the key was replaced: another one signed the checkpoints"),
        }
    }
}
