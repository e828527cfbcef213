//! Metrics, named `nightporter_…` and rendered in Prometheus' text format.
//!
//! What is counted on the way of a request is registered once and kept as a
//! handle; nothing is looked up by name there.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::endpoint::{Endpoint, Said};
use crate::domain::reason::Reason;
use crate::store::cache::Counts;

const VERDICTS: &str = "nightporter_verdicts_total";
const DURATION: &str = "nightporter_request_duration_seconds";
const CONNECTIONS: &str = "nightporter_connections";
const ACCEPTED: &str = "nightporter_connections_accepted_total";
const HANDSHAKES: &str = "nightporter_tls_handshakes_total";
const REFUSED: &str = "nightporter_connections_refused_total";
const CUT: &str = "nightporter_connections_cut_total";
const PANICS: &str = "nightporter_panics_total";
const STORE_LIVE: &str = "nightporter_store_live";
const VERIFIED_AGE: &str = "nightporter_store_verified_age_seconds";
const CACHE_LOADS: &str = "nightporter_cache_loads_total";
const CACHE_HITS: &str = "nightporter_cache_hits_total";
const CACHE_ENTRIES: &str = "nightporter_cache_entries";
const TOUCHES: &str = "nightporter_touches_waiting";
const ENGINE_LIVE: &str = "nightporter_engine_live";
const APPS: &str = "nightporter_apps";
const WAKES: &str = "nightporter_wakes_total";
const WAKE_DURATION: &str = "nightporter_wake_duration_seconds";
const SLEEPS: &str = "nightporter_sleeps_total";
const MIRRORED: &str = "nightporter_mirror_total";
const FALLBACK: &str = "nightporter_management_fallback_total";
const SHADOWED: &str = "nightporter_shadow_total";

/// Upper bounds of the duration histogram, in seconds: a cached answer takes
/// microseconds, a cold one a query, a timed-out one `store.pool_timeout`.
const DURATION_BUCKETS: [f64; 12] =
    [5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 500e-6, 1e-3, 5e-3, 25e-3, 100e-3, 1.0, 10.0];

/// The same for wakes: an unpaused app takes tens of milliseconds, a started one
/// tenths of seconds, one with a health check half a minute.
const WAKE_BUCKETS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// The exporter keeps each duration until it is next called; at 100,000
/// requests/s a second of them is under a megabyte.
const UPKEEP: Duration = Duration::from_secs(1);

/// The recorder, installed on first use and once in a process.
fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let full = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(full(DURATION), &DURATION_BUCKETS)
            .and_then(|b| b.set_buckets_for_metric(full(WAKE_DURATION), &WAKE_BUCKETS))
            .unwrap_or_default()
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder was installed first; /metrics will be empty");
        }
        describe();
        handle
    })
}

fn describe() {
    describe_counter!(
        VERDICTS,
        "Verdicts by endpoint and reason; `grant`, `asleep` and `kept_asleep` are no denials."
    );
    describe_histogram!(DURATION, "Time from a request's head to its verdict.");
    describe_gauge!(CONNECTIONS, "Open connections by listener.");
    describe_counter!(ACCEPTED, "Connections accepted by listener.");
    describe_counter!(HANDSHAKES, "TLS handshakes by the protocol they agreed on.");
    describe_counter!(REFUSED, "Connections closed unread by listener and reason.");
    describe_counter!(CUT, "Connections ended for what they sent, by what that was.");
    describe_counter!(PANICS, "Requests answered with 500 because their handler panicked.");
    describe_gauge!(STORE_LIVE, "1 while the store's notifications are known to arrive.");
    describe_gauge!(VERIFIED_AGE, "Seconds since the last heartbeat that came back was sent.");
    describe_counter!(CACHE_LOADS, "Loads from the store by cache.");
    describe_counter!(
        CACHE_HITS,
        "Entries found fresh by cache and layer: a thread's `memo`, or the `cache` behind."
    );
    describe_gauge!(CACHE_ENTRIES, "Entries held by cache.");
    describe_gauge!(TOUCHES, "Uses that wait to be written back.");
    describe_gauge!(ENGINE_LIVE, "1 while the container engine tells what happens in it.");
    describe_gauge!(APPS, "Apps by the state that is shown of them.");
    describe_counter!(WAKES, "Attempts to wake an app by outcome.");
    describe_histogram!(WAKE_DURATION, "Time of an attempt until the app was ready.");
    describe_counter!(SLEEPS, "Apps put to sleep by how deep.");
    describe_counter!(MIRRORED, "Requests passed on to the upstream for its idle clock.");
    describe_counter!(
        FALLBACK,
        "Management secrets other than the stored one, by what came of it."
    );
    describe_counter!(SHADOWED, "Verdicts compared with the upstream's, by what was found.");
}

/// Everything counted so far, as text.
pub(crate) fn render() -> String {
    recorder().render()
}

/// Keeps the recorder small.
pub(crate) async fn upkeep() -> Infallible {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder().run_upkeep();
    }
}

/// Handles of all that is counted of verdicts.
pub(crate) struct Verdicts([OfEndpoint; Endpoint::ALL.len()]);

struct OfEndpoint {
    grants: Counter,
    asleep: Counter,
    kept_asleep: Counter,
    denials: [Counter; Reason::ALL.len()],
    duration: Histogram,
}

