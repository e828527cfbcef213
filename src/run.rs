//! The life of the process: start, serve, reload, drain.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::config::{self, Config, StoreKind};
use crate::descriptors::ConnectionLimits;
use crate::domain::observation::Observer;
use crate::gate::Gate;
use crate::http::ops::OpsRoutes;
use crate::http::routes::GateRoutes;
use crate::http::tls::{ServerTls, TlsError};
use crate::http::{Bounds, Drain, Limits, Listeners, Server};
use crate::ops::apps::Apps;
use crate::postgres::ConfigError;
use crate::signals::Signal;
use crate::store::app_meta::AppMetaDir;
use crate::store::touch::Touches;
use crate::store::{Freshness, Source};
use crate::telemetry::logs::{self, VerdictLog};
use crate::telemetry::meters::{self, AppVerdicts, Verdicts};
use crate::upstream::Upstream;
use crate::wake::{self, Registry};

/// How long the store's listener waits for the first scan of the apps' folder.
const FIRST_SCAN: Duration = Duration::from_secs(1);

/// How long writing the last uses may take when everything else is done, and
/// after a second signal.
const LAST_FLUSH: Duration = Duration::from_secs(2);
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
    /// A background task, which never ends, has ended.
    #[error("a background task failed: {0}")]
    Broken(tokio::task::JoinError),
    /// A second signal arrived while connections drained.
    #[error("aborted while draining")]
    Aborted,
}

/// Tasks that never end. If one ends, it has panicked, and that ends the process:
/// a gate without its store's listener must not continue as if nothing had happened.
type EndlessTasks = JoinSet<Infallible>;

/// What runs once everything has been opened.
struct Started {
    tls: Option<Arc<ServerTls>>,
    source: Arc<Source>,
    touches: Arc<Touches>,
    registry: Arc<Registry>,
    background: EndlessTasks,
    accepting: EndlessTasks,
    drains: [Drain; 2],
}

/// Serves until a shutdown signal arrives, or until a background task fails.
///
/// Requests that are being answered have `gate.drain_timeout` to finish. If the signal
/// arrives during the start, no request has been answered yet, and the process ends at once.
pub async fn run(
    config: Arc<Config>,
    listeners: Listeners,
    mut signals: mpsc::Receiver<Signal>,
) -> Result<(), RunError> {
    let mut reloaded = None;
    let started = tokio::select! {
        started = start(&config, listeners) => started?,
        () = shutdown(&mut signals, &mut reloaded) => {
            info!("shut down while starting");
            return Ok(());
        }
    };
    let Started { tls, source, touches, registry, mut background, mut accepting, drains } = started;
    let tasks = [&mut background, &mut accepting];
    serve(&config, reloaded, tls.as_ref(), &mut signals, tasks).await?;
    accepting.shutdown().await;
    registry.close();
    info!("draining; a second signal aborts");
    let mut outcome = drain(drains, config.gate.drain_timeout, &mut signals).await;
    let flush = async {
        if timeout(LAST_FLUSH, touches.flush(&source)).await.is_err() {
            warn!("the store did not answer in time; the last uses are not written");
        }
    };
    let mut flush = pin!(flush);
    if outcome.is_ok() {
        tokio::select! {
            () = &mut flush => {
                background.shutdown().await;
                return Ok(());
            }
            () = second_shutdown(&mut signals) => outcome = Err(RunError::Aborted),
        }
    }
    if timeout(ABORT_FLUSH, flush).await.is_err() {
        warn!("the last uses are not written");
    }
    background.abort_all();
    outcome
}

/// Opens everything and starts to accept connections.
async fn start(config: &Arc<Config>, listeners: Listeners) -> Result<Started, RunError> {
    let tls = match config.gate.tls.clone() {
        Some(files) => Some(Arc::new(run_blocking(move || ServerTls::load(&files)).await??)),
        None => None,
    };
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    let source = {
        let (config, freshness) = (Arc::clone(config), Arc::clone(&freshness));
        Arc::new(run_blocking(move || Source::open(&config, &freshness)).await??)
    };
    let touches = Arc::new(Touches::new(config.touch.clone()));
    let (registry, commands) = Registry::new();
    let upstream = Upstream::of(config);
    let gate = Gate::new(
        config,
        Arc::clone(&source),
        Arc::clone(&freshness),
        Arc::clone(&touches),
        Arc::clone(&registry),
        upstream.clone(),
    );
    let gate = Arc::new(gate);

    let mut background = EndlessTasks::new();
    let (scan_done, first_scan) = oneshot::channel();
    background.spawn(follow_apps(
        AppMetaDir::new(config.store.installed_apps_dir.clone()),
        Arc::clone(&freshness),
        matches!(*source, Source::Files(_)),
        scan_done,
    ));
    background.spawn(follow_store(Arc::clone(&source), first_scan));
    background.spawn(write_touches(Arc::clone(&touches), Arc::clone(&source)));
    background.spawn(meters::upkeep());
    if let Some(tls) = &tls {
        background.spawn(Arc::clone(tls).follow());
    }

    if config.wake.enabled {
        wake::spawn(config, &registry, commands, &source, &freshness, &touches, &mut background)
            .await;
    }

    let mut accepting = EndlessTasks::new();
    let apps = Apps::new(Arc::clone(&registry), Arc::clone(&touches));
    let observers = observers(config, upstream.as_deref());
    let drains =
        start_servers(config, &gate, apps, observers, tls.as_ref(), listeners, &mut accepting)?;
    Ok(Started { tls, source, touches, registry, background, accepting, drains })
}

