//! Replays dead letters.
//!
//! A spool belongs to the processes that share its folder, and so does the job: its row and
//! its lock carry the spool's id, which is kept in a file of the folder. Records are written
//! through the [`Link`], one letter after the other, and a letter that is written twice
//! changes nothing; so what the lock is for here is only that no two processes try the same
//! letters in vain.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::{Context, Done, JobError, Lease, LongJob, Plan, Run};
use crate::backoff::random;
use crate::ledger::archive::Archive;
use crate::ledger::dead_letter::{self, Outcome};
use crate::ledger::link::Link;
use crate::ledger::spool::open_to_read;

/// A full spool of 256 MiB is replayed within it.
const LIMIT: Duration = Duration::from_secs(600);

/// The file of the spool's id. Hidden files in the folder are not dead letters.
const ID_FILE: &str = ".id";

/// The length of an id: 64 bits in hexadecimal digits.
const ID_LENGTH: usize = 16;

/// Replays the dead letters of one spool.
#[derive(Debug)]
pub struct DeadLetters {
    letters: Arc<dead_letter::DeadLetters>,
    link: Arc<Link<Archive>>,
    spool_id: String,
    interval: Duration,
}

impl DeadLetters {
    #[must_use]
    pub fn new(
        letters: Arc<dead_letter::DeadLetters>,
        link: Arc<Link<Archive>>,
        spool_id: String,
        interval: Duration,
    ) -> Self {
        Self { letters, link, spool_id, interval }
    }

    async fn replay(&self) -> Result<Done, JobError> {
        let outcome = self.letters.replay(&self.link).await;
        let what = what(&outcome);
        match outcome.error {
            Some(error) if outcome.letters == 0 && outcome.failed > 0 => {
                Err(JobError::Failed(format!("{what}: {error}")))
            }
            _ => Ok(Done { is_idle: what.is_empty(), ..Done::new(what) }),
        }
    }
}

impl LongJob for DeadLetters {
    fn plan(&self) -> Plan {
        Plan::owned("dead_letters", &self.spool_id, self.interval, LIMIT)
    }

    fn run<'a>(&'a self, _: &'a Context, _: &'a Arc<str>, _: &'a Lease) -> Run<'a> {
        Box::pin(self.replay())
    }
}

fn what(outcome: &Outcome) -> String {
    let &Outcome { replayed, letters, failed, set_aside, error: _ } = outcome;
    let mut what = String::new();
    for (count, text) in [
        (replayed, "records replayed"),
        (letters, "letters gone"),
        (failed, "tried in vain"),
        (set_aside, "files set aside"),
    ] {
        if count > 0 {
            let separator = if what.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(what, "{separator}{text}: {count}");
        }
    }
    what
}

/// Returns the id of the spool in a folder. If it cannot be kept there, it is another one in
/// each process. May block.
pub fn spool_id(folder: &Path) -> String {
    id_of(folder).unwrap_or_else(|error| {
        let folder = folder.display();
        warn!(%error, %folder, "the spool's id cannot be kept; another is used until the end");
        new_id()
    })
}

/// Returns the id of the spool in a folder, which the first process gives it.
fn id_of(folder: &Path) -> io::Result<String> {
    let path = folder.join(ID_FILE);
    match read_id(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        read => return read,
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let id = new_id();
    let temporary = folder.join(format!("{ID_FILE}.{id}"));
    let mut file = File::create_new(&temporary)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    // Fails if another process was first, whose id counts then.
    let linked = fs::hard_link(&temporary, &path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => read_id(&path),
    }
}

fn read_id(path: &Path) -> io::Result<String> {
    let mut id = String::new();
    open_to_read(path)?.take(ID_LENGTH as u64 + 1).read_to_string(&mut id)?;
    let is_id = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { Ok(id) } else { Err(io::Error::new(ErrorKind::InvalidData, "not a spool's id")) }
}

pub fn new_id() -> String {
    format!("{:08x}{:08x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_keeps_the_id_that_the_first_process_gave_it() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("spool");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| id_of(&folder))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let first = ids[0].as_ref().expect("an id");
        assert!(ids.iter().all(|id| id.as_ref().is_ok_and(|id| id == first)), "{ids:?}");
        let names: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        fs::write(folder.join(ID_FILE), "something else").expect("writable");
        assert!(id_of(&folder).is_err(), "it is not ours to overwrite");
    }

    #[test]
    fn what_was_replayed_is_told() {
        let outcome = Outcome { replayed: 500, letters: 2, failed: 1, set_aside: 0, error: None };
        assert_eq!(what(&outcome), "records replayed: 500, letters gone: 2, tried in vain: 1");
        assert_eq!(what(&Outcome::default()), "");
    }
}
