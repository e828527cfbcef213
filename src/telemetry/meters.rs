//! Metrics, named `nightporter_…` and rendered in Prometheus' text format.
//!
//! Metrics that a request updates are registered once and kept as handles; a request never
//! looks up a metric by name.

mod app_verdicts;
mod ledger;
mod spans;
mod verdicts;

use std::convert::Infallible;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::alert::Rule;
use crate::domain::endpoint::Endpoint;
use crate::store::cache::Counts;

pub(crate) use self::app_verdicts::AppVerdicts;
pub(crate) use self::ledger::note_ledger;
pub(crate) use self::spans::{SpanDrop, spans_dropped, spans_exported};
pub(crate) use self::verdicts::Verdicts;

const CONNECTIONS: &str = "nightporter_connections";
const ACCEPTED: &str = "nightporter_connections_accepted_total";
const HANDSHAKES: &str = "nightporter_tls_handshakes_total";
const REFUSED: &str = "nightporter_connections_refused_total";
const CUT: &str = "nightporter_connections_cut_total";
const PANICS: &str = "nightporter_panics_total";
const RESTARTS: &str = "nightporter_task_restarts_total";
const STORE_LIVE: &str = "nightporter_store_live";
const VERIFIED_AGE: &str = "nightporter_store_verified_age_seconds";
const CACHE_LOADS: &str = "nightporter_cache_loads_total";
const CACHE_HITS: &str = "nightporter_cache_hits_total";
const CACHE_ENTRIES: &str = "nightporter_cache_entries";
const TOUCHES: &str = "nightporter_touches_waiting";
const ENGINE_LIVE: &str = "nightporter_engine_live";
const APPS: &str = "nightporter_apps";
const COMMANDS: &str = "nightporter_reconciler_queue_length";
const COMMAND_AGE: &str = "nightporter_reconciler_queue_age_seconds";
const START_AGE: &str = "nightporter_start_queue_age_seconds";
const WAKES: &str = "nightporter_wakes_total";
const WAKE_DURATION: &str = "nightporter_wake_duration_seconds";
const SLEEPS: &str = "nightporter_sleeps_total";
const MIRRORED: &str = "nightporter_mirror_total";
const FALLBACK: &str = "nightporter_management_fallback_total";
const SHADOWED: &str = "nightporter_shadow_total";
const JOB_RUNS: &str = "nightporter_job_runs_total";
const LEDGER_BYTES: &str = "nightporter_ledger_bytes";
const WEBHOOK_ATTEMPTS: &str = "nightporter_webhook_attempts_total";
const JOB_LOCK_BUSY: &str = "nightporter_job_lock_busy_total";
const ALERTS: &str = "nightporter_alerts_firing";
const LIMITED: &str = "nightporter_limited_addresses";

/// Upper bounds of the wake duration histogram, in seconds: unpausing an app takes tens of
/// milliseconds, starting one takes tenths of seconds, or half a minute with a health check.
const WAKE_BUCKETS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// How often the exporter's upkeep runs; between runs it keeps every recorded duration.
const UPKEEP: Duration = Duration::from_secs(1);

/// Returns the recorder, which is installed once per process, on first use.
fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let full = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(full(WAKE_DURATION), &WAKE_BUCKETS)
            .unwrap_or_default()
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder was installed first; /metrics will be empty");
        }
        describe();
        counter!(PANICS).increment(0);
        handle
    })
}

