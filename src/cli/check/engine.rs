//! Finds apps without containers, if there is an engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Report;
use crate::config::Config;
use crate::domain::app::AppMeta;
use crate::wake::docker::APP_LABEL;
use crate::wake::{AppSpec, Survey, survey};

/// How long the engine may take: a check must work before there is an engine, and must not
/// wait for one that hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks for the containers of every app that can be read.
pub(super) async fn all(config: &Config, report: &mut Report) {
    if !config.wake.enabled {
        return;
    }
    let apps = installed(&config.store.installed_apps_dir);
    let Ok(Ok(Survey { unmatched, strays })) = timeout(LIMIT, survey(config, &apps)).await else {
        return;
    };
    for name in unmatched {
        let file = config.store.installed_apps_dir.join(&*name).join("app_meta.json");
        let problem = "no container belongs to this app: it never sleeps and is never woken";
        let hint = format!(
            "label its containers `{APP_LABEL}={name}`, name their Compose project `{name}`, \
             or correct `container_name`"
        );
        report.warning(&file, "entrypoints", problem, &hint);
    }
    for (container, app) in strays {
        report.warning(
            Path::new("engine"),
            &container,
            format!("its label `{APP_LABEL}` names the app `{app}`, which is not installed"),
            "correct the label, or remove it",
        );
    }
}

/// Returns the apps whose descriptions can be read; the others are reported elsewhere.
fn installed(dir: &Path) -> Vec<(Arc<str>, Arc<AppSpec>)> {
    let folders = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut apps: Vec<_> = folders
        .filter_map(|folder| {
            let json = std::fs::read(folder.path().join("app_meta.json")).ok()?;
            let meta = AppMeta::parse(&json).ok()?;
            Some((folder.file_name().to_str()?.into(), AppSpec::of(&meta).into()))
        })
        .collect();
    apps.sort_by(|(a, _), (b, _): &(Arc<str>, Arc<AppSpec>)| a.cmp(b));
    apps
}
