//! The box's truth, as rows, behind one seam: [`Source`] reads it, [`Cached`]
//! remembers it, [`Freshness`] says whether what is remembered may be used.
//!
//! The two sources, [`postgres`] and [`files`], answer the same questions and
//! report changes to the same [`Freshness`]; nothing above this module knows
//! which one a box has.
//!
//! Errors: a source says [`Unavailable`] and why; what becomes of it (serve
//! what is cached, or 503) is decided in [`cache`], once.

pub mod app_meta;
pub mod cache;
pub(crate) mod derived;
pub(crate) mod file_calls;
pub mod files;
pub mod freshness;
mod memo;
pub mod peers;
pub mod postgres;
pub(crate) mod regular;
pub mod touch;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{Config, Secret, StoreKind};
use crate::domain::app::Size;
use crate::domain::identity::Identity;
use crate::domain::lifecycle::is_revivable;
use crate::postgres::{AdvisoryLock, ConfigError};

pub use cache::Cached;
pub use freshness::Freshness;
pub use peers::{BadPeer, Peer};

/// The tables that caches are kept of, each with its own generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// The set of installed names; changes when an app comes or goes.
    AppNames,
    /// Rows of `installed_apps`, by name.
    Apps,
    /// `app_meta.json` files, by app.
    AppMeta,
    Identity,
    /// Rows of `terminals`, by id.
    Terminals,
    /// All peers as one set.
    Peers,
    /// The key terminal tokens are signed with.
    TerminalSecret,
    ManagementSecret,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::AppNames,
        Self::Apps,
        Self::AppMeta,
        Self::Identity,
        Self::Terminals,
        Self::Peers,
        Self::TerminalSecret,
        Self::ManagementSecret,
    ];
}

/// The store cannot answer; the text says which part and why, for the log.
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

/// The installed names: lower-cased name → name as the store spells it.
pub type AppNames = HashMap<Box<str>, Arc<str>, foldhash::fast::RandomState>;

/// A row of `installed_apps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRow {
    pub name: Arc<str>,
    /// One of the contract's words: `running`, `stopped`, …
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
pub enum Standing {
    Revivable,
    /// It is being installed, removed or the like, or broken.
    Busy {
        status: String,
    },
    Gone,
}

/// Held by whoever wakes an app or puts it to sleep.
#[derive(Debug)]
pub enum AppLock {
    Postgres(AdvisoryLock),
    Files,
}

impl AppLock {
    /// Returns when the lock is held no longer, by no act of its holder: who acts under
    /// it has to stop.
    pub async fn lost(&self) {
        match self {
            Self::Postgres(lock) => lock.lost().await,
            Self::Files => std::future::pending().await,
        }
    }

    /// Lets the next one in.
    pub async fn release(self) {
        match self {
            Self::Postgres(lock) => lock.release().await,
            Self::Files => {}
        }
    }
}

/// What a touch says was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Touched {
    /// `installed_apps.last_access`.
    App,
    /// `terminals.last_connection`.
    Terminal,
}

/// What a store says of itself to probes.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Connections of the pool and how many of them are idle, where there is a pool.
    pub pool: Option<(u32, u32)>,
    /// What is wrong now, in words for the operator; empty where all is well.
    pub problems: Vec<String>,
}

/// The two stores behind one seam.
#[derive(Debug)]
pub enum Source {
    Postgres(postgres::Postgres),
    Files(files::Files),
}

/// Calls the same method of whichever store there is.
macro_rules! either {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Source::Postgres($store) => $call,
            Source::Files($store) => $call,
        }
    };
}

impl Source {
    /// The configured store, not yet connected: [`Source::watch`] does that.
    pub fn open(config: &Config, freshness: &Arc<Freshness>) -> Result<Self, ConfigError> {
        let freshness = Arc::clone(freshness);
        Ok(match &config.store.kind {
            StoreKind::Files { path, terminal_jwt_secret } => {
                let secret = terminal_jwt_secret.clone();
                Self::Files(files::Files::new(path.clone(), secret, &config.store, freshness))
            }
            StoreKind::Postgres(server) => {
                let (store, touch) = (&config.store, &config.touch);
                Self::Postgres(postgres::Postgres::new(server, store, touch, freshness)?)
            }
        })
    }

    /// Prepares the store (migrations, missing files), follows its changes and
    /// reports them to its [`Freshness`]; runs as long as the process, through
    /// every fault.
    pub async fn watch(&self) -> Infallible {
        either!(self, store => store.watch().await)
    }

    pub fn health(&self) -> Health {
        either!(self, store => store.health())
    }

