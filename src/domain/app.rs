//! An app's own description, `app_meta.json`, versions 1.0 to 1.3.

pub mod labels;
mod lax;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use self::lax::Object;
use super::activity::Activity;
use super::strategy::StrategyChoice;

/// Who may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Anyone.
    Public,
    /// A terminal.
    Private,
    /// A peer; a terminal is denied.
    Peer,
}

/// One entry of `paths`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathRule {
    pub prefix: String,
    pub access: Access,
    /// Header names and the templates of their values.
    pub headers: BTreeMap<String, String>,
}

/// The parts of an `app_meta.json` that the gate and the pages need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppMeta {
    pub name: String,
    pub pretty_name: String,
    pub icon: String,
    pub app_version: String,
    pub entrypoints: Vec<Entrypoint>,
    /// Longest prefix first, so that the first match governs.
    pub paths: Vec<PathRule>,
    pub lifecycle: Lifecycle,
    pub minimum_portal_size: Size,
    /// `wake`: what requests get while the app sleeps; nightporter's own key.
    pub wake: Option<StrategyChoice>,
    /// The value of `wake` if it is not one of nightporter's words: other programs may
    /// have a key of that name.
    pub foreign_wake: Option<String>,
    /// `cors_preflight`: whether preflights pass to private paths; nightporter's own key.
    pub cors_preflight: bool,
    /// `activity`: what keeps the app awake besides requests; nightporter's own key.
    pub activity: Option<Activity>,
    /// `hosts`: whole hosts of the app, besides the one that its name gives it; nightporter's
    /// own key. Canonical: lower case, without port and trailing dot.
    pub hosts: Vec<String>,
    /// What is wrong with the other entries of `hosts`, which are ignored.
    pub invalid_hosts: Vec<String>,
}

/// A port of a container that Traefik routes to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entrypoint {
    pub container_name: String,
    #[serde(deserialize_with = "lax::port")]
    pub container_port: u16,
    #[serde(deserialize_with = "lax::word")]
    pub entrypoint_port: EntrypointPort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntrypointPort {
    Http,
    Mqtt,
}

/// Sizes of a box, smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    #[default]
    Xs,
    S,
    M,
    L,
    Xl,
}

/// When an app may sleep. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lifecycle {
    pub always_on: bool,
    pub skip_pause: bool,
    pub idle_for_pause: Option<u64>,
    pub idle_for_stop: Option<u64>,
}

/// Maximum number of keys of `paths`; each is compared with every reading of a path. Real
/// apps have fewer than ten.
const MAX_PATHS: usize = 1000;

/// Why an `app_meta.json` cannot be used; the text names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppMetaError {
    #[error("not valid JSON: {0}")]
    Json(String),
    #[error("the top level must be an object")]
    NotAnObject,
    #[error("`v` is {0}; known versions are 1.0, 1.1, 1.2 and 1.3")]
    Version(String),
    #[error("{0}")]
    Shape(String),
    #[error("`paths` has {0} keys; at most {MAX_PATHS} are allowed")]
    Paths(usize),
    #[error("`lifecycle`: {0}")]
    Lifecycle(&'static str),
}

/// Version 1.3 as it is in the file; unknown keys are ignored, since other programs add
/// their own.
#[derive(Deserialize)]
struct Raw {
    app_version: String,
    name: String,
    pretty_name: String,
    icon: String,
    entrypoints: Vec<Object<Entrypoint>>,
    paths: BTreeMap<String, Object<RawPath>>,
    #[serde(default)]
    lifecycle: Object<RawLifecycle>,
    #[serde(default, deserialize_with = "lax::word")]
    minimum_portal_size: Size,
    wake: Option<Value>,
    cors_preflight: Option<Value>,
    /// A value of another type belongs to another program.
    activity: Option<Value>,
    /// The same.
    hosts: Option<Value>,
}

