//! An app described by the labels of its containers, in place of an `app_meta.json`.
//!
//! | label | meaning |
//! |---|---|
//! | `nightporter.app` | the app that the container belongs to; with only this, all paths are private |
//! | `nightporter.public`, `.peer`, `.private` | beginnings of paths, separated by commas |
//! | `nightporter.headers.<Name>` | the template of a header, for every path |
//! | `nightporter.hosts` | whole hosts of the app, besides the one that its name gives it |
//! | `nightporter.port` | the port that requests are sent to |
//! | `nightporter.strategy` | `auto`, `pass`, `page` or `hold` |
//! | `nightporter.idle-for-pause`, `.idle-for-stop` | durations, such as `10m` |
//! | `nightporter.always-on` | `true` or `false` |
//! | `nightporter.name`, `.icon` | what pages show |
//!
//! [`read`] reads one container, [`describe`] combines all containers of an app. The labels
//! may stand on any of them, and on several if they say the same. A label that is unknown,
//! invalid or contradicted is a [`Finding`], and an app with a finding has no description:
//! its requests are denied. No mistake makes a rule looser.
//!
//! A container that was removed a moment ago may be about to be created again: what it said
//! counts only where no other container of the app says anything.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(super) use self::read::claimed_host;
pub use self::read::{ParsedLabels, read};
use super::{
    Access, AppMeta, AppMetaError, Entrypoint, EntrypointPort, Lifecycle, PathRule, RawLifecycle,
    Size, pretty_name,
};

/// What every label that this program reads begins with.
pub const PREFIX: &str = "nightporter.";

/// The label, without [`PREFIX`], that names the app a container belongs to.
pub const APP: &str = "app";

/// Labels, without [`PREFIX`], that belong to containers and services and not to the
/// description of an app.
const OTHERS: [&str; 2] = ["replicas", "last_replicas"];

/// A container, or a service of a swarm, as far as labels describe its app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    pub container: String,
    /// The Compose project and the service in it, which replicas and a container that is
    /// created again have in common.
    pub service: Option<(String, String)>,
    /// The labels that begin with [`PREFIX`], without it.
    pub labels: BTreeMap<String, String>,
    /// TCP ports that its image exposes, in order.
    pub exposed: Vec<u16>,
}

/// What is wrong with a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub container: String,
    /// Without [`PREFIX`].
    pub label: String,
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container, label, problem } = self;
        let text = format!("container {container}: label `{PREFIX}{label}`: {problem}");
        // It repeats what others have written, and is a line of the log.
        f.write_str(&text.replace(char::is_control, " "))
    }
}

/// What the labels of an app's containers say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The description, or why there is none; at least one finding.
    pub meta: Result<AppMeta, Vec<Finding>>,
    /// What is wrong, but changes no rule.
    pub notices: Vec<Finding>,
    /// Every host that a container claims for the app, also if it has no description: a
    /// claimed host must not go to another app because of a mistake.
    pub hosts: Vec<String>,
    /// Whether a label says more than which app the container belongs to.
    pub is_described: bool,
}

/// What was read of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub labelled: Labelled,
    pub parsed: ParsedLabels,
    pub is_removed: bool,
}

impl Labelled {
    /// Keeps the labels that this program reads.
    pub fn new(
        container: String,
        service: Option<(String, String)>,
        labels: &BTreeMap<String, String>,
        exposed: Vec<u16>,
    ) -> Self {
        let ours = |(key, value): (&String, &String)| {
            let key = key.strip_prefix(PREFIX)?;
            (!OTHERS.contains(&key)).then(|| (key.to_owned(), value.clone()))
        };
        Self { container, service, labels: labels.iter().filter_map(ours).collect(), exposed }
    }

    /// Returns the apps that the container belongs to.
    #[must_use]
    pub fn apps(&self) -> Vec<String> {
        app_names(self.labels.get(APP).map_or("", String::as_str))
    }

    /// Whether it is the same container, created again or once more.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        let is_same_service = self.service.is_some() && self.service == other.service;
        self.container == other.container || is_same_service
    }
}