fn describe() {
    describe_gauge!(CONNECTIONS, "Open connections by listener.");
    describe_counter!(ACCEPTED, "Connections accepted by listener.");
    describe_counter!(HANDSHAKES, "TLS handshakes by negotiated protocol.");
    describe_counter!(REFUSED, "Connections closed unread by listener and reason.");
    describe_counter!(CUT, "Connections ended because of what the peer sent, by reason.");
    describe_counter!(PANICS, "Requests answered with 500 because their handler panicked.");
    describe_counter!(RESTARTS, "Background tasks started again after a panic, by task.");
    describe_gauge!(STORE_LIVE, "1 while the store's notifications are known to arrive.");
    describe_gauge!(VERIFIED_AGE, "Seconds since the last heartbeat that arrived was sent.");
    describe_counter!(CACHE_LOADS, "Loads from the store by cache.");
    describe_counter!(
        CACHE_HITS,
        "Fresh entries found, by cache and layer: a thread's `memo`, or the `cache` behind it."
    );
    describe_gauge!(CACHE_ENTRIES, "Cached entries by cache.");
    describe_gauge!(TOUCHES, "Uses of apps and terminals waiting to be written to the store.");
    describe_gauge!(ENGINE_LIVE, "1 while the container engine's events arrive.");
    describe_gauge!(APPS, "Apps by their displayed state.");
    describe_gauge!(COMMANDS, "Commands that the reconciler has not handled yet.");
    describe_gauge!(COMMAND_AGE, "Seconds since the oldest of those commands was sent.");
    describe_gauge!(START_AGE, "Seconds that the app longest in the queue for a start has waited.");
    describe_counter!(WAKES, "Attempts to wake an app, by outcome.");
    describe_histogram!(WAKE_DURATION, "Time from the start of an attempt until the app is ready.");
    describe_counter!(SLEEPS, "Apps put to sleep, by sleep mode.");
    describe_counter!(MIRRORED, "Requests forwarded to the upstream for its idle clock.");
    describe_counter!(
        FALLBACK,
        "Management secrets that differ from the stored one, by outcome of asking the upstream."
    );
    describe_counter!(SHADOWED, "Verdicts compared with the upstream's, by result.");
    describe_counter!(JOB_RUNS, "Runs of periodic jobs by this process, by job and outcome.");
    ledger::describe();
    describe_gauge!(LEDGER_BYTES, "Bytes of the ledger's records when retention last looked.");
    describe_counter!(WEBHOOK_ATTEMPTS, "Attempts to deliver messages, by outcome.");
    describe_gauge!(ALERTS, "Alerts that fire, by rule.");
    describe_gauge!(LIMITED, "Addresses that have to wait after too many wrong credentials.");
    describe_counter!(JOB_LOCK_BUSY, "Jobs not run because another process held their lock.");
}

/// Sets how many alerts of a rule fire.
pub(crate) fn note_limited(addresses: usize) {
    gauge!(LIMITED).set(precise(u64::try_from(addresses).unwrap_or(u64::MAX)));
}

pub(crate) fn note_alerts(rule: Rule, firing: u64) {
    recorder();
    gauge!(ALERTS, "rule" => rule.as_str()).set(precise(firing));
}

/// Renders all metrics as text.
pub(crate) fn render() -> String {
    let verdicts = Verdicts::global();
    verdicts.update_recorder();
    AppVerdicts::global().update_recorder();
    let mut text = recorder().render();
    text.push_str(&verdicts.render());
    text
}

/// Runs the recorder's upkeep periodically, which bounds its memory.
pub(crate) async fn upkeep() -> Infallible {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder().run_upkeep();
    }
}

/// Returns the metrics of open and accepted connections of one listener.
pub(crate) fn connections(listener: &'static str) -> (Gauge, Counter) {
    recorder();
    (gauge!(CONNECTIONS, "listener" => listener), counter!(ACCEPTED, "listener" => listener))
}

/// Returns the counter of TLS handshakes that negotiated HTTP/2, or of the others.
pub(crate) fn handshake(http2: bool) -> Counter {
    counter!(HANDSHAKES, "protocol" => if http2 { "h2" } else { "http/1.1" })
}

/// Returns the counter of one listener's connections that were closed when accepted.
pub(crate) fn connections_refused(listener: &'static str, reason: &'static str) -> Counter {
    counter!(REFUSED, "listener" => listener, "reason" => reason)
}

/// Returns the counter of connections that were ended because of what the peer sent.
pub(crate) fn connections_cut(reason: &'static str) -> Counter {
    counter!(CUT, "reason" => reason)
}

/// Makes the counters of wakes and sleeps known, at 0: what counts their increase sees the
/// first one only if there was a value before.
pub(crate) fn wakes_known(outcomes: &[&'static str], sleep_modes: &[&'static str]) {
    recorder();
    for outcome in outcomes {
        counter!(WAKES, "outcome" => *outcome).increment(0);
    }
    for to in sleep_modes {
        counter!(SLEEPS, "to" => *to).increment(0);
    }
}

/// Makes the counters of a job known, likewise.
pub(crate) fn job_known(job: &'static str, outcomes: &[&'static str]) {
    recorder();
    for outcome in outcomes {
        counter!(JOB_RUNS, "job" => job, "outcome" => *outcome).increment(0);
    }
    counter!(JOB_LOCK_BUSY, "job" => job).increment(0);
}

/// Makes the counter of a background task's panics known, likewise.
pub(crate) fn task_known(task: &'static str) {
    recorder();
    counter!(RESTARTS, "task" => task).increment(0);
}

