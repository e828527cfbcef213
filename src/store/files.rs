//! A folder as the store: for a box that has no database and needs none.
//!
//! ```text
//! identity.toml          id, domain, public_key_pem
//! terminals.toml         [[terminal]] id, name
//! peers.toml             [[peer]] id, name, public_key_pem
//! installed_apps/<app>/app_meta.json
//! terminal_jwt_secret    made by the first `terminal add`, mode 0600
//! management_secret      one line, optional
//! uses.json              last uses, written by the process
//! ```
//!
//! A file that is missing is empty. A file that cannot be parsed is unavailable:
//! the rows of it that are remembered serve up to `cache.max_stale`, and its
//! problem is shown by `check`, the log and the probes.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::app_meta::{AppMetaDir, FileState};
use super::peers::parted;
use super::{
    AppRow, BadPeer, Cached, Freshness, Health, Peer, Table, Terminal, Touched, Unavailable,
    regular,
};
use crate::config::{self, Secret};
use crate::domain::identity::{Identity, derive_domain};

/// Saves of one file that come in this time are read once; editors write in steps.
const SETTLING: Duration = Duration::from_millis(2);

/// For how long a file that cannot be parsed is taken for one that is being written.
const BEING_WRITTEN: Duration = Duration::from_millis(100);

/// Largest file of the store, in bytes: room for some 100,000 terminals.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

const IDENTITY: &str = "identity.toml";
const TERMINALS: &str = "terminals.toml";
const PEERS: &str = "peers.toml";
/// The subject of what is wrong with entries of that file; it is no file's name.
const BAD_PEERS: &str = "peers";
const TERMINAL_SECRET: &str = "terminal_jwt_secret";
const MANAGEMENT_SECRET: &str = "management_secret";
const USES: &str = "uses.json";
const LAST_ACCESS: &str = "last_access";

/// Seconds since 1970, by table and key.
type UsesFile = BTreeMap<String, BTreeMap<String, u64>>;

/// Files that the gate reads, and the table each of them is.
const WATCHED: [(&str, Table); 5] = [
    (IDENTITY, Table::Identity),
    (TERMINALS, Table::Terminals),
    (PEERS, Table::Peers),
    (TERMINAL_SECRET, Table::TerminalSecret),
    (MANAGEMENT_SECRET, Table::ManagementSecret),
];

/// The folder.
#[derive(Debug)]
pub struct Files {
    folder: Arc<Folder>,
    apps: AppMetaDir,
    /// `terminals.toml`, parsed once per save and not once per terminal.
    terminals: Arc<Cached<HashMap<Arc<str>, Terminal>>>,
    given_secret: Option<Secret>,
    freshness: Arc<Freshness>,
    problems: Mutex<BTreeMap<&'static str, String>>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    zone: String,
    prefix_length: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
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
    id: String,
    #[serde(default)]
    name: String,
    public_key_pem: String,
}

impl Files {
    #[must_use]
    pub fn new(
        path: PathBuf,
        given_secret: Option<Secret>,
        store: &config::Store,
        freshness: Arc<Freshness>,
    ) -> Self {
        let folder =
            Arc::new(Folder { path, zone: store.zone.clone(), prefix_length: store.prefix_length });
        let reader = Arc::clone(&folder);
        let terminals = Cached::single(Arc::clone(&freshness), Table::Terminals, move || {
            let folder = Arc::clone(&reader);
            async move { folder.terminals().await }
        });
        Self {
            folder,
            apps: AppMetaDir::new(store.installed_apps_dir.clone()),
            terminals,
            given_secret,
            freshness,
            problems: Mutex::default(),
        }
    }

    pub async fn app_names(&self) -> Result<Vec<String>, Unavailable> {
        self.apps.apps().await
    }

    /// A folder keeps no status; `unknown` is the contract's word for that.
    pub fn app(&self, name: &str) -> AppRow {
        AppRow { name: name.into(), status: "unknown".into() }
    }

