//! One look at the engine, for who asks once and serves nothing.

use std::sync::Arc;

use super::app::Facts;
use super::compose::ComposeFiles;
use super::docker::watch::look_once;
use super::docker::{Engine, EngineError};
use super::observed::Selector;
use super::roster::Roster;
use crate::config::Config;

/// What does not fit together.
#[derive(Debug, Default)]
pub struct Survey {
    /// Apps without a container, and without a compose file to make any from.
    pub unmatched: Vec<Arc<str>>,
    /// Containers whose label names an app that is not installed, and that app.
    pub strays: Vec<(String, String)>,
}

/// Holds what is in the engine against the installed apps.
///
/// # Errors
/// Where the engine cannot be asked.
pub async fn survey(config: &Config, apps: &[(Arc<str>, Facts)]) -> Result<Survey, EngineError> {
    let snapshot = look_once(&Arc::new(Engine::new(config.wake.docker.clone()))).await?;
    let dir = &config.store.installed_apps_dir;
    let roster = Arc::new(Roster::default());
    let files = Arc::new(ComposeFiles::new(dir.clone()));
    let names: Vec<_> = apps.iter().map(|(name, _)| Arc::clone(name)).collect();
    files.look(&names).await;
    roster.set_files(Arc::clone(&files));
    for (name, facts) in apps {
        roster.note(name, facts);
    }
    let is_unmatched = |(name, facts): &&(Arc<str>, Facts)| {
        let observed = Selector::new(name, &roster).observe(facts, &snapshot);
        observed.containers.is_empty() && observed.services.is_empty() && files.get(name).is_none()
    };
    let unmatched = apps.iter().filter(is_unmatched).map(|(name, _)| Arc::clone(name)).collect();
    let is_installed = |app: &str| apps.iter().any(|(name, _)| name.eq_ignore_ascii_case(app));
    let mut strays = Vec::new();
    for container in snapshot.containers.values() {
        let strange = container.belongs.apps.iter().filter(|app| !is_installed(app));
        strays.extend(strange.map(|app| (container.name.clone(), app.clone())));
    }
    strays.sort();
    Ok(Survey { unmatched, strays })
}
