//! A disk that is small, and can be made read-only.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A file system in memory. Mounting it needs root.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    pub fn of_kib(size: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!("size={size}k,mode=700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "small"])
            .arg(folder.path()));
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, kib: u32) {
        self.remount(&format!("size={kib}k"));
    }

    pub fn set_read_only(&self, is_read_only: bool) {
        self.remount(if is_read_only { "ro" } else { "rw" });
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        run(Command::new("mount").args(["-o", &options]).arg(self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a file may still be open.
        Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("starts");
    assert!(status.success(), "{command:?}: {status}");
}