#[derive(Deserialize, Default)]
struct RawLifecycle {
    #[serde(default, deserialize_with = "lax::flag")]
    always_on: bool,
    #[serde(default, deserialize_with = "lax::flag")]
    skip_pause: bool,
    #[serde(default, deserialize_with = "lax::seconds")]
    idle_for_pause: Option<i64>,
    #[serde(default, deserialize_with = "lax::seconds")]
    idle_for_stop: Option<i64>,
}

#[derive(Deserialize)]
struct RawPath {
    #[serde(deserialize_with = "lax::word")]
    access: Access,
    headers: Option<BTreeMap<String, String>>,
}

impl AppMeta {
    /// Parses any known version, upgrading it to 1.3.
    ///
    /// # Errors
    /// The first problem that makes the file unusable.
    pub fn parse(json: &[u8]) -> Result<Self, AppMetaError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| AppMetaError::Json(error.to_string()))?;
        let Value::Object(mut object) = value else {
            return Err(AppMetaError::NotAnObject);
        };
        upgrade(&mut object)?;
        let raw: Raw = serde_json::from_value(Value::Object(object))
            .map_err(|error| AppMetaError::Shape(error.to_string()))?;
        Self::from_raw(raw)
    }

    fn from_raw(raw: Raw) -> Result<Self, AppMetaError> {
        let lifecycle = Lifecycle::from_raw(&raw.lifecycle.0)?;
        if raw.paths.len() > MAX_PATHS {
            return Err(AppMetaError::Paths(raw.paths.len()));
        }
        let mut paths: Vec<PathRule> = raw
            .paths
            .into_iter()
            .map(|(prefix, Object(RawPath { access, headers }))| PathRule {
                prefix,
                access,
                headers: headers.unwrap_or_default(),
            })
            .collect();
        let wake = raw.wake.as_ref().and_then(Value::as_str).and_then(StrategyChoice::from_name);
        let foreign_wake = raw.wake.filter(|value| !value.is_null() && wake.is_none());
        paths.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        let (hosts, invalid_hosts) = hosts(raw.hosts.as_ref());
        Ok(Self {
            name: raw.name,
            pretty_name: raw.pretty_name,
            icon: raw.icon,
            app_version: raw.app_version,
            entrypoints: raw.entrypoints.into_iter().map(|Object(entrypoint)| entrypoint).collect(),
            paths,
            lifecycle,
            minimum_portal_size: raw.minimum_portal_size,
            wake,
            foreign_wake: foreign_wake.map(|value| value.to_string()),
            // Any other value of that key belongs to another program.
            cors_preflight: raw.cors_preflight == Some(Value::Bool(true)),
            activity: raw.activity.and_then(|activity| Activity::named(activity.as_str()?)),
            hosts,
            invalid_hosts,
        })
    }
}

impl Lifecycle {
    /// Shortest idle time that an app may set, in seconds.
    const MIN_IDLE: i64 = 5;

    fn from_raw(raw: &RawLifecycle) -> Result<Self, AppMetaError> {
        let RawLifecycle { always_on, skip_pause, idle_for_pause, idle_for_stop } = *raw;
        let refuse = |hint| Err(AppMetaError::Lifecycle(hint));
        if always_on && (skip_pause || idle_for_pause.is_some() || idle_for_stop.is_some()) {
            return refuse("always_on excludes skip_pause, idle_for_pause and idle_for_stop");
        }
        if skip_pause && idle_for_pause.is_some() {
            return refuse("skip_pause excludes idle_for_pause");
        }
        if [idle_for_pause, idle_for_stop].into_iter().flatten().any(|s| s < Self::MIN_IDLE) {
            return refuse("idle times must be at least 5 seconds");
        }
        if let (Some(pause), Some(stop)) = (idle_for_pause, idle_for_stop)
            && pause >= stop
        {
            return refuse("idle_for_pause must be shorter than idle_for_stop");
        }
        Ok(Self {
            always_on,
            skip_pause,
            idle_for_pause: idle_for_pause.map(i64::unsigned_abs),
            idle_for_stop: idle_for_stop.map(i64::unsigned_abs),
        })
    }
}

