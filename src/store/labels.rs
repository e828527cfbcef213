//! The apps that labels of containers describe, as last known.
//!
//! The engine's view ([`crate::wake`]) tells of every change. What is known is kept in a file,
//! so that an app stays what it was while its containers are stopped and while the engine is
//! away, also over a restart. When a container is removed, what it said is kept for
//! [`REMOVAL_GRACE`]: it may be about to be created again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::file_calls::FileCalls;
use super::regular_file;
use super::{Freshness, Table};
use crate::domain::app::labels::{
    self, Described, Labelled, Source, app_key, describe, is_host_label,
};

/// How long an app stays known when its last container was removed. Compose, and programs
/// that update images, create a container again within seconds of removing it.
pub const REMOVAL_GRACE: Duration = Duration::from_secs(10);

/// How long reading the file may delay the start.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// Largest file, in bytes: more than 10,000 containers.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// What is known of labels.
#[derive(Debug)]
pub struct Labels {
    known: RwLock<KnownLabels>,
    freshness: Arc<Freshness>,
    file: PathBuf,
    calls: FileCalls,
    /// Held while the file is written.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct KnownLabels {
    containers: BTreeMap<Arc<str>, KnownContainer>,
    /// By the lower-case name.
    apps: BTreeMap<Arc<str>, Arc<Described>>,
}

#[derive(Debug)]
struct KnownContainer {
    source: Source,
    /// When it was found to be removed.
    removed: Option<Instant>,
}

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct LabelsFile {
    containers: BTreeMap<String, Labelled>,
}

/// What an observation has changed.
#[derive(Debug, Default)]
pub struct ObservedChanges {
    /// The apps whose description has changed, and those that are new or gone.
    pub apps: Vec<Arc<str>>,
    /// When to observe again although nothing happens.
    pub again: Option<Instant>,
    /// Whether what is kept in the file has changed.
    pub is_unsaved: bool,
}

