//! Probes, for both listeners, and the operator's listener.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::{Handler, Response, answer};
use crate::config::Secret;
use crate::gate::{Gate, Health};
use crate::telemetry::meters;

/// The text format's own version, as Prometheus names it.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Probes and metrics; with a token, only for those who have it.
pub(crate) struct OpsRoutes {
    gate: Arc<Gate>,
    token: Option<Secret>,
}

impl OpsRoutes {
    pub(crate) fn new(gate: Arc<Gate>, token: Option<Secret>) -> Self {
        Self { gate, token }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        given.is_some_and(|given| given.ct_eq(token.expose().as_bytes()).into())
    }
}

/// The credentials of a `Bearer` header; the scheme's case does not matter
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
            "/metrics" => metrics(&health()),
            path => probe(path, health).unwrap_or_else(answer::not_found),
        }
    }
}

/// `/livez`, `/readyz` and `/healthz`; `None` for any other path.
pub(crate) fn probe(path: &str, health: impl FnOnce() -> Health) -> Option<Response> {
    Some(match path {
        // Whoever can answer at all is alive.
        "/livez" => answer::fixed(StatusCode::OK, r#"{"state":"live"}"#),
        "/readyz" => readiness(&health()),
        "/healthz" => details(&health()),
        _ => return None,
    })
}

/// What a probe is told in one word.
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
        .map(|(name, loads, entries)| {
            ((*name).to_owned(), json!({"loads": loads, "entries": entries}))
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
    meters::note(health);
    answer::typed(StatusCode::OK, METRICS, meters::render().into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
