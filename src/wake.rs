//! Wakes sleeping apps when they are requested, and puts unused apps to sleep.
//!
//! - [`docker`] calls the engine and follows its events;
//! - `observed` combines the state of an app's containers, `roles` classifies each of them;
//! - [`AppHandle`] is the shared view of one app: a flag for the gate, and what is shown;
//! - `reconciler` decides what is done to each app, one action at a time;
//! - `attempt` performs an action: it takes the lock, reads the status, acts, and waits
//!   until the app is ready; `compose` creates containers;
//! - `idle` finds the apps that are no longer used.
//!
//! Errors: a failed attempt yields a [`WakeError`](crate::domain::lifecycle::WakeError),
//! which is shown to waiting clients and kept for the operator. No error here ends the
//! process or keeps the gate from answering: until an engine has been seen, every app
//! counts as awake.

mod action;
mod app_state;
mod attempt;
mod clocks;
mod compose;
pub mod docker;
mod handle;
mod idle;
mod observed;
mod ownership;
mod readiness;
mod reconciler;
mod resources;
mod roles;
mod sharing;
mod status;
mod survey;
mod usage;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::app_state::{Reply, asleep};
use self::attempt::Context;
use self::compose::Compose;
use self::docker::Engine;
use self::docker::watch::{View, Watch};
use self::idle::IdleLoop;
use self::observed::Selector;
use self::ownership::Ownership;
use self::reconciler::Reconciler;
use self::status::Statuses;
use crate::config::Config;
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};
use crate::store::touch::Touches;
use crate::store::{Freshness, Source};

pub use self::handle::{AppHandle, AppSpec, ContainerState, History, Shown, Target};
use self::handle::{milliseconds_since_1970, wall_clock};
pub use self::survey::{Survey, survey};

/// How long startup waits for the engine's first listing, so that no request is let
/// through to an app that is asleep but not yet known to be.
const FIRST_LISTING: Duration = Duration::from_millis(500);

/// A command for the reconciler.
#[derive(Debug)]
pub enum Command {
    /// An app is new, or its spec has changed.
    Observe(Arc<str>),
    /// A request needs the app awake.
    Wake(Arc<str>),
    /// A visitor has asked for another attempt after a failed one.
    Retry(Arc<str>),
    /// The operator has asked for a wake and waits for its result.
    WakeNow(Arc<str>, Reply),
    Sleep {
        app: Arc<str>,
        mode: SleepMode,
        /// The app is not put to sleep if a different last use has been noted since.
        unless_used_since: Option<LastUse>,
        reply: Option<Reply>,
    },
    /// An app is not installed any more.
    Forget(Arc<str>),
}

/// The last noted use of an app, if there was one. A newer note may carry an earlier
/// time, because the wall clock may have been set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastUse(pub Option<SystemTime>);

/// All known apps, as the gate and the operator see them.
#[derive(Debug)]
pub struct Registry {
    apps: Mutex<HashMap<Arc<str>, Arc<AppHandle>>>,
    commands: mpsc::UnboundedSender<Command>,
    ownership: Arc<Ownership>,
    closing: watch::Sender<bool>,
    /// Set if containers are managed.
    watched: OnceLock<Watched>,
}

/// The engine's state, the compose files, and the limit that applies to starts.
#[derive(Debug)]
struct Watched {
    view: View,
    compose: Arc<Compose>,
    start_timeout: Duration,
}

