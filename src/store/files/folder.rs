//! The folder's files: their formats, and how they are read and written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{
    IDENTITY, LAST_ACCESS, LAST_CONNECTION, PEERS, TERMINALS, USES, UsesFile, WATCHED, WRITE_GRACE,
};
use crate::config::Secret;
use crate::descriptors;
use crate::domain::identity::{Identity, derive_domain};
use crate::store::app_meta::{self, FileState};
use crate::store::file_calls::FileCalls;
use crate::store::{BadPeer, Peer, Terminal, Touched, Unavailable, regular_file};

/// Largest file of the store, in bytes: enough for some 100,000 terminals.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

const EMPTY_SECRET: &str = "the file is empty; write a secret into it, or delete it";

/// How long the use of a removed app or terminal is kept: its folder may be missing for a
/// while, and an app may be installed again.
const USE_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The folder of a file store.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) installed_apps_dir: PathBuf,
    pub(super) calls: FileCalls,
    pub(super) zone: String,
    pub(super) prefix_length: usize,
}

/// The result of a scan of the folder.
pub(super) struct Scan {
    pub(super) folder_exists: bool,
    pub(super) states: [Option<FileState>; WATCHED.len()],
}

/// The inode of the watched folder, and the kernel's watch on it.
pub(super) type FolderWatch = Option<(u64, RecommendedWatcher)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    #[serde(deserialize_with = "id")]
    id: String,
    domain: Option<String>,
    #[serde(default)]
    public_key_pem: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TerminalsFile {
    #[serde(default)]
    terminal: Vec<TerminalEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TerminalEntry {
    #[serde(deserialize_with = "id")]
    id: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PeersFile {
    #[serde(default)]
    peer: Vec<PeerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerEntry {
    #[serde(deserialize_with = "id")]
    id: String,
    #[serde(default)]
    name: String,
    public_key_pem: String,
}

/// Reads an id. One with a NUL would be recorded nowhere: no database stores it.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    if id.contains('\0') { Err(D::Error::custom("an id has no NUL")) } else { Ok(id) }
}

impl Folder {
    /// Scans every file, on a thread that may block, and watches the folder.
    pub(super) fn scan(&self, watch: &mut FolderWatch, changed: &Arc<Notify>) -> Scan {
        let inode = std::fs::metadata(&self.path).map(|folder| folder.ino()).ok();
        // Another folder may have replaced the watched one.
        if watch.as_ref().is_none_or(|(followed, _)| Some(*followed) != inode) {
            *watch = inode.zip(watch_folder(&self.path, changed));
        }
        Scan {
            states: WATCHED.map(|(file, _)| FileState::read(&self.path.join(file))),
            folder_exists: self.path.is_dir(),
        }
    }

    pub(super) async fn text(&self, file: &str) -> Result<Option<String>, Unavailable> {
        let (folder, path) = (self.path.clone(), self.path.join(file));
        let read = self.calls.run(move || match regular_file::read_now(&path, MAX_SIZE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A missing file counts as empty, but a missing folder (not
                // mounted yet, renamed) says nothing about its files.
                if folder.is_dir() { Ok(None) } else { Err(error) }
            }
            read => read.map(Some),
        });
        let path = self.path.join(file);
        let bytes = read.await.map_err(|error| unavailable(&path, &error))?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|error| unavailable(&path, &error))
    }

    async fn parsed<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>, Unavailable> {
        let Some(text) = self.text(file).await? else {
            return Ok(None);
        };
        toml::from_str(&text).map(Some).map_err(|error| unavailable(&self.path.join(file), &error))
    }

    pub(super) async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        let file: Option<IdentityFile> = self.parsed(IDENTITY).await?;
        Ok(file.map(|IdentityFile { id, domain, public_key_pem }| Identity {
            domain: domain.unwrap_or_else(|| derive_domain(&id, self.prefix_length, &self.zone)),
            id,
            public_key_pem,
        }))
    }

    pub(super) async fn terminals(&self) -> Result<HashMap<Arc<str>, Terminal>, Unavailable> {
        let file: TerminalsFile = self.parsed(TERMINALS).await?.unwrap_or_default();
        let mut terminals = HashMap::with_capacity(file.terminal.len());
        for TerminalEntry { id, name } in file.terminal {
            let id: Arc<str> = id.into();
            let terminal = Terminal { id: Arc::clone(&id), name: name.into() };
            if terminals.insert(id, terminal).is_some() {
                let problem = "two terminals have the same `id`; remove one of them";
                return Err(unavailable(&self.path.join(TERMINALS), &problem));
            }
        }
        Ok(terminals)
    }

    pub(super) async fn peers(&self) -> Result<Vec<Result<Peer, BadPeer>>, Unavailable> {
        let file: PeersFile = self.parsed(PEERS).await?.unwrap_or_default();
        let peers = file.peer.into_iter();
        Ok(peers
            .map(|PeerEntry { id, name, public_key_pem }| {
                Peer::from_row(id.into(), name.into(), &public_key_pem)
            })
            .collect())
    }

    /// Reads a secret. An empty file does not count as a secret, since anyone could guess it.
    pub(super) async fn secret(&self, file: &str) -> Result<Option<Secret>, Unavailable> {
        let text = self.text(file).await?;
        let text = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        Ok(text.filter(|text| !text.trim().is_empty()).map(Secret::new))
    }

    /// Checks whether a file is usable.
    pub(super) async fn probe(&self, file: &str) -> Result<(), Unavailable> {
        match file {
            IDENTITY => self.identity().await.map(drop),
            TERMINALS => self.terminals().await.map(drop),
            PEERS => self.peers().await.map(drop),
            _ => match self.text(file).await? {
                Some(text) if text.trim().is_empty() => {
                    Err(unavailable(&self.path.join(file), &EMPTY_SECRET))
                }
                _ => Ok(()),
            },
        }
    }

    /// Returns whether a file cannot be opened because no file descriptor is free.
    pub(super) async fn lacks_descriptor(&self, file: &str) -> bool {
        let path = self.path.join(file);
        let read = self.calls.run(move || regular_file::read_now(&path, MAX_SIZE)).await;
        matches!(read, Err(error) if descriptors::is_shortage(&error))
    }

    pub(super) async fn wait_until_usable(&self, file: &str) {
        while self.probe(file).await.is_err() {
            sleep(WRITE_GRACE / 10).await;
        }
    }

    pub(super) fn make_secret(&self, file: &str, secret: &Secret) -> io::Result<()> {
        let _lock = self.lock()?;
        let path = self.path.join(file);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The operator may be about to write a secret into the empty file.
            Ok(text) if text.trim().is_empty() => {
                return Err(io::Error::other(format!("{}: {EMPTY_SECRET}", path.display())));
            }
            read => return read.map(drop),
        }
        self.replace(file, format!("{}\n", secret.expose()).as_bytes(), 0o600)
    }

    pub(super) fn edit_terminals(
        &self,
        edit: impl FnOnce(&mut toml_edit::DocumentMut) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let _lock = self.lock()?;
        let path = self.path.join(TERMINALS);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let invalid = |error| io::Error::other(format!("{}: {error}", path.display()));
        let mut document: toml_edit::DocumentMut = text.parse().map_err(invalid)?;
        let edited = edit(&mut document)?;
        if edited {
            let mode = std::fs::metadata(&path).map_or(0o600, |file| file.permissions().mode());
            self.replace(TERMINALS, document.to_string().as_bytes(), mode & 0o777)?;
        }
        Ok(edited)
    }

    pub(super) fn write_uses(
        &self,
        touched: Touched,
        uses: &[(Arc<str>, SystemTime)],
    ) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut all: UsesFile = match std::fs::read(self.path.join(USES)) {
            // A file that cannot be parsed must not keep new uses from being written.
            Ok(json) => serde_json::from_slice(&json).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let table = match touched {
            Touched::App => LAST_ACCESS,
            Touched::Terminal => LAST_CONNECTION,
        };
        let table = all.entry(table.into()).or_default();
        let mut newest = 0;
        for (key, at) in uses {
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let latest = table.entry(key.to_string()).or_default();
            *latest = seconds.max(*latest);
            newest = newest.max(seconds);
        }
        let cutoff = newest.saturating_sub(USE_RETENTION.as_secs());
        if table.values().any(|at| *at < cutoff) {
            // If it is unknown which apps or terminals exist, all uses are kept.
            if let Ok(existing) = self.existing(touched) {
                table.retain(|key, at| *at >= cutoff || existing.contains(key));
            }
        }
        self.replace(USES, &serde_json::to_vec_pretty(&all)?, 0o600)
    }

    /// Returns the apps or terminals that exist, on a thread that may block.
    fn existing(&self, touched: Touched) -> io::Result<HashSet<String>> {
        match touched {
            Touched::App => {
                let apps = app_meta::list(&self.installed_apps_dir)?;
                Ok(apps.into_iter().map(|(app, _)| app).collect())
            }
            Touched::Terminal => {
                let text = regular_file::read_now(&self.path.join(TERMINALS), MAX_SIZE)?;
                let file: TerminalsFile = toml::from_slice(&text).map_err(io::Error::other)?;
                Ok(file.terminal.into_iter().map(|terminal| terminal.id).collect())
            }
        }
    }

    /// Locks the folder, so that no other process edits its files until the lock is dropped.
    pub(super) fn lock(&self) -> io::Result<std::fs::File> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join(".lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// Replaces a file atomically: a reader sees either the old or the new content.
    pub(super) fn replace(&self, file: &str, content: &[u8], mode: u32) -> io::Result<()> {
        regular_file::replace(&self.path.join(file), content, mode)
    }
}

