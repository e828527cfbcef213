//! File descriptors: how many there are, who gets them, and what is done when they
//! are short.
//!
//! Every connection is a descriptor, and so is every file of the store while it is
//! read. Connections are bounded so that some are left for everything else; where
//! they are short nonetheless (other processes can use up the system's), files are
//! read with one of a few that are kept for that.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Least and most that are kept for what is no connection of a listener: files of
/// the store, connections to the database, the engine and the upstream, Compose.
const FEWEST_KEPT: usize = 32;
const MOST_KEPT: usize = 256;

/// The same of connections of the operator's listener, so that probes are answered
/// whatever the gate's listener goes through.
const FEWEST_OPS: usize = 8;
const MOST_OPS: usize = 128;

/// Files that may be read when no descriptor is free.
const SPARE: usize = 4;

/// Open for nothing but to be closed when a descriptor is needed.
static SPARES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Takes as many descriptors as the system grants. Each request that is held is a
/// connection, and the usual soft limit of 1,024 is there for programs that call
/// `select`.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Connections that the two listeners may have at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) gate: usize,
    pub(crate) ops: usize,
}

impl Shares {
    /// What this process's limit leaves for connections; `others` are descriptors that
    /// are needed besides.
    pub(crate) fn now(others: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        Self::of(limit.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX)), others)
    }

    fn of(limit: usize, others: usize) -> Self {
        let kept = (limit / 4).clamp(FEWEST_KEPT, MOST_KEPT).saturating_add(others);
        let ops = (limit / 8).clamp(FEWEST_OPS, MOST_OPS);
        // Whatever the limit, somebody must be let in.
        Self { gate: limit.saturating_sub(kept.min(limit / 2)).saturating_sub(ops).max(1), ops }
    }
}

/// Whether something failed for want of descriptors, here or in the whole system:
/// that says nothing about the file it failed for.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Does what opens a file for a short time, if need be with a descriptor that is kept
/// for that.
pub(crate) fn with_spare<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut done = work();
    if !matches!(&done, Err(error) if is_shortage(error)) {
        return done;
    }
    // One at a time: the next would take the descriptor that this one has freed.
    let mut spares = spares();
    while let Some(spare) = spares.pop() {
        drop(spare);
        done = work();
        if !matches!(&done, Err(error) if is_shortage(error)) {
            break;
        }
    }
    fill(&mut spares);
    done
}

/// Opens what is missing of the descriptors that are kept.
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
            assert_eq!(Shares::of(limit, 0), Shares { gate, ops }, "{limit}");
        }
        assert_eq!(Shares::of(1024, 100).gate, 540);
        assert_eq!(Shares::of(1024, 10_000).gate, 384);
        assert!(Shares::of(0, 20).gate > 0);
        assert!(Shares::of(usize::MAX, 20).gate > 1_000_000);
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
        assert_eq!(spares().len(), SPARE, "kept again");
        let other: io::Result<()> = with_spare(|| Err(Errno::NOENT.into()));
        assert_eq!(other.expect_err("not there").kind(), io::ErrorKind::NotFound);
        let short: io::Result<()> = with_spare(|| Err(Errno::NFILE.into()));
        assert!(is_shortage(&short.expect_err("no spare helps")));
    }
}
