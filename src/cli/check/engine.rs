//! Finds apps without containers, and what is wrong with the labels of containers, if there
//! is an engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Report;
use super::rules::{RuleWarning, rule_warnings};
use crate::config::Config;
use crate::domain::app::AppMeta;
use crate::domain::app::labels::{Described, Finding, PREFIX};
use crate::store::app_meta::MAX_SIZE;
use crate::store::{Source, regular_file};
use crate::wake::docker::APP_LABEL;
use crate::wake::{AppSpec, Mismatches, find_mismatches};

/// How long the engine may take: a check must work before there is an engine, and must not
/// wait for one that hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks for the containers of every app that can be read, and for apps that labels
/// describe.
pub(super) async fn all(config: &Config, source: Option<&Source>, report: &mut Report) {
    if !config.wake.enabled {
        return;
    }
    let apps = installed(&config.store.installed_apps_dir);
    let labels = source.and_then(|source| source.descriptions().labels());
    let comparing = find_mismatches(config, &apps, labels.map(|labels| &**labels));
    let Ok(Ok(Mismatches { unmatched, strays, unnamed })) = timeout(LIMIT, comparing).await else {
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
    for container in unnamed {
        let problem = format!("has labels that describe an app, but no label `{APP_LABEL}`");
        let hint = "add the label, or remove the others";
        report.warning(Path::new("engine"), container, problem, hint);
    }
    for (app, described) in labels.iter().flat_map(|labels| labels.apps()) {
        described_by_labels(config, &app, &described, report);
    }
}

/// Reports what is wrong with an app's labels.
fn described_by_labels(config: &Config, app: &str, described: &Described, report: &mut Report) {
    let engine = Path::new("engine");
    let folder = config.store.installed_apps_dir.join(app);
    if folder.join("app_meta.json").exists() {
        if described.is_described {
            let problem =
                "describes the app, and so do labels of its containers, which do not count";
            let hint = "remove the labels except `nightporter.app`, or the file";
            report.warning(&folder.join("app_meta.json"), "", problem, hint);
        }
        return;
    }
    match &described.meta {
        Ok(meta) => {
            for RuleWarning { prefix, problem, hint } in
                rule_warnings(&meta.paths, config.gate.path_matching)
            {
                report.warning(engine, format!("{app}: path {prefix:?}"), problem, &hint);
            }
            // Each rule has the same headers.
            for rule in meta.paths.iter().take(1) {
                super::app::headers(config, rule, engine, report);
            }
        }
        Err(findings) => {
            for Finding { container, label, problem } in findings {
                let hint = "correct the label; until then the app answers 503";
                report.error(engine, format!("{container}: {PREFIX}{label}"), problem, hint);
            }
        }
    }
    for Finding { container, label, problem } in &described.notices {
        let hint = "requests reach the app only if the proxy knows where it is";
        report.warning(engine, format!("{container}: {PREFIX}{label}"), problem, hint);
    }
}

/// Returns the apps whose descriptions can be read; the others are reported elsewhere.
fn installed(dir: &Path) -> Vec<(Arc<str>, Arc<AppSpec>)> {
    let folders = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut apps: Vec<_> = folders
        .filter_map(|folder| {
            let json =
                regular_file::read_now(&folder.path().join("app_meta.json"), MAX_SIZE).ok()?;
            let meta = AppMeta::parse(&json).ok()?;
            Some((folder.file_name().to_str()?.into(), AppSpec::new(&meta).into()))
        })
        .collect();
    apps.sort_by(|(a, _), (b, _): &(Arc<str>, Arc<AppSpec>)| a.cmp(b));
    apps
}
