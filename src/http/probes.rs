//! The health probes, which both listeners serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Response, answer};
use crate::access::{Private, Viewer};
use crate::gate::Health;
use crate::ledger::health as ledger;
use crate::ledger::record::Micros;
use crate::store::cache::Counts;

/// Answers `/livez`, `/readyz` and `/healthz`; returns `None` for any other path. Whoever asks
/// has shown no right to anything, so texts are masked.
pub(crate) fn probe(path: &str, health: impl FnOnce() -> Health) -> Option<Response> {
    Some(match path {
        "/livez" => liveness(),
        "/readyz" => readiness(&health()),
        "/healthz" => details(&health(), OperatorHealth::default(), &Viewer::masked(None, "")),
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
    json(status, &State { state })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Serializing strings and numbers does not fail.
    answer::json(status, serde_json::to_vec(body).unwrap_or_default().into())
}

/// The state of the process: `live`, `degraded` or `unavailable`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct State {
    state: &'static str,
}

/// What `/healthz` says on the operator's listener besides.
#[derive(Debug, Default)]
pub(super) struct OperatorHealth {
    pub(super) ledger: Option<ledger::Health>,
    /// Why requests with an idempotency key are refused.
    pub(super) idempotency: Option<Arc<str>>,
    pub(super) job_problems: Option<Vec<String>>,
    pub(super) alerts: Option<Vec<FiringAlert>>,
}

pub(super) fn details(health: &Health, operator: OperatorHealth, viewer: &Viewer) -> Response {
    let (status, state) = state(health);
    let OperatorHealth { ledger, idempotency, job_problems, alerts } = operator;
    let pool = health.store.pool.map(|(connections, idle)| Pool { connections, idle });
    let caches = health.caches.iter().map(|(name, counts)| (*name, Cache::from(counts)));
    let details = Details {
        state,
        listener: if health.live { "live" } else { "degraded" },
        pool,
        store: Problems::new(&health.store.problems, viewer),
        touches_waiting: health.touches_waiting,
        caches: caches.collect(),
        ages: Ages { verified_seconds: health.verified_ago.as_secs_f64() },
        ledger: ledger.as_ref().map(|health| Ledger::new(health, viewer)),
        idempotency: idempotency.map(|problem| Problems::new(&[problem], viewer)),
        jobs: job_problems.map(|problems| Problems::new(&problems, viewer)),
        alerts,
    };
    json(status, &details)
}

/// How the process fares.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub(super) struct Details {
    state: &'static str,
    /// Whether notifications of the store arrive.
    listener: &'static str,
    pool: Option<Pool>,
    store: Problems,
    /// Uses of apps that have not been written yet.
    touches_waiting: usize,
    caches: BTreeMap<&'static str, Cache>,
    ages: Ages,
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<Ledger>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency: Option<Problems>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Problems>,
    /// The alerts that fire.
    #[serde(skip_serializing_if = "Option::is_none")]
    alerts: Option<Vec<FiringAlert>>,
}

/// What is wrong now, worded for the operator.
#[derive(Debug, Serialize, JsonSchema)]
struct Problems {
    /// They may quote what a database has said. Without the right `pii`, each is `…`.
    problems: Vec<String>,
}

impl Problems {
    fn new(problems: &[impl AsRef<str>], viewer: &Viewer) -> Self {
        Self { problems: shown(problems, viewer) }
    }
}

/// Returns problems as they are shown.
fn shown(problems: &[impl AsRef<str>], viewer: &Viewer) -> Vec<String> {
    // The time matters to ids alone.
    let show = |problem| viewer.show(Private::Text(problem), Micros(0));
    problems.iter().map(|problem| show(problem.as_ref())).collect()
}

#[derive(Debug, Serialize, JsonSchema)]
struct Pool {
    connections: u32,
    idle: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ages {
    verified_seconds: f64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "named as on the wire")]
struct Cache {
    loads: u64,
    memo_hits: u64,
    cache_hits: u64,
    entries: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ledger {
    accepted: u64,
    waiting: usize,
    waiting_seconds: f64,
    written: u64,
    spooled: u64,
    dead_letters: Letters,
    dropped: u64,
    /// They may quote what a database has said. Without the right `pii`, each is `…`.
    problems: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Letters {
    letters: usize,
    bytes: u64,
}

impl From<&Counts> for Cache {
    fn from(Counts { loads, memo_hits, cache_hits, entries }: &Counts) -> Self {
        let (loads, memo_hits) = (*loads, *memo_hits);
        Self { loads, memo_hits, cache_hits: *cache_hits, entries: *entries }
    }
}

impl Ledger {
    fn new(health: &ledger::Health, viewer: &Viewer) -> Self {
        let ledger::Health { accepted, waiting, age, written, spooled, .. } = *health;
        Self {
            accepted,
            waiting,
            waiting_seconds: age.as_secs_f64(),
            written,
            spooled,
            dead_letters: Letters { letters: health.letters, bytes: health.letter_bytes },
            dropped: health.dropped(),
            problems: shown(&health.problems, viewer),
        }
    }
}

/// An alert that fires.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FiringAlert {
    pub(super) rule: &'static str,
    /// Without whom or what it is about.
    pub(super) title: String,
    /// `None` if it is not written yet.
    pub(super) id: Option<String>,
    pub(super) since: Option<String>,
    pub(super) help: &'static str,
}
