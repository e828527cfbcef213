//! The routes of the operator's listener, and the health probes of both listeners.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::{Handler, Response, answer};
use crate::config::{self, ListenAddr, Secret};
use crate::domain::lifecycle::WakeError;
use crate::gate::{Gate, Health};
use crate::ops::apps::{Apps, Operation};
use crate::store::cache::Counts;
use crate::telemetry::meters;
use crate::wake::Backlog;

/// The content type of Prometheus' text format, version 0.0.4.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const APPS: &str = "/v1/apps";

/// Tells whether a page of another site sent the request (Fetch Metadata, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Serves probes, metrics and operations on apps. If a token is configured, every request
/// must carry it.
pub(crate) struct OpsRoutes {
    gate: Arc<Gate>,
    apps: Apps,
    token: Option<Secret>,
    /// Host names that requests may use, in addition to those of this machine.
    hosts: Vec<String>,
    /// Whether the listener is a socket file: web pages cannot reach one, and clients send
    /// any host name to it.
    is_socket_file: bool,
}

impl OpsRoutes {
    pub(crate) fn new(gate: Arc<Gate>, apps: Apps, config: &config::Ops) -> Self {
        let config::Ops { listen, token, hosts, app_metrics: _ } = config.clone();
        let is_socket_file = matches!(listen, ListenAddr::Unix(_));
        Self { gate, apps, token, hosts, is_socket_file }
    }

    /// Serves `/v1/apps`, `/v1/apps/{name}` and `/v1/apps/{name}/{operation}`.
    async fn apps(&self, rest: &str, head: &Parts) -> Response {
        let (name, operation) = match rest.strip_prefix('/') {
            None if rest.is_empty() && head.method == Method::GET => {
                return answer::json(StatusCode::OK, self.apps.all().to_string().into());
            }
            None => return answer::not_found(),
            Some(rest) => rest.split_once('/').map_or((rest, None), |(n, o)| (n, Some(o))),
        };
        let name: Cow<'_, str> = percent_decode_str(name).decode_utf8_lossy();
        match (operation, &head.method) {
            (None, &Method::GET) => match self.apps.one(&name) {
                Some(app) => answer::json(StatusCode::OK, app.to_string().into()),
                None => answer::not_found(),
            },
            (Some(operation), &Method::POST) => match Operation::from_name(operation) {
                Some(_) if is_of_another_site(&head.headers) => answer::forbidden(),
                Some(operation) => self.operate(&name, operation).await,
                None => answer::not_found(),
            },
            (None, _) => answer::method_not_allowed("GET"),
            (Some(_), _) => answer::method_not_allowed("POST"),
        }
    }

    /// Answers when the operation has finished. It goes on even if the client disconnects.
    async fn operate(&self, name: &str, operation: Operation) -> Response {
        match self.apps.operate(name, operation).await {
            None => answer::not_found(),
            Some(Ok(app)) => answer::json(StatusCode::OK, app.to_string().into()),
            Some(Err(failure)) => {
                let status = match &failure {
                    WakeError::Declined(_) => StatusCode::CONFLICT,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                let body = json!({"detail": failure.to_string(), "app": self.apps.one(name)});
                answer::json(status, body.to_string().into())
            }
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let credentials =
            headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        credentials.is_some_and(|sent| sent.ct_eq(token.expose().as_bytes()).into())
    }

    /// Whether the request uses a host name that a stranger cannot point to this listener.
    /// If a web page makes its own name resolve to this listener (DNS rebinding), the
    /// browser treats both as the same origin and lets the page read all responses, but it
    /// sends the page's name as the host.
    fn knows_host(&self, head: &Parts) -> bool {
        if self.token.is_some() || self.is_socket_file {
            return true;
        }
        let host = match head.uri.authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => head.headers.get(header::HOST).map(HeaderValue::as_bytes),
        };
        // Browsers always send a host.
        host.is_none_or(|host| is_own_name(host, &self.hosts))
    }
}

/// Whether a host, with or without a port, is an IP address, a name of the loopback
/// interface or one of `names`.
fn is_own_name(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || names.contains(&name)
}

/// Whether a path requires a known host: all do but the two probes that reveal only a
/// state.
fn is_guarded(path: &str) -> bool {
    !matches!(path, "/livez" | "/readyz")
}

/// Whether a browser sends the request for a page of another site: a listener without a
/// token trusts every user of this machine, but not every page that they visit.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || !matches!(site, None | Some(b"none" | b"same-origin"))
}

