//! Reads files that other programs write (apps ship their own, installers unpack them), and
//! replaces files in one step.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::file_calls::FileCalls;
use crate::descriptors;

/// Reads a regular file of at most `max_size` bytes. Other files are refused: a pipe
/// would block a thread for ever, and a device or a huge file would fill the memory.
///
/// # Errors
/// The system's error, or that the file is not regular or too large.
pub(crate) async fn read(calls: &FileCalls, path: PathBuf, max_size: u64) -> io::Result<Vec<u8>> {
    calls.run(move || read_now(&path, max_size)).await
}

/// Like [`read`], on a thread that may block.
pub(crate) fn read_now(path: &Path, max_size: u64) -> io::Result<Vec<u8>> {
    descriptors::with_spare(|| open_and_read(path, max_size))
}

fn open_and_read(path: &Path, max_size: u64) -> io::Result<Vec<u8>> {
    // Without this flag, opening a pipe would block until it has a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let too_large = || {
        let problem = format!("the file is larger than {max_size} bytes");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, problem))
    };
    if metadata.len() > max_size {
        return too_large();
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    file.take(max_size.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= max_size) {
        Ok(bytes)
    } else {
        too_large()
    }
}

/// Replaces a file atomically, on a thread that may block: a reader sees either the old or
/// the new content.
///
/// # Errors
/// The system's error, with the name of the file.
pub(super) fn replace(file: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = file.with_file_name(format!(".{name}.new"));
    let write = || {
        let mut options = OpenOptions::new();
        let mut opened = options.create(true).truncate(true).write(true).mode(mode).open(&new)?;
        opened.write_all(content)?;
        opened.sync_all()?;
        std::fs::rename(&new, file)
    };
    write().map_err(|error| {
        // A part of it would take the last bytes of a full disk.
        let _ = std::fs::remove_file(&new);
        io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").expect("writable");
        assert_eq!(read_now(&file, 5).expect("a file"), b"12345");
        let error = |path: &Path, max_size| read_now(path, max_size).expect_err("refused").kind();
        assert_eq!(error(&file, 4), io::ErrorKind::FileTooLarge);
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs");
        assert!(made.success());
        for other in [&pipe, folder.path(), Path::new("/dev/zero")] {
            assert_eq!(error(other, 4), io::ErrorKind::InvalidInput, "{}", other.display());
        }
    }
}
