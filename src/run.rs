//! The life of the process: start, serve, reload, drain.
//!
//! The gate's connections are served on threads of their own, one for each core
//! ([`crate::http`]); everything else runs on the runtime that calls [`run`].

mod alerts;
mod drain;
mod ledger;
mod tasks;
mod wiring;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{error, info, warn};

use self::drain::{cut, drain};
use self::tasks::Tasks;
use self::wiring::Wiring;
use crate::config::{Config, is_reloaded};
use crate::http::tls::{ServerTls, TlsError};
use crate::http::{Drain, Listeners};
use crate::postgres::ConfigError;
use crate::signals::{Signal, next, second_shutdown, shutdown};
use crate::telemetry::logs;

/// How long writing the last uses may take when everything else is done.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// How long the last spans may take: nobody waits for a collector.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// How long all of it may take after a second signal.
const ABORT_FLUSH: Duration = Duration::from_millis(300);

/// Why the process ended unexpectedly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("gate.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("store: {0}")]
    Store(#[from] ConfigError),
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    /// A task that the process cannot do without has panicked.
    #[error("a background task failed: {0}")]
    TaskFailed(tokio::task::JoinError),
    /// A second signal arrived while connections drained.
    #[error("aborted while draining")]
    Aborted,
}

/// What runs once everything has been opened.
struct Started {
    wiring: Wiring,
    background: Tasks,
    accepting: Tasks,
    drains: [Drain; 2],
}

/// Serves until a shutdown signal arrives, or until an essential task fails.
///
/// Requests that are being answered have `gate.drain_timeout` to finish. If the signal
/// arrives during the start, no request has been answered yet, and the process ends at once.
pub async fn run(
    config: Arc<Config>,
    listeners: Listeners,
    mut signals: mpsc::Receiver<Signal>,
) -> Result<(), RunError> {
    let mut reloaded = None;
    // Boxed as a trait object, here and below: whether a future that holds all others can be sent
    // to another thread takes the compiler more steps than it allows.
    let started = tokio::select! {
        started = start(&config, listeners).boxed() => started?,
        () = shutdown(&mut signals, &mut reloaded) => {
            info!("shut down while starting");
            return Ok(());
        }
    };
    let Started { wiring, mut background, mut accepting, drains } = started;
    let tasks = [&mut background, &mut accepting];
    let served = serve(&config, reloaded, wiring.tls.as_ref(), &mut signals, tasks).await;
    accepting.shutdown().await;
    wiring.registry.close();
    let (touches, source) = (&wiring.touches, &wiring.source);
    let records = async {
        if let Some(ledger) = &wiring.ledger {
            ledger.writer.finish(LAST_FLUSH).await;
        }
    };
    let spans = async {
        if let Some(traces) = &wiring.traces {
            traces.finish(LAST_SPANS).await;
        }
    };
    let flush = async { tokio::join!(touches.flush(source), records, spans) };
    let outcome = end(served, drains, config.gate.drain_timeout, &mut signals, flush).boxed().await;
    if outcome.is_ok() {
        background.shutdown().await;
    } else {
        background.abort();
    }
    outcome
}

/// Ends the connections and writes the last uses: after a shutdown signal in an orderly way,
/// and after a failure at once.
async fn end(
    served: Result<(), RunError>,
    drains: [Drain; 2],
    drain_timeout: Duration,
    signals: &mut mpsc::Receiver<Signal>,
    flush: impl Future,
) -> Result<(), RunError> {
    let mut outcome = match served {
        Ok(()) => {
            info!("draining; a second signal aborts");
            drain(drains, drain_timeout, signals).await
        }
        Err(error) => {
            cut(drains).await;
            Err(error)
        }
    };
    let mut flush = pin!(flush);
    if outcome.is_ok() {
        tokio::select! {
            flushed = timeout(LAST_FLUSH, &mut flush) => {
                if flushed.is_err() {
                    warn!("the store did not answer in time; the last uses are not written");
                }
                return Ok(());
            }
            () = second_shutdown(signals) => outcome = Err(RunError::Aborted),
        }
    }
    if timeout(ABORT_FLUSH, flush).await.is_err() {
        warn!("the last uses are not written");
    }
    outcome
}