/// Returns the credentials of a `Bearer` header; the scheme is case-insensitive
/// (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
}

impl Handler for OpsRoutes {
    async fn handle(&self, head: Parts) -> Response {
        if !self.admits(&head.headers) {
            return answer::bearer_required();
        }
        let health = || self.gate.health();
        match head.uri.path() {
            path if is_guarded(path) && !self.knows_host(&head) => answer::unknown_host(),
            "/metrics" => {
                let (engine_live, counts) = self.apps.counts();
                meters::note_apps(engine_live, counts);
                let (Backlog { length, age }, start_age) = self.apps.queues();
                meters::note_queues(length, age, start_age);
                metrics(&health())
            }
            path if path.starts_with(APPS) => self.apps(&path[APPS.len()..], &head).await,
            path => probe(path, health).unwrap_or_else(answer::not_found),
        }
    }
}

/// Answers `/livez`, `/readyz` and `/healthz`; returns `None` for any other path.
pub(crate) fn probe(path: &str, health: impl FnOnce() -> Health) -> Option<Response> {
    Some(match path {
        // A process that can answer is alive.
        "/livez" => answer::fixed(StatusCode::OK, r#"{"state":"live"}"#),
        "/readyz" => readiness(&health()),
        "/healthz" => details(&health()),
        _ => return None,
    })
}

/// Returns the status and the state of a readiness response.
fn state(health: &Health) -> (StatusCode, &'static str) {
    match (health.ready, health.live) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, false) => (StatusCode::OK, "degraded"),
        (true, true) => (StatusCode::OK, "live"),
    }
}

fn readiness(health: &Health) -> Response {
    let (status, state) = state(health);
    answer::json(status, json!({"state": state}).to_string().into())
}

fn details(health: &Health) -> Response {
    let (status, state) = state(health);
    let pool = health
        .store
        .pool
        .map(|(connections, idle)| json!({"connections": connections, "idle": idle}));
    let caches: serde_json::Map<_, _> = health
        .caches
        .iter()
        .map(|(name, counts)| {
            let Counts { loads, memo_hits, cache_hits, entries } = counts;
            let counts = json!({
                "loads": loads,
                "memo_hits": memo_hits,
                "cache_hits": cache_hits,
                "entries": entries,
            });
            ((*name).to_owned(), counts)
        })
        .collect();
    let body = json!({
        "state": state,
        "listener": if health.live { "live" } else { "degraded" },
        "pool": pool,
        "store": {"problems": health.store.problems},
        "touches_waiting": health.touches_waiting,
        "caches": caches,
        "ages": {"verified_seconds": health.verified_ago.as_secs_f64()},
    });
    answer::json(status, body.to_string().into())
}

fn metrics(health: &Health) -> Response {
    let Health { live, ready: _, verified_ago, store: _, touches_waiting, caches } = health;
    meters::note_store(*live, *verified_ago);
    meters::note_memory(*touches_waiting, caches);
    answer::typed(StatusCode::OK, METRICS, meters::render().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_stranger_can_give_are_own_names() {
        let names = ["porter.lan".to_owned()];
        for own in [
            "127.0.0.1",
            "127.0.0.1:8401",
            "192.168.1.5:8401",
            "::1",
            "[::1]",
            "[::1]:8401",
            "localhost",
            "LocalHost:8401",
            "localhost.:80",
            "box.localhost",
            "porter.lan:1",
            "Porter.lan.",
        ] {
            assert!(is_own_name(own.as_bytes(), &names), "{own}");
        }
        for strange in [
            "",
            ":8401",
            "evil.example",
            "evil.example:8401",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "localhost:x",
            "[::1",
            "[porter.lan]",
            "x.porter.lan",
            "localhost:80:80",
            "127.1",
        ] {
            assert!(!is_own_name(strange.as_bytes(), &names), "{strange}");
        }
        assert!(!is_own_name(b"\xff", &names));
    }

    #[test]
    fn the_scheme_of_a_bearer_header_has_no_case() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer ", Some("")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value:?}");
        }
    }
}
