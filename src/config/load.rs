//! Builds a whole [`Config`] from file and environment, section by section.

mod wake;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::findings::Findings;
use super::reader::{CertificateNames, Count, HostName, Kind, LogFilter, Names, Reader};
use super::sources::Sources;
use super::{
    Cache, Certificate, Config, Environment, Gate, ListenAddr, Log, Ops, Postgres, Secret, Store,
    StoreKind, Tls, Touch,
};

/// Loopback only: a private range contains every container and every device of the home.
const TRUSTED_PROXIES: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// Shortest key for HS256, in bytes: RFC 7518 section 3.2.
const SHORTEST_JWT_SECRET: usize = 32;

/// Shortest bearer token, in bytes, that cannot feasibly be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Reads the file, if one is given, and the environment, which takes precedence.
///
/// # Errors
/// Returns all problems at once.
pub fn load(file: Option<&Path>, env: &Environment) -> Result<Config, Findings> {
    let mut findings = Findings::default();
    let Some(sources) = Sources::gather(file, env, &mut findings) else {
        return Err(findings);
    };
    let mut reader = Reader::new(sources, findings);
    let config = read(&mut reader, env);
    let findings = reader.into_findings();
    if findings.is_empty() { Ok(config) } else { Err(findings) }
}

/// Reads every key. If a value is missing or wrong, a placeholder replaces it,
/// so that the rest is still checked; it is never used, since there is a finding.
fn read(reader: &mut Reader, env: &Environment) -> Config {
    let gate = gate(reader);
    let ops = ops(reader, &gate.listen);
    let store = store(reader);
    let upstream = wake::upstream(reader);
    let wake = wake::wake(reader, env, &store.installed_apps_dir, upstream.is_some());
    Config {
        gate,
        ops,
        store,
        cache: cache(reader),
        touch: touch(reader),
        wake,
        sleep: wake::sleep(reader, upstream.is_some()),
        upstream,
        log: log(reader),
    }
}

fn gate(reader: &mut Reader) -> Gate {
    Gate {
        listen: reader.get("gate.listen").unwrap_or_else(|| loopback(8400)),
        trusted_proxies: reader.get("gate.trusted_proxies").unwrap_or_else(default_trusted_proxies),
        max_connections: connections(reader, "gate.max_connections", 10_000),
        max_connections_per_address: connections(reader, "gate.max_connections_per_address", 7_500),
        domain: reader.get("gate.domain").map(|HostName(name)| name),
        path_matching: reader.get("gate.path_matching").unwrap_or_default(),
        header_encoding: reader.get("gate.header_encoding").unwrap_or_default(),
        refuse_replays: reader.get("gate.refuse_replays").unwrap_or(false),
        cors_preflight: reader
            .get("gate.cors_preflight")
            .map_or_else(Vec::new, |Names(names)| names),
        drain_timeout: seconds(reader, "gate.drain_timeout", 10),
        tls: tls(reader),
    }
}

fn tls(reader: &mut Reader) -> Option<Tls> {
    let certificate = file(reader, "gate.tls.certificate");
    let key = file(reader, "gate.tls.key");
    let self_signed = reader.get("gate.tls.self_signed").unwrap_or(false);
    let directory = reader.get("gate.tls.directory").unwrap_or_else(|| PathBuf::from("tls"));
    let names = reader
        .get("gate.tls.names")
        .map_or_else(|| ["nightporter", "localhost"].map(String::from).into(), certificate_names);
    let client_ca = file(reader, "gate.tls.client_ca");

    let is_set = |key| reader.is_given(key);
    let (has_certificate, has_key) = (is_set("gate.tls.certificate"), is_set("gate.tls.key"));
    if has_certificate && !has_key {
        let hint = "give the private key of this certificate too";
        reader.refuse_because("gate.tls.key", "gate.tls.certificate", "is missing", hint);
    }
    if has_key && !has_certificate {
        let hint = "give the certificate of this private key too";
        reader.refuse_because("gate.tls.certificate", "gate.tls.key", "is missing", hint);
    }
    if self_signed && (has_certificate || has_key) {
        let hint = "remove `gate.tls.certificate` and `gate.tls.key`, or set it to false";
        reader.refuse("gate.tls.self_signed", "contradicts the certificate that is given", hint);
    }
    if client_ca_without_tls(reader, self_signed) {
        let hint = "set `gate.tls.self_signed = true` or give a certificate";
        reader.refuse("gate.tls.client_ca", "has no effect without TLS", hint);
    }

    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => Certificate::Files { certificate, key },
        _ if self_signed => Certificate::SelfSigned { directory, names },
        _ => return None,
    };
    Some(Tls { certificate, client_ca })
}

