//! Remembers which apps have a compose file of their own, so that the disk need not be
//! read.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::file_calls::FileCalls;

/// Names of a compose file; the first is the one that shard_core writes.
const NAMES: [&str; 4] =
    ["docker-compose.yml", "docker-compose.yaml", "compose.yaml", "compose.yml"];

/// The compose files of the apps, as of the last search.
#[derive(Debug)]
pub(in crate::wake) struct ComposeFiles {
    installed_apps_dir: PathBuf,
    calls: FileCalls,
    known: Mutex<HashMap<Box<str>, PathBuf>>,
    /// The files that the containers of an app were last seen to be created from, if
    /// these are more than its compose file.
    made_from: Mutex<HashMap<Box<str>, Vec<PathBuf>>>,
}

impl ComposeFiles {
    pub(in crate::wake) fn new(installed_apps_dir: PathBuf) -> Self {
        Self {
            installed_apps_dir,
            calls: FileCalls::new(),
            known: Mutex::default(),
            made_from: Mutex::default(),
        }
    }

    /// Returns the compose file in an app's own folder, if the last search found one.
    /// Callers must not wait for a disk, so nothing is read.
    pub(in crate::wake) fn get(&self, app: &str) -> Option<PathBuf> {
        self.lock().get(app).cloned()
    }

    /// Searches for the compose files of apps, and returns the apps for which the result
    /// has changed. If the search fails, the former results stay.
    pub(in crate::wake) async fn search<'a>(&self, apps: &'a [impl AsRef<str>]) -> Vec<&'a str> {
        let folder = self.installed_apps_dir.clone();
        let names: Vec<Box<str>> = apps.iter().map(|app| app.as_ref().into()).collect();
        let search = move || Ok(names.iter().map(|app| file_of(&folder, app)).collect::<Vec<_>>());
        let found = match self.calls.run(search).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "cannot search for compose files");
                return Vec::new();
            }
        };
        let mut known = self.lock();
        let changed = apps.iter().zip(found).filter_map(|(app, found)| {
            let app = app.as_ref();
            let has_changed = known.get(app) != found.as_ref();
            match found {
                Some(file) if has_changed => drop(known.insert(app.into(), file)),
                None if has_changed => drop(known.remove(app)),
                _ => {}
            }
            has_changed.then_some(app)
        });
        changed.collect()
    }

    /// Notes which files an app's containers were created from, by their labels: an app
    /// that was created with an override is recreated with it.
    pub(in crate::wake) fn note_made_from(&self, app: &str, files: &[PathBuf]) {
        if files.len() > 1 {
            self.made_from().insert(app.into(), files.to_vec());
        } else if !files.is_empty() {
            self.made_from().remove(app);
        }
    }

    /// Returns all compose files of an app: its own, and the further ones that its
    /// containers were created from. `None` if one of these is not in the app's folder,
    /// or if the first is not the app's own.
    pub(super) async fn all(&self, app: &str, own: &Path) -> Option<Vec<PathBuf>> {
        let own = own.to_owned();
        let files = self.made_from().get(app).cloned();
        let Some(files) = files else { return Some(vec![own]) };
        let search = move || Ok(all_of(&own, &files));
        self.calls.run(search).await.ok().flatten()
    }

    /// Returns the files that an app's containers were last seen to be created from; none
    /// if that is only its own.
    pub(super) fn last_made_from(&self, app: &str) -> Vec<PathBuf> {
        self.made_from().get(app).cloned().unwrap_or_default()
    }

    /// Forgets an app that is not installed any more.
    pub(in crate::wake) fn forget(&self, app: &str) {
        self.lock().remove(app);
        self.made_from().remove(app);
    }

    fn made_from(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<PathBuf>>> {
        self.made_from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, PathBuf>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves the files of a label in the folder of an app's own file. Returns `None`
/// unless all exist and the first is the app's own.
fn all_of(own: &Path, files: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let found = inside(own.parent()?, files);
    let all_exist = found.len() == files.len() && found.iter().all(|file| file.is_file());
    (all_exist && found.first().is_some_and(|first| first == own)).then_some(found)
}

/// Returns the app's own file, and then those of a label that are in its folder.
pub(super) fn known_of(own: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let mut known = vec![own.to_owned()];
    known.extend(own.parent().into_iter().flat_map(|folder| inside(folder, files)));
    known.dedup();
    known
}

/// Resolves the files of a label that are in a folder.
fn inside(folder: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let is_inside = |file: &&PathBuf| {
        file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    };
    files.iter().filter(is_inside).map(|file| folder.join(file)).collect()
}

/// Returns the compose file of an app in the folder of all apps. Blocks, so it runs on a
/// thread that may.
pub(super) fn file_of(installed_apps_dir: &Path, app: &str) -> Option<PathBuf> {
    let is_valid_name = !app.is_empty() && !app.starts_with('.') && !app.contains(['/', '\0']);
    let folder = installed_apps_dir.join(app);
    let files = NAMES.iter().map(|file| folder.join(file));
    files.into_iter().find(|file| is_valid_name && file.is_file())
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
        assert_eq!(files.get("shop"), None, "not searched yet");
        assert_eq!(files.search(&["shop", "other", "../shop", ""]).await, ["shop"]);
        assert_eq!(files.get("shop"), Some(file.clone()));
        assert_eq!((files.get("other"), files.get("../shop")), (None, None));
        assert!(files.search(&["shop", "other"]).await.is_empty(), "unchanged");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(files.search(&["shop"]).await, ["shop"]);
        assert_eq!(files.get("shop"), None);
    }

    #[tokio::test]
    async fn what_was_made_with_an_override_has_it_among_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let app = folder.path().join("shop");
        let (own, further) = (app.join("compose.yaml"), app.join("compose.override.yaml"));
        std::fs::create_dir(&app).expect("made");
        for file in [&own, &further] {
            std::fs::write(file, "services: {}").expect("written");
        }
        let files = ComposeFiles::new(folder.path().into());
        let of = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let both = Some(vec![own.clone(), further.clone()]);
        for (label, expected) in [
            (&[][..], Some(vec![own.clone()])),
            (&["compose.yaml", "compose.override.yaml"], both.clone()),
            (&["./compose.yaml", "compose.override.yaml"], both.clone()),
            // Without a container there is no label, and the former files stay.
            (&[], both),
            (&["compose.yaml", "gone.yaml"], None),
            (&["other.yaml", "compose.yaml"], None),
            (&["compose.yaml", "/etc/passwd"], None),
            (&["compose.yaml", "../shop/compose.override.yaml"], None),
            (&["compose.yaml"], Some(vec![own.clone()])),
        ] {
            files.note_made_from("shop", &of(label));
            assert_eq!(files.all("shop", &own).await, expected, "{label:?}");
        }
    }
}
