//! Reads keys one by one; a value that does not fit becomes a finding.

use std::path::PathBuf;

use super::findings::{Findings, Origin};
use super::key::{GivenValues, Key};
use super::raw::Raw;
use super::setting::{Setting, ValueError};
use super::sources::Sources;

/// Reads keys one by one and collects the problems of their values.
#[derive(Debug)]
pub(super) struct Reader {
    sources: Sources,
    findings: Findings,
    #[cfg(test)]
    pub(super) keys_read: std::collections::BTreeSet<&'static str>,
}

impl Reader {
    pub(super) fn new(sources: Sources, findings: Findings) -> Self {
        Self {
            sources,
            findings,
            #[cfg(test)]
            keys_read: std::collections::BTreeSet::new(),
        }
    }

    /// Returns the value that counts. If the given one does not fit, that is a finding, and
    /// the default replaces it.
    pub(super) fn read<S: Setting>(&mut self, key: &'static str) -> Option<S::Value> {
        #[cfg(test)]
        self.keys_read.insert(key);
        let given = match self.sources.table.find(key) {
            Some(key) if key.is_secret() => self.secret(key),
            _ => self.sources.get(key).cloned(),
        };
        given
            .and_then(|given| self.value::<S>(key, &given))
            .or_else(|| self.sources.default_of(key).and_then(|value| self.value::<S>(key, &value)))
            .or_else(S::absent)
    }

    fn value<S: Setting>(
        &mut self,
        key: &'static str,
        (origin, raw): &(Origin, Raw),
    ) -> Option<S::Value> {
        match S::read(raw) {
            Ok(value) => Some(value),
            Err(ValueError { problem, hint }) => {
                self.findings.push(origin.clone(), self.sources.label(key), problem, hint);
                None
            }
        }
    }

    /// Returns a secret, which is given itself or as the file that holds it, without one
    /// newline at the end.
    fn secret(&mut self, key: &'static Key) -> Option<(Origin, Raw)> {
        let &Key { name, file_name, .. } = key;
        #[cfg(test)]
        self.keys_read.insert(file_name);
        let inline = self.sources.get(name).cloned();
        let Some(given) = self.sources.get(file_name).cloned() else {
            return inline;
        };
        let file = self.value::<PathBuf>(file_name, &given)?;
        if inline.is_some() {
            let hint = format!("keep only one of `{name}` and `{file_name}`");
            self.refuse(file_name, "the secret is given twice", hint);
            return None;
        }
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", file.display());
                self.refuse(file_name, problem, "name a readable text file that holds the secret");
                return None;
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.trim().is_empty() {
            let problem = format!("{} is empty", file.display());
            self.refuse(file_name, problem, "write the secret into it");
            return None;
        }
        Some((given.0, Raw::Text(text.into())))
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.sources.has(key)
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.sources.variable(name)
    }

    /// Adds a finding about a key; its origin is the key's own.
    pub(super) fn refuse(
        &mut self,
        key: &'static str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.refuse_because(key, key, problem, hint);
    }

    /// Adds a finding about a key that another key causes.
    pub(super) fn refuse_because(
        &mut self,
        key: &'static str,
        cause: &str,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let origin = [key, cause].into_iter().find_map(|key| self.sources.get(key));
        let origin = origin.map_or(Origin::Default, |(origin, _)| origin.clone());
        self.findings.push(origin, self.sources.label(key), problem, hint);
    }

    /// Returns how many sections there are of those that may be given several times.
    pub(super) fn entries(&self) -> usize {
        self.sources.entries()
    }

    /// Chooses which of these sections is read.
    pub(super) fn choose(&mut self, entry: Option<usize>) {
        self.sources.choose(entry);
    }

    pub(super) fn into_parts(self) -> (Sources, Findings) {
        (self.sources, self.findings)
    }
}
