//! The raw values of the file and the environment.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::findings::{Findings, Origin};
use super::key::{Fallback, GivenValues, Table};
use super::raw::Raw;
use super::{Environment, names};

/// The given values, by key, each with its origin.
#[derive(Debug)]
pub(super) struct Sources {
    /// The keys there are.
    pub(super) table: Table,
    values: BTreeMap<&'static str, (Origin, Raw)>,
    /// The values of each section that may be given several times.
    entries: Vec<BTreeMap<&'static str, (Origin, Raw)>>,
    /// Which of them is read.
    entry: Option<usize>,
    /// For defaults that depend on other programs' variables.
    env: Environment,
}

impl Sources {
    /// Nothing is given.
    pub(super) fn new(table: Table, env: Environment) -> Self {
        Self { table, values: BTreeMap::new(), entries: Vec::new(), entry: None, env }
    }

    /// Reads the file and then the environment, which takes precedence. Unknown names are
    /// findings. Returns `None` if the file could not be read at all, so that its values
    /// cannot be checked.
    pub(super) fn gather(
        table: Table,
        file: Option<&Path>,
        env: &Environment,
        findings: &mut Findings,
    ) -> Option<Self> {
        let mut sources = Self::new(table, env.clone());
        let readable = file.is_none_or(|file| sources.read_file(file, findings).is_some());
        sources.read_environment(env, findings);
        readable.then_some(sources)
    }

    pub(super) fn get(&self, key: &str) -> Option<&(Origin, Raw)> {
        if self.table.is_listed(key) {
            return self.entries.get(self.entry?)?.get(key);
        }
        self.values.get(key)
    }

    /// Returns how many sections there are of those that may be given several times.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Chooses the section that is read.
    pub(super) fn choose(&mut self, entry: Option<usize>) {
        self.entry = entry;
    }

    /// Returns the name of a key in findings: that of an entry says which one it is.
    pub(super) fn label(&self, key: &str) -> String {
        let (Some((section, leaf)), Some(entry)) = (key.rsplit_once('.'), self.entry) else {
            return key.to_owned();
        };
        if !self.table.is_list(section) {
            return key.to_owned();
        }
        match self.get(&format!("{section}.name")) {
            Some((_, Raw::Text(name))) => format!("{section}[{name}].{leaf}"),
            _ => format!("{section}[{}].{leaf}", entry + 1),
        }
    }

    fn insert(&mut self, key: &'static str, value: (Origin, Raw)) {
        if self.table.is_listed(key) {
            if let Some(entry) = self.entry.and_then(|entry| self.entries.get_mut(entry)) {
                entry.insert(key, value);
            }
        } else {
            self.values.insert(key, value);
        }
    }

    pub(super) fn default_of(&self, key: &str) -> Option<(Origin, Raw)> {
        match self.table.find(key)?.fallback {
            Fallback::Value(literal) => Some((Origin::Default, literal.raw())),
            Fallback::Computed(_, compute) => compute(self),
            Fallback::Unset(_) | Fallback::Secret(..) => None,
        }
    }

    fn read_file(&mut self, file: &Path, findings: &mut Findings) -> Option<()> {
        let read = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"));
        let text = match read.and_then(|text| String::from_utf8(text).map_err(|e| e.to_string())) {
            Ok(text) => text,
            Err(problem) => {
                let origin = Origin::File(file.into(), None);
                findings.push(origin, "", problem, "give a readable TOML file with --config");
                return None;
            }
        };
        let (table, mut errors) = DeTable::parse_recoverable(&text);
        let walk = Walk { file, text: &text };
        // The parser reports some errors before others of earlier lines, and several errors
        // in one line that it cannot parse.
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
        let table = self.table;
        for (variable, value) in env.iter().filter(|(name, _)| names::is_ours(name)) {
            let origin = Origin::Variable(variable.clone());
            let mut known = table.names().filter(|key| !table.is_listed(key));
            let Some(key) = known.find(|key| names::variable(key) == *variable) else {
                let hint = match names::nearest_variable(table, variable) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "see config/nightporter.toml for all keys".into(),
                };
                findings.push(origin, "", "unknown variable", hint);
                continue;
            };
            // Compose files pass `${UNSET:-}` as empty text.
            if !value.is_empty() {
                self.values.insert(key, (origin, Raw::Variable(value.clone())));
            }
        }
    }
}

impl GivenValues for Sources {
    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn effective_value(&self, key: &str) -> Option<(Origin, Raw)> {
        self.get(key).cloned().or_else(|| self.default_of(key))
    }
}

/// The traversal of a parsed file.
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
        sources: &mut Sources,
        findings: &mut Findings,
    ) {
        for (name, value) in table {
            let origin = self.origin(name.span().start);
            let key = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            if let Some(known) = names::known(sources.table, &key) {
                sources.insert(known, (origin, Raw::from_value(value.get_ref())));
            } else if sources.table.is_list(&key) {
                self.list(&key, value.get_ref(), &origin, sources, findings);
            } else if !names::is_section(sources.table, &key) {
                let (problem, nearest) = match value.get_ref() {
                    DeValue::Table(_) => {
                        ("unknown section", names::nearest_section(sources.table, &key))
                    }
                    _ => ("unknown key", names::nearest(sources.table, &key)),
                };
                let hint = match nearest {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "remove it; config/nightporter.toml lists all keys".into(),
                };
                findings.push(origin, key, problem, hint);
            } else if let DeValue::Table(inner) = value.get_ref() {
                self.table(&key, inner, sources, findings);
            } else {
                let hint = format!("write `[{key}]` and its keys below it");
                findings.push(origin, &key, "is a section, not a value", hint);
            }
        }
    }
}

impl Walk<'_> {
    /// Reads a section that may be given several times.
    fn list(
        &self,
        section: &str,
        value: &DeValue<'_>,
        origin: &Origin,
        sources: &mut Sources,
        findings: &mut Findings,
    ) {
        let tables = match value {
            DeValue::Array(items) => items.iter().map(|item| match item.get_ref() {
                DeValue::Table(table) => Some(table),
                _ => None,
            }),
            _ => return no_list(section, origin, findings),
        };
        let Some(tables) = tables.collect::<Option<Vec<_>>>() else {
            return no_list(section, origin, findings);
        };
        for table in tables {
            sources.entry = Some(sources.entries.len());
            sources.entries.push(BTreeMap::new());
            self.table(section, table, sources, findings);
        }
        sources.entry = None;
    }
}

fn no_list(section: &str, origin: &Origin, findings: &mut Findings) {
    let hint = format!("write `[[{section}]]` and its keys below it, once for each");
    findings.push(origin.clone(), section, "may be given several times", hint);
}