fn certificate_names(CertificateNames(names): CertificateNames) -> Vec<String> {
    names
}

/// Returns whether `gate.tls.client_ca` is set although TLS is off.
fn client_ca_without_tls(reader: &Reader, self_signed: bool) -> bool {
    reader.is_given("gate.tls.client_ca")
        && !self_signed
        && !reader.is_given("gate.tls.certificate")
        && !reader.is_given("gate.tls.key")
}

fn ops(reader: &mut Reader, gate: &ListenAddr) -> Ops {
    let listen = reader.get("ops.listen").unwrap_or_else(|| loopback(8401));
    let token = reader.secret("ops.token", "ops.token_file");
    if overlap(&listen, gate) {
        let hint = "give the two listeners different ports";
        let problem = format!("{listen} is taken by `gate.listen`, {gate}");
        reader.refuse_because("ops.listen", "gate.listen", problem, hint);
    }
    let has_token = reader.is_given("ops.token") || reader.is_given("ops.token_file");
    if !listen.is_local() && !has_token {
        let problem = format!("{listen} can be reached from outside and no token protects it");
        let hint = "set `ops.token_file`, or listen on 127.0.0.1 or a unix socket";
        reader.refuse("ops.listen", problem, hint);
    }
    if let Some(token) = &token {
        let text = token.expose();
        // RFC 6750 section 2.1: visible characters only.
        if text.len() < SHORTEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = format!(
                "a token needs {SHORTEST_TOKEN} characters or more, all of them visible ASCII"
            );
            let hint = "create one with `openssl rand -hex 32`";
            reader.refuse_because("ops.token", "ops.token_file", problem, hint);
        }
    }
    let hosts = reader.get("ops.hosts").map_or_else(Vec::new, certificate_names);
    let app_metrics = reader.get("ops.app_metrics").unwrap_or(true);
    Ops { listen, token, hosts, app_metrics }
}

fn store(reader: &mut Reader) -> Store {
    let kind = reader.get("store.kind");
    let path = reader.get("store.path").unwrap_or_else(|| PathBuf::from("box"));
    let terminal_jwt_secret =
        reader.secret("store.terminal_jwt_secret", "store.terminal_jwt_secret_file");
    let postgres = postgres(reader);
    let apps = reader.get("store.installed_apps_dir");
    let zone = reader.get("store.zone").map_or_else(|| "freeshard.cloud".into(), host_name);
    let prefix_length =
        reader.get("store.prefix_length").map_or(6, |Count::<1, 63>(length)| length);

    let either_is_set = |one, other| reader.is_given(one) || reader.is_given(other);
    let has_url = either_is_set("store.url", "store.url_file");
    let has_secret = either_is_set("store.terminal_jwt_secret", "store.terminal_jwt_secret_file");
    let kind = kind.unwrap_or(if has_url { Kind::Postgres } else { Kind::Files });
    match kind {
        Kind::Files if has_url => {
            let hint = "remove the URL, or set `store.kind` to \"postgres\"";
            reader.refuse("store.kind", "is \"files\", but `store.url` is given", hint);
        }
        Kind::Postgres if !has_url => {
            let hint = "give `store.url_file` or `store.url`, such as \
                        `postgres://user:password@host/database`";
            reader.refuse_because("store.url", "store.kind", "is missing", hint);
        }
        _ => {}
    }
    if kind == Kind::Postgres && has_secret {
        let hint = "remove it; the database holds this secret in `kv_store`";
        let (key, cause) = ("store.terminal_jwt_secret", "store.terminal_jwt_secret_file");
        reader.refuse_because(key, cause, "has no effect with \"postgres\"", hint);
    }
    if let Some(secret) = &terminal_jwt_secret
        && secret.expose().len() < SHORTEST_JWT_SECRET
    {
        let problem = format!("HS256 needs {SHORTEST_JWT_SECRET} bytes or more");
        let hint = "create one with `openssl rand -hex 32`";
        let (key, cause) = ("store.terminal_jwt_secret", "store.terminal_jwt_secret_file");
        reader.refuse_because(key, cause, problem, hint);
    }
    if kind == Kind::Postgres && !reader.is_given("store.installed_apps_dir") {
        let hint = "name the folder that holds `<app>/app_meta.json` for each installed app";
        reader.refuse_because("store.installed_apps_dir", "store.kind", "is missing", hint);
    }
    Store {
        installed_apps_dir: apps.unwrap_or_else(|| path.join("installed_apps")),
        kind: match kind {
            Kind::Files => StoreKind::Files { path, terminal_jwt_secret },
            Kind::Postgres => StoreKind::Postgres(postgres),
        },
        zone,
        prefix_length: usize::try_from(prefix_length).unwrap_or(usize::MAX),
    }
}