impl Labels {
    /// Reads what was last known; blocks for a second at most. A file that cannot be read
    /// counts as empty: its apps are unknown until the engine answers.
    #[must_use]
    pub fn open(file: PathBuf, freshness: Arc<Freshness>) -> Self {
        let kept = match read_in_time(file.clone()) {
            Ok(json) => serde_json::from_slice(&json).map_err(io::Error::other),
            Err(error) => Err(error),
        };
        let LabelsFile { containers } = kept.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let file = file.display();
                tracing::error!(%error, "{file}: what was known of labels cannot be read");
            }
            LabelsFile::default()
        });
        let seen = |labelled: Labelled| KnownContainer {
            source: Source { parsed: labels::read(&labelled), labelled, is_removed: false },
            removed: None,
        };
        let containers =
            containers.into_iter().map(|(id, found)| (id.into(), seen(found))).collect();
        let mut known = KnownLabels { containers, apps: BTreeMap::new() };
        known.apps = known.describe_all();
        let (known, calls) = (RwLock::new(known), FileCalls::new());
        Self { known, freshness, file, calls, saving: Mutex::default() }
    }

    /// Takes in all containers with labels of ours, as the engine has listed them. Those in
    /// `unread` are there, and could not be inspected: what they last said counts.
    pub fn observe(
        &self,
        present: &BTreeMap<Arc<str>, Arc<Labelled>>,
        unread: &BTreeSet<Arc<str>>,
        now: Instant,
    ) -> ObservedChanges {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_unsaved = known.take_in(present, unread, now);
        let again = known.containers.values().filter_map(|seen| seen.removed).min();
        let again = again.map(|removed| removed + REMOVAL_GRACE);
        if !is_unsaved {
            return ObservedChanges { apps: Vec::new(), again, is_unsaved };
        }
        let described = known.describe_all();
        let before = std::mem::replace(&mut known.apps, described);
        let names: BTreeSet<_> = before.keys().chain(known.apps.keys()).cloned().collect();
        let changed = |name: &Arc<str>| before.get(name) != known.apps.get(name);
        let apps: Vec<_> = names.into_iter().filter(changed).collect();
        let is_other_set = !before.keys().eq(known.apps.keys());
        for name in &apps {
            report(name, known.apps.get(name));
        }
        // Before the generations change: what is loaded after that must be the new description.
        drop(known);
        for name in &apps {
            self.freshness.invalidate(Table::Apps, name);
        }
        if is_other_set {
            self.freshness.invalidate_table(Table::AppNames);
        }
        if !apps.is_empty() {
            // All of them: rows may spell a name otherwise than these keys, in lower case.
            self.freshness.invalidate_table(Table::AppMeta);
            self.freshness.invalidate_table(Table::Hosts);
        }
        ObservedChanges { apps, again, is_unsaved }
    }

    /// Returns what labels say about an app, however its name is written.
    #[must_use]
    pub fn get(&self, app: &str) -> Option<Arc<Described>> {
        self.read().apps.get(&*app_key(app)).cloned()
    }

    /// Returns all apps that labels name, in lower case.
    #[must_use]
    pub fn apps(&self) -> Vec<(Arc<str>, Arc<Described>)> {
        self.read().apps.iter().map(|(name, app)| (Arc::clone(name), Arc::clone(app))).collect()
    }

    /// Writes what is known to the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn save(&self) -> io::Result<()> {
        // One after the other, or an older state could replace a newer one.
        let _saving = self.saving.lock().await;
        let containers = {
            let known = self.read();
            let kept = known.containers.iter();
            kept.map(|(id, seen)| (id.to_string(), seen.source.labelled.clone())).collect()
        };
        let json = serde_json::to_vec_pretty(&LabelsFile { containers })?;
        let file = self.file.clone();
        self.calls.run(move || replace(&file, &json)).await
    }

    fn read(&self) -> RwLockReadGuard<'_, KnownLabels> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownLabels {
    /// Updates the containers; returns whether anything has changed.
    fn take_in(
        &mut self,
        present: &BTreeMap<Arc<str>, Arc<Labelled>>,
        unread: &BTreeSet<Arc<str>>,
        now: Instant,
    ) -> bool {
        let mut has_changed = false;
        for (id, labelled) in present {
            let is_same = |seen: &KnownContainer| {
                seen.removed.is_none() && seen.source.labelled == **labelled
            };
            if self.containers.get(id).is_some_and(is_same) {
                continue;
            }
            has_changed = true;
            let labelled = Labelled::clone(labelled);
            let source = Source { parsed: labels::read(&labelled), labelled, is_removed: false };
            self.containers.insert(Arc::clone(id), KnownContainer { source, removed: None });
        }
        self.containers.retain(|id, seen| {
            if present.contains_key(id) || unread.contains(id) {
                return true;
            }
            let removed = *seen.removed.get_or_insert(now);
            let was_known = std::mem::replace(&mut seen.source.is_removed, true);
            let gone = now.duration_since(removed) >= REMOVAL_GRACE
                || present.values().any(|other| other.replaces(&seen.source.labelled));
            has_changed |= gone || !was_known;
            !gone
        });
        has_changed
    }

    /// Describes every app that a container belongs to alone. Containers that apps share
    /// belong to them, and make none of them known.
    fn describe_all(&self) -> BTreeMap<Arc<str>, Arc<Described>> {
        let mut apps: BTreeMap<Arc<str>, Vec<&Source>> = BTreeMap::new();
        let mut shared = Vec::new();
        for KnownContainer { source, .. } in self.containers.values() {
            match &*source.labelled.apps() {
                [name] if is_host_label(name) => {
                    apps.entry(app_key(name)).or_default().push(source);
                }
                names => shared.push((source, names.to_vec())),
            }
        }
        for (source, names) in shared {
            for name in names {
                if let Some(sources) = apps.get_mut(&*app_key(&name)) {
                    sources.push(source);
                }
            }
        }
        apps.into_iter()
            .map(|(name, sources)| {
                let described = describe(&name, &sources);
                (name, Arc::new(described))
            })
            .collect()
    }
}

/// Reads the file on a thread of its own: on a mount whose server is gone, the read never
/// returns, and the process must start nevertheless.
fn read_in_time(file: PathBuf) -> io::Result<Vec<u8>> {
    let (done, read) = mpsc::channel();
    std::thread::Builder::new().name("labels".into()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = done.send(regular_file::read_now(&file, MAX_SIZE));
    })?;
    read.recv_timeout(READ_LIMIT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Logs what an app's labels say now.
fn report(app: &str, described: Option<&Arc<Described>>) {
    let Some(described) = described else {
        return tracing::info!(app, "no container names this app any more");
    };
    for notice in &described.notices {
        tracing::warn!(app, "{notice}");
    }
    match &described.meta {
        Ok(_) => tracing::info!(app, "described by labels"),
        Err(findings) => {
            for finding in findings {
                tracing::warn!(app, "{finding}");
            }
        }
    }
}

/// Replaces the file in one step.
fn replace(file: &Path, json: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    regular_file::replace(file, json, 0o600)
}

#[cfg(test)]
mod tests;
