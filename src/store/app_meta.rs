//! The folder of `<app>/app_meta.json` files. It is [watched](watch): saving a file is the
//! notification.

mod watch;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::file_calls::FileCalls;
use super::{Unavailable, regular_file};
use crate::descriptors;
use crate::domain::app::AppMeta;

/// For how long a file that cannot be parsed is assumed to be still being written.
pub(super) const WRITE_GRACE: Duration = Duration::from_millis(100);

const FILE_NAME: &str = "app_meta.json";

/// Largest `app_meta.json`, in bytes. Real ones have a few thousand.
pub(crate) const MAX_SIZE: u64 = 1024 * 1024;

/// The folder `installed_apps_dir`.
#[derive(Debug, Clone)]
pub struct AppMetaDir {
    dir: PathBuf,
    calls: FileCalls,
    /// Is told the app of every file that may have changed.
    changed: Option<mpsc::UnboundedSender<String>>,
}

/// Why an app's `app_meta.json` could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The file stays unusable until it changes, which is a notification.
    #[error("{0}")]
    Unusable(String),
    /// There is no such file, and that is a notification when it changes.
    #[error("{0}")]
    Missing(String),
    /// Nothing is known about the file: no file descriptor was free, or the disk failed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The content of an app's file, not parsed.
#[derive(Debug)]
pub(super) enum RawRead {
    Content(Vec<u8>),
    Missing,
    /// Nothing is known about the file.
    Failed,
}

/// What distinguishes one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    inode: u64,
    size: u64,
    /// The change time of the inode: unlike the modification time, it cannot be set back.
    changed: (i64, i64),
}

/// Longest step of the clock with which file systems stamp changes: a tick of
/// 100 Hz, doubled in case a tick comes late.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// The same for file systems with a resolution of one second (ext3) or two (FAT).
const COARSE_STEP: Duration = Duration::from_secs(2);

impl FileState {
    /// Returns the state of a file; `None` if it does not exist.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns whether every change after `now`, the time of the scan, changes the state: a
    /// change within the same step of the clock has the same time.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let since_1970 = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanos).unwrap_or_default(),
        );
        let step = if nanos == 0 { COARSE_STEP } else { CLOCK_STEP };
        UNIX_EPOCH + since_1970 + step < now
    }
}

impl AppMetaDir {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, calls: FileCalls::new(), changed: None }
    }

    /// Tells the receiver the app of every file that may have changed.
    #[must_use]
    pub(super) fn telling(mut self, changed: mpsc::UnboundedSender<String>) -> Self {
        self.changed = Some(changed);
        self
    }

    /// Reads the files of several apps in one call.
    pub(super) async fn read_raw(&self, apps: Vec<String>) -> Vec<(String, RawRead)> {
        let (dir, names) = (self.dir.clone(), apps.clone());
        let read = self.calls.run(move || {
            let exists = dir.is_dir();
            let read = |app: &String| match regular_file::read_now(
                &dir.join(app).join(FILE_NAME),
                MAX_SIZE,
            ) {
                Ok(json) => RawRead::Content(json),
                // A missing folder says nothing about the files in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && exists => RawRead::Missing,
                Err(_) => RawRead::Failed,
            };
            Ok(names.iter().map(read).collect())
        });
        let read = read.await.unwrap_or_else(|_| apps.iter().map(|_| RawRead::Failed).collect());
        apps.into_iter().zip::<Vec<RawRead>>(read).collect()
    }

    /// Reads and parses one app's file.
    ///
    /// # Errors
    /// Which file, and what is wrong with it or with reading it, worded for the operator.
    pub async fn read(&self, app: &str) -> Result<AppMeta, ReadError> {
        if !is_folder_name(app) {
            let problem = format!("the app name `{app}` is not a valid folder name");
            return Err(ReadError::Unusable(problem));
        }
        let path = self.dir.join(app).join(FILE_NAME);
        let deadline = Instant::now() + WRITE_GRACE;
        loop {
            let error = match regular_file::read(&self.calls, path.clone(), MAX_SIZE).await {
                Ok(json) => match AppMeta::parse(&json) {
                    Ok(meta) => return Ok(meta),
                    Err(error) => error,
                },
                Err(error) => {
                    let problem = format!("{}: {error}", path.display());
                    // A missing folder says nothing about the files in it.
                    return Err(if is_lasting(error.kind()) && self.exists().await {
                        if error.kind() == io::ErrorKind::NotFound {
                            ReadError::Missing(problem)
                        } else {
                            ReadError::Unusable(problem)
                        }
                    } else {
                        ReadError::Unavailable(Unavailable::new(problem))
                    });
                }
            };
            if Instant::now() >= deadline {
                return Err(ReadError::Unusable(format!("{}: {error}", path.display())));
            }
            sleep(WRITE_GRACE / 10).await;
        }
    }

    async fn exists(&self) -> bool {
        let dir = self.dir.clone();
        self.calls.run(move || Ok(dir.is_dir())).await.unwrap_or(false)
    }

    /// Returns the names of all folders that contain an `app_meta.json`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn apps(&self) -> Result<Vec<String>, Unavailable> {
        let dir = self.dir.clone();
        match self.calls.run(move || list(&dir)).await {
            Ok(apps) => Ok(apps.into_iter().map(|(name, _)| name).collect()),
            Err(error) => Err(Unavailable::new(format!("{}: {error}", self.dir.display()))),
        }
    }
}

/// Returns whether a failed read fails again until the file changes.
fn is_lasting(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        FileTooLarge, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let is_file_problem = matches!(kind, FileTooLarge | InvalidInput | IsADirectory);
    is_file_problem || matches!(kind, NotFound | NotADirectory | PermissionDenied)
}

/// Returns whether the text is the name of an entry directly inside a folder.
fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Returns the folders that contain an `app_meta.json`, with the state of that file.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(String, FileState)>> {
    descriptors::with_spare(|| list_now(dir))
}

fn list_now(dir: &Path) -> io::Result<Vec<(String, FileState)>> {
    let mut apps = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if let Some(state) = FileState::read(&entry.path().join(FILE_NAME))
            && is_folder_name(&name)
        {
            apps.push((name, state));
        }
    }
    Ok(apps)
}