/// Opens everything and starts to accept connections.
async fn start(config: &Arc<Config>, listeners: Listeners) -> Result<Started, RunError> {
    let (wiring, commands) = Wiring::open(config).await?;
    let (mut background, mut accepting) = (Tasks::default(), Tasks::default());
    wiring.spawn_background(commands, &mut background).await;
    let drains = wiring.start_servers(listeners, &mut accepting)?;
    Ok(Started { wiring, background, accepting, drains })
}

/// Runs until the first shutdown signal, or until an essential task fails.
async fn serve(
    config: &Config,
    reloaded: Option<Arc<Config>>,
    tls: Option<&Arc<ServerTls>>,
    signals: &mut mpsc::Receiver<Signal>,
    [background, accepting]: [&mut Tasks; 2],
) -> Result<(), RunError> {
    let mut current = config.clone();
    if let Some(new) = reloaded {
        reload(&mut current, &new, tls.cloned());
    }
    loop {
        let failed = tokio::select! {
            signal = next(signals) => match signal {
                Signal::Shutdown => return Ok(()),
                Signal::Reload(new) => {
                    reload(&mut current, &new, tls.cloned());
                    continue;
                }
            },
            failed = background.failed() => failed,
            failed = accepting.failed() => failed,
        };
        error!(error = %failed, "a background task failed");
        return Err(RunError::TaskFailed(failed));
    }
}

/// Applies the changes that can be made while running, and logs those that cannot.
fn reload(current: &mut Config, new: &Config, tls: Option<Arc<ServerTls>>) {
    if let Some(tls) = tls {
        // In a task of its own: it may wait for a lock, and this task must handle signals.
        tokio::spawn(async move { tls.refresh(true).await });
    }
    if new.log.level != current.log.level {
        match logs::set_level(&new.log.level) {
            Ok(()) => info!(level = new.log.level, "log level changed"),
            Err(error) => warn!(%error, "log level not changed"),
        }
        current.log.level.clone_from(&new.log.level);
    }
    let mut pending = current.diff(new);
    pending.retain(|key| !is_reloaded(key));
    if pending.is_empty() {
        info!("reloaded");
    } else {
        warn!(keys = pending.join(", "), "reloaded, but these changes need a restart");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::http::tests::busy;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn failure() -> RunError {
        let failed = tokio::spawn(async { panic!("on purpose") }).await;
        RunError::TaskFailed(failed.expect_err("it panics"))
    }

    /// The end after a failure, with a request that would run for ever.
    async fn end_of_failure(flush: impl Future<Output = ()>) -> Result<(), RunError> {
        let (one, other) = (busy().await, busy().await);
        let (_sender, mut signals) = mpsc::channel(1);
        let drains = [one.drain, other.drain];
        let ending = end(Err(failure().await), drains, PATIENCE * 2, &mut signals, flush);
        timeout(PATIENCE, ending).await.expect("in time")
    }

    #[tokio::test]
    async fn a_failure_cuts_requests_and_still_writes_the_last_uses() {
        let is_written = AtomicBool::new(false);
        let flush = async { is_written.store(true, Ordering::Relaxed) };
        let outcome = end_of_failure(flush).await;
        assert!(matches!(outcome, Err(RunError::TaskFailed(_))), "{outcome:?}");
        assert!(is_written.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_failure_does_not_wait_for_a_store_that_does_not_answer() {
        let outcome = end_of_failure(std::future::pending()).await;
        assert!(matches!(outcome, Err(RunError::TaskFailed(_))), "{outcome:?}");
    }
}
