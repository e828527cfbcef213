//! The file of checkpoints beside the key, outside the database: whoever rewrites the database
//! has to rewrite it too, and cannot without the key.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::SIGNATURE;

/// The name of the file in the ledger's folder.
pub const FILE: &str = "checkpoints.txt";

/// How much of the file's end is read to find the last note.
const TAIL: u64 = 64 * 1024;

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
    pub fn append(&self, note: &str) -> io::Result<()> {
        let open =
            |options: &mut OpenOptions| options.read(true).append(true).mode(0o600).open(&self.0);
        let mut file = match open(OpenOptions::new().create_new(true)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                open(&mut OpenOptions::new())?
            }
            created => {
                let created = created?;
                let folder = self.0.parent().unwrap_or(Path::new("."));
                File::open(folder)?.sync_all()?;
                created
            }
        };
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
        file.sync_data()
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
            let is_signatures = piece.lines().all(|line| line.starts_with(SIGNATURE));
            match (text_before.take(), is_signatures) {
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
