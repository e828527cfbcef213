//! Locks for as long as a long job runs, held outside every transaction.
//!
//! In Postgres the lock belongs to a session of its own ([`Locks`]), whose end its holder
//! learns of. A pool's connection cannot hold one: nothing that a pool hands out has a way to
//! take a session's lock. Beside SQLite it is a locked file, which the kernel unlocks when
//! the process ends.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::task::spawn_blocking;

use super::JobError;
use crate::ledger::archive::{Archive, Transaction};
use crate::postgres::{AdvisoryLock, Locks};

/// The longest name of a process that is read from a lock file.
const MAX_HOLDER: u64 = 100;

/// Where the locks of long jobs are taken.
#[derive(Debug)]
pub(super) enum SessionLocks {
    Postgres(Locks),
    /// Locked files in this folder, which is created when it is needed.
    Files(PathBuf),
}

/// The lock of a long job. It ends when it is released or dropped, or when it is lost.
#[derive(Debug)]
pub struct Lease(LeaseLock);

#[derive(Debug)]
enum LeaseLock {
    Session(AdvisoryLock),
    File(File),
}

impl SessionLocks {
    /// Returns the locks beside an archive; `folder` is for their files, if it is a file.
    pub(super) fn new(archive: &Archive, folder: PathBuf) -> Self {
        match archive {
            Archive::Postgres(archive) => Self::Postgres(archive.session_locks()),
            Archive::Sqlite(_) => Self::Files(folder),
        }
    }

    /// Takes the lock of that name; returns `None` if another process, or another task,
    /// holds it.
    pub(super) async fn try_lock(&self, name: &str) -> Result<Option<Lease>, JobError> {
        match self {
            Self::Postgres(locks) => match locks.try_lock(name).await {
                Ok(lock) => Ok(lock.map(|lock| Lease(LeaseLock::Session(lock)))),
                Err(error) => Err(JobError::Lock(error.to_string())),
            },
            Self::Files(folder) => try_lock_in(folder, name).await,
        }
    }

    /// Returns which process has locked the file of that name.
    pub(super) async fn holder(&self, name: &str) -> Option<String> {
        match self {
            Self::Postgres(_) => None,
            Self::Files(folder) => holder_in(folder, name).await,
        }
    }
}

impl Lease {
    /// Commits, unless the lock was lost: another process may be doing the same work then.
    pub async fn commit(&self, transaction: Transaction<'_>) -> Result<(), JobError> {
        // A session whose network is gone is noticed only when it is asked.
        let is_held = match &self.0 {
            LeaseLock::Session(lock) => lock.confirm().await.is_ok(),
            LeaseLock::File(_) => true,
        };
        if !is_held || self.is_lost() {
            return Err(JobError::LockLost);
        }
        Ok(transaction.commit().await?)
    }

    /// Whether another process may have the lock.
    pub fn is_lost(&self) -> bool {
        match &self.0 {
            LeaseLock::Session(lock) => lock.lost().now_or_never().is_some(),
            // A file that was deleted excludes nobody: the next process creates another.
            LeaseLock::File(file) => file.metadata().is_ok_and(|metadata| metadata.nlink() == 0),
        }
    }

    /// Returns when another process may have the lock.
    pub async fn lost(&self) {
        match &self.0 {
            LeaseLock::Session(lock) => lock.lost().await,
            // Nothing tells of a deleted file; it is noticed before a commit.
            LeaseLock::File(_) => std::future::pending().await,
        }
    }

    pub(super) async fn release(self) {
        match self.0 {
            LeaseLock::Session(lock) => lock.release().await,
            // Closing the file unlocks it.
            LeaseLock::File(file) => drop(file),
        }
    }
}

async fn try_lock_in(folder: &Path, name: &str) -> Result<Option<Lease>, JobError> {
    let path = file_of(folder, name);
    match on_blocking_thread(move || try_lock_file(&path)).await {
        Ok(file) => Ok(file.map(|file| Lease(LeaseLock::File(file)))),
        Err(error) => {
            let folder = folder.display();
            Err(JobError::Lock(format!("cannot lock a file in {folder}: {error}")))
        }
    }
}

async fn holder_in(folder: &Path, name: &str) -> Option<String> {
    let path = file_of(folder, name);
    on_blocking_thread(move || Ok(holder_of(&path))).await.ok().flatten()
}

/// Returns the path of a lock's file; its name is safe, whatever the lock is called.
fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.lock", utf8_percent_encode(name, NON_ALPHANUMERIC)))
}

/// Locks a file and writes this process's id into it; `None` if it is locked.
fn try_lock_file(path: &Path) -> io::Result<Option<File>> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = File::options();
    let mut file =
        options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // The id is for the operator; on a full disk the lock is as good without it. A job that
    // finds nothing to do writes nothing: what is there already is not written again.
    let holder = format!("process {}", std::process::id());
    let mut written = String::new();
    let _ = (&file).take(MAX_HOLDER).read_to_string(&mut written);
    if written != holder {
        let _ = file.set_len(0);
        let _ = file.rewind().and_then(|()| file.write_all(holder.as_bytes()));
    }
    Ok(Some(file))
}

fn holder_of(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    let mut holder = String::new();
    file.take(MAX_HOLDER).read_to_string(&mut holder).ok()?;
    Some(if holder.is_empty() { "a process".into() } else { holder })
}

/// Calls to files may hang with their disk, so they are kept from the runtime's threads.
async fn on_blocking_thread<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(call).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn taken(folder: &Path, name: &str) -> Option<Lease> {
        try_lock_in(folder, name).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_locked_file_is_one_holders_until_it_lets_go() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("locks");
        assert_eq!(holder_in(&folder, "retention@box").await, None, "nothing is there yet");
        for is_released in [true, false] {
            let held = taken(&folder, "retention@box").await.expect("free");
            assert!(taken(&folder, "retention@box").await.is_none());
            assert!(taken(&folder, "probes@box").await.is_some(), "another name");
            let holder = holder_in(&folder, "retention@box").await.expect("it is held");
            assert_eq!(holder, format!("process {}", std::process::id()));
            assert!(!held.is_lost());
            if is_released {
                held.release().await;
            } else {
                drop(held);
            }
            assert_eq!(holder_in(&folder, "retention@box").await, None);
        }
    }

    #[tokio::test]
    async fn the_names_of_locks_are_no_paths() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("locks");
        let _held = taken(&folder, "../../../outside").await.expect("free");
        let files = fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(files, 1, "in the folder");
    }

    #[tokio::test]
    async fn a_lock_whose_file_was_deleted_is_lost() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let held = taken(folder.path(), "retention").await.expect("free");
        fs::remove_file(file_of(folder.path(), "retention")).expect("removed");
        assert!(held.is_lost());
        assert!(taken(folder.path(), "retention").await.is_some(), "another has it");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("writable");
        let error =
            try_lock_in(&file.join("locks"), "x").await.expect_err("a file is not a folder");
        assert!(error.to_string().contains("file/locks"), "{error}");
    }
}