impl Verdicts {
    pub(crate) fn new() -> Arc<Self> {
        recorder();
        Arc::new(Self(Endpoint::ALL.map(|endpoint| {
            let endpoint = endpoint.as_str();
            let counted = |reason| counter!(VERDICTS, "endpoint" => endpoint, "reason" => reason);
            OfEndpoint {
                grants: counted("grant"),
                asleep: counted("asleep"),
                kept_asleep: counted("kept_asleep"),
                denials: Reason::ALL.map(|reason| counted(reason.as_str())),
                duration: histogram!(DURATION, "endpoint" => endpoint),
            }
        })))
    }

    pub(crate) fn count(&self, endpoint: Endpoint, said: Said, began: Instant) {
        let Self(endpoints) = self;
        let OfEndpoint { grants, asleep, kept_asleep, denials, duration } =
            &endpoints[endpoint as usize];
        match said {
            Said::Grant => grants.increment(1),
            Said::Asleep => asleep.increment(1),
            Said::KeptAsleep => kept_asleep.increment(1),
            Said::Deny(reason) => denials[reason as usize].increment(1),
        }
        duration.record(began.elapsed());
    }
}

/// Open and accepted connections of one listener.
pub(crate) fn connections(listener: &'static str) -> (Gauge, Counter) {
    recorder();
    (gauge!(CONNECTIONS, "listener" => listener), counter!(ACCEPTED, "listener" => listener))
}

/// TLS handshakes that agreed on HTTP/2, and those that did not.
pub(crate) fn handshake(http2: bool) -> Counter {
    counter!(HANDSHAKES, "protocol" => if http2 { "h2" } else { "http/1.1" })
}

/// Connections of one listener that were closed as soon as they were accepted.
pub(crate) fn refused(listener: &'static str, reason: &'static str) -> Counter {
    counter!(REFUSED, "listener" => listener, "reason" => reason)
}

/// Connections that were ended for what they sent.
pub(crate) fn cut(reason: &'static str) -> Counter {
    counter!(CUT, "reason" => reason)
}

pub(crate) fn panics() -> Counter {
    counter!(PANICS)
}

/// Requests passed on to the upstream.
pub(crate) fn mirrored(outcome: &'static str) -> Counter {
    recorder();
    counter!(MIRRORED, "outcome" => outcome)
}

/// Management secrets that were not the stored one.
pub(crate) fn management_fallback(outcome: &'static str) -> Counter {
    recorder();
    counter!(FALLBACK, "outcome" => outcome)
}

/// Verdicts compared with the upstream's.
pub(crate) fn shadowed(endpoint: Endpoint, outcome: &'static str) -> Counter {
    recorder();
    counter!(SHADOWED, "endpoint" => endpoint.as_str(), "outcome" => outcome)
}

/// Whether the store's notifications arrive, and since when they were known to; noted,
/// like all gauges, when somebody looks.
pub(crate) fn note_store(live: bool, verified_ago: Duration) {
    recorder();
    gauge!(STORE_LIVE).set(f64::from(u8::from(live)));
    gauge!(VERIFIED_AGE).set(verified_ago.as_secs_f64());
}

/// Uses that wait to be written; what each cache did and holds, by its name.
pub(crate) fn note_memory(touches_waiting: usize, caches: &[(&'static str, Counts)]) {
    gauge!(TOUCHES).set(precise(touches_waiting as u64));
    for &(cache, Counts { loads, memo_hits, cache_hits, entries }) in caches {
        counter!(CACHE_LOADS, "cache" => cache).absolute(loads);
        counter!(CACHE_HITS, "cache" => cache, "layer" => "memo").absolute(memo_hits);
        counter!(CACHE_HITS, "cache" => cache, "layer" => "cache").absolute(cache_hits);
        gauge!(CACHE_ENTRIES, "cache" => cache).set(precise(entries));
    }
}

/// The apps by state; states that none is in are 0.
pub(crate) fn note_apps(engine_live: bool, by_state: impl Iterator<Item = (&'static str, u64)>) {
    gauge!(ENGINE_LIVE).set(f64::from(u8::from(engine_live)));
    for (state, count) in by_state {
        gauge!(APPS, "state" => state).set(precise(count));
    }
}

/// An attempt to wake an app that came to this.
pub(crate) fn wake_ended(outcome: &'static str, took: Option<Duration>) {
    counter!(WAKES, "outcome" => outcome).increment(1);
    if let Some(took) = took {
        histogram!(WAKE_DURATION).record(took);
    }
}

pub(crate) fn put_to_sleep(to: &'static str) {
    counter!(SLEEPS, "to" => to).increment(1);
}

/// A count as a gauge's value; counts here stay far below 2^53.
#[expect(clippy::cast_precision_loss)]
fn precise(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_indexed_by_what_they_count() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason}");
        }
        for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, index, "{endpoint:?}");
        }
    }

    #[test]
    fn a_denial_is_rendered_under_its_reason() {
        let verdicts = Verdicts::new();
        let denied = Said::Deny(Reason::AmbiguousPath);
        verdicts.count(Endpoint::Management, denied, Instant::now());
        let text = render();
        let line = r#"nightporter_verdicts_total{endpoint="authenticate_management",reason="ambiguous_path"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("nightporter_request_duration_seconds_bucket"), "{text}");
    }
}