/// Watches a folder and notifies `changed` when anything in it is saved.
fn watch_folder(folder: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let handler = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.kind.is_access() => {}
        _ => changed.notify_one(),
    };
    let mut watcher = notify::recommended_watcher(handler).ok()?;
    watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

fn entries(document: &mut toml_edit::DocumentMut) -> io::Result<&mut toml_edit::ArrayOfTables> {
    document
        .entry("terminal")
        .or_insert_with(|| toml_edit::Item::ArrayOfTables(toml_edit::ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| {
            io::Error::other(format!(
                "{TERMINALS}: invalid `terminal`: expected `[[terminal]]` tables"
            ))
        })
}

fn has_id(entry: &toml_edit::Table, id: &str) -> bool {
    entry.get("id").and_then(toml_edit::Item::as_str) == Some(id)
}

pub(super) fn add(document: &mut toml_edit::DocumentMut, terminal: &Terminal) -> io::Result<bool> {
    let entries = entries(document)?;
    if entries.iter().any(|entry| has_id(entry, &terminal.id)) {
        return Ok(false);
    }
    let mut entry = toml_edit::Table::new();
    entry.insert("id", toml_edit::value(&*terminal.id));
    entry.insert("name", toml_edit::value(&*terminal.name));
    entries.push(entry);
    Ok(true)
}

pub(super) fn remove(document: &mut toml_edit::DocumentMut, id: &str) -> io::Result<bool> {
    let entries = entries(document)?;
    let before = entries.len();
    entries.retain(|entry| !has_id(entry, id));
    Ok(entries.len() < before)
}

fn unavailable(path: &Path, error: &dyn std::fmt::Display) -> Unavailable {
    Unavailable::new(format!("{}: {error}", path.display()))
}
