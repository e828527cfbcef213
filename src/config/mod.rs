//! Configuration: a TOML file and the environment, read once, validated whole.
//!
//! [`load`] turns raw values into the types below or into [`Findings`]: every
//! problem at once, each with its source, its key and what to do. After it has
//! returned, nothing in this crate reads a configuration file or the
//! environment again, and no value needs to be checked a second time.

mod differing;
mod findings;
mod given;
mod keys;
mod load;
mod reader;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;

pub use findings::{Finding, Findings, Origin};
pub use load::load;
pub use value::{ListenAddr, Secret};

pub use crate::domain::activity::Activity;
pub use crate::domain::policy::PathMatching;
pub use crate::domain::strategy::{StrategyChoice, StreamWakes};

/// The whole validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub gate: Gate,
    pub ops: Ops,
    pub store: Store,
    pub cache: Cache,
    pub touch: Touch,
    pub wake: Wake,
    pub sleep: Sleep,
    pub upstream: Option<Upstream>,
    pub log: Log,
}

/// `[gate]`: the listener that proxies ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    pub listen: ListenAddr,
    /// Networks that may connect; others' connections are closed unread.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at one time; fewer where descriptors are short.
    pub max_connections: usize,
    /// The same from one address, and never more than three quarters of all.
    pub max_connections_per_address: usize,
    /// Where set, only `<app>.<domain>` names an app; any other rest of the
    /// host is an unknown app.
    pub domain: Option<String>,
    pub path_matching: PathMatching,
    pub header_encoding: HeaderEncoding,
    /// Refuse a peer signature seen before even where it carries no nonce.
    pub refuse_replays: bool,
    /// Apps whose private paths CORS preflights pass to, besides those that say so
    /// themselves.
    pub cors_preflight: Vec<String>,
    /// How long a drain may take before connections are cut.
    pub drain_timeout: Duration,
    pub tls: Option<Tls>,
}

/// What becomes of characters outside latin-1 in a response header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderEncoding {
    /// One byte a character, `?` for the rest.
    #[default]
    Latin1,
    Utf8,
}

/// `[gate.tls]`: TLS and, by ALPN, HTTP/2 on the gate listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: Certificate,
    /// PEM file of the authorities whose client certificates are let in; `None` lets in anyone.
    pub client_ca: Option<PathBuf>,
}

/// Where the gate's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// PEM files, read again when they change.
    Given { certificate: PathBuf, key: PathBuf },
    /// An authority and a certificate made on first start, kept in `directory`
    /// and renewed before they expire.
    SelfSigned { directory: PathBuf, names: Vec<String> },
}

/// `[ops]`: probes, metrics, and what an operator asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ops {
    pub listen: ListenAddr,
    /// Bearer token; required unless `listen` is loopback or a socket file.
    pub token: Option<Secret>,
    /// Further names by which the listener may be asked where there is no token.
    pub hosts: Vec<String>,
}

/// `[store]`: where the box's truth lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub kind: StoreKind,
    /// Folder of `<app>/app_meta.json`.
    pub installed_apps_dir: PathBuf,
    /// The zone that ends the box's domain when it is derived from its id.
    pub zone: String,
    /// Characters of the id that begin the domain.
    pub prefix_length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// A watched folder.
    Files {
        path: PathBuf,
        /// Used instead of the secret that is kept in the folder.
        terminal_jwt_secret: Option<Secret>,
    },
    Postgres(Postgres),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// URL or key-value connection string, as in libpq.
    pub url: Secret,
    pub pool_size: u32,
    /// How long a query may wait for a connection of the pool.
    pub pool_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long one query may take before its connection is given up.
    pub query_timeout: Duration,
    /// Whether missing FreeShard tables may be created.
    pub create_tables: bool,
}

/// `[cache]`: how long what was read is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Entries a cache may hold.
    pub capacity: u64,
    /// Backstop age after which an entry is read again although nothing outdated it.
    pub ttl: Duration,
    /// Age after which an entry is read again while the store's notifications are not live.
    pub degraded_ttl: Duration,
    /// Age beyond which nothing is decided from an entry, whatever happens.
    pub max_stale: Duration,
    /// Period of the heartbeat; two missed periods end *live*.
    pub heartbeat: Duration,
}

