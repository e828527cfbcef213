//! The folder of `<app>/app_meta.json`, watched: saving a file is the notification.
//!
//! Directories are watched and not files, since editors replace files. A scan
//! at every heartbeat finds what the watch did not tell: some file systems do
//! not, and the kernel drops events when its queue is full.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Freshness, Table, Unavailable, regular};
use crate::domain::app::AppMeta;

/// For how long a file that cannot be parsed is taken for one that is being written.
const BEING_WRITTEN: Duration = Duration::from_millis(100);

const FILE_NAME: &str = "app_meta.json";

/// Largest `app_meta.json`, in bytes. Real ones have a few thousand.
const MAX_SIZE: u64 = 1024 * 1024;

/// `installed_apps_dir`.
#[derive(Debug, Clone)]
pub struct AppMetaDir {
    dir: PathBuf,
}

/// Why an app has no description.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// So it stays until the file changes, which is a notification.
    #[error("{0}")]
    Unusable(String),
    /// The file may be as good as ever: there were no free descriptors, or the
    /// disk failed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    inode: u64,
    size: u64,
    /// Of the inode: unlike the time of the content, nobody can set it back.
    changed: (i64, i64),
}

/// Longest step of the clock that file systems stamp changes with: a tick of
/// 100 Hz, and as much again for one that comes late.
const CLOCK_STEP: Duration = Duration::from_millis(20);

impl FileState {
    /// `None` where there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether any change after `now`, the time it was looked at, shows: one
    /// within the same step of the clock bears the same time.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let since_1970 = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanos).unwrap_or_default(),
        );
        UNIX_EPOCH + since_1970 + CLOCK_STEP < now
    }
}

impl AppMetaDir {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Reads and parses one app's file.
    ///
    /// # Errors
    /// For the operator: which file, and what is wrong with it or with reading it.
    pub async fn read(&self, app: &str) -> Result<AppMeta, ReadError> {
        if !is_folder_name(app) {
            let problem = format!("the app's name `{app}` cannot be the name of a folder");
            return Err(ReadError::Unusable(problem));
        }
        let path = self.dir.join(app).join(FILE_NAME);
        let deadline = Instant::now() + BEING_WRITTEN;
        loop {
            let error = match regular::read(path.clone(), MAX_SIZE).await {
                Ok(json) => match AppMeta::parse(&json) {
                    Ok(meta) => return Ok(meta),
                    Err(error) => error,
                },
                Err(error) => {
                    let problem = format!("{}: {error}", path.display());
                    // A folder that is away says nothing about what is in it.
                    return Err(if is_lasting(error.kind()) && self.dir.is_dir() {
                        ReadError::Unusable(problem)
                    } else {
                        ReadError::Unavailable(Unavailable::new(problem))
                    });
                }
            };
            if Instant::now() >= deadline {
                return Err(ReadError::Unusable(format!("{}: {error}", path.display())));
            }
            sleep(BEING_WRITTEN / 10).await;
        }
    }

    /// Names of all folders that hold an `app_meta.json`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn apps(&self) -> Result<Vec<String>, Unavailable> {
        let dir = self.dir.clone();
        let listed = tokio::task::spawn_blocking(move || list(&dir)).await;
        match listed.map_err(io::Error::other).and_then(|apps| apps) {
            Ok(apps) => Ok(apps.into_iter().map(|(name, _)| name).collect()),
            Err(error) => Err(Unavailable::new(format!("{}: {error}", self.dir.display()))),
        }
    }

    /// Reports changes of the folder as long as the process runs. With `names`
    /// the folders are the set of installed apps too.
    pub async fn watch(&self, freshness: Arc<Freshness>, names: bool) -> Infallible {
        // Events name absolute paths, however the folder was named.
        let dir = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let report = Arc::new(Report { dir: dir.clone(), freshness, names });
        let mut seen = HashMap::new();
        let mut watch = Watch::begin(&report);
        let mut is_away = false;
        loop {
            watch.follow(&dir);
            let listing = dir.clone();
            let listed = tokio::task::spawn_blocking(move || list(&listing)).await;
            let listed = listed.map_err(io::Error::other).and_then(|listed| listed);
            if let Err(error) = &listed
                && !is_away
            {
                tracing::error!("{}: {error}; apps cannot be read", dir.display());
            }
            // Nothing tells what changes in a folder that is away.
            if is_away || listed.is_err() {
                report.freshness.reset();
            }
            is_away = listed.is_err();
            if let Ok(apps) = listed {
                for (app, _) in &apps {
                    watch.follow(&dir.join(app));
                }
                seen = report.differences(seen, apps);
            }
            let next_scan = Instant::now() + report.freshness.times().heartbeat;
            watch.follow_new_folders_until(next_scan, &report).await;
        }
    }
}

