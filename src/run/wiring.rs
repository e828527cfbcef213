//! The parts of the process, and how they are connected.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info};

use super::alerts::{Alerts, MeasuredParts};
use super::tasks::Tasks;
use super::{RunError, ledger};
use crate::config::{self, ArchiveKind, Config, StoreKind};
use crate::descriptors::ConnectionLimits;
use crate::domain::observation::Observer;
use crate::gate::Gate;
use crate::http::api::{Alerts as AlertRoutes, Api, Apps, History, ProxyRoutes};
use crate::http::pairing::PairingRoutes;
use crate::http::routes::GateRoutes;
use crate::http::tls::ServerTls;
use crate::http::{Bounds, Drain, Limits, Listeners, Server};
use crate::jobs::Jobs;
use crate::ledger::Ledger;
use crate::ledger::archive::postgres::Postgres;
use crate::ledger::archive::sqlite::Sqlite;
use crate::pairing::Pairing;
use crate::store::touch::Touches;
use crate::store::{Freshness, Source};
use crate::telemetry::logs::VerdictLog;
use crate::telemetry::meters::{self, AppVerdicts, Verdicts};
use crate::telemetry::traces::Traces;
use crate::upstream::Upstream;
use crate::wake::{self, CommandReceiver, Dependencies, Registry};

/// How long the store's listener waits for the first scan of the apps' folder.
const FIRST_SCAN: Duration = Duration::from_secs(1);

/// Everything that has been opened. Each part gets what it needs from here.
#[derive(Debug)]
pub(super) struct Wiring {
    config: Arc<Config>,
    pub(super) tls: Option<Arc<ServerTls>>,
    freshness: Arc<Freshness>,
    pub(super) source: Arc<Source>,
    pub(super) touches: Arc<Touches>,
    pub(super) registry: Arc<Registry>,
    upstream: Option<Arc<Upstream>>,
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) traces: Option<Traces>,
    jobs: Option<Arc<Jobs>>,
    alerts: Option<Alerts>,
    gate: Arc<Gate>,
}

impl Wiring {
    /// Opens everything. The commands are for the reconciler.
    pub(super) async fn open(config: &Arc<Config>) -> Result<(Self, CommandReceiver), RunError> {
        let tls = match config.gate.tls.clone() {
            Some(files) => Some(Arc::new(run_blocking(move || ServerTls::load(&files)).await??)),
            None => None,
        };
        let freshness = Arc::new(Freshness::new(config.cache.clone()));
        let source = {
            let (config, freshness) = (Arc::clone(config), Arc::clone(&freshness));
            Arc::new(run_blocking(move || Source::open(&config, &freshness)).await??)
        };
        source.prepare(config).await;
        let touches = Arc::new(Touches::new(config.touch.clone()));
        let (registry, commands) = Registry::new();
        let upstream = Upstream::from_config(config);
        let gate = Arc::new(Gate::new(
            config,
            Arc::clone(&source),
            Arc::clone(&freshness),
            Arc::clone(&touches),
            Arc::clone(&registry),
            upstream.clone(),
        ));
        let ledger =
            if config.ledger.enabled { Some(Arc::new(Ledger::new(&config.ledger)?)) } else { None };
        let traces = {
            let telemetry = config.telemetry.clone();
            run_blocking(move || Traces::open(&telemetry)).await?.unwrap_or_else(|error| {
                // No verdict depends on spans, so the gate opens without them.
                error!(%error, "no spans are exported; see telemetry.otlp_endpoint");
                None
            })
        };
        let jobs = match &ledger {
            Some(ledger) => {
                let observers = traces.iter().map(Traces::jobs).collect();
                Some(ledger::jobs(config, ledger, &registry, observers).await)
            }
            None => None,
        };
        let alerts = ledger.as_ref().zip(jobs.as_ref()).filter(|_| config.alerts.enabled);
        let alerts = alerts.map(|(ledger, jobs)| {
            let (registry, tls) = (&registry, tls.as_ref());
            Alerts::new(config, MeasuredParts { gate: &gate, ledger, jobs, registry, tls })
        });
        let config = Arc::clone(config);
        let wiring = Self {
            config,
            tls,
            freshness,
            source,
            touches,
            registry,
            upstream,
            ledger,
            traces,
            jobs,
            alerts,
            gate,
        };
        Ok((wiring, commands))
    }

    /// Spawns the background tasks. Returns when the state of the apps is known, or does not
    /// become known in time.
    pub(super) async fn spawn_background(&self, commands: CommandReceiver, tasks: &mut Tasks) {
        let Self {
            config,
            tls,
            freshness,
            source,
            touches,
            registry,
            upstream: _,
            ledger,
            traces,
            jobs,
            alerts,
            gate,
        } = self;
        let (scan_done, first_scan) = oneshot::channel();
        source.descriptions().begin();
        let apps = follow_apps(Arc::clone(source), Arc::clone(freshness), scan_done);
        tasks.essential().spawn(apps);
        tasks.essential().spawn(follow_store(Arc::clone(source), first_scan));
        let (writer, target) = (Arc::clone(touches), Arc::clone(source));
        tasks.supervise("touches", move || write_touches(Arc::clone(&writer), Arc::clone(&target)));
        tasks.supervise("metrics", meters::upkeep);
        if let Some(tls) = tls {
            let tls = Arc::clone(tls);
            tasks.supervise("certificates", move || Arc::clone(&tls).follow());
        }
        if let Some(traces) = traces {
            let exporter = Arc::clone(traces.exporter());
            tasks.supervise("traces", move || Arc::clone(&exporter).run());
        }
        if let (Some(ledger), Some(jobs)) = (ledger, jobs) {
            ledger::spawn(ledger, jobs, gate, tasks);
            ledger::spawn_sender(config, ledger, tasks);
        }
        if let Some(Alerts { evaluator, .. }) = alerts {
            let evaluator = Arc::clone(evaluator);
            tasks.supervise("alerts", move || Arc::clone(&evaluator).run());
        }
        if config.wake.enabled {
            let tasks = tasks.essential();
            let recorded = ledger.iter().map(|ledger| Box::new(ledger.actions()) as Box<_>);
            let starts = alerts.iter().map(|alerts| Box::new(alerts.starts.clone()) as Box<_>);
            let traced = traces.iter().map(Traces::actions);
            let observers = recorded.chain(starts).chain(traced).collect();
            let dependencies =
                Dependencies { config, registry, source, freshness, touches, observers };
            wake::spawn(dependencies, commands, tasks).await;
        }
    }

