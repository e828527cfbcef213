//! The spool: batches that the archive did not take, as files.
//!
//! A file is written once, whole: a temporary file, fsync, rename, fsync of the folder. It is
//! never changed, and there is nothing beside it that could contradict it. What fails on the
//! way, an fsync included, is begun anew with another file.
//!
//! Several processes may share the folder. Each gives its files names of its own, and locks a
//! file (flock) while it replays or removes it. What is not a dead letter is [set
//! aside](set_aside) in `bad`, with the reason beside it.

mod files;
mod letter;
mod set_aside;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock;
use super::record::{Kind, Record};
use super::remedy::WithRemedy;

pub(crate) use files::open_to_read;
use files::{is_leftover, is_link, names, occupied, remove_leftover, write_synced};
pub use letter::{Damage, Letter};
pub use set_aside::SetAsideFile;
use set_aside::{BAD, SetAsideFolder};

/// The end of the name of a dead letter; of one that holds counts of grants only; and of one
/// that the archive has refused for its content.
const SUFFIX: &str = ".letter";
const GRANTS_SUFFIX: &str = ".grants.letter";
const REFUSED_SUFFIX: &str = ".refused.letter";

const TEMPORARY: &str = ".tmp";

/// In bytes (`NAME_MAX` of Linux).
const LONGEST_FILE_NAME: usize = 255;

/// What a file takes up at least: a block of most file systems.
const BLOCK: u64 = 4096;

/// The spool's folder.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    max_bytes: u64,
    /// Tells the files of this process apart.
    serial: AtomicU64,
    /// The dead letters at the last look, with what they take up.
    known: Mutex<Option<BTreeMap<String, u64>>>,
    /// Their number and what they take up, for those who must not wait for a disk.
    size: Mutex<(usize, u64)>,
    /// Why refused letters were refused, by name.
    refusals: Mutex<HashMap<String, Option<Arc<str>>>>,
    set_aside: SetAsideFolder,
}

/// Why the spool did not take a batch.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("{path}: {}", WithRemedy(error))]
    Io { path: PathBuf, error: io::Error },
    #[error("a batch of {0} bytes does not fit into ledger.max_spool")]
    TooLarge(u64),
    #[error("a batch cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// A dead letter that no other process touches meanwhile.
#[derive(Debug)]
pub struct LockedLetter {
    pub letter: Letter,
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

/// What became of opening a dead letter.
#[derive(Debug)]
pub enum OpenedLetter {
    Locked(Box<LockedLetter>),
    /// Another process has it, or has removed it.
    Taken,
    /// It was no dead letter, and has been set aside.
    SetAside(Damage),
}

impl Spool {
    /// Creates and reads nothing.
    #[must_use]
    pub fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self {
            set_aside: SetAsideFolder::new(folder.join(BAD), max_bytes),
            folder,
            max_bytes,
            serial: AtomicU64::new(0),
            known: Mutex::default(),
            size: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Writes a batch; returns the letter's name. If there is too little room, counts of grants
    /// are removed first, then the oldest letters. `evicted` is told of the records that were
    /// removed, before the write: they are gone whether or not it succeeds.
    pub fn put(
        &self,
        records: &[Record],
        error: Option<&str>,
        evicted: impl FnOnce(&[Record]),
    ) -> Result<String, SpoolError> {
        let bytes = letter::encode(records, error)?;
        let size = occupied(bytes.len() as u64);
        if size > self.max_bytes {
            return Err(SpoolError::TooLarge(size));
        }
        self.create_folder()?;
        let mut known = self.look(false)?;
        // What says that others were lost must not cost others: that would never end.
        let is_of_losses = records.iter().all(|record| record.kind == Kind::Loss);
        if !is_of_losses {
            let removed = self.make_room(known.get_or_insert_default(), size);
            if !removed.is_empty() {
                evicted(&removed);
            }
        }
        let name = self.next_name(records, error.is_some());
        self.write(&name, &bytes)?;
        known.get_or_insert_default().insert(name.clone(), size);
        self.publish(known.as_ref());
        if let Some(error) = error {
            lock(&self.refusals).insert(name.clone(), Some(error.into()));
        }
        Ok(name)
    }

    /// Returns the names of all dead letters, oldest first, and what each takes up.
    pub fn list(&self) -> Result<BTreeMap<String, u64>, SpoolError> {
        Ok(self.look(true)?.clone().unwrap_or_default())
    }

    /// Returns the number of dead letters and the bytes that they take up, as last known.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        *lock(&self.size)
    }