impl Registry {
    /// Returns an empty registry and the commands sent to it. Until a reconciler receives
    /// them, every app counts as awake.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let registry = Self {
            apps: Mutex::default(),
            commands,
            ownership: Arc::default(),
            closing: watch::Sender::new(false),
            watched: OnceLock::new(),
        };
        (Arc::new(registry), receiver)
    }

    /// Returns the handle of an app and updates it with `spec`. If `spec` is `None`
    /// because the description cannot be used at the moment, the last one stays in force:
    /// another program may be writing the file.
    #[must_use]
    pub fn of(&self, name: &Arc<str>, spec: Option<AppSpec>) -> Arc<AppHandle> {
        let mut apps = self.lock();
        if let Some(spec) = &spec {
            self.ownership.insert(name, spec);
        }
        if let Some(app) = apps.get(name) {
            if spec.is_some_and(|spec| app.set_spec(spec)) {
                self.send(Command::Observe(Arc::clone(name)));
            }
            return Arc::clone(app);
        }
        let app = AppHandle::new(Arc::clone(name), spec.unwrap_or_default(), self.commands.clone());
        let app = Arc::new(app);
        self.ownership.insert(name, &app.spec());
        self.show_initial_phase(&app);
        apps.insert(Arc::clone(name), Arc::clone(&app));
        self.send(Command::Observe(Arc::clone(name)));
        app
    }

    /// Finds the compose file that an app's containers can be created from. Must be called
    /// before [`Registry::of`], which does not wait for the disk.
    pub async fn find_compose_file(&self, name: &str) {
        if let Some(Watched { compose, .. }) = self.watched.get() {
            compose.files().search(&[name]).await;
        }
    }

    /// Shows the phase of a new app at once, so that not even its first request is let
    /// through to sleeping containers.
    fn show_initial_phase(&self, app: &AppHandle) {
        let Some(Watched { view, compose, start_timeout }) = self.watched.get() else { return };
        let snapshot = view.snapshot();
        if snapshot.was_listed {
            let (selector, spec) = (self.selector(&app.name), app.spec());
            let observed = selector.observe(&spec, &snapshot);
            let now = milliseconds_since_1970(wall_clock());
            let phase = if observed.is_recently_started(&spec, now, *start_timeout) {
                // The reconciler probes its port.
                Phase::Starting
            } else {
                asleep(observed.state, compose.can_make(&app.name, &selector))
            };
            app.show(phase, &observed.states());
        }
    }

    /// Returns the handle of a known app.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<AppHandle>> {
        self.lock().get(name).cloned()
    }

    /// Returns the rule that says which containers belong to an app.
    fn selector(&self, name: &Arc<str>) -> Selector {
        Selector::new(name, &self.ownership)
    }

    /// Returns all known apps, sorted by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<AppHandle>> {
        let mut apps: Vec<_> = self.lock().values().cloned().collect();
        apps.sort_by(|a, b| a.name.cmp(&b.name));
        apps
    }

    fn forget<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) {
        let mut apps = self.lock();
        for name in names {
            apps.remove(name);
            self.ownership.forget(name);
            if let Some(Watched { compose, .. }) = self.watched.get() {
                compose.files().forget(name);
            }
            self.send(Command::Forget(Arc::clone(name)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<AppHandle>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn send(&self, command: Command) {
        // The reconciler stops only when the process ends.
        let _ = self.commands.send(command);
    }

    /// Whether this process manages containers.
    #[must_use]
    pub fn manages_containers(&self) -> bool {
        self.watched.get().is_some()
    }

    /// Whether the engine's events are being received.
    #[must_use]
    pub fn is_engine_live(&self) -> bool {
        self.watched.get().is_some_and(|watched| watched.view.snapshot().live)
    }

    /// Whether the engine has no container of the app and none can be created. Such an app
    /// counts as awake, whatever state it is in.
    #[must_use]
    pub fn is_unmatched(&self, app: &AppHandle) -> bool {
        let shown = app.shown();
        self.is_engine_live() && shown.phase == Phase::Awake && shown.containers.is_empty()
    }

    /// Wakes an app; returns when it is ready or the attempt has failed.
    ///
    /// # Errors
    /// The reason why the app could not be woken.
    pub async fn wake(&self, name: &Arc<str>) -> Result<(), WakeError> {
        self.operate(|reply| Command::WakeNow(Arc::clone(name), reply)).await
    }

    /// Puts an app to sleep even if it is in use.
    ///
    /// # Errors
    /// The reason why the app could not be put to sleep.
    pub async fn sleep(&self, name: &Arc<str>, mode: SleepMode) -> Result<(), WakeError> {
        let app = Arc::clone(name);
        let command =
            |reply| Command::Sleep { app, mode, unless_used_since: None, reply: Some(reply) };
        self.operate(command).await
    }

    async fn operate(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), WakeError> {
        if !self.manages_containers() {
            return Err(WakeError::Declined("`wake.enabled` is false"));
        }
        let (reply, done) = tokio::sync::oneshot::channel();
        self.send(command(reply));
        tokio::select! {
            done = done => done.unwrap_or(Err(WakeError::Declined("there is no such app"))),
            () = self.closed() => Err(WakeError::Declined("the process is shutting down")),
        }
    }

    /// Releases all waiting callers, because the process is shutting down.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Returns when [`Registry::close`] has been called.
    pub async fn closed(&self) {
        // Cannot fail: `self` owns the sender.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

/// Spawns the background tasks that follow the engine, execute commands and put idle apps
/// to sleep. They never end.
///
/// Returns when the engine has been listed, cannot be reached, or has not answered in time.
pub async fn begin(
    config: &Config,
    registry: &Arc<Registry>,
    commands: mpsc::UnboundedReceiver<Command>,
    source: &Arc<Source>,
    freshness: &Arc<Freshness>,
    touches: &Arc<Touches>,
    tasks: &mut JoinSet<Infallible>,
) {
    let engine = Arc::new(Engine::new(config.wake.docker.clone()));
    let (watch, view) = Watch::new(Arc::clone(&engine));
    let compose = Compose::new(&config.wake, &config.store.installed_apps_dir);
    let compose = Arc::new(compose);
    registry.ownership.set_files(Arc::clone(compose.files()));
    let start_timeout = config.wake.start_timeout;
    let watched = Watched { view: view.clone(), compose: Arc::clone(&compose), start_timeout };
    if registry.watched.set(watched).is_err() {
        tracing::warn!("the engine is already being followed");
        return;
    }
    let context = Arc::new(Context {
        config: config.wake.clone(),
        reclaim: config.sleep.reclaim,
        engine,
        source: Arc::clone(source),
        compose,
    });
    let (statuses, writer) = Statuses::new(Arc::clone(source));
    let reconciler = Reconciler::new(
        Arc::clone(&context),
        Arc::clone(registry),
        Arc::clone(touches),
        view.clone(),
        statuses,
    );
    let idle = IdleLoop::new(config, context, registry, freshness, touches, view.clone());
    tasks.spawn(watch.run());
    tasks.spawn(reconciler.run(commands));
    tasks.spawn(writer.run());
    tasks.spawn(idle.run());
    let mut view = view;
    let _ = timeout(FIRST_LISTING, view.listed_or_away()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_whose_description_breaks_is_what_it_was() {
        let (registry, _commands) = Registry::new();
        let mut spec = AppSpec::default();
        spec.lifecycle.always_on = true;
        let app = registry.of(&"notes".into(), Some(spec));
        let _same = registry.of(&"notes".into(), None);
        assert!(app.spec().lifecycle.always_on);
        let _same = registry.of(&"notes".into(), Some(AppSpec::default()));
        assert!(!app.spec().lifecycle.always_on);
    }
}
