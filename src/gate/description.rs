//! An app's description, prepared for deciding.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::headers::{HeaderTemplates, TemplateError};
use super::interner::Interner;
use crate::domain::app::{AppMeta, PathRule};
use crate::domain::policy::{PathMatching, Rules};
use crate::domain::strategy::StrategyChoice;

/// What the gate and the pages need of an app's description.
#[derive(Debug)]
pub struct Description {
    pub pretty_name: Box<str>,
    pub icon: Box<str>,
    pub wake: Option<StrategyChoice>,
    pub cors_preflight: bool,
    pub paths: Arc<Paths>,
}

/// The rules of an app's paths, with their templates compiled. Apps with the same `paths`
/// share it.
#[derive(Debug)]
pub struct Paths {
    /// As written, longest prefix first, without the headers.
    pub written: Box<[PathRule]>,
    pub rules: Rules,
    /// One for each rule, or the reason why its templates cannot be used.
    pub templates: Box<[Result<Arc<HeaderTemplates>, String>]>,
}

/// The paths in use, and the compiled headers in use: different paths may set the same ones.
#[derive(Debug)]
pub struct SharedPaths {
    matching: PathMatching,
    paths: Interner<Vec<PathRule>, Paths>,
    templates: Interner<Headers, HeaderTemplates>,
}

/// Header names and the templates of their values.
type Headers = BTreeMap<String, String>;

impl SharedPaths {
    #[must_use]
    pub fn new(matching: PathMatching) -> Self {
        Self { matching, paths: Interner::default(), templates: Interner::default() }
    }

    /// Prepares the rules and compiles the templates of every path.
    fn share(&self, written: &[PathRule]) -> Arc<Paths> {
        let prepare = |written: &[PathRule]| Ok::<_, Infallible>(self.prepare(written));
        let Ok(paths) = self.paths.get_or_make(written, prepare);
        paths
    }

    fn prepare(&self, written: &[PathRule]) -> Paths {
        let compile = |rule: &PathRule| {
            let compile = |headers: &Headers| HeaderTemplates::compile(headers);
            self.templates.get_or_make(&rule.headers, compile).map_err(|error: TemplateError| {
                format!("paths.\"{}\".headers: {error}", rule.prefix)
            })
        };
        let without_headers = |rule: &PathRule| PathRule {
            prefix: rule.prefix.clone(),
            access: rule.access,
            headers: Headers::new(),
        };
        Paths {
            rules: Rules::new(written, self.matching),
            templates: written.iter().map(compile).collect(),
            written: written.iter().map(without_headers).collect(),
        }
    }
}

impl Description {
    #[must_use]
    pub fn new(meta: AppMeta, shared: &SharedPaths) -> Self {
        Self {
            pretty_name: meta.pretty_name.into(),
            icon: meta.icon.into(),
            wake: meta.wake,
            cors_preflight: meta.cors_preflight,
            paths: shared.share(&meta.paths),
        }
    }
}

impl Paths {
    /// Returns why paths of the app answer 503, for the operator: for each such path, the
    /// first header whose name or template cannot be used.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.templates.iter().filter_map(|templates| templates.as_ref().err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Describes an app with one path whose rule sets one header.
    fn description(shared: &SharedPaths, name: &str, prefix: &str, value: &str) -> Description {
        let meta = serde_json::json!({
            "v": "1.3", "app_version": "1", "name": name, "pretty_name": name, "icon": "i",
            "entrypoints": [],
            "paths": {prefix: {"access": "public", "headers": {"X-Ptl-Test": value}}},
        });
        let meta = AppMeta::parse(meta.to_string().as_bytes()).expect("valid");
        Description::new(meta, shared)
    }

    #[test]
    fn apps_share_what_is_the_same_and_nothing_else() {
        let shared = SharedPaths::new(PathMatching::Prefix);
        let of = |name, prefix, value| description(&shared, name, prefix, value);
        let (one, same) = (of("a", "/x", "1"), of("b", "/x", "1"));
        assert!(Arc::ptr_eq(&one.paths, &same.paths));
        assert_eq!((&*one.pretty_name, &*same.pretty_name), ("a", "b"));
        let (other_path, other_value) = (of("c", "/y", "1"), of("d", "/x", "2"));
        let compiled = |of: &Description| of.paths.templates[0].clone().expect("compiled");
        assert!(!Arc::ptr_eq(&one.paths, &other_path.paths));
        assert!(Arc::ptr_eq(&compiled(&one), &compiled(&other_path)));
        assert!(!Arc::ptr_eq(&compiled(&one), &compiled(&other_value)));
        let refused = of("e", "/z", "{{ auth.client_id | unknown }}");
        assert_eq!(refused.paths.problems().count(), 1);
        assert!(refused.paths.problems().all(|problem| problem.starts_with("paths.\"/z\"")));
    }
}