/// Returns who is told of every decision.
fn observers(config: &Config, upstream: Option<&Upstream>) -> Box<[Box<dyn Observer>]> {
    let mut observers: Vec<Box<dyn Observer>> =
        vec![Box::new(Verdicts::global()), Box::new(VerdictLog)];
    if config.ops.app_metrics {
        observers.push(Box::new(AppVerdicts::global()));
    }
    if let Some(shadow) = upstream.and_then(Upstream::shadow) {
        observers.push(Box::new(Arc::clone(shadow)));
    }
    observers.into()
}

/// Reads files on a thread that may block: a disk may be gone, and another process may
/// hold a lock.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RunError> {
    spawn_blocking(work).await.map_err(RunError::Broken)
}

/// Waits for the shutdown signal; keeps the last configuration that arrived before it.
async fn shutdown(signals: &mut mpsc::Receiver<Signal>, reloaded: &mut Option<Arc<Config>>) {
    while let Signal::Reload(config) = next(signals).await {
        *reloaded = Some(config);
    }
}

/// Waits for the second shutdown signal, which requests an immediate end.
async fn second_shutdown(signals: &mut mpsc::Receiver<Signal>) {
    while !matches!(next(signals).await, Signal::Shutdown) {}
}

/// Follows the store. It is live only after the first scan of the apps' folder: anything
/// that was read from the folder before is then read again. A folder that hangs delays the
/// store by no more than [`FIRST_SCAN`].
async fn follow_store(source: Arc<Source>, first_scan: oneshot::Receiver<()>) -> Infallible {
    let _hangs_or_was_scanned = timeout(FIRST_SCAN, first_scan).await;
    source.watch().await
}

/// Follows the apps' folder. On the files store, the folders are also the set of installed
/// apps.
async fn follow_apps(
    dir: AppMetaDir,
    freshness: Arc<Freshness>,
    names: bool,
    scan_done: oneshot::Sender<()>,
) -> Infallible {
    dir.watch(freshness, names, scan_done).await
}

async fn write_touches(touches: Arc<Touches>, source: Arc<Source>) -> Infallible {
    touches.run(&source).await
}

/// Starts to accept on both listeners.
fn start_servers(
    config: &Config,
    gate: &Arc<Gate>,
    apps: Apps,
    observers: Box<[Box<dyn Observer>]>,
    tls: Option<&Arc<ServerTls>>,
    listeners: Listeners,
    accepting: &mut EndlessTasks,
) -> Result<[Drain; 2], RunError> {
    let Listeners { gate: gate_listener, ops: ops_listener } = listeners;
    let pages = config.store.installed_apps_dir.clone();
    let routes = Arc::new(GateRoutes::new(Arc::clone(gate), pages, observers));
    let (gate_bounds, ops_bounds) = bounds(config);
    let (accept, gate_drain) = Server::new("gate", routes, Limits::default(), gate_bounds)
        .with_trusted(config.gate.trusted_proxies.clone())
        .with_tls(tls.cloned())
        .with_threads(std::thread::available_parallelism()?.get())
        .start(gate_listener)?;
    accepting.spawn(accept);
    let routes = Arc::new(OpsRoutes::new(Arc::clone(gate), apps, &config.ops));
    let (accept, ops_drain) =
        Server::new("ops", routes, Limits::default(), ops_bounds).start(ops_listener)?;
    accepting.spawn(accept);
    Ok([gate_drain, ops_drain])
}

