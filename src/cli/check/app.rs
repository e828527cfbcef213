//! Checks the description of each app.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use super::Report;
use super::repeated::repeated_keys;
use super::rules::{RuleWarning, rule_warnings};
use crate::config::{Config, StoreKind};
use crate::domain::app::{AppMeta, PathRule};
use crate::domain::client::{Client, KnownClient};
use crate::domain::identity::Identity;
use crate::domain::lifecycle::project_of;
use crate::domain::request::app_label;
use crate::gate::headers::HeaderTemplates;
use crate::store::{app_meta, regular_file};

/// The prefix of every header's name: proxies pass on only these headers, and
/// remove those that clients send.
const GRANTED: &str = "x-ptl-";

/// Checks every folder of `store.installed_apps_dir`. `labelled` are the apps, in lower case,
/// that labels describe, which need no file.
pub(super) fn all(config: &Config, labelled: &BTreeSet<String>, report: &mut Report) {
    let dir = &config.store.installed_apps_dir;
    let folders = match std::fs::read_dir(dir) {
        Ok(folders) => folders,
        // Where labels count, the process creates it.
        Err(error) if error.kind() == ErrorKind::NotFound && is_created(config) => return,
        Err(error) => {
            let hint = "set `store.installed_apps_dir` to the folder of the apps";
            return report.error(dir, "", format!("cannot be read: {error}"), hint);
        }
    };
    let names: BTreeSet<String> = folders
        .filter_map(Result::ok)
        .filter(|folder| folder.path().is_dir())
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let strategies = config.wake.apps.keys().map(|name| ("wake.apps", name));
    let streams = config.wake.streams.apps.keys().map(|name| ("wake.streams.apps", name));
    let preflights = config.gate.cors_preflight.iter().map(|name| ("gate.cors_preflight", name));
    let is_installed =
        |name: &str| names.contains(name) || labelled.contains(&name.to_ascii_lowercase());
    for (key, name) in
        strategies.chain(streams).chain(preflights).filter(|(_, name)| !is_installed(name))
    {
        let configuration = Path::new("configuration");
        let hint = "correct the name, or remove the entry";
        report.warning(configuration, key, format!("`{name}` is not installed"), hint);
    }
    let (mut labels, mut projects) = (BTreeMap::new(), BTreeMap::new());
    for name in &names {
        let file = dir.join(name).join("app_meta.json");
        // Its folder may hold an icon.
        if labelled.contains(&name.to_ascii_lowercase()) && !file.exists() {
            continue;
        }
        if let Some(other) = labels.insert(name.to_ascii_lowercase(), name) {
            let hint = "hosts are read in lower case; rename one of the two";
            report.error(&file, "", format!("has the same host as the app `{other}`"), hint);
        } else if let Some(project) = project_of(name)
            && let Some(other) = projects.insert(project, name)
        {
            let hint = "each would wake the containers of the other; rename one of the two";
            report.error(&file, "", format!("shares its Compose project with `{other}`"), hint);
        }
        one(config, name, &file, report);
    }
}

/// Whether the process creates the folder of the apps if it is missing.
fn is_created(config: &Config) -> bool {
    let dir = &config.store.installed_apps_dir;
    let has_labels = config.store.labels && config.wake.enabled;
    matches!(&config.store.kind, StoreKind::Files { path, .. }
        if has_labels && dir.parent() == Some(path) && path.is_dir())
}

fn one(config: &Config, name: &str, file: &Path, report: &mut Report) {
    let json = match regular_file::read_now(file, app_meta::MAX_SIZE) {
        Ok(json) => json,
        Err(error) => {
            let hint = "write the file, or remove the folder if it is not an app's";
            return report.error(file, "", format!("cannot be read: {error}"), hint);
        }
    };
    let meta = match AppMeta::parse(&json) {
        Ok(meta) => meta,
        Err(error) => {
            let hint = "correct the file; until then the app answers 503";
            return report.error(file, "", error, hint);
        }
    };
    for key in repeated_keys(&json) {
        report.warning(file, key, "appears twice; the last one counts", "remove one of them");
    }
    let label = app_label(name, None);
    if !label.is_ok_and(|label| label.eq_ignore_ascii_case(name)) {
        let hint = "name the folder with letters, digits, `-` and `_` only";
        report.warning(file, "", format!("no host can name the app `{name}`"), hint);
    }
    if meta.name != name {
        let problem = format!("is `{}`, and the folder is `{name}`", meta.name);
        report.warning(file, "name", problem, "the folder's name counts; make them the same");
    }
    if let Some(value) = &meta.foreign_wake {
        let hint = "use auto, pass, page or hold, unless it is another program's key";
        report.warning(file, "wake", format!("unknown value {value} is ignored"), hint);
    }
    for problem in &meta.invalid_hosts {
        report.warning(file, "hosts", problem, "correct it; until then it names no app");
    }
    let warnings = rule_warnings(&meta.paths, config.gate.path_matching);
    for RuleWarning { prefix, problem, hint } in warnings {
        report.warning(file, key_of(&prefix), problem, &hint);
    }
    for rule in &meta.paths {
        headers(config, rule, file, report);
    }
}

pub(super) fn headers(config: &Config, rule: &PathRule, file: &Path, report: &mut Report) {
    let key = |header: &str| format!("{}.headers.{header:?}", key_of(&rule.prefix));
    let mut names = BTreeMap::new();
    for (header, template) in &rule.headers {
        let lower = header.to_ascii_lowercase();
        if !lower.starts_with(GRANTED) {
            let hint = "proxies pass on only `X-Ptl-*`, and remove those that clients send";
            report.warning(file, key(header), "never reaches the app", hint);
        }
        if let Some(other) = names.insert(lower, header) {
            let hint = "names of headers are case-insensitive; remove one of them";
            report.warning(file, key(header), format!("is the same header as `{other}`"), hint);
        }
        let alone = BTreeMap::from([(header.clone(), template.clone())]);
        if let Err(problem) = renders(config, &alone) {
            let hint = "correct the template; until then the paths of this key answer 503";
            report.error(file, key(header), problem, hint);
        }
    }
}

/// Checks that templates render for every kind of client.
fn renders(config: &Config, headers: &BTreeMap<String, String>) -> Result<(), String> {
    let templates = HeaderTemplates::compile(headers).map_err(|error| error.to_string())?;
    let known = KnownClient { id: "sample".into(), name: "Sample".into() };
    let identity = Identity {
        id: "sample".repeat(17),
        domain: "box.example".into(),
        public_key_pem: String::new(),
    };
    for client in [Client::Terminal(&known), Client::Peer(&known), Client::Anonymous] {
        templates
            .render(client, Some(&identity), config.gate.header_encoding)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn key_of(prefix: &str) -> String {
    format!("paths.{prefix:?}")
}
