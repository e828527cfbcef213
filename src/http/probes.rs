//! The health probes, which both listeners serve.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Response, answer};
use crate::gate::Health;
use crate::ledger::health as ledger;
use crate::store::cache::Counts;

/// Answers `/livez`, `/readyz` and `/healthz`; returns `None` for any other path.
pub(crate) fn probe(path: &str, health: impl FnOnce() -> Health) -> Option<Response> {
    Some(match path {
        "/livez" => liveness(),
        "/readyz" => readiness(&health()),
        "/healthz" => details(&health(), Further::default()),
        _ => return None,
    })
}

/// Whether the probe at this path tells strangers nothing worth knowing.
pub(super) fn reveals_only_a_state(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

pub(super) fn liveness() -> Response {
    // A process that can answer is alive.
    answer::fixed(StatusCode::OK, r#"{"state":"live"}"#)
}

/// Returns the status and the state of a readiness response.
fn state(health: &Health) -> (StatusCode, &'static str) {
    match (health.ready, health.live) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, false) => (StatusCode::OK, "degraded"),
        (true, true) => (StatusCode::OK, "live"),
    }
}

pub(super) fn readiness(health: &Health) -> Response {
    let (status, state) = state(health);
    answer::json(status, json!({"state": state}).to_string().into())
}

/// What `/healthz` says on the operator's listener besides.
#[derive(Debug, Default)]
pub(super) struct Further {
    pub(super) ledger: Option<ledger::Health>,
    pub(super) job_problems: Option<Vec<String>>,
}

pub(super) fn details(health: &Health, further: Further) -> Response {
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
    let Further { ledger, job_problems } = further;
    let mut body = json!({
        "state": state,
        "listener": if health.live { "live" } else { "degraded" },
        "pool": pool,
        "store": {"problems": health.store.problems},
        "touches_waiting": health.touches_waiting,
        "caches": caches,
        "ages": {"verified_seconds": health.verified_ago.as_secs_f64()},
    });
    if let Some(ledger) = ledger {
        body["ledger"] = describe(&ledger);
    }
    if let Some(problems) = job_problems {
        body["jobs"] = json!({"problems": problems});
    }
    answer::json(status, body.to_string().into())
}

fn describe(health: &ledger::Health) -> Value {
    let ledger::Health { accepted, waiting, age, written, spooled, letters, .. } = health;
    json!({
        "accepted": accepted,
        "waiting": waiting,
        "waiting_seconds": age.as_secs_f64(),
        "written": written,
        "spooled": spooled,
        "dead_letters": {"letters": letters, "bytes": health.letter_bytes},
        "dropped": health.dropped(),
        "problems": health.problems,
    })
}
