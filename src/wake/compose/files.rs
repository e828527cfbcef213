//! Which apps have a compose file of their own, known without a look at the disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::file_calls::FileCalls;

/// Names of a compose file, first the one that shard_core writes.
const NAMES: [&str; 4] =
    ["docker-compose.yml", "docker-compose.yaml", "compose.yaml", "compose.yml"];

/// The compose files of the apps that were looked for.
#[derive(Debug)]
pub(in crate::wake) struct ComposeFiles {
    installed_apps_dir: PathBuf,
    calls: FileCalls,
    known: Mutex<HashMap<Box<str>, Option<PathBuf>>>,
}

impl ComposeFiles {
    pub(in crate::wake) fn new(installed_apps_dir: PathBuf) -> Self {
        Self { installed_apps_dir, calls: FileCalls::new(), known: Mutex::default() }
    }

    /// The compose file in an app's own folder, where one was seen when it was last
    /// looked for: whoever asks must not wait for a disk.
    pub(in crate::wake) fn get(&self, app: &str) -> Option<PathBuf> {
        self.lock().get(app).cloned().flatten()
    }

    /// Looks for the compose files of apps, and tells of which that changes anything.
    /// What cannot be looked at now is what it was.
    pub(in crate::wake) async fn look<'a>(&self, apps: &'a [impl AsRef<str>]) -> Vec<&'a str> {
        let folder = self.installed_apps_dir.clone();
        let names: Vec<Box<str>> = apps.iter().map(|app| app.as_ref().into()).collect();
        let look = move || Ok(names.iter().map(|app| file_of(&folder, app)).collect::<Vec<_>>());
        let found = match self.calls.run(look).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "compose files cannot be looked for");
                return Vec::new();
            }
        };
        let mut known = self.lock();
        let changed = apps.iter().zip(found).filter_map(|(app, found)| {
            let before = known.insert(app.as_ref().into(), found.clone());
            (before.flatten() != found).then_some(app.as_ref())
        });
        changed.collect()
    }

    /// Forgets an app that is not installed any more.
    pub(in crate::wake) fn forget(&self, app: &str) {
        self.lock().remove(app);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Option<PathBuf>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The compose file of an app in the folder of all apps, on a thread that may wait.
pub(super) fn file_of(installed_apps_dir: &Path, app: &str) -> Option<PathBuf> {
    let is_folder = !app.is_empty() && !app.starts_with('.') && !app.contains(['/', '\0']);
    let folder = installed_apps_dir.join(app);
    let files = NAMES.iter().map(|file| folder.join(file));
    files.into_iter().find(|file| is_folder && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_known_once_it_was_looked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("shop")).expect("made");
        let file = folder.path().join("shop/compose.yaml");
        std::fs::write(&file, "services: {}").expect("written");
        let files = ComposeFiles::new(folder.path().into());
        assert_eq!(files.get("shop"), None, "nobody has looked");
        assert_eq!(files.look(&["shop", "other", "../shop", ""]).await, ["shop"]);
        assert_eq!(files.get("shop"), Some(file.clone()));
        assert_eq!((files.get("other"), files.get("../shop")), (None, None));
        assert!(files.look(&["shop", "other"]).await.is_empty(), "as before");
        std::fs::remove_file(file).expect("removed");
        assert_eq!(files.look(&["shop"]).await, ["shop"]);
        assert_eq!(files.get("shop"), None);
    }
}
