//! What the operator can do about a file that cannot be read or written.

use std::fmt;
use std::io::{self, ErrorKind};

/// For a disk, or a quota, that is full.
pub(super) const FREE_SPACE: &str = "free some space; all goes on without a restart";

/// For a file that cannot be written or created.
pub(super) const MAKE_WRITABLE: &str = "make its folder writable for this process, which needs no \
                                        restart, or set `ledger.path` to another one";

/// An error of a file, and what helps if that is known.
pub(super) struct WithRemedy<'a>(pub(super) &'a io::Error);

impl fmt::Display for WithRemedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => write!(f, "{error}: {FREE_SPACE}"),
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                write!(f, "{error}: {MAKE_WRITABLE}")
            }
            _ => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_said_where_it_is_known() {
        for (kind, remedy) in [
            (ErrorKind::StorageFull, Some(FREE_SPACE)),
            (ErrorKind::QuotaExceeded, Some(FREE_SPACE)),
            (ErrorKind::ReadOnlyFilesystem, Some(MAKE_WRITABLE)),
            (ErrorKind::PermissionDenied, Some(MAKE_WRITABLE)),
            (ErrorKind::NotFound, None),
        ] {
            let error = io::Error::from(kind);
            let text = WithRemedy(&error).to_string();
            let remedy = remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
            assert_eq!(text, format!("{error}{remedy}"));
        }
    }
}
