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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::file_calls::FileCalls;
use super::{Freshness, Table, Unavailable, regular};
use crate::descriptors;
use crate::domain::app::AppMeta;

/// For how long a file that cannot be parsed is taken for one that is being written.
const BEING_WRITTEN: Duration = Duration::from_millis(100);

/// When the folder is listed again that could not be for want of a descriptor.
const TRY_AGAIN: Duration = Duration::from_millis(200);

const FILE_NAME: &str = "app_meta.json";

/// Largest `app_meta.json`, in bytes. Real ones have a few thousand.
const MAX_SIZE: u64 = 1024 * 1024;

/// `installed_apps_dir`.
#[derive(Debug, Clone)]
pub struct AppMetaDir {
    dir: PathBuf,
    calls: FileCalls,
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

/// That of file systems which know of whole seconds (ext3), or of every other (FAT).
const COARSE_STEP: Duration = Duration::from_secs(2);

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
        let step = if nanos == 0 { COARSE_STEP } else { CLOCK_STEP };
        UNIX_EPOCH + since_1970 + step < now
    }
}

impl AppMetaDir {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, calls: FileCalls::new() }
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
            let error = match regular::read(&self.calls, path.clone(), MAX_SIZE).await {
                Ok(json) => match AppMeta::parse(&json) {
                    Ok(meta) => return Ok(meta),
                    Err(error) => error,
                },
                Err(error) => {
                    let problem = format!("{}: {error}", path.display());
                    // A folder that is away says nothing about what is in it.
                    return Err(if is_lasting(error.kind()) && self.is_there().await {
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

    async fn is_there(&self) -> bool {
        let dir = self.dir.clone();
        self.calls.run(move || Ok(dir.is_dir())).await.unwrap_or(false)
    }

    /// Names of all folders that hold an `app_meta.json`.
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

    /// Reports changes of the folder as long as the process runs. With `names`
    /// the folders are the set of installed apps too. `looked` is told when the folder
    /// was looked at for the first time, whatever came of it: from then on its
    /// changes are reported.
    pub async fn watch(
        &self,
        freshness: Arc<Freshness>,
        names: bool,
        looked: oneshot::Sender<()>,
    ) -> Infallible {
        // Events name absolute paths, however the folder was named.
        let dir = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let report = Arc::new(Report { dir: dir.clone(), freshness, names });
        let mut seen = HashMap::new();
        let (watch, mut folders) = Watch::begin(&report);
        let is_watched = watch.watcher.is_some();
        let watch = Arc::new(Mutex::new(watch));
        let mut is_away = false;
        let mut listed_at = Instant::now();
        let mut looked = Some(looked);
        loop {
            #[expect(clippy::disallowed_methods, reason = "held against the times of files")]
            let now = SystemTime::now();
            let (listing, watching) = (dir.clone(), Arc::clone(&watch));
            let listed = self.calls.run(move || {
                descriptors::keep_spare();
                let mut watch = watching.lock().unwrap_or_else(PoisonError::into_inner);
                watch.follow(&listing);
                let apps = list(&listing)?;
                for (app, _) in &apps {
                    watch.follow(&listing.join(app));
                }
                Ok(apps)
            });
            let listed = listed.await;
            let heartbeat = report.freshness.times().heartbeat;
            if listed.is_ok() {
                listed_at = Instant::now();
            }
            // The want of a descriptor says nothing about the folder, and what the
            // watch tells is enough meanwhile.
            let is_short = matches!(&listed, Err(error) if descriptors::is_shortage(error));
            if is_short && (is_watched || listed_at.elapsed() < heartbeat * 2) {
                sleep(TRY_AGAIN).await;
                continue;
            }
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
                seen = report.differences(seen, apps, now);
            }
            if let Some(looked) = looked.take() {
                // Whoever waited for it may have given up.
                let _ = looked.send(());
            }
            // A folder that comes is watched at once, and then reported again: its file
            // may have been written before the watch began.
            let next_scan = Instant::now() + heartbeat;
            while let Ok(Some(folder)) = timeout_at(next_scan, folders.next()).await {
                self.follow_new(folder, &watch, &report).await;
            }
            // Without a watcher the channel is closed and the loop over at once.
            sleep_until(next_scan).await;
        }
    }

    async fn follow_new(&self, folder: PathBuf, watch: &Arc<Mutex<Watch>>, report: &Report) {
        let (path, watch) = (folder.clone(), Arc::clone(watch));
        let followed = self.calls.run(move || {
            if !path.is_dir() {
                return Ok(false);
            }
            let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
            watch.followed.remove(&path);
            watch.follow(&path);
            Ok(true)
        });
        // A plain file is no app; what does not answer is found by the next scan.
        if followed.await.unwrap_or(false)
            && let Some(app) = folder.file_name().and_then(OsStr::to_str)
        {
            report.came_or_went(app);
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
                // A write to a plain file beside the apps' folders.
                None if is_write(event) => {}
                // It may be of a plain file, or of a link to a folder: whoever is to
                // follow it finds out.
                None if is_of_any_file(event) => folder = Some(path.clone()),
                None => {
                    self.came_or_went(app);
                    folder = Some(path.clone());
                }
            }
        }
        folder
    }

    /// Reports what a scan at `now` found different and returns what it saw; `None` of a
    /// file whose later changes might not show.
    fn differences(
        &self,
        mut before: HashMap<String, Option<FileState>>,
        apps: Vec<(String, FileState)>,
        now: SystemTime,
    ) -> HashMap<String, Option<FileState>> {
        for (app, state) in &apps {
            match before.remove(app) {
                Some(Some(old)) if old == *state => {}
                Some(_) => self.changed(app),
                None => self.came_or_went(app),
            }
        }
        for gone in before.keys() {
            self.came_or_went(gone);
        }
        let relied_on = |state: FileState| state.is_settled(now).then_some(state);
        apps.into_iter().map(|(app, state)| (app, relied_on(state))).collect()
    }
}

/// The kernel's watch, where it grants one.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    followed: HashMap<PathBuf, u64>,
    refused: bool,
}

