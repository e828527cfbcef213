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

mod folder;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use self::folder::{Folder, add, remove};
use super::app_meta::{AppMetaDir, FileState};
use super::file_calls::FileCalls;
use super::peers::parted;
use super::{
    AppRow, BadPeer, Cached, Freshness, Health, Peer, Table, Terminal, Touched, Unavailable,
};
use crate::config::{self, Secret};
use crate::domain::identity::Identity;

/// Saves of one file that come in this time are read once; editors write in steps.
const SETTLING: Duration = Duration::from_millis(2);

/// For how long a file that cannot be parsed is taken for one that is being written.
const BEING_WRITTEN: Duration = Duration::from_millis(100);

/// When a file is read again that could not be for want of a descriptor.
const TRY_AGAIN: Duration = Duration::from_millis(200);

const IDENTITY: &str = "identity.toml";
const TERMINALS: &str = "terminals.toml";
const PEERS: &str = "peers.toml";
/// The subject of what is wrong with entries of that file; it is no file's name.
const BAD_PEERS: &str = "peers";
const TERMINAL_SECRET: &str = "terminal_jwt_secret";
const MANAGEMENT_SECRET: &str = "management_secret";
const USES: &str = "uses.json";
const LAST_ACCESS: &str = "last_access";
const LAST_CONNECTION: &str = "last_connection";

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

impl Files {
    #[must_use]
    pub fn new(
        path: PathBuf,
        given_secret: Option<Secret>,
        store: &config::Store,
        freshness: Arc<Freshness>,
    ) -> Self {
        let folder = Arc::new(Folder {
            path,
            installed_apps_dir: store.installed_apps_dir.clone(),
            calls: FileCalls::new(),
            zone: store.zone.clone(),
            prefix_length: store.prefix_length,
        });
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
        let terminals = self.terminals.get_fresh("", self.freshness.now()).await?;
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
        self.edit(move || folder.make_secret(TERMINAL_SECRET, &secret)).await?;
        // Read back: another process may have been first.
        let made = self.terminal_secret().await?;
        made.ok_or_else(|| Unavailable::new(format!("{TERMINAL_SECRET}: written, but not found")))
    }

    pub async fn management_secret(&self) -> Result<Option<Secret>, Unavailable> {
        self.folder.secret(MANAGEMENT_SECRET).await
    }

    pub async fn add_terminal(&self, terminal: &Terminal) -> Result<bool, Unavailable> {
        let (folder, terminal) = (Arc::clone(&self.folder), terminal.clone());
        self.edit(move || folder.edit_terminals(|document| add(document, &terminal))).await
    }

    pub async fn remove_terminal(&self, id: &str) -> Result<bool, Unavailable> {
        let (folder, id) = (Arc::clone(&self.folder), id.to_owned());
        self.edit(move || folder.edit_terminals(|document| remove(document, &id))).await
    }

    pub async fn write_touches(
        &self,
        touched: Touched,
        uses: &[(Arc<str>, SystemTime)],
    ) -> Result<(), Unavailable> {
        let (folder, uses) = (Arc::clone(&self.folder), uses.to_vec());
        self.edit(move || folder.write_uses(touched, &uses)).await
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

    /// Changes files.
    async fn edit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.folder.calls.run(work).await.map_err(Unavailable::new)
    }

    /// Reports every save as long as the process runs.
    pub async fn watch(&self) -> Infallible {
        let wake = Arc::new(Notify::new());
        let watch = Arc::new(Mutex::new(None));
        // What the last scan found, where a later change is sure to differ from it.
        let mut seen: [Option<Option<FileState>>; WATCHED.len()] = [None; WATCHED.len()];
        loop {
            #[expect(clippy::disallowed_methods, reason = "held against the times of files")]
            let (scanned, now) = (self.freshness.now(), SystemTime::now());
            let (folder, watch, woken) =
                (Arc::clone(&self.folder), Arc::clone(&watch), Arc::clone(&wake));
            let scan = self.folder.calls.run(move || {
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(folder.scan(&mut watch, &woken))
            });
            let mut is_known = true;
            match scan.await {
                Ok(scan) => {
                    for ((before, (file, table)), state) in
                        seen.iter_mut().zip(WATCHED).zip(scan.states)
                    {
                        if *before != Some(state) || self.has_problem(file) {
                            let is_settled = state.is_none_or(|state| state.is_settled(now));
                            *before = is_settled.then_some(state);
                            if !self.saved(file, table).await {
                                (*before, is_known) = (None, false);
                            }
                        }
                    }
                    let is_there = if scan.is_there { Ok(()) } else { Err(NO_FOLDER.into()) };
                    if self.note_folder(is_there) && is_known {
                        self.freshness.verify(scanned);
                    }
                }
                Err(error) => {
                    self.note_folder(Err(error.to_string()));
                }
            }
            let pause = if is_known { self.freshness.times().heartbeat } else { TRY_AGAIN };
            if timeout(pause, wake.notified()).await.is_ok() {
                sleep(SETTLING).await;
            }
        }
    }

    /// A file was saved: if it can be used, what was read from it is outdated.
    /// If not, what was read before is in doubt. `false` where that cannot be known now,
    /// for want of a descriptor: then there is nothing wrong with the file.
    async fn saved(&self, file: &'static str, table: Table) -> bool {
        let outcome = match timeout(BEING_WRITTEN, self.folder.until_usable(file)).await {
            Ok(()) => Ok(()),
            Err(_) => self.folder.probe(file).await,
        };
        if outcome.is_err() && self.folder.is_out_of_reach(file).await {
            return false;
        }
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
        true
    }

    fn has_problem(&self, file: &str) -> bool {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).contains_key(file)
    }

    /// Notes whether there is a folder that could vouch for anything, and returns it.
    fn note_folder(&self, is_there: Result<(), String>) -> bool {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match is_there {
            Ok(()) => {
                problems.remove("");
                true
            }
            Err(reason) => {
                let problem = format!("{}: {reason}", self.folder.path.display());
                if problems.insert("", problem.clone()).as_ref() != Some(&problem) {
                    tracing::error!("{problem}");
                }
                false
            }
        }
    }
}

const NO_FOLDER: &str = "there is no such folder";

#[cfg(test)]
mod tests;
