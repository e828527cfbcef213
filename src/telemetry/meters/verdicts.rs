//! Counts of verdicts and their durations, kept per thread.
//!
//! The cache line of a counter that all threads share would move from core to core with
//! every request. Here each thread writes to its own counters, and rendering the metrics
//! adds them up.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, describe_counter};
use metrics_exporter_prometheus::formatting::{write_help_line, write_type_line};
use thread_local::ThreadLocal;

use super::recorder;
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::observation::{Observation, Observer};
use crate::domain::reason::Reason;

const VERDICTS: &str = "nightporter_verdicts_total";
const DURATION: &str = "nightporter_request_duration_seconds";

/// Upper bounds of the duration histogram, in nanoseconds: a verdict from the cache takes
/// microseconds, a cold one takes a query, a timed-out one takes `store.pool_timeout`.
const BOUNDS: [u64; 12] = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// The number of buckets: one for each of [`BOUNDS`], and one for longer durations.
const BUCKETS: usize = BOUNDS.len() + 1;

/// The number of outcomes: granted, asleep, kept asleep, and each reason of a denial.
const KINDS: usize = 3 + Reason::ALL.len();

/// The counts of verdicts by thread and endpoint.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(ThreadLocal<[EndpointCounts; Endpoint::ALL.len()]>);

/// The counts of one endpoint on one thread, which alone writes them.
#[derive(Debug, Default)]
struct EndpointCounts {
    verdicts: [Count; KINDS],
    durations: [Count; BUCKETS],
    nanoseconds: Count,
}

/// A counter with a single writer.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Verdicts {
    /// Returns the counts of this process.
    pub(crate) fn global() -> &'static Self {
        static GLOBAL: OnceLock<Verdicts> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            recorder();
            describe_counter!(
                VERDICTS,
                "Verdicts by endpoint and reason; `grant`, `asleep` and `kept_asleep` are grants."
            );
            Self::default()
        })
    }

    fn count(&self, endpoint: Endpoint, verdict: VerdictKind, took: Duration) {
        let counts = &self.0.get_or_default()[endpoint as usize];
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanoseconds);
        counts.verdicts[kind(verdict)].add(1);
        counts.durations[bucket].add(1);
        counts.nanoseconds.add(nanoseconds);
    }

    /// Updates the recorder's counters of verdicts.
    pub(super) fn update_recorder(&self) {
        for endpoint in Endpoint::ALL {
            for verdict in all_verdict_kinds() {
                let count = self.sum(endpoint, |counts| &counts.verdicts[kind(verdict)]);
                let (endpoint, reason) = (endpoint.as_str(), verdict.as_str());
                counter!(VERDICTS, "endpoint" => endpoint, "reason" => reason).absolute(count);
            }
        }
    }

    /// Renders the duration histogram as text. (The recorder's own histograms keep every
    /// single duration until they are next rendered.)
    pub(super) fn render(&self) -> String {
        let mut text = String::with_capacity(4096);
        let help = "Time from a request's head to its verdict.";
        write_help_line(&mut text, DURATION, None, None, help);
        write_type_line(&mut text, DURATION, None, None, "histogram");
        for endpoint in Endpoint::ALL {
            self.render_endpoint(endpoint, &mut text);
        }
        text
    }

    fn render_endpoint(&self, endpoint: Endpoint, text: &mut String) {
        let label = endpoint.as_str();
        let mut line = |suffix: &str, le: &str, value: &dyn std::fmt::Display| {
            // Writing to a string does not fail.
            writeln!(text, "{DURATION}_{suffix}{{endpoint=\"{label}\"{le}}} {value}").ok();
        };
        let mut count = 0;
        for bucket in 0..BUCKETS {
            count += self.sum(endpoint, |counts| &counts.durations[bucket]);
            let bound = BOUNDS.get(bucket).copied().map(seconds);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            line("bucket", &format!(",le=\"{bound}\""), &count);
        }
        let sum = seconds(self.sum(endpoint, |counts| &counts.nanoseconds));
        line("sum", "", &sum);
        line("count", "", &count);
    }

    fn sum(&self, endpoint: Endpoint, number: impl Fn(&EndpointCounts) -> &Count) -> u64 {
        self.0.iter().map(|thread| number(&thread[endpoint as usize]).get()).sum()
    }
}

impl Observer for &'static Verdicts {
    fn observe(&self, observation: &Observation<'_>) {
        self.count(observation.endpoint, observation.verdict, observation.timings.total);
    }
}

/// Returns the index at which an outcome is counted.
fn kind(verdict: VerdictKind) -> usize {
    match verdict {
        VerdictKind::Grant => 0,
        VerdictKind::Asleep => 1,
        VerdictKind::KeptAsleep => 2,
        VerdictKind::Deny(reason) => 3 + reason as usize,
    }
}

fn all_verdict_kinds() -> impl Iterator<Item = VerdictKind> {
    let granted = [VerdictKind::Grant, VerdictKind::Asleep, VerdictKind::KeptAsleep];
    granted.into_iter().chain(Reason::ALL.map(VerdictKind::Deny))
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_indexed_by_what_they_count() {
        assert_eq!(
            all_verdict_kinds().map(kind).collect::<Vec<_>>(),
            (0..KINDS).collect::<Vec<_>>()
        );
        for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, index, "{endpoint:?}");
        }
    }

    #[test]
    fn threads_are_added_up_those_that_have_ended_too() {
        let verdicts = Verdicts::default();
        let count = |times: u32, took| {
            for _ in 0..times {
                verdicts.count(Endpoint::Auth, VerdictKind::Grant, took);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| count(1000, Duration::from_micros(5)));
            scope.spawn(|| count(2000, Duration::from_micros(6)));
        });
        count(1, Duration::from_secs(11));
        verdicts.count(Endpoint::Terminal, VerdictKind::Deny(Reason::UnknownApp), Duration::ZERO);
        let text = verdicts.render();
        for (line, value) in [
            (r#"bucket{endpoint="auth",le="0.000005"}"#, "1000"),
            (r#"bucket{endpoint="auth",le="0.00001"}"#, "3000"),
            (r#"bucket{endpoint="auth",le="10"}"#, "3000"),
            (r#"bucket{endpoint="auth",le="+Inf"}"#, "3001"),
            (r#"sum{endpoint="auth"}"#, "11.017"),
            (r#"count{endpoint="auth"}"#, "3001"),
            (r#"count{endpoint="authenticate_terminal"}"#, "1"),
            (r#"count{endpoint="authenticate_management"}"#, "0"),
        ] {
            let line = format!("{DURATION}_{line} {value}\n");
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_denial_is_rendered_under_its_reason() {
        let denied = VerdictKind::Deny(Reason::AmbiguousPath);
        Verdicts::global().count(Endpoint::Management, denied, Duration::ZERO);
        let text = super::super::render();
        let line = r#"nightporter_verdicts_total{endpoint="authenticate_management",reason="ambiguous_path"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("nightporter_request_duration_seconds_bucket"), "{text}");
    }
}
