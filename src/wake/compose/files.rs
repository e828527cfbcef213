//! Which apps have a compose file of their own, known without a look at the disk.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
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
    /// What the containers of an app were last seen to be made from, where that is more
    /// than its compose file.
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

    /// Notes from which files an app's containers were made, as their labels say: one that
    /// was made with an override is made with it again.
    pub(in crate::wake) fn note_made_from(&self, app: &str, files: &[PathBuf]) {
        if files.len() > 1 {
            self.made_from().insert(app.into(), files.to_vec());
        } else if !files.is_empty() {
            self.made_from().remove(app);
        }
    }

    /// All compose files of an app: its own, and those besides that its containers were
    /// made from. `None` where these are not all in its folder, or begin with another.
    pub(super) async fn all(&self, app: &str, own: &Path) -> Option<Vec<PathBuf>> {
        let own = own.to_owned();
        let files = self.made_from().get(app).cloned();
        let Some(files) = files else { return Some(vec![own]) };
        let look = move || Ok(all_of(&own, &files));
        self.calls.run(look).await.ok().flatten()
    }

    /// Forgets an app that is not installed any more.
    pub(in crate::wake) fn forget(&self, app: &str) {
        self.lock().remove(app);
        self.made_from().remove(app);
    }

    fn made_from(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<PathBuf>>> {
        self.made_from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Option<PathBuf>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files of a label, found in the folder of an app's own file, which is the first of them.
fn all_of(own: &Path, files: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let folder = own.parent()?;
    let is_inside = |file: &PathBuf| {
        file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    };
    let found: Vec<_> = files.iter().filter(|f| is_inside(f)).map(|f| folder.join(f)).collect();
    let are_there = found.len() == files.len() && found.iter().all(|file| file.is_file());
    (are_there && found.first().is_some_and(|first| first == own)).then_some(found)
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
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(files.look(&["shop"]).await, ["shop"]);
        assert_eq!(files.get("shop"), None);
    }

    #[tokio::test]
    async fn what_was_made_with_an_override_has_it_among_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let app = folder.path().join("shop");
        let (own, more) = (app.join("compose.yaml"), app.join("compose.override.yaml"));
        std::fs::create_dir(&app).expect("made");
        for file in [&own, &more] {
            std::fs::write(file, "services: {}").expect("written");
        }
        let files = ComposeFiles::new(folder.path().into());
        let of = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let both = Some(vec![own.clone(), more.clone()]);
        for (label, expected) in [
            (&[][..], Some(vec![own.clone()])),
            (&["compose.yaml", "compose.override.yaml"], both.clone()),
            (&["./compose.yaml", "compose.override.yaml"], both.clone()),
            // Nothing is said where there is no container.
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