    /// The names of all installed apps.
    pub async fn app_names(&self) -> Result<Vec<String>, Unavailable> {
        either!(self, store => store.app_names().await)
    }

    pub async fn app(&self, name: &str) -> Result<Option<AppRow>, Unavailable> {
        match self {
            Self::Postgres(store) => store.app(name).await,
            Self::Files(store) => Ok(Some(store.app(name))),
        }
    }

    /// Whether an app is there and may be woken and put to sleep now, asked of the
    /// store itself.
    pub async fn standing(&self, name: &str) -> Result<Standing, Unavailable> {
        match self {
            Self::Postgres(store) => Ok(match store.app(name).await? {
                None => Standing::Gone,
                Some(row) if is_revivable(&row.status) => Standing::Revivable,
                Some(row) => Standing::Busy { status: row.status },
            }),
            Self::Files(store) => {
                let names = store.app_names().await?;
                let is_there = names.iter().any(|other| other == name);
                Ok(if is_there { Standing::Revivable } else { Standing::Gone })
            }
        }
    }

    /// Writes down what an app's containers do, in the contract's word, unless the app
    /// is coming or going. A folder keeps no status.
    pub async fn write_status(&self, name: &str, status: &str) -> Result<(), Unavailable> {
        match self {
            Self::Postgres(store) => store.write_status(name, status).await,
            Self::Files(_) => Ok(()),
        }
    }

    /// The size of the box, where one is written down.
    pub async fn box_size(&self) -> Result<Option<Size>, Unavailable> {
        match self {
            Self::Postgres(store) => store.box_size().await,
            Self::Files(_) => Ok(None),
        }
    }

    /// When each app was last used, as far as that was written down.
    pub async fn last_uses(&self) -> Result<HashMap<Arc<str>, SystemTime>, Unavailable> {
        either!(self, store => store.last_uses().await)
    }

    /// Keeps other processes from waking the app or putting it to sleep, until the
    /// lock is released or dropped. `None` where another process holds it. A folder
    /// belongs to one process.
    pub async fn try_lock_app(&self, name: &str) -> Result<Option<AppLock>, Unavailable> {
        match self {
            Self::Postgres(store) => Ok(store.try_lock_app(name).await?.map(AppLock::Postgres)),
            Self::Files(_) => Ok(Some(AppLock::Files)),
        }
    }

    /// The default identity; `None` where the box has none yet.
    pub async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        either!(self, store => store.identity().await)
    }

    pub async fn terminal(&self, id: &str) -> Result<Option<Terminal>, Unavailable> {
        either!(self, store => store.terminal(id).await)
    }

    pub async fn terminals(&self) -> Result<Vec<Terminal>, Unavailable> {
        either!(self, store => store.terminals().await)
    }

    /// The peers whose key is their own. Those without one are left out, and bad rows
    /// are told of in the log and to probes.
    pub async fn peers(&self) -> Result<Vec<Peer>, Unavailable> {
        either!(self, store => store.peers().await)
    }

    /// Every peer that has a key, or why its row is skipped.
    pub async fn peer_rows(&self) -> Result<Vec<Result<Peer, BadPeer>>, Unavailable> {
        either!(self, store => store.peer_rows().await)
    }

    pub async fn terminal_secret(&self) -> Result<Option<Secret>, Unavailable> {
        either!(self, store => store.terminal_secret().await)
    }

    /// As [`Source::terminal_secret`]; makes a random one where there is none.
    pub async fn ensure_terminal_secret(&self) -> Result<Secret, Unavailable> {
        either!(self, store => store.ensure_terminal_secret().await)
    }

    pub async fn management_secret(&self) -> Result<Option<Secret>, Unavailable> {
        either!(self, store => store.management_secret().await)
    }

    /// Adds a terminal; `false` where the id is taken.
    pub async fn add_terminal(&self, terminal: &Terminal) -> Result<bool, Unavailable> {
        either!(self, store => store.add_terminal(terminal).await)
    }

    /// Removes a terminal; `false` where there was none.
    pub async fn remove_terminal(&self, id: &str) -> Result<bool, Unavailable> {
        either!(self, store => store.remove_terminal(id).await)
    }

    /// Writes uses back, all of one table in one statement; none is set back in
    /// time. In Postgres a row that is gone is passed over.
    pub async fn write_touches(
        &self,
        touched: Touched,
        uses: &[(Arc<str>, SystemTime)],
    ) -> Result<(), Unavailable> {
        either!(self, store => store.write_touches(touched, uses).await)
    }
}

/// 256 random bits as text.
fn random_secret() -> Result<Secret, Unavailable> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Unavailable::new("the system has no random numbers"))?;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(Secret::new(text))
}
