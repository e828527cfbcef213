//! The file of checkpoints beside the key, outside the database: whoever rewrites the database
//! has to rewrite it too, and cannot without the key.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::thinning::{self, thinned};
use super::{Checkpoint, SIGNATURE};
use crate::ledger::record::Micros;

/// The name of the file in the ledger's folder.
pub const FILE: &str = "checkpoints.txt";

/// How much of the file's end is read to find the last note.
const TAIL: u64 = 64 * 1024;

/// A smaller file is not worth thinning: some 1,200 notes.
const WORTH_THINNING: u64 = 512 * 1024;

/// How long the lock of another process is waited for, and how often it is tried.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Holds what replaces the file.
const TEMPORARY: &str = "new";

/// `checkpoints.txt`: signed notes, oldest first, with an empty line after each.
#[derive(Debug, Clone)]
pub struct CheckpointFile(PathBuf);

/// The content of a file of checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    pub notes: Vec<String>,
    /// Pieces that are not a whole note: an append that was interrupted, or foreign text.
    pub fragments: Vec<String>,
}

impl CheckpointFile {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Appends a note and waits until it is on the disk, unless the file's end contains it.
    /// Old notes are thinned when there are many.
    pub fn append(&self, note: &str) -> io::Result<()> {
        let mut file = self.locked()?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        (&file).take(TAIL).read_to_end(&mut tail)?;
        if tail.windows(note.len()).any(|piece| piece == note.as_bytes()) {
            return Ok(());
        }
        // An append that was interrupted must not run into the next note.
        let separator = if tail.is_empty() || tail.ends_with(b"\n\n") { "" } else { "\n\n" };
        file.write_all(format!("{separator}{note}\n").as_bytes())?;
        file.sync_data()?;
        if length > WORTH_THINNING
            && let Ok(Checkpoint { at, .. }) = Checkpoint::claimed(note)
        {
            self.thin(at)?;
        }
        Ok(())
    }

    /// Opens the file, or creates it, and locks it against other processes.
    fn locked(&self) -> io::Result<File> {
        loop {
            let open = |options: &mut OpenOptions| {
                options.read(true).append(true).mode(0o600).open(&self.0)
            };
            let file = match open(OpenOptions::new().create_new(true)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    open(&mut OpenOptions::new())?
                }
                created => {
                    let created = created?;
                    File::open(self.folder())?.sync_all()?;
                    created
                }
            };
            lock(&file)?;
            // Another process may have replaced it while this one waited.
            let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
            match fs::metadata(&self.0) {
                Ok(current) if id(&file.metadata()?) == id(&current) => return Ok(file),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Replaces the file, which is locked, by one with fewer old notes, if that makes it
    /// smaller by a quarter.
    fn thin(&self, now: Micros) -> io::Result<()> {
        let text = fs::read(&self.0)?;
        let text = String::from_utf8_lossy(&text);
        let Notes { notes, mut fragments } = Notes::parse(&text);
        let kept = kept(&notes, now);
        if kept.len() * 4 > notes.len() * 3 {
            return Ok(());
        }
        // What is not a note is not ours to remove. It comes first, and signatures before texts, so
        // that no two pieces look like a note.
        fragments.sort_by_key(|fragment| !is_signatures(fragment));
        let temporary = self.0.with_extension(TEMPORARY);
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        for fragment in fragments {
            file.write_all(format!("{fragment}\n\n").as_bytes())?;
        }
        for note in kept {
            file.write_all(note.as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &self.0)?;
        File::open(self.folder())?.sync_all()
    }

    fn folder(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new("."))
    }

    /// Reads all notes; `None` if there is no file.
    pub fn read(&self) -> io::Result<Option<Notes>> {
        match std::fs::read(&self.0) {
            Ok(bytes) => Ok(Some(Notes::parse(&String::from_utf8_lossy(&bytes)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the notes that are kept at this time, in their order; also those that nobody can
/// read. Each tree's are thinned for themselves.
fn kept(notes: &[String], now: Micros) -> Vec<&str> {
    let mut trees: BTreeMap<String, BTreeMap<u64, Micros>> = BTreeMap::new();
    let claimed: Vec<_> = notes.iter().map(|note| Checkpoint::claimed(note).ok()).collect();
    for checkpoint in claimed.iter().flatten() {
        let Checkpoint { origin, size, at, root: _ } = checkpoint;
        trees.entry(origin.clone()).or_default().insert(*size, *at);
    }
    let removed: HashSet<(String, u64)> = trees
        .into_iter()
        .flat_map(|(origin, tree)| {
            let tree: Vec<_> = tree.into_iter().collect();
            let removed = thinned(&tree, now, thinning::FILE);
            removed.into_iter().map(move |size| (origin.clone(), size))
        })
        .collect();
    let is_kept = |claimed: &Option<Checkpoint>| {
        let is_removed = |of: &Checkpoint| removed.contains(&(of.origin.clone(), of.size));
        !claimed.as_ref().is_some_and(is_removed)
    };
    let kept = notes.iter().zip(&claimed).filter(|(_, claimed)| is_kept(claimed));
    kept.map(|(note, _)| note.as_str()).collect()
}

/// Locks the file. Another process holds the lock as long as an append takes; one that hangs
/// must not make this one hang.
fn lock(file: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let text = format!("another process has had it locked for {LOCK_LIMIT:?}");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            Err(TryLockError::WouldBlock) => sleep(LOCK_POLL),
        }
    }
}

fn is_signatures(piece: &str) -> bool {
    piece.lines().all(|line| line.starts_with(SIGNATURE))
}

impl Notes {
    /// Splits a text at its empty lines. A note is two pieces, of which the second consists of
    /// signatures.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        let mut text_before: Option<&str> = None;
        for piece in text.split("\n\n").map(|piece| piece.trim_matches('\n')) {
            if piece.is_empty() {
                continue;
            }
            match (text_before.take(), is_signatures(piece)) {
                (Some(text), true) => parsed.notes.push(format!("{text}\n\n{piece}\n")),
                (None, false) => text_before = Some(piece),
                (Some(fragment), false) => {
                    parsed.fragments.push(fragment.into());
                    text_before = Some(piece);
                }
                (None, true) => parsed.fragments.push(piece.into()),
            }
        }
        parsed.fragments.extend(text_before.map(str::to_owned));
        parsed
    }
}
