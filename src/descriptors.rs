//! File descriptors: how many there are, how they are divided, and what is done when they
//! are short.
//!
//! Every connection needs a descriptor, and so does every file of the store while it is
//! read. Connections are bounded so that some descriptors are left for everything else. If
//! they are short nonetheless (other processes can use up the system's), files are
//! read with one of a few descriptors that are reserved for that.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The least and the most descriptors that are reserved for everything but connections of a
/// listener: files of the store, connections to the database, the engine and the upstream,
/// and Compose.
const MIN_RESERVED: usize = 32;
const MAX_RESERVED: usize = 256;

/// The same for connections of the operator's listener, so that probes are answered
/// whatever the load of the gate's listener.
const MIN_OPS: usize = 8;
const MAX_OPS: usize = 128;

/// The number of files that may be read when no descriptor is free.
const SPARE: usize = 4;

/// Files that are open only to be closed when a descriptor is needed.
static SPARES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Raises the soft limit to the hard limit. Each held request is a connection, and the
/// usual soft limit of 1,024 exists for programs that call `select`.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
}

/// The connections that each of the two listeners may have at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    pub(crate) gate: usize,
    pub(crate) ops: usize,
}

impl ConnectionLimits {
    /// Returns the connections for which this process's limit leaves descriptors; `others`
    /// is the number of further descriptors that are needed.
    pub(crate) fn now(others: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        Self::share(
            limit.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX)),
            others,
        )
    }

    fn share(limit: usize, others: usize) -> Self {
        let reserved = (limit / 4).clamp(MIN_RESERVED, MAX_RESERVED).saturating_add(others);
        let ops = (limit / 8).clamp(MIN_OPS, MAX_OPS);
        // Whatever the limit, at least one connection must be accepted.
        Self { gate: limit.saturating_sub(reserved.min(limit / 2)).saturating_sub(ops).max(1), ops }
    }
}

/// Returns whether an operation failed because there are no free descriptors, in this process
/// or in the whole system: that says nothing about the file it failed for.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Runs an operation that opens a file for a short time, with a spare descriptor if no other
/// is free.
pub(crate) fn with_spare<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut result = work();
    if !matches!(&result, Err(error) if is_shortage(error)) {
        return result;
    }
    // One at a time: another thread would take the descriptor that this one has freed.
    let mut spares = spares();
    while let Some(spare) = spares.pop() {
        drop(spare);
        result = work();
        if !matches!(&result, Err(error) if is_shortage(error)) {
            break;
        }
    }
    fill(&mut spares);
    result
}

/// Opens the spare descriptors that are missing.
pub(crate) fn keep_spare() {
    fill(&mut spares());
}

fn spares() -> MutexGuard<'static, Vec<File>> {
    SPARES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fill(spares: &mut Vec<File>) {
    while spares.len() < SPARE
        && let Ok(file) = File::open("/dev/null")
    {
        spares.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_leaves_room_for_files_and_for_the_operator() {
        for (limit, gate, ops) in
            [(64, 24, 8), (256, 160, 32), (1024, 640, 128), (65_536, 65_152, 128)]
        {
            assert_eq!(
                ConnectionLimits::share(limit, 0),
                ConnectionLimits { gate, ops },
                "{limit}"
            );
        }
        assert_eq!(ConnectionLimits::share(1024, 100).gate, 540);
        assert_eq!(ConnectionLimits::share(1024, 10_000).gate, 384);
        assert!(ConnectionLimits::share(0, 20).gate > 0);
        assert!(ConnectionLimits::share(usize::MAX, 20).gate > 1_000_000);
    }

    #[test]
    fn a_file_is_read_with_a_spare_descriptor_when_none_is_free() {
        keep_spare();
        let mut failures = 0;
        let read = with_spare(|| {
            if failures < 2 {
                failures += 1;
                return Err(Errno::MFILE.into());
            }
            Ok(failures)
        });
        assert_eq!(read.expect("with the second spare"), 2);
        assert_eq!(spares().len(), SPARE, "opened again");
        let other: io::Result<()> = with_spare(|| Err(Errno::NOENT.into()));
        assert_eq!(other.expect_err("not there").kind(), io::ErrorKind::NotFound);
        let short: io::Result<()> = with_spare(|| Err(Errno::NFILE.into()));
        assert!(is_shortage(&short.expect_err("no spare helps")));
    }
}
