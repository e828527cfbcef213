//! Configuration: a TOML file and the environment, read once and validated as a whole.
//!
//! [`load`] turns raw values into the types below or into [`Findings`]: every
//! problem at once, each with its source, its key and what to do. After [`load`] has
//! returned, nothing in this crate reads a configuration file or the
//! environment again, and no value needs to be checked a second time.
//!
//! A key is one entry of the table in `keys`: name, type, default and documentation. The
//! fields of most sections, the documented file ([`example()`]), the schema ([`schema()`]) and
//! the list of values in force ([`show()`]) are derived from it. Rules that concern several
//! keys are functions in `load`.

mod diff;
mod example;
mod fallbacks;
mod findings;
mod key;
mod keys;
mod listen_addr;
mod load;
mod names;
mod raw;
mod reader;
mod schema;
mod setting;
mod show;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use example::example;
pub use findings::{Finding, Findings, Origin};
pub use keys::{
    Alerts, Cache, Gate, Ignore, Jobs, Ledger, Log, Ops, Postgres, Sleep, Store, Streams,
    Telemetry, Touch, Traefik, Upstream, Wake, Webhooks, is_reloaded,
};
pub use listen_addr::ListenAddr;
pub use load::load;
pub use schema::schema;
pub use show::{EffectiveValue, show};

use crate::webhooks::endpoint::{Definition, Secrets};
use keys::{EndpointKeys, EngineKeys, LedgerKeys, StoreKeys, TelemetryKeys, TlsKeys, UpstreamKeys};

pub use crate::domain::activity::Activity;
pub use crate::domain::alert::Rule;
pub use crate::domain::policy::PathMatching;
pub use crate::domain::strategy::{StrategyChoice, StreamWakes};
pub use crate::secret::Secret;

/// The whole validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub gate: Gate,
    pub ops: Ops,
    pub traefik: Traefik,
    pub store: Store,
    pub cache: Cache,
    pub touch: Touch,
    pub wake: Wake,
    pub sleep: Sleep,
    pub ledger: Ledger,
    pub jobs: Jobs,
    pub alerts: Alerts,
    pub endpoints: Vec<Endpoint>,
    pub webhooks: Webhooks,
    pub upstream: Option<Upstream>,
    pub telemetry: Telemetry,
    pub log: Log,
    composed: Composed,
}

/// The keys of which values of other types are composed: `gate.tls`, `store.kind`, ... They
/// are kept so that two configurations can be compared key by key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Composed {
    tls: TlsKeys,
    store: StoreKeys,
    postgres: Postgres,
    engine: EngineKeys,
    ledger: LedgerKeys,
    endpoints: Vec<EndpointKeys>,
    upstream_url: UpstreamKeys,
    upstream: Upstream,
    telemetry: TelemetryKeys,
}

/// `[[endpoint]]`: where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub name: String,
    pub definition: Definition,
    pub secrets: Secrets,
}

/// How the characters of a response header are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderEncoding {
    /// One byte per character, and `?` for characters outside latin-1.
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

/// Which store the box has.
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

/// Which database holds the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveKind {
    /// `ledger.db` in `ledger.path`.
    Sqlite,
    Postgres(Postgres),
}

/// What is recorded of granted requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grants {
    /// Their number by app, client, rule and minute.
    Rollup,
    All,
    Off,
}

impl Streams {
    /// Returns the setting for an app.
    #[must_use]
    pub fn for_app(&self, app: &str) -> StreamWakes {
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

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The environment as a map, so that tests need not change the process's own.
pub type Environment = BTreeMap<String, String>;