/// Turns what happened in the folder into generations.
struct Report {
    dir: PathBuf,
    freshness: Arc<Freshness>,
    names: bool,
}

impl Report {
    fn changed(&self, app: &str) {
        self.freshness.outdate(Table::AppMeta, app);
    }

    fn came_or_went(&self, app: &str) {
        if self.names {
            self.freshness.outdate_table(Table::AppNames);
            self.freshness.outdate(Table::Apps, app);
        }
        self.changed(app);
    }

    /// One event; the path of a folder that may need a watch of its own, if any.
    fn event(&self, event: &notify::Event) -> Option<PathBuf> {
        if event.need_rescan() {
            self.freshness.reset();
        }
        if event.kind.is_access() {
            return None;
        }
        let mut folder = None;
        for path in &event.paths {
            let Ok(inside) = path.strip_prefix(&self.dir) else {
                continue;
            };
            let mut parts = inside.iter();
            let Some(first) = parts.next() else {
                // The folder itself: not what is in it, unless it went away.
                if event.kind.is_remove() || is_rename(event) {
                    self.freshness.reset();
                }
                continue;
            };
            let Some(app) = first.to_str() else {
                continue;
            };
            match parts.next() {
                Some(file) if file == FILE_NAME => {
                    if event.kind.is_modify() && !is_rename(event) {
                        self.changed(app);
                    } else {
                        self.came_or_went(app);
                    }
                }
                Some(_) => {}
                None => {
                    self.came_or_went(app);
                    folder = Some(path.clone());
                }
            }
        }
        folder
    }

    /// Reports what a scan found different and returns what it saw.
    fn differences(
        &self,
        mut before: HashMap<String, FileState>,
        apps: Vec<(String, FileState)>,
    ) -> HashMap<String, FileState> {
        for (app, state) in &apps {
            match before.remove(app) {
                Some(old) if old == *state => {}
                Some(_) => self.changed(app),
                None => self.came_or_went(app),
            }
        }
        for gone in before.keys() {
            self.came_or_went(gone);
        }
        apps.into_iter().collect()
    }
}

/// The kernel's watch, where it grants one.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    followed: HashMap<PathBuf, u64>,
    folders: mpsc::UnboundedReceiver<PathBuf>,
    refused: bool,
}

impl Watch {
    fn begin(report: &Arc<Report>) -> Self {
        let (new_folder, folders) = mpsc::unbounded_channel();
        let report = Arc::clone(report);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) => {
                if let Some(folder) = report.event(&event) {
                    // The receiver is gone only when the process ends.
                    let _ = new_folder.send(folder);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watching apps failed; rescanning");
                report.freshness.reset();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| tracing::warn!(%error, "no file watch; scanning only"))
            .ok();
        Self { watcher, followed: HashMap::new(), folders, refused: false }
    }

    /// Watches a folder, unless that very folder is watched already.
    fn follow(&mut self, folder: &Path) {
        let (Some(watcher), Ok(metadata)) = (&mut self.watcher, std::fs::metadata(folder)) else {
            return;
        };
        if self.followed.get(folder) == Some(&metadata.ino()) {
            return;
        }
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.followed.insert(folder.to_owned(), metadata.ino());
            }
            Err(error) if !self.refused => {
                self.refused = true;
                tracing::warn!(%error, "a folder cannot be watched (see fs.inotify.max_user_watches); \
                     its changes are found by scanning");
            }
            Err(_) => {}
        }
    }

    /// A folder that comes is watched at once, and then reported again: its
    /// file may have been written before the watch began.
    async fn follow_new_folders_until(&mut self, deadline: Instant, report: &Report) {
        while let Ok(Some(folder)) = timeout_at(deadline, self.folders.recv()).await {
            self.followed.remove(&folder);
            self.follow(&folder);
            if let Some(app) = folder.file_name().and_then(OsStr::to_str) {
                report.came_or_went(app);
            }
        }
        // Without a watcher the channel is closed and the loop over at once.
        sleep_until(deadline).await;
    }
}

/// Whether a file that could not be read cannot be read again until it changes.
fn is_lasting(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        FileTooLarge, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let is_of_the_file = matches!(kind, FileTooLarge | InvalidInput | IsADirectory);
    is_of_the_file || matches!(kind, NotFound | NotADirectory | PermissionDenied)
}

fn is_rename(event: &notify::Event) -> bool {
    matches!(event.kind, notify::EventKind::Modify(notify::event::ModifyKind::Name(_)))
}

/// Whether the text names something directly inside a folder.
fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Folders that hold an `app_meta.json`, with the state of that file.
fn list(dir: &Path) -> io::Result<Vec<(String, FileState)>> {
    let mut apps = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if let Some(state) = FileState::of(&entry.path().join(FILE_NAME))
            && is_folder_name(&name)
        {
            apps.push((name, state));
        }
    }
    Ok(apps)
}
