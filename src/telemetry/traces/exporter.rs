//! The background task that exports spans: in batches, one at a time, with a deadline for
//! each and longer and longer waits while the collector fails.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metrics::Counter;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::collector::{Collector, ExportError};
use super::otlp;
use super::span::Span;
use crate::backoff::{doubled, jittered};
use crate::telemetry::meters::{SpanDrop, spans_dropped, spans_exported};
use crate::telemetry::random::random_u64;

/// Spans in one request, and how long the first of them waits for others. Both are the
/// smaller ones of OpenTelemetry's SDKs.
const BATCH: usize = 512;
const LINGER: Duration = Duration::from_secs(1);

/// The waits while the collector fails.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often a batch is sent before it is dropped.
const ATTEMPTS: u32 = 5;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// Export what is queued, once.
    Ending,
    Ended,
}

/// Exports the spans of a queue.
#[derive(Debug)]
pub(crate) struct Exporter {
    collector: Collector,
    queue: Mutex<mpsc::Receiver<Span>>,
    stage: watch::Sender<Stage>,
    /// Distinguishes this process from others of the same service.
    instance: String,
    counters: Counters,
}

struct Counters {
    exported: Counter,
    refused: Counter,
    unreachable: Counter,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Exporter {
    pub(super) fn new(collector: Collector, queue: mpsc::Receiver<Span>) -> Self {
        let counters = Counters {
            exported: spans_exported(),
            refused: spans_dropped(SpanDrop::Refused),
            unreachable: spans_dropped(SpanDrop::Unreachable),
        };
        let (queue, stage) = (Mutex::new(queue), watch::Sender::new(Stage::Running));
        Self { collector, queue, stage, instance: format!("{:016x}", random_u64()), counters }
    }

    /// Exports until [`Exporter::finish`].
    pub(crate) async fn run(self: Arc<Self>) -> Infallible {
        let mut queue = self.queue.lock().await;
        let mut stage = self.stage.subscribe();
        let mut failures = 0;
        let mut batch = Vec::with_capacity(BATCH);
        while *stage.borrow() == Stage::Running {
            tokio::select! {
                count = queue.recv_many(&mut batch, BATCH) => if count == 0 { break },
                _ = stage.changed() => break,
            }
            let full_by = Instant::now() + LINGER;
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    count = queue.recv_many(&mut batch, room) => if count == 0 { break },
                    () = sleep_until(full_by) => break,
                    _ = stage.changed() => break,
                }
            }
            self.deliver(&batch, &mut failures, &mut stage).await;
            batch.clear();
            // At most a batch in this time, however many are sent.
            tokio::select! {
                () = sleep_until(full_by) => {}
                _ = stage.changed() => {}
            }
        }
        while let Ok(span) = queue.try_recv() {
            batch.push(span);
            if batch.len() == BATCH {
                self.deliver(&batch, &mut failures, &mut stage).await;
                batch.clear();
            }
        }
        if !batch.is_empty() {
            self.deliver(&batch, &mut failures, &mut stage).await;
        }
        self.stage.send_replace(Stage::Ended);
        pending().await
    }

    /// Exports what is queued, for at most this long.
    pub(super) async fn finish(&self, limit: Duration) {
        self.stage.send_replace(Stage::Ending);
        let mut stage = self.stage.subscribe();
        if timeout(limit, stage.wait_for(|stage| *stage == Stage::Ended)).await.is_err() {
            debug!("the last spans are not exported");
        }
    }

    /// Sends a batch until it is accepted, refused, or given up.
    async fn deliver(
        &self,
        batch: &[Span],
        failures: &mut u32,
        stage: &mut watch::Receiver<Stage>,
    ) {
        let body = Bytes::from(otlp::encode(batch, &self.instance));
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let mut retry_after = None;
        for _ in 0..ATTEMPTS {
            if *failures > 0 {
                let wait = jittered(doubled(FIRST_WAIT, *failures, LONGEST_WAIT));
                let wait = retry_after.map_or(wait, |after: Duration| wait.max(after));
                tokio::select! {
                    () = sleep(wait.min(LONGEST_WAIT)) => {}
                    _ = stage.wait_for(|stage| *stage != Stage::Running) => {}
                }
            }
            let is_last = *stage.borrow() != Stage::Running;
            match self.collector.send(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.counters.exported.increment(count - rejected);
                    self.counters.refused.increment(rejected);
                    if std::mem::take(failures) > 0 {
                        info!("spans are exported again");
                    }
                    return;
                }
                Err(error) => {
                    note_failure(failures, &error);
                    if !error.is_transient() {
                        self.counters.refused.increment(count);
                        return;
                    }
                    retry_after = error.retry_after();
                }
            }
            if is_last {
                break;
            }
        }
        self.counters.unreachable.increment(count);
    }
}

fn note_failure(failures: &mut u32, error: &ExportError) {
    *failures = failures.saturating_add(1);
    if *failures == 1 {
        warn!(%error, "spans are not exported; see telemetry.otlp_endpoint");
    } else {
        debug!(%error, failures, "spans are not exported");
    }
}
