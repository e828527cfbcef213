//! The box's authoritative data, as rows, behind one interface: [`Source`] reads it,
//! [`Cached`] caches it, and [`Freshness`] says whether a cache entry may be used.
//!
//! The two sources, [`postgres`] and [`files`], answer the same queries and
//! report changes to the same [`Freshness`]. The gate and the wake do not know which one a
//! box has.
//!
//! Errors: a source returns [`Unavailable`] with the reason. Whether the cached value is
//! served or the answer is 503 is decided in one place, [`cache`].

pub mod app_meta;
pub mod cache;
pub(crate) mod derived;
pub mod descriptions;
pub(crate) mod file_calls;
pub mod files;
pub mod freshness;
pub mod invitations;
pub mod labels;
mod memo;
pub mod peers;
pub mod postgres;
pub(crate) mod regular_file;
pub mod touch;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use crate::config::{Config, Secret, StoreKind};
use crate::domain::app::Size;
use crate::domain::identity::Identity;
use crate::domain::lifecycle::is_revivable;
use crate::domain::names::Names;
use crate::postgres::{AdvisoryLock, ConfigError};
use invitations::{Invitation, Redeemed};

pub use cache::Cached;
use descriptions::Descriptions;
use file_calls::FileCalls;
pub use freshness::Freshness;
use labels::Labels;
pub use peers::{BadPeer, Peer};

/// The tables that are cached, each with its own generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// The set of installed names; it changes when an app is added or removed.
    AppNames,
    /// Rows of `installed_apps`, by name.
    Apps,
    /// `app_meta.json` files, by app.
    AppMeta,
    /// The whole hosts that apps claim.
    Hosts,
    Identity,
    /// Rows of `terminals`, by id.
    Terminals,
    /// All peers as one set.
    Peers,
    /// The key that terminal tokens are signed with.
    TerminalSecret,
    ManagementSecret,
}

impl Table {
    pub const ALL: [Self; 9] = [
        Self::AppNames,
        Self::Apps,
        Self::AppMeta,
        Self::Hosts,
        Self::Identity,
        Self::Terminals,
        Self::Peers,
        Self::TerminalSecret,
        Self::ManagementSecret,
    ];
}

/// The store cannot answer. The text says which part failed and why, for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub Arc<str>);

impl Unavailable {
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string().into())
    }
}

impl From<crate::postgres::Error> for Unavailable {
    fn from(error: crate::postgres::Error) -> Self {
        Self::new(error)
    }
}

/// A row of `installed_apps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRow {
    pub name: Arc<str>,
    /// One of the contract's status words: `running`, `stopped`, …
    pub status: String,
}

/// A row of `terminals`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    pub id: Arc<str>,
    pub name: Arc<str>,
}

/// Whether an app may be woken and put to sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstallState {
    Revivable,
    /// The app is being installed or removed, is otherwise in transition, or is broken.
    Busy {
        status: String,
    },
    Gone,
}

/// The lock of one app, held by the process that wakes the app or puts it to sleep.
#[derive(Debug)]
pub enum AppLock {
    Postgres(AdvisoryLock),
    Files,
}

impl AppLock {
    /// Returns when the lock was lost without being released. The holder must then stop
    /// what it does under the lock.
    pub async fn lost(&self) {
        match self {
            Self::Postgres(lock) => lock.lost().await,
            Self::Files => std::future::pending().await,
        }
    }

    /// Releases the lock, so that another process can take it.
    pub async fn release(self) {
        match self {
            Self::Postgres(lock) => lock.release().await,
            Self::Files => {}
        }
    }
}

/// What was used, and so which column a use is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Touched {
    /// `installed_apps.last_access`.
    App,
    /// `terminals.last_connection`.
    Terminal,
}

/// The health of a store, for probes.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// The number of connections in the pool and how many of them are idle; `None` if there
    /// is no pool.
    pub pool: Option<(u32, u32)>,
    /// The current problems, worded for the operator; empty if there are none.
    pub problems: Vec<String>,
}

/// The configured store: one interface to both kinds, and to what describes apps.
#[derive(Debug)]
pub struct Source {
    backend: Backend,
    descriptions: Arc<Descriptions>,
}

/// The rows of the box.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process has one, behind an `Arc`")]
pub enum Backend {
    Postgres(postgres::Postgres),
    Files(files::Files),
}

/// Calls the same method on whichever kind of store is configured.
macro_rules! dispatch {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.backend {
            Backend::Postgres($store) => $call,
            Backend::Files($store) => $call,
        }
    };
}

/// How long creating a folder may delay the start.
const PREPARE_LIMIT: Duration = Duration::from_secs(1);

/// What is kept of labels.
const LABELS: &str = "labels.json";

