//! Thousands of requests at once, and nothing in memory yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use nightporter::gate::Gate;
use nightporter::gate::verdict::Verdict;
use nightporter::store::touch::Touches;
use nightporter::store::{Cached, Freshness, Source, Table, Unavailable};
use nightporter::wake::Registry;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::boxes::{self, SampleBox, Store};
use crate::support::client::{Request, poll};
use crate::support::load::{Shot, drive};
use crate::support::server::{self, Nightporter};
use crate::support::soak;

/// A heartbeat that does not come back in its time has all read anew, and a burst takes
/// long on a busy machine.
const PATIENT: &str =
    "[cache]\nheartbeat = \"30s\"\ndegraded_ttl = \"30s\"\nmax_stale = \"120s\"\n";
const REQUESTS: usize = 10_000;
const HOSTS: usize = 1_000;

async fn notes() -> SampleBox {
    let sample = SampleBox::new(Store::Postgres).await;
    let headers = json!({"X-Ptl-Client-Name": "{{ auth.client_name }}"});
    let rule = json!({"access": "private", "headers": headers});
    sample.add_app("notes", &json!({"": rule, "/pub": {"access": "public"}})).await;
    sample.settle().await;
    sample
}

/// Each question asked of the database since its statements were forgotten, by
/// its text; heartbeats and touches are none.
async fn questions(sample: &SampleBox) -> BTreeMap<String, i64> {
    let statements = sample.database().statements().await.into_iter();
    statements.filter(|(sql, _)| !sql.contains("pg_notify") && !sql.contains("SET last_")).collect()
}

/// At most one for each of what is remembered of these tables.
async fn assert_asked_once(sample: &SampleBox, tables: &[&str]) {
    let questions = questions(sample).await;
    assert!(questions.values().all(|calls| *calls == 1), "{questions:#?}");
    let known = |sql: &String| tables.iter().any(|table| sql.contains(table));
    assert!(questions.keys().all(known), "{questions:#?}");
    assert!(!questions.is_empty(), "it was cold");
}

/// The gate alone: no socket stands between ten thousand tasks and its caches.
struct Cold {
    gate: Arc<Gate>,
    _watching: JoinSet<()>,
}

impl Cold {
    async fn gate(sample: &SampleBox) -> Self {
        let config = server::config(&format!("{}{PATIENT}", sample.quiet_config()));
        let freshness = Arc::new(Freshness::new(config.cache.clone()));
        let source = Arc::new(Source::open(&config, &freshness).expect("a store"));
        let touches = Arc::new(Touches::new(config.touch.clone()));
        let registry = Registry::new().0;
        let gate = Gate::new(&config, Arc::clone(&source), freshness, touches, registry, None);
        let gate = Arc::new(gate);
        let mut watching = JoinSet::new();
        watching.spawn(async move { match source.watch().await {} });
        let patience = std::time::Duration::from_secs(120);
        poll("the store's link", patience, async || gate.health().live).await;
        sample.database().forget_statements().await;
        Self { gate, _watching: watching }
    }

    /// Asks all at once; the number of grants and of denials by reason.
    async fn ask_all(&self, requests: Vec<HeaderMap>) -> BTreeMap<&'static str, usize> {
        let mut asking = JoinSet::new();
        for headers in requests {
            let gate = Arc::clone(&self.gate);
            asking.spawn(async move { gate.auth(&headers).await });
        }
        let mut verdicts = BTreeMap::new();
        while let Some(verdict) = asking.join_next().await {
            let verdict = match verdict.expect("no panic").verdict {
                Verdict::Grant(_) => "granted",
                Verdict::Asleep(_) => "asleep",
                Verdict::Deny(reason) => reason.as_str(),
            };
            *verdicts.entry(verdict).or_default() += 1;
        }
        verdicts
    }
}

fn headers(host: &str, token: Option<&str>) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).expect("visible");
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-host", value(host));
    headers.insert("x-forwarded-uri", value("/"));
    if let Some(token) = token {
        headers.insert("cookie", value(&format!("authorization={token}")));
    }
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cold_requests_for_one_app_ask_once() {
    let sample = notes().await;
    let token = boxes::token();
    let cold = Cold::gate(&sample).await;
    let verdicts =
        cold.ask_all((0..REQUESTS).map(|_| headers("notes.x", Some(&token))).collect()).await;
    assert_eq!(verdicts, BTreeMap::from([("granted", REQUESTS)]));
    let tables = ["installed_apps", "terminals", "identities", "kv_store"];
    assert_asked_once(&sample, &tables).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cold_requests_for_unknown_hosts_ask_once() {
    let sample = notes().await;
    let cold = Cold::gate(&sample).await;
    let hosts = (0..REQUESTS).map(|n| format!("host{}.x", n * 7919 % HOSTS));
    let verdicts = cold.ask_all(hosts.map(|host| headers(&host, None)).collect()).await;
    assert_eq!(verdicts, BTreeMap::from([("unknown_app", REQUESTS)]));
    assert_asked_once(&sample, &["installed_apps"]).await;
    assert_eq!(questions(&sample).await.len(), 1, "the set of names answers for all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_server_answers_a_burst_without_an_error() {
    let sample = notes().await;
    let token = boxes::token();
    let config = format!("{}{PATIENT}", sample.quiet_config());
    let server = Nightporter::start(server::config(&config));
    server.ready().await;
    sample.database().forget_statements().await;
    // As many connections as fit the usual limit of open files, twice over.
    let connections = 400;
    let shots: Arc<[Shot]> = (0..HOSTS)
        .map(|n| match n % 4 {
            0 => Shot::new(&Request::auth(format!("host{n}.x"), "/"), 404),
            1 => Shot::new(&Request::auth("notes.x", "/"), 401),
            2 => Shot::new(&Request::auth("notes.x", "/").cookie(&token), 200),
            _ => Shot::new(&Request::auth("notes.x", "/pub"), 200),
        })
        .collect();
    let total = REQUESTS as u64;
    drive(server.gate, &shots, connections, total).await.is_as_expected(total);
    let tables = ["installed_apps", "terminals", "identities", "kv_store"];
    assert_asked_once(&sample, &tables).await;
}

/// A load that lands between a caller's look into the cache and its boarding
/// must do for that caller too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_key_is_loaded_once_however_its_callers_are_interleaved() {
    const CALLERS: usize = 8;
    let keys = u64::from(soak::COLD_KEYS.count());
    let config = server::config("");
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    freshness.verify(freshness.now());
    let cached =
        Cached::keyed(Arc::clone(&freshness), [Table::Apps; 2], async |_| Ok::<_, Unavailable>(()));
    for key in 0..keys {
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (cached, freshness) = (Arc::clone(&cached), Arc::clone(&freshness));
            callers.spawn(async move {
                cached.get(&key.to_string(), freshness.now()).await.expect("loads");
            });
        }
        callers.join_all().await;
    }
    assert_eq!(cached.counts().loads, keys);
}