impl Watch {
    /// Begins to watch, and what tells of folders that may need a watch of their own.
    fn begin(report: &Arc<Report>) -> (Self, UnboundedReceiverStream<PathBuf>) {
        let (new_folder, folders) = mpsc::unbounded_channel();
        let folders = UnboundedReceiverStream::new(folders);
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
        (Self { watcher, followed: HashMap::new(), refused: false }, folders)
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
}

/// Whether a file that could not be read cannot be read again until it changes.
fn is_lasting(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        FileTooLarge, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let is_of_the_file = matches!(kind, FileTooLarge | InvalidInput | IsADirectory);
    is_of_the_file || matches!(kind, NotFound | NotADirectory | PermissionDenied)
}

fn is_write(event: &notify::Event) -> bool {
    use notify::event::{EventKind::Modify, ModifyKind::Data};
    matches!(event.kind, Modify(Data(_)))
}

fn is_of_any_file(event: &notify::Event) -> bool {
    use notify::event::{
        CreateKind::File,
        EventKind::{Create, Modify},
        ModifyKind::Metadata,
    };
    matches!(event.kind, Create(File) | Modify(Metadata(_)))
}

fn is_rename(event: &notify::Event) -> bool {
    matches!(event.kind, notify::EventKind::Modify(notify::event::ModifyKind::Name(_)))
}

/// Whether the text names something directly inside a folder.
fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Folders that hold an `app_meta.json`, with the state of that file.
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
        if let Some(state) = FileState::of(&entry.path().join(FILE_NAME))
            && is_folder_name(&name)
        {
            apps.push((name, state));
        }
    }
    Ok(apps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_scan_relies_on_no_state_that_a_later_save_may_share() {
        let second = Duration::from_secs(1);
        let freshness = Arc::new(Freshness::new(config::Cache {
            capacity: 1,
            ttl: second,
            degraded_ttl: second,
            max_stale: second,
            heartbeat: second,
        }));
        let report = Report { dir: "/apps".into(), freshness: Arc::clone(&freshness), names: true };
        let origin = || freshness.origin([Table::AppMeta; 2], "notes");
        let state = |nanos| FileState { inode: 1, size: 2, changed: (1_000, nanos) };
        let at = |millis| UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(millis);
        for (nanos, young, old) in [(500_000_000, 510, 600), (0, 1_900, 2_100)] {
            let apps = || vec![("notes".to_owned(), state(nanos))];
            let seen = report.differences(HashMap::new(), apps(), at(young));
            let first = origin();
            let seen = report.differences(seen, apps(), at(old));
            assert!(!freshness.is_current(&first), "saved again, in the same step of the clock");
            let second = origin();
            report.differences(seen, apps(), at(old));
            assert!(freshness.is_current(&second), "nothing can have changed unseen");
        }
    }
}
