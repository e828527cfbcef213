//! Counts of the spans that are exported to a collector.

use metrics::{Counter, counter, describe_counter};

use super::recorder;

const EXPORTED: &str = "nightporter_spans_exported_total";
const DROPPED: &str = "nightporter_spans_dropped_total";

/// Why a span does not reach the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpanDrop {
    /// The collector takes fewer than there are.
    QueueFull,
    /// The collector has refused it.
    Refused,
    /// The collector did not answer, often enough.
    Unreachable,
}

/// Returns the counter of spans that the collector has accepted.
pub(crate) fn spans_exported() -> Counter {
    recorder();
    describe_counter!(EXPORTED, "Spans that the OpenTelemetry collector has accepted.");
    counter!(EXPORTED)
}

/// Returns the counter of spans that were dropped for one reason.
pub(crate) fn spans_dropped(reason: SpanDrop) -> Counter {
    recorder();
    describe_counter!(DROPPED, "Spans that were dropped, by reason.");
    let reason = match reason {
        SpanDrop::QueueFull => "queue_full",
        SpanDrop::Refused => "refused",
        SpanDrop::Unreachable => "unreachable",
    };
    counter!(DROPPED, "reason" => reason)
}