/// Returns the hosts that an app names, and what is wrong with the others. A value that is
/// no list of strings belongs to another program.
fn hosts(value: Option<&Value>) -> (Vec<String>, Vec<String>) {
    let texts = value.and_then(Value::as_array).into_iter().flatten();
    let Some(texts) = texts.map(Value::as_str).collect::<Option<Vec<_>>>() else {
        return (Vec::new(), Vec::new());
    };
    let (mut hosts, mut problems) = (BTreeSet::new(), Vec::new());
    for text in texts {
        match labels::claimed_host(text) {
            Ok(host) => drop(hosts.insert(host)),
            Err(problem) => problems.push(problem),
        }
    }
    (hosts.into_iter().collect(), problems)
}

/// Upgrades an object of any known version to 1.3.
fn upgrade(object: &mut Map<String, Value>) -> Result<(), AppMetaError> {
    let version = match object.get("v") {
        Some(Value::String(text)) => text.clone(),
        Some(other) => {
            return Err(AppMetaError::Version(format!("{other}, which is not a string")));
        }
        None => return Err(AppMetaError::Version("missing".into())),
    };
    match version.as_str() {
        "1.0" => {
            let name = object.get("name").cloned().unwrap_or(Value::Null);
            object.insert("pretty_name".into(), pretty(&name));
            upgrade_lifecycle(object);
        }
        "1.1" | "1.2" => upgrade_lifecycle(object),
        "1.3" => {}
        _ => return Err(AppMetaError::Version(version)),
    }
    Ok(())
}

/// 1.0 → 1.1: a name to show, made from the app's own.
fn pretty(name: &Value) -> Value {
    match name {
        Value::String(name) => Value::String(pretty_name(name)),
        other => other.clone(),
    }
}

/// Returns a name to show, made from the app's own: `paperless-ngx` becomes `Paperless Ngx`.
fn pretty_name(name: &str) -> String {
    let words: Vec<String> = name
        .split(['-', '_', ' '])
        .filter(|word| !word.is_empty())
        .map(|word| {
            let mut characters = word.chars();
            characters
                .next()
                .map(|first| first.to_uppercase().chain(characters).collect())
                .unwrap_or_default()
        })
        .collect();
    words.join(" ")
}