    pub async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        self.folder.identity().await
    }

    pub async fn terminal(&self, id: &str) -> Result<Option<Terminal>, Unavailable> {
        // The gate keeps what this gives: it must not grow young again by that.
        let terminals = self.terminals.get_undoubted("", self.freshness.now()).await?;
        Ok(terminals.value.get(id).cloned())
    }

    pub async fn terminals(&self) -> Result<Vec<Terminal>, Unavailable> {
        Ok(self.folder.terminals().await?.into_values().collect())
    }

    pub async fn peer_rows(&self) -> Result<Vec<Result<Peer, BadPeer>>, Unavailable> {
        self.folder.peers().await
    }

    pub async fn peers(&self) -> Result<Vec<Peer>, Unavailable> {
        let (peers, problem) = parted(self.peer_rows().await?);
        self.note_bad_peers(problem);
        Ok(peers)
    }

    /// What is wrong with entries of a file that is fine as a whole.
    fn note_bad_peers(&self, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            problems.remove(BAD_PEERS);
            return;
        };
        if problems.get(BAD_PEERS) != Some(&problem) {
            tracing::warn!("{PEERS}: {problem}");
            problems.insert(BAD_PEERS, problem);
        }
    }

    pub async fn terminal_secret(&self) -> Result<Option<Secret>, Unavailable> {
        match &self.given_secret {
            Some(given) => Ok(Some(given.clone())),
            None => self.folder.secret(TERMINAL_SECRET).await,
        }
    }

    pub async fn ensure_terminal_secret(&self) -> Result<Secret, Unavailable> {
        if let Some(secret) = self.terminal_secret().await? {
            return Ok(secret);
        }
        let secret = super::random_secret()?;
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.make_secret(TERMINAL_SECRET, &secret)).await?;
        // Read back: another process may have been first.
        let made = self.terminal_secret().await?;
        made.ok_or_else(|| Unavailable::new(format!("{TERMINAL_SECRET}: written, but not found")))
    }

    pub async fn management_secret(&self) -> Result<Option<Secret>, Unavailable> {
        self.folder.secret(MANAGEMENT_SECRET).await
    }

    pub async fn add_terminal(&self, terminal: &Terminal) -> Result<bool, Unavailable> {
        let (folder, terminal) = (Arc::clone(&self.folder), terminal.clone());
        blocking(move || folder.edit_terminals(|document| add(document, &terminal))).await
    }

    pub async fn remove_terminal(&self, id: &str) -> Result<bool, Unavailable> {
        let (folder, id) = (Arc::clone(&self.folder), id.to_owned());
        blocking(move || folder.edit_terminals(|document| remove(document, &id))).await
    }

    pub async fn write_touches(
        &self,
        touched: Touched,
        uses: &[(Arc<str>, SystemTime)],
    ) -> Result<(), Unavailable> {
        let (folder, uses) = (Arc::clone(&self.folder), uses.to_vec());
        blocking(move || folder.write_uses(touched, &uses)).await
    }

    pub async fn last_uses(&self) -> Result<HashMap<Arc<str>, SystemTime>, Unavailable> {
        let Some(json) = self.folder.text(USES).await? else {
            return Ok(HashMap::new());
        };
        // As for writing: a file nobody can read is one that says nothing.
        let mut uses: UsesFile = serde_json::from_str(&json).unwrap_or_default();
        let apps = uses.remove(LAST_ACCESS).unwrap_or_default().into_iter();
        // Whatever somebody wrote there is a time on the clock.
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Ok(apps.filter_map(|(app, seconds)| Some((app.into(), at(seconds)?))).collect())
    }

    pub fn health(&self) -> Health {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        Health { pool: None, problems: problems.values().cloned().collect() }
    }

    /// Reports every save as long as the process runs.
    pub async fn watch(&self) -> Infallible {
        let wake = Arc::new(Notify::new());
        let mut watch = None;
        // What the last scan found, where a later change is sure to differ from it.
        let mut seen: [Option<Option<FileState>>; WATCHED.len()] = [None; WATCHED.len()];
        loop {
            let folder = std::fs::metadata(&self.folder.path).map(|folder| folder.ino()).ok();
            // Another folder may have been put in its place.
            if watch.as_ref().is_none_or(|(followed, _)| Some(*followed) != folder) {
                let watcher = follow(&self.folder.path, Arc::clone(&wake));
                watch = folder.zip(watcher);
            }
            #[expect(clippy::disallowed_methods, reason = "held against the times of files")]
            let (scanned, now) = (self.freshness.now(), SystemTime::now());
            for (before, (file, table)) in seen.iter_mut().zip(WATCHED) {
                let state = FileState::of(&self.folder.path.join(file));
                if *before != Some(state) || self.has_problem(file) {
                    let is_settled = state.is_none_or(|state| state.is_settled(now));
                    *before = is_settled.then_some(state);
                    self.saved(file, table).await;
                }
            }
            if self.is_there() {
                self.freshness.verify(scanned);
            }
            if timeout(self.freshness.times().heartbeat, wake.notified()).await.is_ok() {
                sleep(SETTLING).await;
            }
        }
    }

    /// A file was saved: if it can be used, what was read from it is outdated.
    /// If not, what was read before is in doubt.
    async fn saved(&self, file: &'static str, table: Table) {
        let outcome = match timeout(BEING_WRITTEN, self.folder.until_usable(file)).await {
            Ok(()) => Ok(()),
            Err(_) => self.folder.probe(file).await,
        };
        let had_problem = self.has_problem(file);
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                problems.remove(file);
                self.freshness.outdate_table(table);
            }
            Err(error) => {
                if !had_problem {
                    tracing::error!(%error, "a file of the store cannot be used");
                    self.freshness.reset();
                }
                problems.insert(file, error.to_string());
            }
        }
    }

    fn has_problem(&self, file: &str) -> bool {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).contains_key(file)
    }

    /// Whether there is a folder that could vouch for anything.
    fn is_there(&self) -> bool {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if self.folder.path.is_dir() {
            problems.remove("");
            true
        } else {
            let problem = format!("{}: there is no such folder", self.folder.path.display());
            if problems.insert("", problem.clone()).is_none() {
                tracing::error!("{problem}");
            }
            false
        }
    }
}