/// Parses `notes, wiki`: the names of apps that share a container.
#[must_use]
pub fn app_names(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Returns whether a host can have this label, so that a request can name the app.
#[must_use]
pub fn is_host_label(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 63 && name.bytes().all(is_allowed)
}

/// Combines what the containers of one app say.
#[must_use]
pub fn describe(app: &str, sources: &[&Source]) -> Described {
    let mut merge = Merge { sources, findings: BTreeSet::new() };
    for source in sources {
        merge.findings.extend(source.parsed.findings.iter().cloned());
    }
    let paths = merge.one("public", |parsed| parsed.paths.as_ref());
    let port = merge.one("port", |parsed| parsed.port.as_ref());
    let wake = merge.one("strategy", |parsed| parsed.strategy.as_ref());
    let idle_for_pause = merge.one("idle-for-pause", |parsed| parsed.idle_for_pause.as_ref());
    let idle_for_stop = merge.one("idle-for-stop", |parsed| parsed.idle_for_stop.as_ref());
    let always_on = merge.one("always-on", |parsed| parsed.always_on.as_ref());
    let shown = merge.one("name", |parsed| parsed.name.as_ref());
    let icon = merge.one("icon", |parsed| parsed.icon.as_ref());
    let claimed = merge.one("hosts", |parsed| parsed.hosts.as_ref());
    let headers = merge.headers();
    let lifecycle = Lifecycle::from_raw(&RawLifecycle {
        always_on: always_on.unwrap_or_default(),
        skip_pause: false,
        idle_for_pause,
        idle_for_stop,
    });
    let lifecycle = lifecycle.unwrap_or_else(|error| {
        let container = merge.container_with(ParsedLabels::has_lifecycle);
        let problem = match error {
            AppMetaError::Lifecycle(problem) => problem.replace('_', "-"),
            other => other.to_string(),
        };
        merge.add(container, "idle-for-pause", problem);
        Lifecycle::default()
    });
    let paths = path_rules(paths.unwrap_or_default(), &headers);
    if paths.len() > super::MAX_PATHS {
        let container = merge.container_with(|parsed| parsed.paths.is_some());
        merge.add(container, "public", AppMetaError::Paths(paths.len()).to_string());
    }
    let mut notices = Vec::new();
    let entrypoints = entrypoints(sources, port, &mut notices);
    let all_hosts = || -> BTreeSet<&String> {
        sources.iter().filter_map(|source| source.parsed.hosts.as_ref()).flatten().collect()
    };
    let findings: Vec<_> = merge.findings.into_iter().collect();
    // Of an app with a contradiction, every claim counts.
    let hosts = match (claimed, findings.is_empty()) {
        (Some(hosts), true) => hosts.into_iter().collect(),
        (None, true) => Vec::new(),
        (_, false) => all_hosts().into_iter().cloned().collect(),
    };
    let meta = AppMeta {
        name: app.to_owned(),
        pretty_name: shown.unwrap_or_else(|| pretty_name(app)),
        icon: icon.unwrap_or_default(),
        app_version: String::new(),
        entrypoints,
        paths,
        lifecycle,
        minimum_portal_size: Size::default(),
        wake,
        foreign_wake: None,
        cors_preflight: false,
        activity: None,
        hosts: hosts.clone(),
        invalid_hosts: Vec::new(),
    };
    Described {
        meta: if findings.is_empty() { Ok(meta) } else { Err(findings) },
        notices,
        hosts,
        is_described: sources.iter().any(|source| source.parsed.is_describing),
    }
}

/// Finds what containers agree on, and collects where they do not.
struct Merge<'a> {
    sources: &'a [&'a Source],
    findings: BTreeSet<Finding>,
}

impl<'a> Merge<'a> {
    fn add(&mut self, container: String, label: &str, problem: String) {
        self.findings.insert(Finding { container, label: label.to_owned(), problem });
    }

    /// Returns the first container for which `has` holds.
    fn container_with(&self, has: impl Fn(&ParsedLabels) -> bool) -> String {
        let first = self.sources.iter().find(|source| has(&source.parsed));
        first.or(self.sources.first()).map_or_else(String::new, |s| s.labelled.container.clone())
    }