/// `[touch]`: how uses are written back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    pub flush_interval: Duration,
    /// `last_access` of an app is written at most once in this time.
    pub last_access_every: Duration,
}

/// `[wake]`: how sleeping apps are brought up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    /// Whether containers are looked at at all; without it every app counts as awake.
    pub enabled: bool,
    pub docker: DockerEndpoint,
    /// For apps that say nothing themselves.
    pub strategy: StrategyChoice,
    /// By app; goes before what its `app_meta.json` says.
    pub apps: BTreeMap<String, StrategyChoice>,
    /// Shortest time between two attempts for one app.
    pub throttle: Duration,
    /// Longest wait after an attempt that failed; the first is `throttle`.
    pub longest_backoff: Duration,
    /// Starts in their first ten seconds at one time, over all apps.
    pub max_concurrent: usize,
    /// From the order to start until the app must be ready.
    pub start_timeout: Duration,
    /// Longest that a held request waits.
    pub hold_timeout: Duration,
    /// Requests and questions of pages that wait at one time; further ones are answered
    /// at once.
    pub max_held: usize,
    /// How often a request that was held in vain is sent to its own address again.
    pub max_redirects: u32,
    /// Program and first arguments of Compose; empty to look for one.
    pub compose_command: Vec<String>,
    /// On the volume whose free space counts.
    pub data_dir: PathBuf,
    /// In bytes; with less nothing is started.
    pub min_free_disk: u64,
    pub ignore: Ignore,
    pub streams: Streams,
}

/// `[wake.ignore]`: requests that wake nothing and do not count as use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Parts of a `User-Agent` without regard to letter case, in lower case.
    pub user_agents: Vec<String>,
    /// Beginnings of a path.
    pub paths: Vec<String>,
    /// What they get while the app sleeps; 200 unless set.
    pub status: StatusCode,
}

/// `[wake.streams]`: which streams wake an app that nobody has opened since it fell asleep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    pub wake: StreamWakes,
    pub apps: BTreeMap<String, StreamWakes>,
}

impl Streams {
    /// What holds for an app.
    #[must_use]
    pub fn of(&self, app: &str) -> StreamWakes {
        self.apps.get(app).copied().unwrap_or(self.wake)
    }
}

/// Where the container engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerEndpoint {
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
    /// `host:port` and the folder of `ca.pem`, `cert.pem` and `key.pem`.
    Tls {
        address: String,
        certificates: PathBuf,
    },
}

/// `[sleep]`: when apps that nobody uses are paused and stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sleep {
    pub enabled: bool,
    /// Period of the loop.
    pub interval: Duration,
    /// Whether apps are paused before they are stopped.
    pub pause: bool,
    /// For apps that say nothing themselves.
    pub idle_for_pause: Duration,
    /// For apps that say nothing themselves.
    pub idle_for_stop: Duration,
    /// After the start of the process nothing is put to sleep for so long.
    pub hold_off: Duration,
    /// What counts as use besides requests, for apps that say nothing themselves.
    pub activity: Activity,
    /// By app; goes before what its `app_meta.json` says.
    pub apps: BTreeMap<String, Activity>,
    /// Bytes both to and from an app within `interval` that count as use.
    pub activity_bytes: u64,
    /// Percentage of one processor that counts as use where processor time does.
    pub activity_cpu: u64,
    /// Percentage of time that tasks wait for memory (PSI `some avg10`) above which
    /// apps are demoted before their time; `None` never does.
    pub memory_pressure: Option<u8>,
    /// Whether a paused app's memory is given back through cgroup v2.
    pub reclaim: bool,
}

/// `[upstream]`: the `shard_core` that runs beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `http://host:port`, without a path.
    pub url: http::Uri,
    /// Whether verdicts are compared with its own.
    pub shadow: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A `tracing` filter directive: `info`, `nightporter=debug`, …
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The environment as a map, so that tests need not change the process's own.
pub type Environment = BTreeMap<String, String>;
