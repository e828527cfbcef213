//! The file store: a folder, for a box without a database.
//!
//! ```text
//! identity.toml          id, domain, public_key_pem
//! terminals.toml         [[terminal]] id, name
//! peers.toml             [[peer]] id, name, public_key_pem
//! installed_apps/<app>/app_meta.json
//! terminal_jwt_secret    created by the first `terminal add`, mode 0600
//! management_secret      one line, optional
//! uses.json              last uses, written by the process
//! invitations.json       what is stored of pairing codes, mode 0600
//! labels.json            what labels of containers say, written by the process
//! ```
//!
//! A missing file counts as empty. A file that cannot be parsed is unavailable:
//! its cached rows are served for up to `cache.max_stale`, and its
//! problem is shown by `check`, the log and the probes.

mod folder;
mod invitations;

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
use super::invitations::{Invitation, Redeemed};
use super::peers::split_rows;
use super::{BadPeer, Cached, Freshness, Health, Peer, Table, Terminal, Touched, Unavailable};
use crate::config::{self, Secret};
use crate::domain::identity::Identity;

/// Saves of one file within this time are read once, because editors write in steps.
const DEBOUNCE: Duration = Duration::from_millis(2);

/// For how long a file that cannot be parsed is assumed to be still being written.
const WRITE_GRACE: Duration = Duration::from_millis(100);

/// How long to wait before reading a file again after no file descriptor was free.
const RETRY_DELAY: Duration = Duration::from_millis(200);

const IDENTITY: &str = "identity.toml";
const TERMINALS: &str = "terminals.toml";
const PEERS: &str = "peers.toml";
/// The key of the problem with entries of [`PEERS`]; unlike other keys it is not a file name.
const BAD_PEERS: &str = "peers";
const TERMINAL_SECRET: &str = "terminal_jwt_secret";
const MANAGEMENT_SECRET: &str = "management_secret";
const USES: &str = "uses.json";
const LAST_ACCESS: &str = "last_access";
const LAST_CONNECTION: &str = "last_connection";

/// Seconds since 1970, by table and key.
type UsesFile = BTreeMap<String, BTreeMap<String, u64>>;

/// The files that the gate reads, and the table that each of them holds.
const WATCHED: [(&str, Table); 5] = [
    (IDENTITY, Table::Identity),
    (TERMINALS, Table::Terminals),
    (PEERS, Table::Peers),
    (TERMINAL_SECRET, Table::TerminalSecret),
    (MANAGEMENT_SECRET, Table::ManagementSecret),
];

/// A file store.
#[derive(Debug)]
pub struct Files {
    folder: Arc<Folder>,
    apps: AppMetaDir,
    /// `terminals.toml`, parsed once per save and not once per terminal.
    terminals: Arc<Cached<HashMap<Arc<str>, Terminal>>>,
    configured_secret: Option<Secret>,
    freshness: Arc<Freshness>,
    problems: Mutex<BTreeMap<&'static str, String>>,
}