    /// Opens a dead letter and locks it. What is not a dead letter is set aside.
    pub fn open(&self, name: &str) -> Result<OpenedLetter, SpoolError> {
        let Some(path) = self.path(name) else { return Ok(OpenedLetter::Taken) };
        let at = |error| SpoolError::Io { path: path.clone(), error };
        let mut file = match open_to_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(name);
                return Ok(OpenedLetter::Taken);
            }
            Err(error) if is_link(&error) => return self.set_aside(name, Damage::Foreign),
            Err(error) => return Err(at(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(OpenedLetter::Taken),
            Err(TryLockError::Error(error)) => return Err(at(error)),
        }
        let metadata = file.metadata().map_err(at)?;
        if metadata.nlink() == 0 {
            self.forget(name);
            return Ok(OpenedLetter::Taken);
        }
        if !metadata.is_file() {
            return self.set_aside(name, Damage::Foreign);
        }
        // No letter is larger than the spool: a foreign file may be.
        if metadata.len() > self.max_bytes {
            return self.set_aside(name, Damage::Foreign);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at)?;
        match letter::decode(&bytes) {
            Ok(letter) => {
                Ok(OpenedLetter::Locked(Box::new(LockedLetter { letter, path, _file: file })))
            }
            Err(damage) => self.set_aside(name, damage),
        }
    }

    /// Removes a dead letter.
    pub fn remove(&self, held: &LockedLetter) -> Result<(), SpoolError> {
        match fs::remove_file(&held.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(SpoolError::Io { path: held.path.clone(), error }),
        }
        if let Some(name) = held.path.file_name().and_then(|name| name.to_str()) {
            self.forget(name);
        }
        Ok(())
    }

    /// Returns why the archive has refused a dead letter for its content; `None` if it has not.
    pub fn refusal(&self, name: &str) -> Option<Arc<str>> {
        if !name.ends_with(REFUSED_SUFFIX) {
            return None;
        }
        if let Some(known) = lock(&self.refusals).get(name) {
            return known.clone();
        }
        // Another process, or an earlier one, has written it. Only single records are refused,
        // so it is small.
        let mut bytes = Vec::new();
        let file = open_to_read(&self.path(name)?).ok()?;
        file.take(self.max_bytes).read_to_end(&mut bytes).ok()?;
        let refusal = letter::decode(&bytes).ok().and_then(|letter| letter.error).map(Arc::from);
        lock(&self.refusals).insert(name.to_owned(), refusal.clone());
        refusal
    }

    /// Returns the files that were set aside.
    pub fn bad(&self) -> Result<Vec<SetAsideFile>, SpoolError> {
        let folder = self.folder.join(BAD);
        self.set_aside.list().map_err(|error| SpoolError::Io { path: folder, error })
    }

    /// Returns how many files are set aside and the bytes that they take up, as last known.
    #[must_use]
    pub fn bad_size(&self) -> (usize, u64) {
        self.set_aside.size()
    }

    /// Removes what processes that ended while writing have left.
    pub fn remove_leftovers(&self) -> Result<(), SpoolError> {
        let path = &self.folder;
        let at = |error| SpoolError::Io { path: path.clone(), error };
        for name in names(path).map_err(at)?.iter().filter(|name| is_leftover(name)) {
            // One that cannot be removed, because it is foreign or another process has removed
            // it meanwhile, must not keep the letters from being replayed.
            if let Err(error) = remove_leftover(&path.join(name)) {
                tracing::debug!(file = name, %error, "a leftover in the spool was not removed");
            }
        }
        Ok(())
    }

    fn create_folder(&self) -> Result<(), SpoolError> {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        created.map_err(|error| SpoolError::Io { path: self.folder.clone(), error })
    }

    /// Returns the known letters; reads the folder if they are not known, or `anew`.
    fn look(
        &self,
        anew: bool,
    ) -> Result<MutexGuard<'_, Option<BTreeMap<String, u64>>>, SpoolError> {
        let mut known = lock(&self.known);
        if anew || known.is_none() {
            let path = &self.folder;
            let found =
                names(path).map_err(|error| SpoolError::Io { path: path.clone(), error })?;
            let letters = found.into_iter().filter(|name| !is_leftover(name));
            let with_size = letters.filter_map(|name| {
                let file = fs::symlink_metadata(path.join(&name)).ok()?;
                (!file.is_dir()).then(|| (name, occupied(file.len())))
            });
            let with_size: BTreeMap<_, _> = with_size.collect();
            lock(&self.refusals).retain(|name, _| with_size.contains_key(name));
            *known = Some(with_size);
            self.set_aside.look();
            self.publish(known.as_ref());
        }
        Ok(known)
    }