impl Source {
    /// Creates the configured store without connecting; [`Source::watch`] connects. Reads
    /// what was last known of labels, so it may block for a second.
    pub fn open(config: &Config, freshness: &Arc<Freshness>) -> Result<Self, ConfigError> {
        let labels = |folder: &Path| {
            // Without an engine nothing tells of a label that has changed.
            let is_read = config.store.labels && config.wake.enabled;
            let open = || Labels::open(folder.join(LABELS), Arc::clone(freshness));
            is_read.then(|| Arc::new(open()))
        };
        let (backend, labels) = match &config.store.kind {
            StoreKind::Files { path, terminal_jwt_secret } => {
                let (secret, store) = (terminal_jwt_secret.clone(), &config.store);
                let files = files::Files::new(path.clone(), secret, store, Arc::clone(freshness));
                (Backend::Files(files), labels(path))
            }
            StoreKind::Postgres(server) => {
                let (store, touch) = (&config.store, &config.touch);
                let freshness = Arc::clone(freshness);
                let postgres = postgres::Postgres::new(server, store, touch, freshness)?;
                // The box's own folder may belong to another program.
                (Backend::Postgres(postgres), labels(&config.ledger.path))
            }
        };
        let dir = config.store.installed_apps_dir.clone();
        let descriptions = Arc::new(Descriptions::new(dir, labels, freshness));
        Ok(Self { backend, descriptions })
    }