impl Files {
    #[must_use]
    pub fn new(
        path: PathBuf,
        configured_secret: Option<Secret>,
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
            configured_secret,
            freshness,
            problems: Mutex::default(),
        }
    }

    pub async fn app_names(&self) -> Result<Vec<String>, Unavailable> {
        self.apps.apps().await
    }

    pub async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        self.folder.identity().await
    }

    pub async fn terminal(&self, id: &str) -> Result<Option<Terminal>, Unavailable> {
        // The gate caches the result, so a stale entry must not become young again here.
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
        let (peers, problem) = split_rows(self.peer_rows().await?);
        self.note_bad_peers(problem);
        Ok(peers)
    }

    /// Records what is wrong with single entries of the peers file, or that nothing is.
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
        match &self.configured_secret {
            Some(secret) => Ok(Some(secret.clone())),
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
        // Read back: another process may have written the file first.
        let written = self.terminal_secret().await?;
        written
            .ok_or_else(|| Unavailable::new(format!("{TERMINAL_SECRET}: written, but not found")))
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

    pub async fn add_invitation(
        &self,
        invitation: &Invitation,
        now: SystemTime,
    ) -> Result<bool, Unavailable> {
        let (folder, invitation) = (Arc::clone(&self.folder), invitation.clone());
        self.edit(move || folder.add_invitation(&invitation, now)).await
    }

    pub async fn redeem_invitation(
        &self,
        handle: &str,
        digest: &str,
        now: SystemTime,
    ) -> Result<Redeemed, Unavailable> {
        let folder = Arc::clone(&self.folder);
        let (handle, digest) = (handle.to_owned(), digest.to_owned());
        self.edit(move || folder.redeem_invitation(&handle, &digest, now)).await
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
        // As in `write_uses`: a file that cannot be parsed counts as empty.
        let mut uses: UsesFile = serde_json::from_str(&json).unwrap_or_default();
        let apps = uses.remove(LAST_ACCESS).unwrap_or_default().into_iter();
        // The file may hold any number, so one that is not a valid time is left out.
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Ok(apps.filter_map(|(app, seconds)| Some((app.into(), at(seconds)?))).collect())
    }

    pub fn health(&self) -> Health {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        Health { pool: None, problems: problems.values().cloned().collect() }
    }

    /// Runs work that changes files.
    async fn edit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.folder.calls.run(work).await.map_err(Unavailable::new)
    }

    /// Reports every save, for the life of the process.
    pub async fn watch(&self) -> Infallible {
        let changed = Arc::new(Notify::new());
        let watch = Arc::new(Mutex::new(None));
        // The state of each file at the last scan, if a later change is certain to differ.
        let mut seen: [Option<Option<FileState>>; WATCHED.len()] = [None; WATCHED.len()];
        loop {
            #[expect(clippy::disallowed_methods, reason = "held against the times of files")]
            let (scanned, now) = (self.freshness.now(), SystemTime::now());
            let (folder, watch, notify) =
                (Arc::clone(&self.folder), Arc::clone(&watch), Arc::clone(&changed));
            let scan = self.folder.calls.run(move || {
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(folder.scan(&mut watch, &notify))
            });
            let mut is_complete = true;
            match scan.await {
                Ok(scan) => {
                    for ((before, (file, table)), state) in
                        seen.iter_mut().zip(WATCHED).zip(scan.states)
                    {
                        if *before != Some(state) || self.has_problem(file) {
                            let is_settled = state.is_none_or(|state| state.is_settled(now));
                            *before = is_settled.then_some(state);
                            if !self.file_changed(file, table).await {
                                (*before, is_complete) = (None, false);
                            }
                        }
                    }
                    let found = if scan.folder_exists { Ok(()) } else { Err(NO_FOLDER.into()) };
                    if self.record_folder(found) && is_complete {
                        self.freshness.verify(scanned);
                    }
                }
                Err(error) => {
                    self.record_folder(Err(error.to_string()));
                }
            }
            let pause = if is_complete { self.freshness.times().heartbeat } else { RETRY_DELAY };
            if timeout(pause, changed.notified()).await.is_ok() {
                sleep(DEBOUNCE).await;
            }
        }
    }

    /// Handles the change of a file: if the file is usable, the entries read from it are
    /// invalid. If not, the entries read before become stale. Returns `false` if that cannot
    /// be decided now because no file descriptor was free, which says nothing about the file.
    async fn file_changed(&self, file: &'static str, table: Table) -> bool {
        let outcome = match timeout(WRITE_GRACE, self.folder.wait_until_usable(file)).await {
            Ok(()) => Ok(()),
            Err(_) => self.folder.probe(file).await,
        };
        if outcome.is_err() && self.folder.lacks_descriptor(file).await {
            return false;
        }
        let had_problem = self.has_problem(file);
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                problems.remove(file);
                self.freshness.invalidate_table(table);
            }
            Err(error) => {
                if !had_problem {
                    tracing::error!(%error, "a file of the store is unusable");
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

    /// Records whether the folder exists, and returns it. A missing folder says nothing about
    /// its files, so freshness is not verified without it.
    fn record_folder(&self, found: Result<(), String>) -> bool {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
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

const NO_FOLDER: &str = "the folder does not exist";

#[cfg(test)]
mod tests;
