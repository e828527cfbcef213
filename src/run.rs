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
use crate::descriptors::Shares;
use crate::gate::Gate;
use crate::http::ops::OpsRoutes;
use crate::http::routes::GateRoutes;
use crate::http::tls::{Tls, TlsError};
use crate::http::{Bounds, Drain, Limits, Listeners, Server};
use crate::ops::apps::Apps;
use crate::postgres::ConfigError;
use crate::signals::Signal;
use crate::store::app_meta::AppMetaDir;
use crate::store::touch::Touches;
use crate::store::{Freshness, Source};
use crate::telemetry::{logs, meters};
use crate::upstream::{Shadow, Upstream};
use crate::wake::{self, Wakes};

/// How long the store's link waits for the first look at the apps' folder.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// How long the last uses may take to be written when everything else is done, and
/// after a second signal.
const LAST_FLUSH: Duration = Duration::from_secs(2);
const HURRIED_FLUSH: Duration = Duration::from_millis(300);

/// Why the process ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("gate.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("store: {0}")]
    Store(#[from] ConfigError),
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    /// One of the tasks that never end has ended.
    #[error("a part of the process broke: {0}")]
    Broken(tokio::task::JoinError),
    /// A second signal came while connections drained.
    #[error("aborted while draining")]
    Aborted,
}

/// Tasks that never end. One that does, does by a panic, and ends the process:
/// a gate without its store's listener must not go on as if nothing had happened.
type Endless = JoinSet<Infallible>;

/// What runs once everything has been opened.
struct Started {
    tls: Option<Arc<Tls>>,
    source: Arc<Source>,
    touches: Arc<Touches>,
    wakes: Arc<Wakes>,
    parts: Endless,
    doors: Endless,
    drains: [Drain; 2],
}

/// Serves until told to stop, or until something breaks that cannot.
///
/// Connections that are being answered have `gate.drain_timeout` to finish. Who is told
/// to stop while it starts has answered nobody, and ends at once.
pub async fn run(
    config: Arc<Config>,
    listeners: Listeners,
    mut signals: mpsc::Receiver<Signal>,
) -> Result<(), RunError> {
    let mut reloaded = None;
    let started = tokio::select! {
        started = start(&config, listeners) => started?,
        () = told_to_stop(&mut signals, &mut reloaded) => {
            info!("told to stop while starting");
            return Ok(());
        }
    };
    let Started { tls, source, touches, wakes, mut parts, mut doors, drains } = started;
    serve(&config, reloaded, tls.as_ref(), &mut signals, [&mut parts, &mut doors]).await?;
    doors.shutdown().await;
    wakes.close();
    info!("draining; a second signal aborts");
    let mut outcome = drain(drains, config.gate.drain_timeout, &mut signals).await;
    let flush = async {
        if timeout(LAST_FLUSH, touches.flush(&source)).await.is_err() {
            warn!("the store took too long; the last uses are not written");
        }
    };
    let mut flush = pin!(flush);
    if outcome.is_ok() {
        tokio::select! {
            () = &mut flush => {
                parts.shutdown().await;
                return Ok(());
            }
            () = second(&mut signals) => outcome = Err(RunError::Aborted),
        }
    }
    if timeout(HURRIED_FLUSH, flush).await.is_err() {
        warn!("the last uses are not written");
    }
    parts.abort_all();
    outcome
}

/// Opens everything and begins to accept.
async fn start(config: &Arc<Config>, listeners: Listeners) -> Result<Started, RunError> {
    let tls = match config.gate.tls.clone() {
        Some(files) => Some(Arc::new(open(move || Tls::load(&files)).await??)),
        None => None,
    };
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    let source = {
        let (config, freshness) = (Arc::clone(config), Arc::clone(&freshness));
        Arc::new(open(move || Source::open(&config, &freshness)).await??)
    };
    let touches = Arc::new(Touches::new(config.touch.clone()));
    let (wakes, orders) = Wakes::new();
    let upstream = Upstream::of(config);
    let gate = Gate::new(
        config,
        Arc::clone(&source),
        Arc::clone(&freshness),
        Arc::clone(&touches),
        Arc::clone(&wakes),
        upstream.clone(),
    );
    let gate = Arc::new(gate);

    let mut parts = Endless::new();
    let (look, looked) = oneshot::channel();
    parts.spawn(follow_apps(
        AppMetaDir::new(config.store.installed_apps_dir.clone()),
        Arc::clone(&freshness),
        matches!(*source, Source::Files(_)),
        look,
    ));
    parts.spawn(follow_store(Arc::clone(&source), looked));
    parts.spawn(write_touches(Arc::clone(&touches), Arc::clone(&source)));
    parts.spawn(meters::upkeep());
    if let Some(tls) = &tls {
        parts.spawn(Arc::clone(tls).follow());
    }

    if config.wake.enabled {
        wake::begin(config, &wakes, orders, &source, &freshness, &touches, &mut parts).await;
    }

    let mut doors = Endless::new();
    let apps = Apps::new(Arc::clone(&wakes), Arc::clone(&touches));
    let shadow = upstream.as_ref().and_then(|upstream| upstream.shadow());
    let drains = open_doors(config, &gate, apps, shadow, tls.as_ref(), listeners, &mut doors)?;
    Ok(Started { tls, source, touches, wakes, parts, doors, drains })
}

/// Reads files on a thread that may wait: a disk may be gone, and another process may
/// hold a lock.
async fn open<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    spawn_blocking(work).await.map_err(RunError::Broken)
}