    /// Returns what the containers say about one thing: those that exist, or else those that
    /// were removed a moment ago.
    fn one<T: PartialEq + Clone + 'a>(
        &mut self,
        label: &str,
        get: impl Fn(&'a ParsedLabels) -> Option<&'a T>,
    ) -> Option<T> {
        let sources = self.sources;
        let parsed = |is_removed| {
            let of = sources.iter().filter(move |source| source.is_removed == is_removed);
            of.filter_map(|source| Some((&source.labelled.container, get(&source.parsed)?)))
                .collect::<Vec<_>>()
        };
        let mut values = parsed(false);
        if values.is_empty() {
            values = parsed(true);
        }
        let (first, value) = *values.first()?;
        let other = values.iter().find(|(_, other)| *other != value).map(|(other, _)| *other);
        if let Some(other) = other {
            self.add(other.clone(), label, format!("contradicts container {first}"));
        }
        Some(value.clone())
    }

    fn headers(&mut self) -> BTreeMap<String, String> {
        let names: BTreeSet<_> =
            self.sources.iter().flat_map(|source| source.parsed.headers.keys()).collect();
        let mut headers = BTreeMap::new();
        for name in names {
            let label = format!("headers.{name}");
            // As written, since an app may tell `X-Name` from `x-name`.
            if let Some((written, template)) = self.one(&label, |parsed| parsed.headers.get(name)) {
                headers.insert(written, template);
            }
        }
        headers
    }
}

/// Returns the rules, longest prefix first. What no label names is private.
fn path_rules(
    mut paths: BTreeMap<String, Access>,
    headers: &BTreeMap<String, String>,
) -> Vec<PathRule> {
    paths.entry(String::new()).or_insert(Access::Private);
    let mut rules: Vec<_> = paths
        .into_iter()
        .map(|(prefix, access)| PathRule { prefix, access, headers: headers.clone() })
        .collect();
    rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
    rules
}

/// Returns where the app's requests are sent to: the container that has the label `port`,
/// else the one with describing labels, else the app's only container, at its only port.
fn entrypoints(
    sources: &[&Source],
    port: Option<u16>,
    notices: &mut Vec<Finding>,
) -> Vec<Entrypoint> {
    let exist = || sources.iter().filter(|source| !source.is_removed);
    let candidates: Vec<_> =
        if exist().next().is_some() { exist().collect() } else { sources.iter().collect() };
    let those = |has: fn(&ParsedLabels) -> bool| -> Vec<&&Source> {
        candidates.iter().copied().filter(|source| has(&source.parsed)).collect()
    };
    let with_port = those(|parsed| parsed.port.is_some());
    let describing = those(|parsed| parsed.is_describing);
    let chosen = [with_port, describing, candidates.clone()].into_iter().find(|c| !c.is_empty());
    let chosen = chosen.unwrap_or_default();
    let Some(first) = chosen.first() else { return Vec::new() };
    let mut add = |problem: String| {
        let container = first.labelled.container.clone();
        notices.push(Finding { container, label: "port".into(), problem });
    };
    if let Some(other) = chosen.iter().find(|other| !is_replica(first, other)) {
        let other = &other.labelled.container;
        add(format!("either this or {other} could receive the requests; set it on one of them"));
        return Vec::new();
    }
    let port = match (port, &*first.labelled.exposed) {
        (Some(port), _) => port,
        (None, [port]) => *port,
        (None, exposed) => {
            let number = exposed.len();
            add(format!("is missing, and the image exposes {number} ports"));
            return Vec::new();
        }
    };
    let mut names: Vec<_> = chosen.iter().map(|source| &source.labelled.container).collect();
    names.sort();
    names.dedup();
    let entrypoint = |name: &String| Entrypoint {
        container_name: name.clone(),
        container_port: port,
        entrypoint_port: EntrypointPort::Http,
    };
    names.into_iter().map(entrypoint).collect()
}

fn is_replica(one: &Source, other: &Source) -> bool {
    let (one, other) = (&one.labelled, &other.labelled);
    one.container == other.container || (one.service.is_some() && one.service == other.service)
}

/// The name of an app as labels spell it, in lower case: hosts are read so, and the labels
/// of two containers that differ only in letter case mean the same app.
#[must_use]
pub fn app_key(name: &str) -> Arc<str> {
    name.to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests;
