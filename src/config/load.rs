//! Builds a whole [`Config`] from file and environment, section by section.

mod endpoints;
mod ledger;
mod wake;

use std::path::Path;

use super::findings::Findings;
use super::keys::{EngineKeys, LedgerKeys, StoreKeys, TABLE, TelemetryKeys, TlsKeys, UpstreamKeys};
use super::reader::Reader;
use super::setting::{Kind, otlp_headers};
use super::sources::Sources;
use super::{
    Alerts, Cache, Certificate, Composed, Config, Environment, Gate, Ignore, Jobs, Ledger,
    ListenAddr, Log, Ops, Postgres, Secret, Sleep, Store, StoreKind, Streams, Telemetry, Tls,
    Touch, Traefik, Upstream, Wake, Webhooks,
};

/// Shortest key for HS256, in bytes: RFC 7518 section 3.2.
const SHORTEST_JWT_SECRET: usize = 32;

/// Shortest bearer token, in bytes, that cannot feasibly be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Reads the file, if one is given, and the environment, which takes precedence.
///
/// # Errors
/// Returns all problems at once.
pub fn load(file: Option<&Path>, env: &Environment) -> Result<Config, Findings> {
    load_with_sources(file, env).map(|(config, _)| config)
}

/// Returns also the values that the configuration was made of.
pub(super) fn load_with_sources(
    file: Option<&Path>,
    env: &Environment,
) -> Result<(Config, Sources), Findings> {
    let mut findings = Findings::default();
    let Some(sources) = Sources::gather(TABLE, file, env, &mut findings) else {
        return Err(findings);
    };
    let mut reader = Reader::new(sources, findings);
    let config = read(&mut reader);
    let (sources, findings) = reader.into_parts();
    match config {
        Some(config) if findings.is_empty() => Ok((config, sources)),
        _ => Err(findings),
    }
}

/// Reads every key. If a value is missing or wrong, a placeholder replaces it,
/// so that the rest is still checked; it is never used, since there is a finding.
fn read(reader: &mut Reader) -> Option<Config> {
    let tls_keys = TlsKeys::read(reader)?;
    let tls = tls(reader, &tls_keys);
    let gate = Gate::read(reader, tls)?;
    let ops = Ops::read(reader)?;
    check_ops(reader, &ops, &gate.listen);
    let store_keys = StoreKeys::read(reader)?;
    let url = store_keys.url.clone().unwrap_or_else(|| Secret::new(""));
    let postgres = Postgres::read(reader, url)?;
    let kind = store_kind(reader, &store_keys, &postgres);
    let store = Store::read(reader, kind)?;
    check_store(reader, &store);
    let upstream_url = UpstreamKeys::read(reader)?;
    let upstream = Upstream::read(reader, upstream_url.url.clone().unwrap_or_default())?;
    if upstream.shadow && !reader.is_given("upstream.url") {
        let hint = "give `upstream.url`, or remove it";
        reader.refuse("upstream.shadow", "has no effect without an upstream", hint);
    }
    let engine = EngineKeys::read(reader)?;
    let docker = wake::docker(reader, &engine);
    let ignore = Ignore::read(reader)?;
    let streams = Streams::read(reader)?;
    let wake = Wake::read(reader, docker, ignore, streams)?;
    wake::check(reader, &wake);
    let cache = Cache::read(reader)?;
    check_cache(reader, &cache);
    let sleep = Sleep::read(reader)?;
    wake::check_sleep(reader, &sleep);
    let ledger_keys = LedgerKeys::read(reader)?;
    let archive = ledger::archive(reader, &ledger_keys, &postgres);
    let ledger = Ledger::read(reader, archive)?;
    ledger::check(reader, &ledger);
    let alerts = Alerts::read(reader)?;
    ledger::check_alerts(reader, &alerts, &ledger);
    let (endpoint_keys, endpoints) = endpoints::read(reader, ledger.enabled)?;
    let telemetry_keys = TelemetryKeys::read(reader)?;
    let headers = telemetry_keys.otlp_headers.as_ref().and_then(otlp_headers).unwrap_or_default();
    let telemetry = Telemetry::read(reader, headers)?;
    check_telemetry(reader, &telemetry);
    Some(Config {
        gate,
        ops,
        store,
        cache,
        touch: Touch::read(reader)?,
        wake,
        sleep,
        ledger,
        jobs: Jobs::read(reader)?,
        alerts,
        endpoints,
        traefik: Traefik::read(reader)?,
        webhooks: Webhooks::read(reader)?,
        upstream: upstream_url.url.is_some().then(|| upstream.clone()),
        telemetry,
        log: Log::read(reader)?,
        composed: Composed {
            tls: tls_keys,
            store: store_keys,
            postgres,
            engine,
            ledger: ledger_keys,
            endpoints: endpoint_keys,
            upstream_url,
            upstream,
            telemetry: telemetry_keys,
        },
    })
}

fn tls(reader: &mut Reader, keys: &TlsKeys) -> Option<Tls> {
    let TlsKeys { certificate, key, self_signed, directory, names, client_ca } = keys.clone();
    let is_set = |key| reader.is_given(key);
    let (has_certificate, has_key) = (is_set("gate.tls.certificate"), is_set("gate.tls.key"));
    let client_ca_without_tls =
        is_set("gate.tls.client_ca") && !self_signed && !has_certificate && !has_key;
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
    if client_ca_without_tls {
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

fn check_ops(reader: &mut Reader, ops: &Ops, gate: &ListenAddr) {
    let Ops { listen, token, .. } = ops;
    if overlap(listen, gate) {
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
    if let Some(token) = token {
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
}

fn store_kind(reader: &mut Reader, keys: &StoreKeys, postgres: &Postgres) -> StoreKind {
    let StoreKeys { kind, path, terminal_jwt_secret, url: _ } = keys.clone();
    let either_is_set = |one, other| reader.is_given(one) || reader.is_given(other);
    let has_url = either_is_set("store.url", "store.url_file");
    let has_secret = either_is_set("store.terminal_jwt_secret", "store.terminal_jwt_secret_file");
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
    match kind {
        Kind::Files => StoreKind::Files { path, terminal_jwt_secret },
        Kind::Postgres => StoreKind::Postgres(postgres.clone()),
    }
}

fn check_store(reader: &mut Reader, store: &Store) {
    let is_postgres = matches!(store.kind, StoreKind::Postgres(_));
    if is_postgres && !reader.is_given("store.installed_apps_dir") {
        let hint = "name the folder that holds `<app>/app_meta.json` for each installed app";
        reader.refuse_because("store.installed_apps_dir", "store.kind", "is missing", hint);
    }
}

fn check_telemetry(reader: &mut Reader, telemetry: &Telemetry) {
    if telemetry.otlp_endpoint.is_none() && !telemetry.headers.is_empty() {
        let hint = "give `telemetry.otlp_endpoint`, or remove it";
        let (key, cause) = ("telemetry.otlp_headers", "telemetry.otlp_headers_file");
        reader.refuse_because(key, cause, "has no effect without a collector", hint);
    }
}

fn check_cache(reader: &mut Reader, cache: &Cache) {
    let Cache { capacity: _, ttl, degraded_ttl, max_stale, heartbeat } = cache.clone();
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
