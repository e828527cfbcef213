//! A single comparison of the engine with the installed apps, for commands that serve nothing.

use std::sync::Arc;

use super::compose::files::ComposeFiles;
use super::docker::watch::snapshot_once;
use super::docker::{Engine, EngineError};
use super::observed::Selector;
use super::ownership::Ownership;
use super::spec::AppSpec;
use crate::config::Config;

/// The mismatches between the engine and the installed apps.
#[derive(Debug, Default)]
pub struct Survey {
    /// Apps without a container and without a compose file to create one from.
    pub unmatched: Vec<Arc<str>>,
    /// Containers whose label names an app that is not installed, each with that app.
    pub strays: Vec<(String, String)>,
}

/// Compares the containers in the engine with the installed apps.
///
/// # Errors
/// If the engine does not answer.
pub async fn survey(
    config: &Config,
    apps: &[(Arc<str>, Arc<AppSpec>)],
) -> Result<Survey, EngineError> {
    let snapshot = snapshot_once(&Arc::new(Engine::new(config.wake.docker.clone()))).await?;
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
    let is_installed = |app: &str| apps.iter().any(|(name, _)| name.eq_ignore_ascii_case(app));
    let mut strays = Vec::new();
    for container in snapshot.containers.values() {
        let unknown = container.labels.apps.iter().filter(|app| !is_installed(app));
        strays.extend(unknown.map(|app| (container.name.clone(), app.clone())));
    }
    strays.sort();
    Ok(Survey { unmatched, strays })
}