/// Counts a background task that has panicked and is started again.
pub(crate) fn task_restarted(task: &'static str) {
    recorder();
    counter!(RESTARTS, "task" => task).increment(1);
}

pub(crate) fn panics() -> Counter {
    counter!(PANICS)
}

/// Returns the counter of requests forwarded to the upstream.
pub(crate) fn mirrored(outcome: &'static str) -> Counter {
    recorder();
    counter!(MIRRORED, "outcome" => outcome)
}

/// Returns the counter of management secrets that differ from the stored one.
pub(crate) fn management_fallback(outcome: &'static str) -> Counter {
    recorder();
    counter!(FALLBACK, "outcome" => outcome)
}

/// Returns the counter of verdicts compared with the upstream's.
pub(crate) fn shadowed(endpoint: Endpoint, outcome: &'static str) -> Counter {
    recorder();
    counter!(SHADOWED, "endpoint" => endpoint.as_str(), "outcome" => outcome)
}

/// Sets whether the store's notifications arrive, and for how long that has not been
/// verified. Like all gauges, these are set when the metrics are scraped.
pub(crate) fn note_store(live: bool, verified_ago: Duration) {
    recorder();
    gauge!(STORE_LIVE).set(f64::from(u8::from(live)));
    gauge!(VERIFIED_AGE).set(verified_ago.as_secs_f64());
}

/// Sets the number of uses waiting to be written, and the counts of each cache by its name.
pub(crate) fn note_memory(touches_waiting: usize, caches: &[(&'static str, Counts)]) {
    gauge!(TOUCHES).set(precise(touches_waiting as u64));
    for &(cache, Counts { loads, memo_hits, cache_hits, entries }) in caches {
        counter!(CACHE_LOADS, "cache" => cache).absolute(loads);
        counter!(CACHE_HITS, "cache" => cache, "layer" => "memo").absolute(memo_hits);
        counter!(CACHE_HITS, "cache" => cache, "layer" => "cache").absolute(cache_hits);
        gauge!(CACHE_ENTRIES, "cache" => cache).set(precise(entries));
    }
}

/// Sets the number of apps in each state; `by_state` also lists the states with 0 apps.
pub(crate) fn note_apps(engine_live: bool, by_state: impl Iterator<Item = (&'static str, u64)>) {
    gauge!(ENGINE_LIVE).set(f64::from(u8::from(engine_live)));
    for (state, count) in by_state {
        gauge!(APPS, "state" => state).set(precise(count));
    }
}

/// Records the reconciler's queue of commands, and how long the app that has been waiting
/// longest for its start has done so.
pub(crate) fn note_queues(commands: usize, age: Duration, start_age: Duration) {
    gauge!(COMMANDS).set(precise(commands as u64));
    gauge!(COMMAND_AGE).set(age.as_secs_f64());
    gauge!(START_AGE).set(start_age.as_secs_f64());
}

/// Counts a finished attempt to wake an app; `took` is its duration if the app is ready.
pub(crate) fn wake_ended(outcome: &'static str, took: Option<Duration>) {
    counter!(WAKES, "outcome" => outcome).increment(1);
    if let Some(took) = took {
        histogram!(WAKE_DURATION).record(took);
    }
}

pub(crate) fn put_to_sleep(to: &'static str) {
    counter!(SLEEPS, "to" => to).increment(1);
}

/// Counts a run of a job.
pub(crate) fn job_ended(job: &'static str, outcome: &'static str) {
    recorder();
    counter!(JOB_RUNS, "job" => job, "outcome" => outcome).increment(1);
}

/// Sets what the ledger's records take up.
pub(crate) fn ledger_size(bytes: u64) {
    recorder();
    gauge!(LEDGER_BYTES).set(precise(bytes));
}

/// Counts a job that was due and whose lock another process held.
pub(crate) fn job_lock_busy(job: &'static str) {
    recorder();
    counter!(JOB_LOCK_BUSY, "job" => job).increment(1);
}

/// Counts an attempt to deliver a message.
pub(crate) fn webhook_attempt(outcome: &'static str) {
    recorder();
    counter!(WEBHOOK_ATTEMPTS, "outcome" => outcome).increment(1);
}

/// Converts a count to a gauge's value; counts here stay far below 2^53.
#[expect(clippy::cast_precision_loss)]
fn precise(count: u64) -> f64 {
    count as f64
}