    /// Creates the folder of `app_meta.json` files where labels may be all that describes
    /// apps. A missing folder would say nothing about its files: no label could count. A disk
    /// that hangs delays the start by a second at most.
    pub async fn prepare(&self, config: &Config) {
        let StoreKind::Files { path, .. } = &config.store.kind else { return };
        let dir = config.store.installed_apps_dir.clone();
        if self.descriptions.labels().is_none() || dir.parent() != Some(path) {
            return;
        }
        let shown = dir.display().to_string();
        let calls = FileCalls::new();
        let create = calls.run(move || match std::fs::create_dir(dir) {
            // Without the box's folder there is nothing to prepare.
            Err(error)
                if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) =>
            {
                Ok(())
            }
            created => created,
        });
        if let Ok(Err(error)) = timeout(PREPARE_LIMIT, create).await {
            tracing::error!(%error, "{shown}: the folder cannot be created");
        }
    }

    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Returns what describes the apps.
    #[must_use]
    pub fn descriptions(&self) -> &Arc<Descriptions> {
        &self.descriptions
    }

    /// Returns whether labels, and nothing else, make an app known.
    fn is_labelled(&self, name: &str) -> bool {
        self.descriptions.labels().is_some_and(|labels| labels.get(name).is_some())
    }

    /// Prepares the store (migrations, missing files), follows its changes and
    /// reports them to its [`Freshness`]. Runs for the life of the process and recovers
    /// from every fault.
    pub async fn watch(&self) -> Infallible {
        dispatch!(self, store => store.watch().await)
    }

    pub fn health(&self) -> Health {
        dispatch!(self, store => store.health())
    }

    /// Returns whether the folders in the apps' folder are the set of installed apps.
    #[must_use]
    pub fn folders_are_apps(&self) -> bool {
        matches!(self.backend, Backend::Files(_))
    }

    /// Returns the names of all installed apps: those of the store, and those that only
    /// labels name.
    pub async fn app_names(&self) -> Result<Vec<String>, Unavailable> {
        let mut names = dispatch!(self, store => store.app_names().await)?;
        if let Some(labels) = self.descriptions.labels() {
            let known: HashSet<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
            let labelled = labels.apps().into_iter().map(|(name, _)| name.to_string());
            names.extend(labelled.filter(|name| !known.contains(name)));
        }
        Ok(names)
    }

    /// Returns the installed apps by what names them. `domain` is the setting `gate.domain`.
    pub async fn names(&self, domain: Option<&str>) -> Result<Names, Unavailable> {
        self.descriptions.settled().await;
        let stored = dispatch!(self, store => store.app_names().await)?;
        let known: HashSet<_> = stored.iter().map(|name| name.to_ascii_lowercase()).collect();
        // On a file store, an app of the store has a file.
        let has_file = |app: &str| self.folders_are_apps() && known.contains(app);
        let claims = self.descriptions.claims(has_file);
        let mut names = stored;
        if let Some(labels) = self.descriptions.labels() {
            let labelled = labels.apps().into_iter().map(|(name, _)| name.to_string());
            names.extend(labelled.filter(|name| !known.contains(name)));
        }
        Ok(Names::new(names, &claims, domain))
    }

    pub async fn app(&self, name: &str) -> Result<Option<AppRow>, Unavailable> {
        // The contract's word for an app of which the store keeps no status.
        let unknown = || AppRow { name: name.into(), status: "unknown".into() };
        match &self.backend {
            Backend::Postgres(store) => {
                let row = store.app(name).await?;
                Ok(row.or_else(|| self.is_labelled(name).then(unknown)))
            }
            Backend::Files(_) => Ok(Some(unknown())),
        }
    }

    /// Returns whether an app is installed and may be woken and put to sleep now. Reads the
    /// store itself, not a cache.
    pub async fn install_state(&self, name: &str) -> Result<InstallState, Unavailable> {
        let is_installed = match &self.backend {
            Backend::Postgres(store) => match store.app(name).await? {
                Some(row) if is_revivable(&row.status) => true,
                Some(row) => return Ok(InstallState::Busy { status: row.status }),
                None => self.is_labelled(name),
            },
            Backend::Files(store) => {
                let names = store.app_names().await?;
                names.iter().any(|other| other == name) || self.is_labelled(name)
            }
        };
        Ok(if is_installed { InstallState::Revivable } else { InstallState::Gone })
    }

    /// Writes the status of an app's containers, as one of the contract's words, unless the
    /// app is being installed or removed. A file store keeps no status.
    pub async fn write_status(&self, name: &str, status: &str) -> Result<(), Unavailable> {
        match &self.backend {
            Backend::Postgres(store) => store.write_status(name, status).await,
            Backend::Files(_) => Ok(()),
        }
    }

    /// Returns the size of the box, if the store has it.
    pub async fn box_size(&self) -> Result<Option<Size>, Unavailable> {
        match &self.backend {
            Backend::Postgres(store) => store.box_size().await,
            Backend::Files(_) => Ok(None),
        }
    }

    /// Returns when each app was last used, for the apps whose uses were written.
    pub async fn last_uses(&self) -> Result<HashMap<Arc<str>, SystemTime>, Unavailable> {
        dispatch!(self, store => store.last_uses().await)
    }

    /// Takes the app's lock, which keeps other processes from waking the app or putting it
    /// to sleep until the lock is released or dropped. Returns `None` if another process
    /// holds it. A file store belongs to one process, so its lock is always free.
    pub async fn try_lock_app(&self, name: &str) -> Result<Option<AppLock>, Unavailable> {
        match &self.backend {
            Backend::Postgres(store) => Ok(store.try_lock_app(name).await?.map(AppLock::Postgres)),
            Backend::Files(_) => Ok(Some(AppLock::Files)),
        }
    }

    /// Returns the default identity; `None` if the box has none yet.
    pub async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        dispatch!(self, store => store.identity().await)
    }

    pub async fn terminal(&self, id: &str) -> Result<Option<Terminal>, Unavailable> {
        dispatch!(self, store => store.terminal(id).await)
    }

    pub async fn terminals(&self) -> Result<Vec<Terminal>, Unavailable> {
        dispatch!(self, store => store.terminals().await)
    }

    /// Returns the peers whose public key matches their id. Peers without a key are left
    /// out, and bad rows are reported in the log and to probes.
    pub async fn peers(&self) -> Result<Vec<Peer>, Unavailable> {
        dispatch!(self, store => store.peers().await)
    }

    /// Returns every peer that has a key, or why its row is skipped.
    pub async fn peer_rows(&self) -> Result<Vec<Result<Peer, BadPeer>>, Unavailable> {
        dispatch!(self, store => store.peer_rows().await)
    }

    pub async fn terminal_secret(&self) -> Result<Option<Secret>, Unavailable> {
        dispatch!(self, store => store.terminal_secret().await)
    }

    /// Like [`Source::terminal_secret`], but creates a random secret if there is none.
    pub async fn ensure_terminal_secret(&self) -> Result<Secret, Unavailable> {
        dispatch!(self, store => store.ensure_terminal_secret().await)
    }

    pub async fn management_secret(&self) -> Result<Option<Secret>, Unavailable> {
        dispatch!(self, store => store.management_secret().await)
    }

    /// Adds a terminal; returns `false` if the id is taken.
    pub async fn add_terminal(&self, terminal: &Terminal) -> Result<bool, Unavailable> {
        dispatch!(self, store => store.add_terminal(terminal).await)
    }

    /// Removes a terminal; returns `false` if there was none.
    pub async fn remove_terminal(&self, id: &str) -> Result<bool, Unavailable> {
        dispatch!(self, store => store.remove_terminal(id).await)
    }

    /// Adds an invitation; returns `false` if its handle is taken. `now` counts in a file store;
    /// a database goes by its own clock.
    pub async fn add_invitation(
        &self,
        invitation: &Invitation,
        now: SystemTime,
    ) -> Result<bool, Unavailable> {
        match &self.backend {
            Backend::Postgres(store) => store.add_invitation(invitation).await,
            Backend::Files(store) => store.add_invitation(invitation, now).await,
        }
    }

    /// Removes the invitation with this handle and digest. Of several processes with the same code
    /// one gets it. A wrong digest counts against the invitation with the handle.
    pub async fn redeem_invitation(
        &self,
        handle: &str,
        digest: &str,
        now: SystemTime,
    ) -> Result<Redeemed, Unavailable> {
        match &self.backend {
            Backend::Postgres(store) => store.redeem_invitation(handle, digest).await,
            Backend::Files(store) => store.redeem_invitation(handle, digest, now).await,
        }
    }

    /// Writes uses, all of one table in one statement. A later time is never overwritten by
    /// an earlier one. In Postgres, rows that no longer exist are skipped.
    pub async fn write_touches(
        &self,
        touched: Touched,
        uses: &[(Arc<str>, SystemTime)],
    ) -> Result<(), Unavailable> {
        dispatch!(self, store => store.write_touches(touched, uses).await)
    }
}

/// Returns 256 random bits as hexadecimal text.
fn random_secret() -> Result<Secret, Unavailable> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Unavailable::new("the system's random number generator failed"))?;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(Secret::new(text))
}
