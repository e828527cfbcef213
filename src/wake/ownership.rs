//! The installed apps and their claims, so that no app takes another app's container.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;

use super::compose::files::ComposeFiles;
use super::docker::Container;
use super::spec::AppSpec;
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
    specs: HashMap<Arc<str>, Arc<AppSpec>, RandomState>,
    by_project: Index,
    /// By the names of the containers that entrypoints name.
    by_target: Index,
}

/// The apps that claim each name. Almost every name is claimed by one app and is that app's
/// own, so neither a list nor a copy of the name is kept.
#[derive(Debug, Default)]
struct Index(HashMap<Arc<str>, Claimants, RandomState>);

#[derive(Debug)]
enum Claimants {
    One(Arc<str>),
    /// Sorted.
    Several(Vec<Arc<str>>),
}

impl Ownership {
    /// Adds an app, or updates its claims.
    pub(super) fn insert(&self, app: &Arc<str>, spec: &Arc<AppSpec>) {
        if self.read().specs.get(app) == Some(spec) {
            return;
        }
        let mut claims = self.write();
        claims.forget(app);
        if let Some(project) = project_of(app) {
            claims.by_project.insert(&project, app);
        }
        for target in &spec.entrypoints {
            claims.by_target.insert(&target.container, app);
        }
        claims.specs.insert(Arc::clone(app), Arc::clone(spec));
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
        project != BOX_PROJECT
            && claims.by_project.claimants(project).iter().all(|other| other == app)
    }

    /// Whether another app's requests are sent to a container of that name.
    pub(super) fn is_named_by_another(&self, container: &str, app: &Arc<str>) -> bool {
        self.read().by_target.claimants(container).iter().any(|other| other != app)
    }

    /// Returns the apps besides `app` that a container may belong to: those that its label
    /// names, or else those whose requests are sent to it. Apps that are not installed are
    /// left out, because they need nothing.
    pub(super) fn others(&self, container: &Container, app: &Arc<str>) -> Vec<Arc<str>> {
        let claims = self.read();
        let labels = &container.labels.apps;
        let is_other = |name: &&Arc<str>| *name != app;
        if labels.is_empty() {
            return claims
                .by_target
                .claimants(&container.name)
                .iter()
                .filter(is_other)
                .cloned()
                .collect();
        }
        if labels.len() == 1 {
            return Vec::new();
        }
        let is_labelled = |name: &&Arc<str>| labels.iter().any(|l| l.eq_ignore_ascii_case(name));
        claims.specs.keys().filter(is_other).filter(is_labelled).cloned().collect()
    }

    /// Returns the containers that an app's entrypoints name.
    pub(super) fn targets(&self, app: &str) -> Vec<String> {
        let claims = self.read();
        let targets = claims.specs.get(app).into_iter().flat_map(|spec| &spec.entrypoints);
        targets.map(|target| target.container.clone()).collect()
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
        let Some(spec) = self.specs.remove(app) else { return };
        if let Some(project) = project_of(app) {
            self.by_project.remove(&project, app);
        }
        for target in &spec.entrypoints {
            self.by_target.remove(&target.container, app);
        }
    }
}

impl Index {
    /// Returns the apps that claim a name, sorted.
    fn claimants(&self, name: &str) -> &[Arc<str>] {
        match self.0.get(name) {
            Some(Claimants::One(app)) => std::slice::from_ref(app),
            Some(Claimants::Several(apps)) => apps,
            None => &[],
        }
    }

    fn insert(&mut self, name: &str, app: &Arc<str>) {
        let mut apps = self.claimants(name).to_vec();
        if let Err(place) = apps.binary_search(app) {
            apps.insert(place, Arc::clone(app));
        }
        let key = if name == &**app { Arc::clone(app) } else { name.into() };
        self.set(key, apps);
    }

    fn remove(&mut self, name: &str, app: &Arc<str>) {
        let Some((key, _)) = self.0.get_key_value(name) else { return };
        let key = Arc::clone(key);
        let mut apps = self.claimants(name).to_vec();
        apps.retain(|other| other != app);
        self.set(key, apps);
    }

    fn set(&mut self, name: Arc<str>, mut apps: Vec<Arc<str>>) {
        match (apps.len(), apps.pop()) {
            (1, Some(app)) => drop(self.0.insert(name, Claimants::One(app))),
            (_, Some(last)) => {
                apps.push(last);
                self.0.insert(name, Claimants::Several(apps));
            }
            (_, None) => drop(self.0.remove(&name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_by_one_app_or_by_several() {
        let mut index = Index::default();
        let [notes, wiki]: [Arc<str>; 2] = ["notes".into(), "wiki".into()];
        for (changes, expected) in [
            (&[("insert", &wiki)][..], &["wiki"][..]),
            (&[("insert", &wiki)], &["wiki"]),
            (&[("insert", &notes)], &["notes", "wiki"]),
            (&[("insert", &notes), ("remove", &wiki)], &["notes"]),
            (&[("remove", &wiki)], &["notes"]),
            (&[("remove", &notes)], &[]),
            (&[("remove", &notes)], &[]),
        ] {
            for (change, app) in changes {
                match *change {
                    "insert" => index.insert("db", app),
                    _ => index.remove("db", app),
                }
            }
            let claimed: Vec<&str> = index.claimants("db").iter().map(AsRef::as_ref).collect();
            assert_eq!(claimed, expected);
        }
        assert!(index.0.is_empty());
    }
}
