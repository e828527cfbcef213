//! The values in force, each with its source.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value as Json;

use super::Environment;
use super::findings::{Findings, Origin};
use super::key::{self, GivenValues, Key};
use super::keys::TABLE;
use super::load::load_with_sources;
use super::sources::Sources;

/// What is shown in a secret's place.
const MASK: &str = "***";

/// The value of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    pub key: Cow<'static, str>,
    /// As it was written; a secret is masked. `None` if it is unset.
    pub value: Option<Json>,
    pub origin: Origin,
    /// Whether a reload applies a change.
    pub is_reloaded: bool,
}

impl EffectiveValue {
    /// Returns the value as it is written in the file.
    #[must_use]
    pub fn toml(&self) -> Option<String> {
        self.value.as_ref().map(key::toml)
    }
}

/// Returns the value of every key, in the order of the documented file; behind them those of
/// the sections that may be given several times, with their numbers from 1.
///
/// # Errors
/// Returns the same findings as [`load`](super::load()).
pub fn show(file: Option<&Path>, env: &Environment) -> Result<Vec<EffectiveValue>, Findings> {
    let (_, mut sources) = load_with_sources(file, env)?;
    let single = TABLE.keys().filter(|key| !TABLE.is_listed(key.name));
    let mut shown: Vec<_> = single.map(|key| effective_value(key, &sources)).collect();
    for entry in 0..sources.entries() {
        sources.choose(Some(entry));
        shown.extend(TABLE.listed().map(|key| {
            let (section, leaf) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            let name = format!("{section}.{}.{leaf}", entry + 1).into();
            EffectiveValue { key: name, ..effective_value(key, &sources) }
        }));
    }
    Ok(shown)
}

fn effective_value(key: &'static Key, sources: &Sources) -> EffectiveValue {
    let &Key { name, file_name, shape, is_reloaded, .. } = key;
    let (origin, value) = if key.is_secret() {
        let given = sources.get(name).or_else(|| sources.get(file_name));
        (given.map(|(origin, _)| origin.clone()), given.map(|_| MASK.into()))
    } else {
        let (origin, raw) = sources.effective_value(name).unzip();
        (origin, raw.map(|raw| shape.json(&raw)))
    };
    EffectiveValue {
        key: name.into(),
        value,
        origin: origin.unwrap_or(Origin::Default),
        is_reloaded,
    }
}
