//! Spans of requests, wakes, sleeps and jobs for an OpenTelemetry collector, by OTLP over
//! HTTP.
//!
//! Spans are made of what observers are told, when all is over: nothing is traced while a
//! request is decided. A span is handed to a bounded queue without waiting, and dropped and
//! counted if that is full; one background task exports what is queued. So a collector that
//! is slow, hostile or gone costs a full queue of spans, and no request anything.
//!
//! The answer to a subrequest has no trace headers: proxies read none there (W3C's
//! `traceresponse` is a draft), and the proxy's own span is the parent of ours.
//!
//! Spans hold neither names nor ids nor addresses of clients, and rules instead of paths.

mod collector;
mod exporter;
mod observers;
mod otlp;
mod span;

use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::mpsc;

use self::collector::Collector;
pub use self::collector::CollectorError;
use self::exporter::Exporter;
use self::span::Span;
use super::meters::{SpanDrop, spans_dropped};
use crate::config::Telemetry;
use crate::domain::observation::{ActionObserver, JobObserver, Observer};

/// Spans that wait for export. At about half a kilobyte each, a full queue takes a megabyte.
const QUEUE: usize = 2048;

/// Room that requests leave for wakes, sleeps and jobs, of which there are few.
const RESERVED: usize = 256;

/// Takes spans, without waiting.
#[derive(Debug, Clone)]
struct SpanSender {
    queue: mpsc::Sender<Span>,
    dropped: Arc<Counters>,
}

struct Counters {
    queue_full: Counter,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl SpanSender {
    /// Returns whether a request's span would be taken; counts it as dropped if not.
    fn has_room(&self) -> bool {
        let has_room = self.queue.capacity() > RESERVED;
        if !has_room {
            self.dropped.queue_full.increment(1);
        }
        has_room
    }

    fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.queue_full.increment(1);
        }
    }
}

/// Makes spans of what happens, and exports them.
#[derive(Debug)]
pub struct Traces {
    sender: SpanSender,
    /// Percentage of the requests without a `traceparent` that are traced.
    sample: u8,
    exporter: Arc<Exporter>,
}

impl Traces {
    /// Returns `None` if no collector is configured. Reads the trusted certificates, which may
    /// block.
    ///
    /// # Errors
    /// Fails if the collector speaks TLS and no certificate is trusted here.
    pub fn open(config: &Telemetry) -> Result<Option<Self>, CollectorError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let collector = Collector::new(endpoint, config.headers.clone())?;
        let (queue, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(Counters { queue_full: spans_dropped(SpanDrop::QueueFull) });
        let sender = SpanSender { queue, dropped };
        let exporter = Arc::new(Exporter::new(collector, receiver));
        Ok(Some(Self { sender, sample: config.sample, exporter }))
    }

    /// Returns the observer of decided requests.
    #[must_use]
    pub fn visits(&self) -> Box<dyn Observer> {
        Box::new(observers::RequestSpans::new(self.sender.clone(), self.sample))
    }

    /// Returns the observer of wakes and sleeps.
    #[must_use]
    pub fn actions(&self) -> Box<dyn ActionObserver> {
        Box::new(observers::WorkSpans(self.sender.clone()))
    }

    /// Returns the observer of jobs.
    #[must_use]
    pub fn jobs(&self) -> Box<dyn JobObserver> {
        Box::new(observers::WorkSpans(self.sender.clone()))
    }

    /// Returns the background task that exports.
    pub(crate) fn exporter(&self) -> &Arc<Exporter> {
        &self.exporter
    }

    /// Exports what is queued, once, for at most this long. Afterwards nothing is exported.
    pub async fn finish(&self, limit: Duration) {
        self.exporter.finish(limit).await;
    }
}
