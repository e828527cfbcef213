//! Files in a folder in which anybody may put others.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::iter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{BLOCK, SUFFIX, TEMPORARY};

/// Writes a file whole, or not at all.
pub(super) fn write_synced(temporary: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.try_lock()?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, target)
}

/// Opens a file that may be anything. A pipe or a device would block for ever.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Removes a file that no process writes any more: the writer of a file holds a lock on it.
pub(super) fn remove_leftover(path: &Path) -> io::Result<()> {
    let file = open_to_read(path)?;
    if file.metadata()?.is_file() && file.try_lock().is_ok() {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Returns the names of the files in a folder; none if there is no folder. Hidden ones are
/// not ours: `.nfs...`, `.snapshot`. Of a name that is not UTF-8, the file is renamed first: it
/// could be neither shown nor asked for.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match name.into_string() {
            Ok(name) => names.push(name),
            Err(_) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {}
            Err(name) => match rename_readable(folder, &name) {
                Ok(name) => names.push(name),
                Err(error) => {
                    tracing::debug!(?name, %error, "a file in the spool cannot be renamed");
                }
            },
        }
    }
    // One that was renamed may be read again.
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Gives a file a name that is UTF-8 and that no other has; returns it.
fn rename_readable(folder: &Path, name: &OsStr) -> io::Result<String> {
    let readable = name.to_string_lossy();
    let target = free_name(&readable, |name| fs::symlink_metadata(folder.join(name)).is_ok());
    fs::rename(folder.join(name), folder.join(&target))?;
    Ok(target)
}

/// Returns the name, with a number if it is taken.
pub(super) fn free_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2_u32..).map(|number| format!("{name}.{number}"));
    let mut names = iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_else(|| name.to_owned())
}

pub(super) fn is_leftover(name: &str) -> bool {
    name.strip_suffix(TEMPORARY).is_some_and(|name| name.ends_with(SUFFIX))
}

/// What `O_NOFOLLOW` answers for a symbolic link, and opening a socket.
pub(super) fn is_link(error: &io::Error) -> bool {
    let link = rustix::io::Errno::LOOP.raw_os_error();
    let socket = rustix::io::Errno::NXIO.raw_os_error();
    error.raw_os_error().is_some_and(|code| code == link || code == socket)
}

pub(super) fn occupied(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}