fn postgres(reader: &mut Reader) -> Postgres {
    let pool_size = reader.get("store.pool_size").map_or(20, |Count::<1, 10_000>(size)| size);
    Postgres {
        url: reader.secret("store.url", "store.url_file").unwrap_or_else(|| Secret::new("")),
        pool_size: u32::try_from(pool_size).unwrap_or(u32::MAX),
        pool_timeout: seconds(reader, "store.pool_timeout", 10),
        connect_timeout: seconds(reader, "store.connect_timeout", 5),
        query_timeout: seconds(reader, "store.query_timeout", 5),
        create_tables: reader.get("store.create_tables").unwrap_or(true),
    }
}

fn cache(reader: &mut Reader) -> Cache {
    let capacity = reader.get("cache.capacity").map_or(50_000, |Count::<1, 1_000_000_000>(n)| n);
    let cache = Cache {
        capacity,
        ttl: seconds(reader, "cache.ttl", 3600),
        degraded_ttl: seconds(reader, "cache.degraded_ttl", 1),
        max_stale: seconds(reader, "cache.max_stale", 60),
        heartbeat: seconds(reader, "cache.heartbeat", 5),
    };
    let Cache { capacity: _, ttl, degraded_ttl, max_stale, heartbeat } = cache;
    let text = humantime::format_duration;
    if degraded_ttl > max_stale {
        let problem =
            format!("{} is longer than `cache.max_stale`, {}", text(degraded_ttl), text(max_stale));
        let hint = "entries would expire before they are read again; make it shorter";
        reader.refuse_because("cache.degraded_ttl", "cache.max_stale", problem, hint);
    }
    if degraded_ttl > ttl {
        let problem = format!("{} is longer than `cache.ttl`, {}", text(degraded_ttl), text(ttl));
        let hint = "entries must be read again sooner while degraded than while live; \
                    make it shorter";
        reader.refuse_because("cache.degraded_ttl", "cache.ttl", problem, hint);
    }
    if max_stale < heartbeat.saturating_mul(2) {
        let problem = format!(
            "{} is under two periods of `cache.heartbeat`, {}",
            text(max_stale),
            text(heartbeat)
        );
        let hint = "the gate would answer 503 between heartbeats; make it longer";
        reader.refuse_because("cache.max_stale", "cache.heartbeat", problem, hint);
    }
    cache
}

fn touch(reader: &mut Reader) -> Touch {
    Touch {
        flush_interval: seconds(reader, "touch.flush_interval", 10),
        last_access_every: seconds(reader, "touch.last_access_every", 60),
    }
}

fn log(reader: &mut Reader) -> Log {
    Log {
        level: reader.get("log.level").map_or_else(|| "info".into(), |LogFilter(text)| text),
        format: reader.get("log.format").unwrap_or_default(),
    }
}

fn connections(reader: &mut Reader, key: &'static str, default: usize) -> usize {
    let count = reader.get(key).map(|Count::<1, 1_000_000>(count)| count);
    count.map_or(default, |count| usize::try_from(count).unwrap_or(usize::MAX))
}

fn seconds(reader: &mut Reader, key: &'static str, default: u64) -> Duration {
    reader.get(key).unwrap_or(Duration::from_secs(default))
}

/// Reads the path of a file, which must exist and be readable before any listener binds.
fn file(reader: &mut Reader, key: &'static str) -> Option<PathBuf> {
    let path: PathBuf = reader.get(key)?;
    if let Err(error) = std::fs::File::open(&path) {
        let problem = format!("{} cannot be read: {error}", path.display());
        reader.refuse(key, problem, "name a readable PEM file");
    }
    Some(path)
}

fn host_name(HostName(name): HostName) -> String {
    name
}

fn loopback(port: u16) -> ListenAddr {
    ListenAddr::Tcp(([127, 0, 0, 1], port).into())
}

fn default_trusted_proxies() -> Vec<IpNet> {
    TRUSTED_PROXIES.iter().filter_map(|network| network.parse().ok()).collect()
}

/// Returns whether two listeners would bind the same address; a wildcard covers all addresses.
fn overlap(one: &ListenAddr, other: &ListenAddr) -> bool {
    match (one, other) {
        (ListenAddr::Tcp(a), ListenAddr::Tcp(b)) => {
            let wild = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0 && a.port() == b.port() && (wild || a.ip() == b.ip())
        }
        (ListenAddr::Unix(a), ListenAddr::Unix(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