/// 1.2 → 1.3: `idle_time_for_shutdown` becomes `idle_for_pause`, unless the app
/// is always on.
fn upgrade_lifecycle(object: &mut Map<String, Value>) {
    let lifecycle = object.entry("lifecycle").or_insert(Value::Null);
    if lifecycle.is_null() {
        *lifecycle = Value::Object(Map::new());
    }
    if let Value::Object(lifecycle) = lifecycle {
        let idle = lifecycle.remove("idle_time_for_shutdown");
        // By the raw value, before it is parsed as a flag: `"off"` is a non-empty text.
        let always_on = lifecycle.get("always_on").is_some_and(lax::is_truthy);
        if let (Some(idle), false) = (idle, always_on) {
            lifecycle.insert("idle_for_pause".into(), idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<AppMeta, AppMetaError> {
        AppMeta::parse(value.to_string().as_bytes())
    }

    fn minimal() -> Value {
        json!({
            "v": "1.3", "app_version": "1", "name": "notes", "pretty_name": "Notes",
            "icon": "icon.svg", "entrypoints": [],
            "paths": {"": {"access": "private"}, "/pub": {"access": "public", "headers": null}},
        })
    }

    #[test]
    fn paths_are_ordered_longest_first() {
        let meta = parse(&minimal()).expect("valid");
        let prefixes: Vec<_> = meta.paths.iter().map(|rule| rule.prefix.as_str()).collect();
        assert_eq!(prefixes, ["/pub", ""]);
        assert_eq!(meta.minimum_portal_size, Size::Xs);
    }

    #[test]
    fn every_known_version_reads_as_1_3() {
        for v in ["1.0", "1.1", "1.2"] {
            let mut old = minimal();
            old["v"] = json!(v);
            old["lifecycle"] = json!({"idle_time_for_shutdown": 60});
            assert_eq!(parse(&old).expect(v).lifecycle.idle_for_pause, Some(60), "{v}");
            old["lifecycle"] = json!({"always_on": true, "idle_time_for_shutdown": 60});
            assert_eq!(parse(&old).expect(v).lifecycle.idle_for_pause, None, "{v}");
            old["lifecycle"] = Value::Null;
            assert_eq!(parse(&old).expect(v).lifecycle, Lifecycle::default(), "{v}");
        }
        let mut first = minimal();
        first["v"] = json!("1.0");
        first["name"] = json!("paperless-ngx");
        first.as_object_mut().expect("object").remove("pretty_name");
        assert_eq!(parse(&first).expect("1.0").pretty_name, "Paperless Ngx");
    }

    #[test]
    fn lifecycles_that_contradict_themselves_are_refused() {
        for (lifecycle, part) in [
            (json!({"always_on": true, "idle_for_stop": 60}), "always_on"),
            (json!({"skip_pause": true, "idle_for_pause": 60}), "skip_pause"),
            (json!({"idle_for_stop": 4}), "5 seconds"),
            (json!({"idle_for_pause": 60, "idle_for_stop": 60}), "shorter"),
        ] {
            let mut meta = minimal();
            meta["lifecycle"] = lifecycle;
            let error = parse(&meta).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn preflights_pass_where_the_app_says_so_and_nowhere_else() {
        assert!(!parse(&minimal()).expect("valid").cors_preflight);
        for (value, passes) in [
            (json!(true), true),
            (json!(false), false),
            (json!(null), false),
            (json!({"origins": []}), false),
        ] {
            let mut meta = minimal();
            meta["cors_preflight"] = value;
            assert_eq!(parse(&meta).expect("valid").cors_preflight, passes, "{meta}");
        }
    }

    #[test]
    fn unusable_files_say_why() {
        assert!(matches!(AppMeta::parse(b"{"), Err(AppMetaError::Json(_))));
        assert!(matches!(AppMeta::parse(b"[]"), Err(AppMetaError::NotAnObject)));
        assert!(matches!(AppMeta::parse(b"{}"), Err(AppMetaError::Version(_))));
        let mut meta = minimal();
        meta["paths"] =
            (0..=MAX_PATHS).map(|n| (format!("/{n}"), json!({"access": "public"}))).collect();
        assert_eq!(parse(&meta), Err(AppMetaError::Paths(MAX_PATHS + 1)));
        let mut meta = minimal();
        meta["wake"] = json!("sometimes");
        assert_eq!(parse(&meta).expect("valid").foreign_wake.as_deref(), Some("\"sometimes\""));
        for foreign in [json!({"schedule": "daily"}), json!(true), json!([]), json!(5)] {
            meta["wake"] = foreign.clone();
            let parsed = parse(&meta).expect("another program's key");
            assert_eq!((parsed.wake, parsed.foreign_wake), (None, Some(foreign.to_string())));
        }
        meta["wake"] = Value::Null;
        assert_eq!(parse(&meta).expect("valid").foreign_wake, None);
        meta["wake"] = json!("hold");
        assert_eq!(parse(&meta).expect("valid").wake, StrategyChoice::from_name("hold"));
        meta["activity"] = json!("exec");
        assert_eq!(parse(&meta).expect("valid").activity, Activity::named("exec"));
        meta["activity"] = json!({"of": "another program"});
        assert_eq!(parse(&meta).expect("valid").activity, None);
        meta["paths"]["/x"] = json!({"access": "secret"});
        let error = parse(&meta).expect_err("unknown access").to_string();
        assert!(error.contains("secret"), "{error}");
    }

    #[test]
    fn every_key_has_the_values_that_the_core_takes() {
        let set = |pointer: &str, value: Value| {
            let mut meta = minimal();
            meta["entrypoints"] =
                json!([{"container_name": "a", "container_port": 80, "entrypoint_port": "http"}]);
            meta["lifecycle"] = json!({});
            let (outer, key) = pointer.rsplit_once('/').expect("a pointer");
            let outer = meta.pointer_mut(outer).expect("is there");
            match value {
                // Stands for a missing key.
                Value::String(word) if word == "absent" => {
                    outer.as_object_mut().expect("an object").remove(key);
                }
                value => outer[key] = value,
            }
            meta
        };
        for (pointer, accepted, refused) in [
            ("/v", vec![json!("1.3"), json!("1.0")], vec![json!(1.3), json!("1.4"), json!(null)]),
            ("/v", vec![], vec![json!("absent"), json!(["1.3"]), json!("")]),
            (
                "/app_version",
                vec![json!("1"), json!("")],
                vec![json!(1), json!("absent"), json!(null)],
            ),
            ("/name", vec![json!("a")], vec![json!("absent"), json!(null), json!(7)]),
            ("/pretty_name", vec![json!("a")], vec![json!("absent"), json!(null), json!(true)]),
            ("/icon", vec![json!("a")], vec![json!("absent"), json!(null)]),
            ("/entrypoints", vec![json!([])], vec![json!("absent"), json!(null), json!({})]),
            (
                "/paths",
                vec![json!({})],
                vec![json!("absent"), json!(null), json!([]), json!({"": ["public", null]})],
            ),
            (
                "/entrypoints/0/container_port",
                vec![json!("80"), json!(80.0), json!(true)],
                vec![
                    json!(80.5),
                    json!("http"),
                    json!(null),
                    json!("absent"),
                    json!(70_000),
                    json!(-1),
                ],
            ),
            ("/entrypoints/0/container_name", vec![json!("a")], vec![json!(1), json!("absent")]),
            (
                "/entrypoints/0/entrypoint_port",
                vec![json!("mqtt")],
                vec![json!("HTTP"), json!(80), json!({"http": null})],
            ),
            (
                "/lifecycle",
                vec![json!({}), json!("absent")],
                vec![json!(null), json!([]), json!(1)],
            ),
            (
                "/lifecycle/always_on",
                vec![json!("yes"), json!(1), json!("off"), json!(0.0)],
                vec![json!("maybe"), json!(2), json!(null), json!([])],
            ),
            ("/lifecycle/skip_pause", vec![json!("On"), json!(false)], vec![json!(" on")]),
            (
                "/lifecycle/idle_for_stop",
                vec![json!("60"), json!(60.0), json!(null)],
                vec![json!("1m"), json!(4), json!("-60"), json!(60.5), json!("")],
            ),
            (
                "/minimum_portal_size",
                vec![json!("s"), json!("absent")],
                vec![json!("S"), json!(null), json!("xxl"), json!(1)],
            ),
            (
                "/paths//access",
                vec![json!("peer")],
                vec![json!("Public"), json!("absent"), json!(1), json!({"public": null})],
            ),
            (
                "/paths//headers",
                vec![json!(null), json!({}), json!("absent")],
                vec![json!([]), json!({"a": 1})],
            ),
            ("/oidc", vec![json!(1), json!({"a": []}), json!(null)], vec![]),
        ] {
            for value in accepted {
                let parsed = parse(&set(pointer, value.clone()));
                assert!(parsed.is_ok(), "{pointer} {value}: {parsed:?}");
            }
            for value in refused {
                let parsed = parse(&set(pointer, value.clone()));
                assert!(parsed.is_err(), "{pointer} {value}: {parsed:?}");
            }
        }
    }

    #[test]
    fn an_upgrade_looks_at_a_flag_before_it_is_read_as_one() {
        for (always_on, idle) in [
            (json!(false), Some(60)),
            (json!(0), Some(60)),
            (json!(""), None),
            (json!("off"), None),
        ] {
            let mut old = minimal();
            old["v"] = json!("1.2");
            old["lifecycle"] = json!({"always_on": always_on, "idle_time_for_shutdown": "60"});
            let read = parse(&old).map(|meta| meta.lifecycle.idle_for_pause);
            match always_on.as_str() {
                // Not a flag at all.
                Some("") => assert!(read.is_err()),
                _ => assert_eq!(read, Ok(idle), "{always_on}"),
            }
        }
    }
}