/// Wakes the scan when anything in the folder is saved.
fn follow(folder: &Path, wake: Arc<Notify>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.kind.is_access() => {}
        _ => wake.notify_one(),
    };
    let mut watcher = notify::recommended_watcher(handler).ok()?;
    watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

impl Folder {
    async fn text(&self, file: &str) -> Result<Option<String>, Unavailable> {
        let path = self.path.join(file);
        match regular::read(path.clone(), MAX_SIZE).await {
            Ok(text) => {
                String::from_utf8(text).map(Some).map_err(|error| unavailable(&path, &error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Missing files are empty ones, but a folder that is away (not
                // mounted yet, renamed) says nothing about its files.
                if self.path.is_dir() { Ok(None) } else { Err(unavailable(&self.path, &error)) }
            }
            Err(error) => Err(unavailable(&path, &error)),
        }
    }

    async fn parsed<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>, Unavailable> {
        let Some(text) = self.text(file).await? else {
            return Ok(None);
        };
        toml::from_str(&text).map(Some).map_err(|error| unavailable(&self.path.join(file), &error))
    }

    async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        let file: Option<IdentityFile> = self.parsed(IDENTITY).await?;
        Ok(file.map(|IdentityFile { id, domain, public_key_pem }| Identity {
            domain: domain.unwrap_or_else(|| derive_domain(&id, self.prefix_length, &self.zone)),
            id,
            public_key_pem,
        }))
    }

    async fn terminals(&self) -> Result<HashMap<Arc<str>, Terminal>, Unavailable> {
        let file: TerminalsFile = self.parsed(TERMINALS).await?.unwrap_or_default();
        let mut terminals = HashMap::with_capacity(file.terminal.len());
        for TerminalEntry { id, name } in file.terminal {
            let id: Arc<str> = id.into();
            let terminal = Terminal { id: Arc::clone(&id), name: name.into() };
            if terminals.insert(id, terminal).is_some() {
                let twice = "two terminals have the same `id`; remove one of them";
                return Err(unavailable(&self.path.join(TERMINALS), &twice));
            }
        }
        Ok(terminals)
    }

    async fn peers(&self) -> Result<Vec<Result<Peer, BadPeer>>, Unavailable> {
        let file: PeersFile = self.parsed(PEERS).await?.unwrap_or_default();
        let peers = file.peer.into_iter();
        Ok(peers
            .map(|PeerEntry { id, name, public_key_pem }| {
                Peer::of_row(id.into(), name.into(), &public_key_pem)
            })
            .collect())
    }

    async fn secret(&self, file: &str) -> Result<Option<Secret>, Unavailable> {
        let text = self.text(file).await?;
        let text = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        Ok(text.filter(|text| !text.is_empty()).map(Secret::new))
    }

    /// Whether a file can be used.
    async fn probe(&self, file: &str) -> Result<(), Unavailable> {
        match file {
            IDENTITY => self.identity().await.map(drop),
            TERMINALS => self.terminals().await.map(drop),
            PEERS => self.peers().await.map(drop),
            _ => self.secret(file).await.map(drop),
        }
    }

    async fn until_usable(&self, file: &str) {
        while self.probe(file).await.is_err() {
            sleep(BEING_WRITTEN / 10).await;
        }
    }

    fn make_secret(&self, file: &str, secret: &Secret) -> io::Result<()> {
        let _alone = self.lock()?;
        let path = self.path.join(file);
        if path.exists() {
            return Ok(());
        }
        self.replace(file, format!("{}\n", secret.expose()).as_bytes(), 0o600)
    }

    fn edit_terminals(
        &self,
        edit: impl FnOnce(&mut toml_edit::DocumentMut) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let _alone = self.lock()?;
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

    fn write_uses(&self, touched: Touched, uses: &[(Arc<str>, SystemTime)]) -> io::Result<()> {
        let _alone = self.lock()?;
        let mut all: UsesFile = match std::fs::read(self.path.join(USES)) {
            // A file nobody can read is no reason to lose the uses to come.
            Ok(json) => serde_json::from_slice(&json).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let table = match touched {
            Touched::App => LAST_ACCESS,
            Touched::Terminal => "last_connection",
        };
        let table = all.entry(table.into()).or_default();
        for (key, at) in uses {
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let latest = table.entry(key.to_string()).or_default();
            *latest = seconds.max(*latest);
        }
        self.replace(USES, &serde_json::to_vec_pretty(&all)?, 0o600)
    }

    /// Keeps other processes from editing meanwhile, until it is dropped.
    fn lock(&self) -> io::Result<std::fs::File> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join(".lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// Writes a file so that a reader sees the old or the new one, whole.
    fn replace(&self, file: &str, content: &[u8], mode: u32) -> io::Result<()> {
        let new = self.path.join(format!(".{file}.new"));
        let mut options = std::fs::OpenOptions::new();
        let mut opened = options.create(true).truncate(true).write(true).mode(mode).open(&new)?;
        opened.write_all(content)?;
        opened.sync_all()?;
        std::fs::rename(&new, self.path.join(file))
    }
}

fn entries(document: &mut toml_edit::DocumentMut) -> io::Result<&mut toml_edit::ArrayOfTables> {
    document
        .entry("terminal")
        .or_insert_with(|| toml_edit::Item::ArrayOfTables(toml_edit::ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| io::Error::other(format!("{TERMINALS}: write terminals as `[[terminal]]`")))
}

fn has_id(entry: &toml_edit::Table, id: &str) -> bool {
    entry.get("id").and_then(toml_edit::Item::as_str) == Some(id)
}

fn add(document: &mut toml_edit::DocumentMut, terminal: &Terminal) -> io::Result<bool> {
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

fn remove(document: &mut toml_edit::DocumentMut, id: &str) -> io::Result<bool> {
    let entries = entries(document)?;
    let before = entries.len();
    entries.retain(|entry| !has_id(entry, id));
    Ok(entries.len() < before)
}

fn unavailable(path: &Path, error: &dyn std::fmt::Display) -> Unavailable {
    Unavailable::new(format!("{}: {error}", path.display()))
}

/// File work that may wait for the disk or a lock.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Unavailable> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Unavailable::new),
        Err(error) => Err(Unavailable::new(error)),
    }
}

#[cfg(test)]
mod tests;
