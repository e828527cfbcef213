//! Watches the folder of the apps.
//!
//! Directories are watched and not files, since editors replace files. A scan
//! at every heartbeat finds the changes that the watch did not report: some file systems
//! report none, and the kernel drops events when its queue is full.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{AppMetaDir, FILE_NAME, FileState, list};
use crate::descriptors;
use crate::store::{Freshness, Table};

/// How long to wait before listing the folder again after no file descriptor was free.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl AppMetaDir {
    /// Reports changes of the folder for the life of the process. With `names`,
    /// the folders are also the set of installed apps. `first_scan` is notified when the
    /// first scan of the folder has ended, whether or not it succeeded: from then on changes
    /// are reported.
    pub async fn watch(
        &self,
        freshness: Arc<Freshness>,
        names: bool,
        first_scan: oneshot::Sender<()>,
    ) -> Infallible {
        // Events name absolute paths, however the folder was named.
        let dir = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let changed = self.changed.clone();
        let report = Arc::new(Report { dir: dir.clone(), freshness, names, changed });
        let mut seen = HashMap::new();
        let (watch, mut folders) = Watch::begin(&report);
        let is_watched = watch.watcher.is_some();
        let watch = Arc::new(Mutex::new(watch));
        let mut is_missing = false;
        let mut listed_at = Instant::now();
        let mut first_scan = Some(first_scan);
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
            // A shortage of file descriptors says nothing about the folder, and meanwhile the
            // watch reports the changes.
            let is_shortage = matches!(&listed, Err(error) if descriptors::is_shortage(error));
            if is_shortage && (is_watched || listed_at.elapsed() < heartbeat * 2) {
                sleep(RETRY_DELAY).await;
                continue;
            }
            if let Err(error) = &listed
                && !is_missing
            {
                tracing::error!("{}: {error}; apps cannot be read", dir.display());
            }
            // Nothing reports what changes in a missing folder.
            if is_missing || listed.is_err() {
                report.freshness.reset();
            }
            is_missing = listed.is_err();
            if let Ok(apps) = listed {
                seen = report.apply_scan(seen, apps, now);
            }
            if let Some(first_scan) = first_scan.take() {
                // The receiver may have been dropped.
                let _ = first_scan.send(());
            }
            // A new folder is watched at once and then reported once more, because its file
            // may have been written before the watch began.
            let next_scan = Instant::now() + heartbeat;
            while let Ok(Some(folder)) = timeout_at(next_scan, folders.next()).await {
                self.watch_new(folder, &watch, &report).await;
            }
            // Without a watcher the channel is closed and the loop ends at once.
            sleep_until(next_scan).await;
        }
    }

    async fn watch_new(&self, folder: PathBuf, watch: &Arc<Mutex<Watch>>, report: &Report) {
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
        // A plain file is not an app. If the call fails, the next scan finds the folder.
        if followed.await.unwrap_or(false)
            && let Some(app) = folder.file_name().and_then(OsStr::to_str)
        {
            report.added_or_removed(app);
        }
    }
}

/// Turns changes of the folder into new generations.
struct Report {
    dir: PathBuf,
    freshness: Arc<Freshness>,
    names: bool,
    changed: Option<mpsc::UnboundedSender<String>>,
}

impl Report {
    fn changed(&self, app: &str) {
        self.freshness.invalidate(Table::AppMeta, app);
        if let Some(changed) = &self.changed {
            // The receiver is dropped only when the process ends.
            let _ = changed.send(app.to_owned());
        }
    }

    fn added_or_removed(&self, app: &str) {
        if self.names {
            self.freshness.invalidate_table(Table::AppNames);
            self.freshness.invalidate(Table::Apps, app);
        }
        self.changed(app);
    }

    /// Handles an event; returns the path of a folder that may need its own watch, if any.
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
                // The folder itself. Its content is unaffected, unless it was removed.
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
                        self.added_or_removed(app);
                    }
                }
                Some(_) => {}
                // A write to a plain file next to the apps' folders.
                None if is_write(event) => {}
                // May be a plain file or a link to a folder: `watch_new` finds out.
                None if is_file_event(event) => folder = Some(path.clone()),
                None => {
                    self.added_or_removed(app);
                    folder = Some(path.clone());
                }
            }
        }
        folder
    }

    /// Reports what has changed since the scan `before` and returns the states found by the
    /// scan at `now`; `None` for a file whose later changes might not change its state.
    fn apply_scan(
        &self,
        mut before: HashMap<String, Option<FileState>>,
        apps: Vec<(String, FileState)>,
        now: SystemTime,
    ) -> HashMap<String, Option<FileState>> {
        for (app, state) in &apps {
            match before.remove(app) {
                Some(Some(old)) if old == *state => {}
                Some(_) => self.changed(app),
                None => self.added_or_removed(app),
            }
        }
        for gone in before.keys() {
            self.added_or_removed(gone);
        }
        let if_settled = |state: FileState| state.is_settled(now).then_some(state);
        apps.into_iter().map(|(app, state)| (app, if_settled(state))).collect()
    }
}

/// The kernel's watch, if the kernel grants one.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    followed: HashMap<PathBuf, u64>,
    has_warned: bool,
}

impl Watch {
    /// Creates the watch, and a stream of folders that may need their own watch.
    fn begin(report: &Arc<Report>) -> (Self, UnboundedReceiverStream<PathBuf>) {
        let (new_folder, folders) = mpsc::unbounded_channel();
        let folders = UnboundedReceiverStream::new(folders);
        let report = Arc::clone(report);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) => {
                if let Some(folder) = report.event(&event) {
                    // The receiver is dropped only when the process ends.
                    let _ = new_folder.send(folder);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watching the apps' folder failed; scanning it again");
                report.freshness.reset();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| tracing::warn!(%error, "no file watch; scanning only"))
            .ok();
        (Self { watcher, followed: HashMap::new(), has_warned: false }, folders)
    }

    /// Watches a folder, unless the same inode is watched already.
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
            Err(error) if !self.has_warned => {
                self.has_warned = true;
                tracing::warn!(%error, "a folder cannot be watched (see fs.inotify.max_user_watches); \
                     its changes are found by scanning");
            }
            Err(_) => {}
        }
    }
}

fn is_write(event: &notify::Event) -> bool {
    use notify::event::{EventKind::Modify, ModifyKind::Data};
    matches!(event.kind, Modify(Data(_)))
}

fn is_file_event(event: &notify::Event) -> bool {
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

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
        let report = Report {
            dir: "/apps".into(),
            freshness: Arc::clone(&freshness),
            names: true,
            changed: None,
        };
        let origin = || freshness.origin([Table::AppMeta; 2], "notes");
        let state = |nanos| FileState { inode: 1, size: 2, changed: (1_000, nanos) };
        let at = |millis| UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(millis);
        for (nanos, young, old) in [(500_000_000, 510, 600), (0, 1_900, 2_100)] {
            let apps = || vec![("notes".to_owned(), state(nanos))];
            let seen = report.apply_scan(HashMap::new(), apps(), at(young));
            let first = origin();
            let seen = report.apply_scan(seen, apps(), at(old));
            assert!(!freshness.is_current(&first), "saved again, in the same step of the clock");
            let second = origin();
            report.apply_scan(seen, apps(), at(old));
            assert!(freshness.is_current(&second), "nothing can have changed unseen");
        }
    }
}
