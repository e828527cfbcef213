//! What goes wrong with a database file, worded for the operator.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::ledger::archive::ArchiveError;
use crate::ledger::remedy::{FREE_SPACE, MAKE_WRITABLE, WithRemedy};

/// Why a call to SQLite failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The content is refused, and will be again.
    Content(String),
    Sqlite(rusqlite::Error),
    /// The folder or the file cannot be used.
    File(io::Error),
    /// The database is not one that this version can use.
    Unusable(String),
    /// The time limit of a read.
    TooSlow(Duration),
    /// The write-ahead log was removed, and what it holds cannot be moved yet.
    LostLog,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl Fault {
    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            _ => None,
        }
    }

    /// Returns whether another connection holds the lock that was needed.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// Returns whether it was the caller's limit that ended the call.
    pub(super) fn is_interrupted(&self) -> bool {
        self.code() == Some(ErrorCode::OperationInterrupted)
    }

    fn is_content(&self) -> bool {
        matches!(self, Self::Content(_))
            || matches!(
                self.code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            )
    }

    /// Returns whether the connection is as good as before. After an error of the disk, what
    /// SQLite has in memory may differ from the file.
    pub(super) fn spares_connection(&self) -> bool {
        self.is_content()
            || matches!(self, Self::LostLog)
            || self.is_busy()
            || self.is_interrupted()
            || self.code() == Some(ErrorCode::DiskFull)
    }

    pub(super) fn at(&self, path: &Path) -> ArchiveError {
        if self.is_content() {
            ArchiveError::Content(self.to_string().into())
        } else {
            ArchiveError::Unavailable(format!("`{}`: {self}", path.display()).into())
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(reason) | Self::Unusable(reason) => f.write_str(reason),
            Self::File(error) => WithRemedy(error).fmt(f),
            Self::LostLog => f.write_str(
                "its write-ahead log (`-wal`) or the log's index (`-shm`) was removed while in \
                 use; what they hold is moved into the database as soon as no read goes on",
            ),
            Self::TooSlow(limit) => write!(f, "the read took longer than {limit:?}"),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => {
                    write!(f, "not a database of SQLite, or damaged: {REMEDY}")
                }
                Some(ErrorCode::DatabaseCorrupt) => write!(f, "damaged ({error}): {REMEDY}"),
                Some(ErrorCode::DiskFull) => {
                    write!(f, "no space is left on the disk: {FREE_SPACE}")
                }
                Some(ErrorCode::ReadOnly) => {
                    write!(f, "cannot be written ({error}): {MAKE_WRITABLE}")
                }
                Some(ErrorCode::CannotOpen) => {
                    write!(f, "{error}: unless something else has its name, {MAKE_WRITABLE}")
                }
                // Of a file of SQLite's own, such as the log's index, it does not say more.
                Some(ErrorCode::SystemIoFailure) => {
                    write!(f, "{error}: if the disk is full, {FREE_SPACE}")
                }
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    f.write_str("another process holds the database's lock")
                }
                _ => error.fmt(f),
            },
        }
    }
}

const REMEDY: &str = "it is left as it is; move it and its `-wal` away to begin a new one";