/// Returns how many connections the gate's and the operator's listener may have.
fn bounds(config: &Config) -> (Bounds, Bounds) {
    let database_connections = match &config.store.kind {
        // The pool, and the connection that listens for notifications.
        StoreKind::Postgres(postgres) => postgres.pool_size as usize + 1,
        StoreKind::Files { .. } => 0,
    };
    let limits = ConnectionLimits::now(database_connections);
    let config::Gate { max_connections, max_connections_per_address, .. } = config.gate;
    if limits.gate < max_connections {
        info!(
            connections = limits.gate,
            "the limit of open files leaves the gate fewer connections than gate.max_connections"
        );
    }
    let gate = Bounds::within(limits.gate.min(max_connections), max_connections_per_address);
    (gate, Bounds::within(limits.ops, limits.ops))
}

/// Runs until the first shutdown signal, or until a background task fails.
async fn serve(
    config: &Config,
    reloaded: Option<Arc<Config>>,
    tls: Option<&Arc<ServerTls>>,
    signals: &mut mpsc::Receiver<Signal>,
    [background, accepting]: [&mut EndlessTasks; 2],
) -> Result<(), RunError> {
    let mut current = config.clone();
    if let Some(new) = reloaded {
        reload(&mut current, &new, tls.cloned());
    }
    loop {
        let ended = tokio::select! {
            signal = next(signals) => match signal {
                Signal::Shutdown => return Ok(()),
                Signal::Reload(new) => {
                    reload(&mut current, &new, tls.cloned());
                    continue;
                }
            },
            Some(ended) = background.join_next() => ended,
            Some(ended) = accepting.join_next() => ended,
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => {
                error!(%error, "a background task failed");
                return Err(RunError::Broken(error));
            }
        }
    }
}

/// Returns the next signal; waits forever once all senders are gone.
async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    match signals.recv().await {
        Some(signal) => signal,
        None => std::future::pending().await,
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
    let pending = current.diff(new);
    if pending.is_empty() {
        info!("reloaded");
    } else {
        warn!(keys = pending.join(", "), "reloaded, but these changes need a restart");
    }
}

/// Waits for running requests, up to the deadline.
async fn drain(
    mut drains: [Drain; 2],
    deadline: Duration,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<(), RunError> {
    let [gate, ops] = &mut drains;
    let outcome = tokio::select! {
        _ = async { tokio::join!(gate.drain(), ops.drain()) } => return Ok(()),
        () = tokio::time::sleep(deadline) => {
            warn!("requests are still running after gate.drain_timeout; they are cut");
            Ok(())
        }
        () = second_shutdown(signals) => {
            warn!("second signal: running requests are cut");
            Err(RunError::Aborted)
        }
    };
    tokio::join!(gate.abort(), ops.abort());
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::{Busy, busy};

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn drained(
        drains: [Drain; 2],
        deadline: Duration,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<(), RunError> {
        let draining = drain(drains, deadline, signals);
        timeout(PATIENCE, draining).await.expect("in time")
    }

    #[tokio::test]
    async fn a_drain_ends_when_the_last_request_does() {
        let (Busy { handler, drain, .. }, Busy { handler: other, drain: other_drain, .. }) =
            (busy().await, busy().await);
        let (_sender, mut signals) = mpsc::channel(1);
        handler.release();
        other.release();
        let outcome = drained([drain, other_drain], PATIENCE * 2, &mut signals).await;
        assert!(matches!(outcome, Ok(())), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_drain_has_a_deadline() {
        let (one, other) = (busy().await, busy().await);
        let (_sender, mut signals) = mpsc::channel(1);
        let deadline = Duration::from_millis(100);
        let began = std::time::Instant::now();
        let outcome = drained([one.drain, other.drain], deadline, &mut signals).await;
        assert!(matches!(outcome, Ok(())), "{outcome:?}");
        assert!(began.elapsed() >= deadline);
    }

    #[tokio::test]
    async fn a_second_signal_aborts_and_a_reload_does_not() {
        let (one, other) = (busy().await, busy().await);
        let (sender, mut signals) = mpsc::channel(2);
        let config = crate::config::load(None, &crate::config::Environment::new());
        let config = Arc::new(config.expect("defaults"));
        sender.send(Signal::Reload(config)).await.expect("room");
        let drains = [one.drain, other.drain];
        let draining = tokio::spawn(async move { drain(drains, PATIENCE * 2, &mut signals).await });
        let received = async {
            while sender.capacity() < 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, received).await.expect("the reload is received");
        assert!(!draining.is_finished());
        sender.send(Signal::Shutdown).await.expect("room");
        let outcome = timeout(PATIENCE, draining).await.expect("in time").expect("no panic");
        assert!(matches!(outcome, Err(RunError::Aborted)), "{outcome:?}");
    }
}
