//! A single comparison of the engine with the installed apps, for commands that serve nothing.

use std::sync::Arc;

use super::compose::files::ComposeFiles;
use tokio::time::Instant;

use super::docker::watch::snapshot_once;
use super::docker::{Engine, EngineError};
use super::labelled::{labelled, unnamed};
use super::ownership::Ownership;
use super::selector::Selector;
use super::spec::AppSpec;
use crate::config::Config;
use crate::store::labels::Labels;

/// The mismatches between the engine and the installed apps.
#[derive(Debug, Default)]
pub struct Mismatches {
    /// Apps without a container and without a compose file to create one from.
    pub unmatched: Vec<Arc<str>>,
    /// Containers whose label names an app that is not installed, each with that app.
    pub strays: Vec<(String, String)>,
    /// Containers with labels that describe an app, but none that names it.
    pub unnamed: Vec<String>,
}

/// Compares the containers in the engine with the installed apps, and takes in what their
/// labels say.
///
/// # Errors
/// If the engine does not answer.
pub async fn find_mismatches(
    config: &Config,
    apps: &[(Arc<str>, Arc<AppSpec>)],
    labels: Option<&Labels>,
) -> Result<Mismatches, EngineError> {
    let snapshot = snapshot_once(&Arc::new(Engine::new(config.wake.docker.clone()))).await?;
    let present = labelled(&snapshot);
    let unnamed = match labels {
        Some(labels) => {
            labels.observe(&present, &snapshot.unread, Instant::now());
            unnamed(&present).map(|labelled| labelled.container.clone()).collect()
        }
        None => Vec::new(),
    };
    let dir = &config.store.installed_apps_dir;
    let ownership = Arc::new(Ownership::default());
    let files = Arc::new(ComposeFiles::new(dir.clone()));
    let names: Vec<_> = apps.iter().map(|(name, _)| Arc::clone(name)).collect();
    files.search(&names).await;
    ownership.set_files(Arc::clone(&files));
    for (name, spec) in apps {
        ownership.insert(name, spec);
    }
    let is_unmatched = |(name, spec): &&(Arc<str>, Arc<AppSpec>)| {
        let observed = Selector::new(name, &ownership).observe(spec, &snapshot);
        observed.containers.is_empty() && observed.services.is_empty() && files.get(name).is_none()
    };
    let unmatched = apps.iter().filter(is_unmatched).map(|(name, _)| Arc::clone(name)).collect();
    let is_installed = |app: &str| {
        apps.iter().any(|(name, _)| name.eq_ignore_ascii_case(app))
            || labels.is_some_and(|labels| labels.get(app).is_some())
    };
    let mut strays = Vec::new();
    for container in snapshot.containers.values() {
        let unknown = container.labels.apps.iter().filter(|app| !is_installed(app));
        strays.extend(unknown.map(|app| (container.name.clone(), app.clone())));
    }
    strays.sort();
    Ok(Mismatches { unmatched, strays, unnamed })
}
