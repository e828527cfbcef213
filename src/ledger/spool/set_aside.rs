//! Files in the spool that are not dead letters: set aside, for the owner to look at.
//!
//! They count towards the spool's size, and keep to a quarter of it: beyond that the oldest
//! are removed. One alone may be larger, since nightporter writes none of that size.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use super::files::{free_name, names, occupied};
use super::{Damage, lock};

/// The name of the folder, and the end of the name of a file's reason.
pub(super) const BAD: &str = "bad";
const REASON: &str = ".reason";

/// The part of the spool's size that these files may take up.
const PART: u64 = 4;

/// A file that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsideFile {
    pub name: String,
    pub reason: String,
    pub bytes: u64,
}

/// The folder of what was set aside.
#[derive(Debug)]
pub(super) struct SetAsideFolder {
    folder: PathBuf,
    max_bytes: u64,
    /// The number of files and what they take up, at the last look.
    size: Mutex<(usize, u64)>,
}

/// A file, and what it takes up with its reason.
struct Found {
    name: String,
    set_aside: SystemTime,
    bytes: u64,
}

impl SetAsideFolder {
    pub(super) fn new(folder: PathBuf, max_spool: u64) -> Self {
        Self { folder, max_bytes: max_spool / PART, size: Mutex::default() }
    }

    /// Moves a file here. The oldest files make room for it.
    pub(super) fn take(&self, from: &Path, name: &str, damage: &Damage) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        // A name that ends as a reason's would hide the file, and another file in the place of
        // its reason would be overwritten.
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        let is_taken = |name: &str| {
            name.ends_with(REASON)
                || exists(&self.folder.join(name))
                || exists(&self.reason_of(name))
        };
        let target = free_name(name, is_taken);
        fs::rename(from.join(name), self.folder.join(&target))?;
        let reason = fs::write(self.reason_of(&target), format!("{damage}\n"));
        self.make_room(&target);
        reason
    }

    /// Removes the oldest files until the others fit, but not the one that has just come.
    fn make_room(&self, latest: &str) {
        let mut found = self.found();
        found.sort_by(|a, b| (a.set_aside, &a.name).cmp(&(b.set_aside, &b.name)));
        let mut total: u64 = found.iter().map(|file| file.bytes).sum();
        for file in found.iter().filter(|file| file.name != latest) {
            if total <= self.max_bytes {
                break;
            }
            if fs::remove_file(self.folder.join(&file.name)).is_ok() {
                // Without its file, a reason is shown to nobody.
                let _ = fs::remove_file(self.reason_of(&file.name));
                total -= file.bytes;
                tracing::error!(file = file.name, "removed, to make room for what is set aside");
            }
        }
        self.look();
    }

    /// Counts the files anew.
    pub(super) fn look(&self) {
        let found = self.found();
        *lock(&self.size) = (found.len(), found.iter().map(|file| file.bytes).sum());
    }

    pub(super) fn size(&self) -> (usize, u64) {
        *lock(&self.size)
    }

    /// Returns the bytes that count towards the spool's size.
    pub(super) fn counted(&self) -> u64 {
        self.size().1.min(self.max_bytes)
    }

    pub(super) fn list(&self) -> io::Result<Vec<SetAsideFile>> {
        let files = without_reasons(names(&self.folder)?).into_iter().map(|name| {
            let reason = fs::read_to_string(self.reason_of(&name));
            let reason = reason.map_or_else(|_| String::new(), |text| text.trim_end().to_owned());
            let bytes = fs::symlink_metadata(self.folder.join(&name)).map_or(0, |file| file.len());
            SetAsideFile { name, reason, bytes }
        });
        Ok(files.collect())
    }

    /// Returns the files that can be looked at.
    fn found(&self) -> Vec<Found> {
        let names = without_reasons(names(&self.folder).unwrap_or_default());
        let found = names.into_iter().filter_map(|name| {
            let file = fs::symlink_metadata(self.folder.join(&name)).ok()?;
            let reason = fs::symlink_metadata(self.reason_of(&name)).ok();
            // A rename keeps the time of a file: the reason was written when it was set aside.
            let set_aside = reason.as_ref().unwrap_or(&file).modified().ok()?;
            let reason = reason.map_or(0, |reason| occupied(reason.len()));
            Some(Found { name, set_aside, bytes: occupied(file.len()) + reason })
        });
        found.collect()
    }

    fn reason_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{REASON}"))
    }
}

/// Returns the names of files without those of their reasons. What is named as a reason, and is
/// of no file, is a file that somebody else has put here.
fn without_reasons(mut names: Vec<String>) -> Vec<String> {
    let all: HashSet<String> = names.iter().cloned().collect();
    names.retain(|name| name.strip_suffix(REASON).is_none_or(|name| !all.contains(name)));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_hides_a_file() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let aside = SetAsideFolder::new(folder.path().join(BAD), 1 << 30);
        for name in ["a.reason", "a", "a.reason"] {
            fs::write(folder.path().join(name), name).expect("written");
            aside.take(folder.path(), name, &Damage::Foreign).expect("moved");
        }
        // Somebody else has put these here.
        fs::write(folder.path().join(BAD).join("b.reason"), "foreign").expect("written");
        let name = std::ffi::OsStr::from_bytes(b"c\xff");
        fs::write(folder.path().join(BAD).join(name), "foreign").expect("written");
        let mut bad: Vec<_> = aside.list().expect("a list").into_iter().collect();
        bad.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<_> = bad.iter().map(|bad| &*bad.name).collect();
        assert_eq!(names, ["a", "a.reason.2", "a.reason.3", "b.reason", "c\u{fffd}"]);
        let with_reason = bad.iter().filter(|bad| bad.reason.contains("not a dead letter"));
        assert_eq!(with_reason.count(), 3, "{bad:?}");
        aside.look();
        assert_eq!(aside.size().0, 5);
    }

    #[test]
    fn what_is_set_aside_keeps_to_its_part_of_the_spool() {
        let folder = tempfile::tempdir().expect("a folder");
        let aside = SetAsideFolder::new(folder.path().join(BAD), 4 * 40_960);
        for number in 0..20 {
            let name = format!("{number:02}.letter");
            fs::write(folder.path().join(&name), vec![0; 4096]).expect("written");
            aside.take(folder.path(), &name, &Damage::Foreign).expect("moved");
            assert!(aside.size().1 <= 40_960, "{:?}", aside.size());
        }
        // The latest are left, each with its reason.
        let left: Vec<_> = aside.list().expect("a list").into_iter().map(|bad| bad.name).collect();
        assert_eq!(left.len(), 5);
        assert!(left.contains(&"19.letter".to_owned()), "{left:?}");
        assert_eq!(fs::read_dir(folder.path().join(BAD)).expect("a folder").count(), 10);
        assert_eq!(aside.counted(), aside.size().1);

        let large = folder.path().join("large");
        fs::write(&large, vec![0; 100_000]).expect("written");
        aside.take(folder.path(), "large", &Damage::Foreign).expect("moved");
        let left: Vec<_> = aside.list().expect("a list").into_iter().map(|bad| bad.name).collect();
        assert_eq!(left, ["large"], "the owner's own file is not removed");
        assert_eq!(aside.counted(), 40_960, "and does not take the letters' place");
    }
}
