//! What the file and the environment say, before anything is made of it.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::findings::{Findings, Origin};
use super::{Environment, keys};

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    Text(String),
    Integer(String),
    Boolean(bool),
    List(Vec<Raw>),
    /// A variable's text, which may mean any of the above.
    Variable(String),
    /// Anything that no key takes, by the name of its type.
    Other(&'static str),
}

/// The values given, by key, each with where it was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, (Origin, Raw)>,
}

impl Given {
    /// Reads the file, then the environment over it. Names that are no key are
    /// findings; an error here means that the file could not be read at all,
    /// so that nothing can be said about the values.
    pub(super) fn gather(
        file: Option<&Path>,
        env: &Environment,
        findings: &mut Findings,
    ) -> Option<Self> {
        let mut given = Self::default();
        let readable = file.is_none_or(|file| given.read_file(file, findings).is_some());
        given.read_environment(env, findings);
        readable.then_some(given)
    }

    pub(super) fn get(&self, key: &str) -> Option<&(Origin, Raw)> {
        self.values.get(key)
    }

    fn read_file(&mut self, file: &Path, findings: &mut Findings) -> Option<()> {
        let read = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"));
        let text = match read.and_then(|text| String::from_utf8(text).map_err(|e| e.to_string())) {
            Ok(text) => text,
            Err(problem) => {
                let origin = Origin::File(file.into(), None);
                findings.push(origin, "", problem, "give a readable TOML file by --config");
                return None;
            }
        };
        let (table, mut errors) = DeTable::parse_recoverable(&text);
        let walk = Walk { file, text: &text };
        // The parser finds some errors before others of earlier lines, and more
        // than one in a line that it has lost its way in.
        let offset = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        errors.sort_by_key(offset);
        errors.dedup_by_key(|error| walk.origin(offset(error)));
        for error in &errors {
            let origin = walk.origin(offset(error));
            findings.push(origin, "", error.message(), "correct the TOML syntax of this line");
        }
        walk.table("", table.get_ref(), self, findings);
        errors.is_empty().then_some(())
    }

    fn read_environment(&mut self, env: &Environment, findings: &mut Findings) {
        for (variable, value) in env.iter().filter(|(name, _)| keys::is_ours(name)) {
            let origin = Origin::Variable(variable.clone());
            let Some(key) = keys::KEYS.into_iter().find(|key| keys::variable(key) == *variable)
            else {
                let hint = match keys::nearest_variable(variable) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "see config/nightporter.toml for all keys".into(),
                };
                findings.push(origin, "", "no key has this variable", hint);
                continue;
            };
            // Compose files pass `${UNSET:-}` on as empty text.
            if !value.is_empty() {
                self.values.insert(key, (origin, Raw::Variable(value.clone())));
            }
        }
    }
}

/// The way through a parsed file.
struct Walk<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Walk<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Origin::File(self.file.into(), Some(line))
    }

    fn table(
        &self,
        section: &str,
        table: &DeTable<'_>,
        given: &mut Given,
        findings: &mut Findings,
    ) {
        for (name, value) in table {
            let origin = self.origin(name.span().start);
            let key = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            if let Some(known) = keys::known(&key) {
                given.values.insert(known, (origin, Raw::of(value.get_ref())));
            } else if !keys::is_section(&key) {
                let (problem, nearest) = match value.get_ref() {
                    DeValue::Table(_) => ("unknown section", keys::nearest_section(&key)),
                    _ => ("unknown key", keys::nearest(&key)),
                };
                let hint = match nearest {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "remove it; config/nightporter.toml lists all keys".into(),
                };
                findings.push(origin, key, problem, hint);
            } else if let DeValue::Table(inner) = value.get_ref() {
                self.table(&key, inner, given, findings);
            } else {
                let hint = format!("write `[{key}]` and its keys below");
                findings.push(origin, &key, "is a section, not a value", hint);
            }
        }
    }
}

impl Raw {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(integer) if integer.radix() == 10 => {
                Self::Integer(integer.as_str().to_owned())
            }
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Array(array) => {
                Self::List(array.iter().map(|item| Self::of(item.get_ref())).collect())
            }
            other => Self::Other(other.type_str()),
        }
    }

    /// The name of the value's type, for findings.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Variable(_) => "text",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }
}
