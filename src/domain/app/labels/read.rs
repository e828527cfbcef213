//! Reads the labels of one container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::time::Duration;

use super::super::Access;
use super::{APP, Finding, Labelled};
use crate::domain::request::Host;
use crate::domain::strategy::StrategyChoice;

/// What begins the label of a header's template.
const HEADERS: &str = "headers.";

/// The labels that an app can be described with, for the finding about an unknown one.
const KNOWN: &str = "known are app, public, peer, private, headers.<Name>, hosts, port, strategy, \
                     idle-for-pause, idle-for-stop, always-on, name and icon";

/// Characters that have no meaning at the beginning of a path, or another one than whoever
/// writes them expects: `/admin/*` would protect nothing.
const REFUSED: &str = "*?#\\;{}[]()<>|\"'`^";

/// Longest text that is shown as a name, in bytes.
const MAX_NAME: usize = 200;

/// What the labels of one container say; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedLabels {
    pub paths: Option<BTreeMap<String, Access>>,
    /// By the lower-case name: the name as written, and the template.
    pub headers: BTreeMap<String, (String, String)>,
    /// Canonical: lower case, without port and trailing dot.
    pub hosts: Option<BTreeSet<String>>,
    pub port: Option<u16>,
    pub strategy: Option<StrategyChoice>,
    /// In seconds.
    pub idle_for_pause: Option<i64>,
    pub idle_for_stop: Option<i64>,
    pub always_on: Option<bool>,
    pub name: Option<String>,
    pub icon: Option<String>,
    pub findings: Vec<Finding>,
    /// Whether a label says more than which app the container belongs to.
    pub is_describing: bool,
}

impl ParsedLabels {
    pub(super) fn has_lifecycle(&self) -> bool {
        self.idle_for_pause.is_some() || self.idle_for_stop.is_some() || self.always_on.is_some()
    }
}

/// Reads the labels of one container. What cannot be read is a finding.
#[must_use]
pub fn read(labelled: &Labelled) -> ParsedLabels {
    let mut parsed = ParsedLabels::default();
    for (label, value) in &labelled.labels {
        if label == APP {
            continue;
        }
        parsed.is_describing = true;
        if let Err(problem) = parsed.take(label, value.trim()) {
            let (container, label) = (labelled.container.clone(), label.clone());
            parsed.findings.push(Finding { container, label, problem });
        }
    }
    if parsed.is_describing && labelled.apps().len() > 1 {
        let problem = "names several apps, and other labels describe one of them; remove those, \
                       or put them on a container of that app alone";
        let (container, label) = (labelled.container.clone(), APP.to_owned());
        parsed.findings.push(Finding { container, label, problem: problem.into() });
    }
    parsed
}

impl ParsedLabels {
    fn take(&mut self, label: &str, value: &str) -> Result<(), String> {
        if let Some(name) = label.strip_prefix(HEADERS) {
            return self.header(name, value);
        }
        match label {
            "public" => return self.paths(value, Access::Public),
            "peer" => return self.paths(value, Access::Peer),
            "private" => return self.paths(value, Access::Private),
            _ => {}
        }
        if !KEYS.contains(&label) {
            return Err(format!("is unknown; {KNOWN}"));
        }
        if value.is_empty() {
            return Err("is empty; give it a value, or remove it".into());
        }
        match label {
            "hosts" => self.hosts = Some(hosts(value)?),
            "port" => self.port = Some(port(value)?),
            "strategy" => self.strategy = Some(strategy(value)?),
            "idle-for-pause" => self.idle_for_pause = Some(seconds(value)?),
            "idle-for-stop" => self.idle_for_stop = Some(seconds(value)?),
            "always-on" => self.always_on = Some(flag(value)?),
            "name" => self.name = Some(shown_name(value)?),
            "icon" => self.icon = Some(icon(value)?),
            _ => {}
        }
        Ok(())
    }