    fn make_room(&self, known: &mut BTreeMap<String, u64>, size: u64) -> Vec<Record> {
        let mut evicted = Vec::new();
        let mut used = known.values().sum::<u64>() + self.set_aside.counted();
        if used.saturating_add(size) <= self.max_bytes {
            return evicted;
        }
        let (grants, others): (Vec<_>, Vec<_>) =
            known.keys().cloned().partition(|name| name.ends_with(GRANTS_SUFFIX));
        // One that another process replays is not there much longer.
        for name in grants.into_iter().chain(others) {
            if used.saturating_add(size) <= self.max_bytes {
                break;
            }
            used -= known.remove(&name).unwrap_or(0);
            evicted.extend(self.evict(&name));
        }
        evicted
    }

    /// Removes a letter to make room, and returns its records. The list of letters is locked.
    fn evict(&self, name: &str) -> Vec<Record> {
        let Some(path) = self.path(name) else { return Vec::new() };
        let Ok(mut file) = open_to_read(&path) else { return Vec::new() };
        let is_letter =
            |file: fs::Metadata| file.is_file() && file.nlink() > 0 && file.len() <= self.max_bytes;
        if file.try_lock().is_err() || !file.metadata().is_ok_and(is_letter) {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        let letter = file.read_to_end(&mut bytes).ok().and_then(|_| letter::decode(&bytes).ok());
        let Some(letter) = letter else { return Vec::new() };
        if fs::remove_file(&path).is_err() {
            return Vec::new();
        }
        letter.records
    }

    fn next_name(&self, records: &[Record], is_refused: bool) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let is_of_grants = records.iter().all(|record| record.kind == Kind::Grants);
        let suffix = match (is_refused, is_of_grants) {
            (true, _) => REFUSED_SUFFIX,
            (false, true) => GRANTS_SUFFIX,
            (false, false) => SUFFIX,
        };
        // Names sort by age. Two processes in one container have the same process id at most
        // one after the other.
        let (at, process) = (clock::now().0, std::process::id());
        format!("{at:016x}-{process:x}-{serial:x}{suffix}")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SpoolError> {
        let temporary = self.folder.join(format!("{name}{TEMPORARY}"));
        let written = write_synced(&temporary, &self.folder.join(name), bytes);
        written.and_then(|()| File::open(&self.folder)?.sync_all()).map_err(|error| {
            // It is not there, or it is replayed twice: that changes nothing.
            let _ = fs::remove_file(&temporary);
            SpoolError::Io { path: self.folder.join(name), error }
        })
    }

    fn set_aside(&self, name: &str, damage: Damage) -> Result<OpenedLetter, SpoolError> {
        match self.set_aside.take(&self.folder, name, &damage) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(OpenedLetter::Taken);
            }
            Err(error) => return Err(SpoolError::Io { path: self.folder.join(BAD), error }),
        }
        self.forget(name);
        tracing::error!(file = name, "a file in the spool {damage}; it was moved to `{BAD}`");
        Ok(OpenedLetter::SetAside(damage))
    }

    /// Returns the path of a file in the folder; `None` if the name is not one.
    fn path(&self, name: &str) -> Option<PathBuf> {
        // Longer than a file name can be: the file system would call that an error.
        let is_name = (1..=LONGEST_FILE_NAME).contains(&name.len())
            && !name.starts_with('.')
            && !name.contains(['/', '\0']);
        is_name.then(|| self.folder.join(name))
    }

    fn forget(&self, name: &str) {
        let mut known = lock(&self.known);
        if let Some(known) = known.as_mut() {
            known.remove(name);
        }
        self.publish(known.as_ref());
    }

    fn publish(&self, known: Option<&BTreeMap<String, u64>>) {
        let size = known.map_or((0, 0), |known| (known.len(), known.values().sum()));
        *lock(&self.size) = size;
    }
}

/// Reads a letter, and checks that it is written again as it was read.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_letter(bytes: &[u8]) {
    for bytes in [bytes, &fuzz_seal(bytes)] {
        let Ok(letter) = letter::decode(bytes) else { continue };
        let again = letter::encode(&letter.records, letter.error.as_deref());
        let again = again.ok().and_then(|bytes| letter::decode(&bytes).ok());
        assert_eq!(again, Some(letter));
    }
}

/// Returns a letter with this content: what a checksum lets pass.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_seal(content: &[u8]) -> Vec<u8> {
    letter::sealed(content)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