    /// Starts to accept on both listeners.
    pub(super) fn start_servers(
        &self,
        listeners: Listeners,
        tasks: &mut Tasks,
    ) -> Result<[Drain; 2], RunError> {
        let Listeners { gate: gate_listener, ops: ops_listener } = listeners;
        let (gate_bounds, ops_bounds) = bounds(&self.config);
        let pages = self.config.store.installed_apps_dir.clone();
        let routes =
            GateRoutes::new(Arc::clone(&self.gate), pages, self.pairing(), self.observers());
        let server = Server::new("gate", Arc::new(routes), Limits::default(), gate_bounds);
        let (accept, gate_drain) = server
            .with_trusted(self.config.gate.trusted_proxies.clone())
            .with_tls(self.tls.clone())
            .with_threads(std::thread::available_parallelism()?.get())
            .start(gate_listener)?;
        tasks.essential().spawn(accept);
        let (registry, touches) = (Arc::clone(&self.registry), Arc::clone(&self.touches));
        let apps = Apps::new(registry, touches, Arc::clone(self.source.descriptions()));
        let history = self.ledger.clone().map(History::new);
        if let Some(history) = &history {
            let keys = history.keys();
            tasks.supervise("idempotency", move || ledger::watch_keys(Arc::clone(&keys)));
        }
        let jobs = self.jobs.clone();
        let alerts = self.ledger.as_ref().zip(self.alerts.as_ref());
        let alerts = alerts.map(|(ledger, alerts)| {
            AlertRoutes::new(Arc::clone(ledger), alerts.evaluator.firing_alerts())
        });
        let gate = Arc::clone(&self.gate);
        let proxies = ProxyRoutes::new(Arc::clone(&self.source), Arc::clone(&self.config));
        let routes = Api::new(gate, apps, proxies, history, jobs, alerts, &self.config);
        let server = Server::new("ops", Arc::new(routes), Limits::default(), ops_bounds);
        let (accept, ops_drain) = server.start(ops_listener)?;
        tasks.essential().spawn(accept);
        Ok([gate_drain, ops_drain])
    }

    fn pairing(&self) -> Option<PairingRoutes> {
        let gate = || Arc::clone(&self.gate);
        let denials = self.alerts.as_ref().map(|alerts| Arc::clone(&alerts.denials));
        let pairing = Pairing::new(gate(), Arc::clone(&self.source), self.ledger.clone(), denials);
        self.config.gate.pairing.then(|| PairingRoutes::new(gate(), pairing))
    }

    /// Returns the observers that are told of every decision.
    fn observers(&self) -> Box<[Box<dyn Observer>]> {
        let mut observers: Vec<Box<dyn Observer>> =
            vec![Box::new(Verdicts::global()), Box::new(VerdictLog)];
        if self.config.ops.app_metrics {
            observers.push(Box::new(AppVerdicts::global()));
        }
        if let Some(ledger) = &self.ledger {
            observers.push(Box::new(ledger.visits()));
        }
        if let Some(alerts) = &self.alerts {
            observers.push(Box::new(Arc::clone(&alerts.denials)));
        }
        observers.extend(self.traces.iter().map(Traces::visits));
        if let Some(shadow) = self.upstream.as_deref().and_then(Upstream::shadow) {
            observers.push(Box::new(Arc::clone(shadow)));
        }
        observers.into()
    }
}

/// Reads files on a thread that may block: a disk may be gone, and another process may
/// hold a lock.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RunError> {
    spawn_blocking(work).await.map_err(RunError::TaskFailed)
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
    source: Arc<Source>,
    freshness: Arc<Freshness>,
    scan_done: oneshot::Sender<()>,
) -> Infallible {
    source.descriptions().watch(freshness, source.folders_are_apps(), scan_done).await
}

async fn write_touches(touches: Arc<Touches>, source: Arc<Source>) -> Infallible {
    touches.run(&source).await
}

/// Returns how many connections the gate's and the operator's listener may have.
fn bounds(config: &Config) -> (Bounds, Bounds) {
    let database_connections = match &config.store.kind {
        // The pool, and the connection that listens for notifications.
        StoreKind::Postgres(postgres) => postgres.pool_size as usize + 1,
        StoreKind::Files { .. } => 0,
    };
    let ledger = match &config.ledger.archive {
        _ if !config.ledger.enabled => 0,
        ArchiveKind::Sqlite => Sqlite::DESCRIPTORS,
        ArchiveKind::Postgres(_) => Postgres::CONNECTIONS,
    };
    let limits = ConnectionLimits::now(database_connections + ledger);
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
