//! The installed apps and their claims, so that no app takes another app's container.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::compose::files::ComposeFiles;
use super::docker::Container;
use super::handle::AppSpec;
use crate::domain::lifecycle::project_of;

/// The project of FreeShard's own containers, which belong to no app.
const BOX_PROJECT: &str = "core";

/// The claims of all installed apps.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    claims: RwLock<Claims>,
    files: OnceLock<Arc<ComposeFiles>>,
}

#[derive(Debug, Default)]
struct Claims {
    /// The containers that each app's entrypoints name.
    targets: HashMap<Arc<str>, Vec<String>>,
    by_project: HashMap<String, BTreeSet<Arc<str>>>,
    by_target: HashMap<String, BTreeSet<Arc<str>>>,
}

impl Ownership {
    /// Adds an app, or updates its claims.
    pub(super) fn insert(&self, app: &Arc<str>, spec: &AppSpec) {
        let targets: Vec<_> = spec.entrypoints.iter().map(|t| t.container.clone()).collect();
        if self.read().targets.get(app) == Some(&targets) {
            return;
        }
        let mut claims = self.write();
        claims.forget(app);
        if let Some(project) = project_of(app) {
            claims.by_project.entry(project).or_default().insert(Arc::clone(app));
        }
        for target in &targets {
            claims.by_target.entry(target.clone()).or_default().insert(Arc::clone(app));
        }
        claims.targets.insert(Arc::clone(app), targets);
    }

    pub(super) fn forget(&self, app: &Arc<str>) {
        self.write().forget(app);
    }

    /// Sets the source that knows which apps have a compose file of their own.
    pub(super) fn set_files(&self, files: Arc<ComposeFiles>) {
        // It would be set twice only if the engine was followed twice, which is refused.
        let _ = self.files.set(files);
    }

    /// Whether the app has a compose file of its own.
    pub(super) fn has_own_file(&self, app: &str) -> bool {
        self.files.get().is_some_and(|files| files.get(app).is_some())
    }

    /// Whether an app may claim a container of that project: it belongs neither to another
    /// app nor to the box.
    pub(super) fn is_unclaimed(&self, project: Option<&str>, app: &Arc<str>) -> bool {
        let Some(project) = project else { return true };
        let claims = self.read();
        let others = claims.by_project.get(project);
        project != BOX_PROJECT && others.is_none_or(|apps| !apps.iter().any(|other| other != app))
    }

    /// Whether another app's requests are sent to a container of that name.
    pub(super) fn is_named_by_another(&self, container: &str, app: &Arc<str>) -> bool {
        let claims = self.read();
        claims.by_target.get(container).is_some_and(|apps| apps.iter().any(|other| other != app))
    }

    /// Returns the apps besides `app` that a container may belong to: those that its label
    /// names, or else those whose requests are sent to it. Apps that are not installed are
    /// left out, because they need nothing.
    pub(super) fn others(&self, container: &Container, app: &Arc<str>) -> Vec<Arc<str>> {
        let claims = self.read();
        let labels = &container.labels.apps;
        let is_other = |name: &&Arc<str>| *name != app;
        if labels.is_empty() {
            let apps = claims.by_target.get(&container.name);
            return apps.into_iter().flatten().filter(is_other).cloned().collect();
        }
        if labels.len() == 1 {
            return Vec::new();
        }
        let is_labelled = |name: &&Arc<str>| labels.iter().any(|l| l.eq_ignore_ascii_case(name));
        claims.targets.keys().filter(is_other).filter(is_labelled).cloned().collect()
    }

    /// Returns the containers that an app's entrypoints name.
    pub(super) fn targets(&self, app: &str) -> Vec<String> {
        self.read().targets.get(app).cloned().unwrap_or_default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Claims> {
        self.claims.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Claims> {
        self.claims.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claims {
    fn forget(&mut self, app: &Arc<str>) {
        let Some(targets) = self.targets.remove(app) else { return };
        if let Some(project) = project_of(app) {
            remove_from_index(&mut self.by_project, &project, app);
        }
        for target in targets {
            remove_from_index(&mut self.by_target, &target, app);
        }
    }
}

fn remove_from_index(index: &mut HashMap<String, BTreeSet<Arc<str>>>, key: &str, app: &Arc<str>) {
    if let Some(apps) = index.get_mut(key) {
        apps.remove(app);
        if apps.is_empty() {
            index.remove(key);
        }
    }
}