/// Until the signal to stop; keeps the last configuration that came before it.
async fn told_to_stop(signals: &mut mpsc::Receiver<Signal>, reloaded: &mut Option<Arc<Config>>) {
    while let Signal::Reload(config) = next(signals).await {
        *reloaded = Some(config);
    }
}

/// Until the signal that asks for an end at once.
async fn second(signals: &mut mpsc::Receiver<Signal>) {
    while !matches!(next(signals).await, Signal::Shutdown) {}
}

/// The store is live only once the apps' folder was looked at: what was read of it before
/// is read again then. A folder that hangs keeps the store waiting no longer than
/// [`FIRST_LOOK`].
async fn follow_store(source: Arc<Source>, looked: oneshot::Receiver<()>) -> Infallible {
    let _hangs_or_was_looked_at = timeout(FIRST_LOOK, looked).await;
    source.watch().await
}

/// On the files store the folders are the set of installed apps too.
async fn follow_apps(
    dir: AppMetaDir,
    freshness: Arc<Freshness>,
    names: bool,
    looked: oneshot::Sender<()>,
) -> Infallible {
    dir.watch(freshness, names, looked).await
}

async fn write_touches(touches: Arc<Touches>, source: Arc<Source>) -> Infallible {
    touches.run(&source).await
}

/// Starts to accept on both listeners.
fn open_doors(
    config: &Config,
    gate: &Arc<Gate>,
    apps: Apps,
    shadow: Option<&Arc<Shadow>>,
    tls: Option<&Arc<Tls>>,
    listeners: Listeners,
    doors: &mut Endless,
) -> Result<[Drain; 2], RunError> {
    let Listeners { gate: gate_listener, ops: ops_listener } = listeners;
    let pages = config.store.installed_apps_dir.clone();
    let routes = Arc::new(GateRoutes::new(Arc::clone(gate), pages, shadow.cloned()));
    let (gate_bounds, ops_bounds) = bounds(config);
    let (accept, gate_drain) = Server::new("gate", routes, Limits::default(), gate_bounds)
        .trusting(config.gate.trusted_proxies.clone())
        .over(tls.cloned())
        .on_threads(std::thread::available_parallelism()?.get())
        .start(gate_listener)?;
    doors.spawn(accept);
    let routes = Arc::new(OpsRoutes::new(Arc::clone(gate), apps, &config.ops));
    let (accept, ops_drain) =
        Server::new("ops", routes, Limits::default(), ops_bounds).start(ops_listener)?;
    doors.spawn(accept);
    Ok([gate_drain, ops_drain])
}

/// How many connections the listeners may have.
fn bounds(config: &Config) -> (Bounds, Bounds) {
    let of_database = match &config.store.kind {
        // And the one that listens.
        StoreKind::Postgres(postgres) => postgres.pool_size as usize + 1,
        StoreKind::Files { .. } => 0,
    };
    let shares = Shares::now(of_database);
    let config::Gate { max_connections: asked, max_connections_per_address, .. } = config.gate;
    if shares.gate < asked {
        info!(
            connections = shares.gate,
            "the limit of open files leaves the gate fewer connections than gate.max_connections"
        );
    }
    let gate = Bounds::within(shares.gate.min(asked), max_connections_per_address);
    (gate, Bounds::within(shares.ops, shares.ops))
}

/// Until the first signal to stop, or until a part breaks.
async fn serve(
    config: &Config,
    reloaded: Option<Arc<Config>>,
    tls: Option<&Arc<Tls>>,
    signals: &mut mpsc::Receiver<Signal>,
    [parts, doors]: [&mut Endless; 2],
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
            Some(ended) = parts.join_next() => ended,
            Some(ended) = doors.join_next() => ended,
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => {
                error!(%error, "a part of the process broke");
                return Err(RunError::Broken(error));
            }
        }
    }
}

/// The next signal; waits for ever once nobody can send one.
async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    match signals.recv().await {
        Some(signal) => signal,
        None => std::future::pending().await,
    }
}

/// Takes what can be taken while running and says what cannot.
fn reload(current: &mut Config, new: &Config, tls: Option<Arc<Tls>>) {
    if let Some(tls) = tls {
        // Beside this task, which has to hear signals: it may wait for a lock.
        tokio::spawn(async move { tls.refresh(true).await });
    }
    if new.log.level != current.log.level {
        match logs::set_level(&new.log.level) {
            Ok(()) => info!(level = new.log.level, "log level changed"),
            Err(error) => warn!(%error, "log level not changed"),
        }
        current.log.level.clone_from(&new.log.level);
    }
    let waiting = current.differing(new);
    if waiting.is_empty() {
        info!("reloaded");
    } else {
        warn!(keys = waiting.join(", "), "reloaded, but these changes need a restart");
    }
}

/// Waits for running requests, for as long as they may take.
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
        () = second(signals) => {
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
        let (Busy { puppet, drain, .. }, Busy { puppet: other, drain: other_drain, .. }) =
            (busy().await, busy().await);
        let (_sender, mut signals) = mpsc::channel(1);
        puppet.let_go();
        other.let_go();
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
        let taken = async {
            while sender.capacity() < 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, taken).await.expect("the reload is taken");
        assert!(!draining.is_finished());
        sender.send(Signal::Shutdown).await.expect("room");
        let outcome = timeout(PATIENCE, draining).await.expect("in time").expect("no panic");
        assert!(matches!(outcome, Err(RunError::Aborted)), "{outcome:?}");
    }
}
