//! Configuration: a TOML file and the environment, read once and validated as a whole.
//!
//! [`load`] turns raw values into the types below or into [`Findings`]: every
//! problem at once, each with its source, its key and what to do. After [`load`] has
//! returned, nothing in this crate reads a configuration file or the
//! environment again, and no value needs to be checked a second time.

mod diff;
mod findings;
mod keys;
mod load;
mod reader;
mod sources;
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

/// `[gate]`: the listener for subrequests of the proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    pub listen: ListenAddr,
    /// Networks that may connect; all other connections are closed unread.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at one time; fewer if file descriptors are short.
    pub max_connections: usize,
    /// The same from one address, and never more than three quarters of all.
    pub max_connections_per_address: usize,
    /// If set, only `<app>.<domain>` names an app; a host with any other domain
    /// is an unknown app.
    pub domain: Option<String>,
    pub path_matching: PathMatching,
    pub header_encoding: HeaderEncoding,
    /// Whether a peer signature that was seen before is refused even if it has no nonce.
    pub refuse_replays: bool,
    /// Apps whose private paths let CORS preflights pass, besides those that request it in
    /// their `app_meta.json`.
    pub cors_preflight: Vec<String>,
    /// How long a drain may take before connections are cut.
    pub drain_timeout: Duration,
    pub tls: Option<Tls>,
}

/// How the characters of a response header are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderEncoding {
    /// One byte per character, and `?` for characters outside latin-1.
    #[default]
    Latin1,
    Utf8,
}

/// `[gate.tls]`: TLS and, by ALPN, HTTP/2 on the gate listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: Certificate,
    /// PEM file of the authorities whose client certificates are accepted; `None` requires no
    /// client certificate.
    pub client_ca: Option<PathBuf>,
}

/// Where the gate's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// PEM files, read again when they change.
    Files { certificate: PathBuf, key: PathBuf },
    /// An authority and a certificate that are created at the first start, kept in
    /// `directory` and renewed before they expire.
    SelfSigned { directory: PathBuf, names: Vec<String> },
}

/// `[ops]`: the listener for probes, metrics and the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ops {
    pub listen: ListenAddr,
    /// Bearer token; required unless `listen` is loopback or a socket file.
    pub token: Option<Secret>,
    /// Further host names under which the listener answers if there is no token.
    pub hosts: Vec<String>,
    /// Whether verdicts are counted by app and rule.
    pub app_metrics: bool,
}

/// `[store]`: where the box's data is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub kind: StoreKind,
    /// Folder of `<app>/app_meta.json`.
    pub installed_apps_dir: PathBuf,
    /// The zone in which the box's domain is when it is derived from the box's id.
    pub zone: String,
    /// Number of characters of the id with which the domain begins.
    pub prefix_length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// A watched folder.
    Files {
        path: PathBuf,
        /// Used instead of the secret in the folder.
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
    /// How long one query may take before its connection is closed.
    pub query_timeout: Duration,
    /// Whether missing FreeShard tables may be created.
    pub create_tables: bool,
}

/// `[cache]`: how long cache entries are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The maximum number of entries in one cache.
    pub capacity: u64,
    /// Age after which an entry is read again even if no notification has outdated it.
    pub ttl: Duration,
    /// Age after which an entry is read again while the store's notifications are not live.
    pub degraded_ttl: Duration,
    /// Age beyond which an entry never decides a request.
    pub max_stale: Duration,
    /// Period of the heartbeat; after two missed periods the store is no longer *live*.
    pub heartbeat: Duration,
}

/// `[touch]`: how the last uses are written back to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    pub flush_interval: Duration,
    /// `last_access` of an app is written at most once in this time.
    pub last_access_every: Duration,
}

/// `[wake]`: how sleeping apps are woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    /// Whether containers are managed at all; if not, every app counts as awake.
    pub enabled: bool,
    pub docker: DockerEndpoint,
    /// The strategy of apps that set none themselves.
    pub strategy: StrategyChoice,
    /// By app; takes precedence over its `app_meta.json`.
    pub apps: BTreeMap<String, StrategyChoice>,
    /// Shortest time between two attempts for one app.
    pub throttle: Duration,
    /// Longest wait after a failed attempt; the first wait is `throttle`.
    pub longest_backoff: Duration,
    /// Starts in their first ten seconds at one time, over all apps.
    pub max_concurrent: usize,
    /// Time from the start command until the app must be ready.
    pub start_timeout: Duration,
    /// Longest time that a held request waits.
    pub hold_timeout: Duration,
    /// Requests and waiting pages' status requests that are held at one time; further ones
    /// are answered at once.
    pub max_held: usize,
    /// How often a request that was held in vain is redirected to its own address.
    pub max_redirects: u32,
    /// Program and first arguments of Compose; if empty, Compose is searched for.
    pub compose_command: Vec<String>,
    /// A folder on the volume whose free space counts.
    pub data_dir: PathBuf,
    /// In bytes; with less free space, nothing is started.
    pub min_free_disk: u64,
    pub ignore: Ignore,
    pub streams: Streams,
}

/// `[wake.ignore]`: requests that wake nothing and do not count as use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Parts of a `User-Agent`, in lower case; they are compared case-insensitively.
    pub user_agents: Vec<String>,
    /// Beginnings of a path.
    pub paths: Vec<String>,
    /// The status they get while the app sleeps; 200 unless set.
    pub status: StatusCode,
}

/// `[wake.streams]`: which streams wake an app that was not opened since it fell asleep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    pub wake: StreamWakes,
    pub apps: BTreeMap<String, StreamWakes>,
}

impl Streams {
    /// Returns the setting for an app.
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
    /// `host:port`, and the folder of `ca.pem`, `cert.pem` and `key.pem`.
    Tls {
        address: String,
        certificates: PathBuf,
    },
}

/// `[sleep]`: when unused apps are paused and stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sleep {
    pub enabled: bool,
    /// Period of the loop.
    pub interval: Duration,
    /// Whether apps are paused before they are stopped.
    pub pause: bool,
    /// For apps that set no time themselves.
    pub idle_for_pause: Duration,
    /// For apps that set no time themselves.
    pub idle_for_stop: Duration,
    /// How long after the start of the process no app is put to sleep.
    pub hold_off: Duration,
    /// What counts as use besides requests, for apps that do not set it themselves.
    pub activity: Activity,
    /// By app; takes precedence over its `app_meta.json`.
    pub apps: BTreeMap<String, Activity>,
    /// Bytes both to and from an app within `interval` that count as use.
    pub activity_bytes: u64,
    /// Percentage of one processor that counts as use, if processor time counts.
    pub activity_cpu: u64,
    /// Percentage of time that tasks wait for memory (PSI `some avg10`) above which
    /// apps are put to sleep early; `None` disables this.
    pub memory_pressure: Option<u8>,
    /// Whether a paused app's memory is given back through cgroup v2.
    pub reclaim: bool,
}

/// `[upstream]`: the `shard_core` that runs beside nightporter.
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