    fn header(&mut self, name: &str, template: &str) -> Result<(), String> {
        // The characters of a token (RFC 9110 section 5.6.2).
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("invalid header name `{name}`"));
        }
        if template.chars().any(char::is_control) {
            return Err("has a control character".into());
        }
        let entry = (name.to_owned(), template.to_owned());
        match self.headers.insert(name.to_ascii_lowercase(), entry) {
            Some((other, _)) => Err(format!("is the same header as `{other}`")),
            None => Ok(()),
        }
    }

    fn paths(&mut self, list: &str, access: Access) -> Result<(), String> {
        let mut added = BTreeMap::new();
        for prefix in list.split(',').map(str::trim) {
            added.insert(path(prefix)?.to_owned(), access);
        }
        let paths = self.paths.get_or_insert_default();
        for (prefix, access) in added {
            if paths.insert(prefix.clone(), access).is_some_and(|other| other != access) {
                return Err(format!("`{prefix}` is in two lists"));
            }
        }
        Ok(())
    }
}

/// The keys that have one value.
const KEYS: [&str; 8] =
    ["hosts", "port", "strategy", "idle-for-pause", "idle-for-stop", "always-on", "name", "icon"];

/// Checks the beginning of a path.
fn path(prefix: &str) -> Result<&str, String> {
    if prefix.is_empty() {
        return Err("has an empty path; write `/` for all paths".into());
    }
    if !prefix.starts_with('/') {
        return Err(format!("invalid path `{prefix}`: it must begin with `/`"));
    }
    if let Some(refused) =
        prefix.chars().find(|c| c.is_whitespace() || c.is_control() || REFUSED.contains(*c))
    {
        let refused = refused.escape_debug();
        return Err(format!(
            "invalid path `{prefix}`: `{refused}` is not allowed; a path is a plain beginning, \
             without patterns"
        ));
    }
    if prefix.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(format!("invalid path `{prefix}`: it has a segment `.` or `..`"));
    }
    if prefix[1..].contains("//") || prefix.starts_with("//") {
        return Err(format!("invalid path `{prefix}`: it has an empty segment"));
    }
    Ok(prefix)
}

fn hosts(list: &str) -> Result<BTreeSet<String>, String> {
    list.split(',').map(|host| claimed_host(host.trim())).collect()
}

/// Checks a host that an app names, and returns its canonical form: lower case, without
/// port and trailing dot.
///
/// # Errors
/// What is wrong with it.
pub(in super::super) fn claimed_host(text: &str) -> Result<String, String> {
    let invalid = || format!("invalid host `{text}`: expected a name such as wiki.example.org");
    if text.contains(':') {
        return Err(format!("invalid host `{text}`: write it without scheme and port"));
    }
    let host = Host::parse(text).map_err(|_| invalid())?.lower().into_owned();
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    // The last label of a name is not a number, so an address is none.
    let is_address = host.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_ok());
    if !host.split('.').all(is_label) || is_address {
        return Err(invalid());
    }
    Ok(host)
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0 && !text.starts_with('+'));
    port.ok_or_else(|| format!("invalid port `{text}`: expected a number from 1 to 65535"))
}

fn strategy(text: &str) -> Result<StrategyChoice, String> {
    StrategyChoice::from_name(text)
        .ok_or_else(|| format!("invalid strategy `{text}`: expected auto, pass, page or hold"))
}

fn seconds(text: &str) -> Result<i64, String> {
    let invalid =
        || format!("invalid duration `{text}`: expected a number and a unit, such as `10m`");
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let duration = humantime::parse_duration(text).map_err(|_| invalid())?;
    if duration > LONGEST || duration.subsec_nanos() != 0 {
        return Err(format!("invalid duration `{text}`: expected whole seconds, a year at most"));
    }
    i64::try_from(duration.as_secs()).map_err(|_| invalid())
}

/// The longest idle time.
const LONGEST: Duration = Duration::from_hours(366 * 24);

fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("invalid value `{text}`: expected true or false")),
    }
}

fn shown_name(text: &str) -> Result<String, String> {
    if text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(format!("is longer than {MAX_NAME} bytes, or has a control character"));
    }
    Ok(text.to_owned())
}

/// Checks the name of a file in the app's folder of `store.installed_apps_dir`.
fn icon(text: &str) -> Result<String, String> {
    let mut parts = Path::new(text).components();
    if !parts.all(|part| matches!(part, Component::Normal(_))) || text.contains('\\') {
        return Err(format!("invalid icon `{text}`: expected a file in the app's folder"));
    }
    Ok(text.to_owned())
}
