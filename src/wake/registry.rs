//! The apps that are known, shared by the gate, the operator and the reconciler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::app_state::asleep;
use super::command::{self, Backlog, Command, CommandReceiver, CommandSender, Reply};
use super::compose::Compose;
use super::docker::watch::View;
use super::handle::{AppHandle, milliseconds_since_1970, wall_clock};
use super::history::LastProbe;
use super::observed::EngineState;
use super::ownership::Ownership;
use super::readiness::answers;
use super::selector::Selector;
use super::spec::AppSpec;
use super::usage::{MonitoredApp, Usages};
use crate::domain::activity::Activity;
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};
use crate::domain::observation::Cause;

/// All known apps, as the gate and the operator see them.
#[derive(Debug)]
pub struct Registry {
    apps: Mutex<HashMap<Arc<str>, Arc<AppHandle>>>,
    commands: CommandSender,
    ownership: Arc<Ownership>,
    closing: watch::Sender<bool>,
    /// Set if containers are managed.
    watched: OnceLock<ManagedEngine>,
}

/// The engine's state, the compose files, and the limit that applies to starts.
#[derive(Debug)]
pub(super) struct ManagedEngine {
    pub(super) view: View,
    pub(super) compose: Arc<Compose>,
    pub(super) start_timeout: Duration,
    /// Locked while the apps' traffic is measured, and while an app is probed.
    pub(super) usages: Arc<tokio::sync::Mutex<Usages>>,
}

impl Registry {
    /// Returns an empty registry and the commands sent to it. Until a reconciler receives
    /// them, every app counts as awake.
    #[must_use]
    pub fn new() -> (Arc<Self>, CommandReceiver) {
        let (commands, receiver) = command::channel();
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
    pub fn handle(&self, name: &Arc<str>, spec: Option<Arc<AppSpec>>) -> Arc<AppHandle> {
        let mut apps = self.lock();
        if let Some(app) = apps.get(name) {
            if let Some(spec) = spec
                && app.set_spec(&spec)
            {
                self.ownership.insert(&app.name, &spec);
                self.send(Command::Observe(Arc::clone(&app.name)));
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
    /// before [`Registry::handle`], which does not wait for the disk.
    pub async fn find_compose_file(&self, name: &str) {
        if let Some(ManagedEngine { compose, .. }) = self.watched.get() {
            compose.files().search(&[name]).await;
        }
    }

    /// Shows the phase of a new app at once, so that not even its first request is let
    /// through to sleeping containers.
    fn show_initial_phase(&self, app: &AppHandle) {
        let Some(watched) = self.watched.get() else { return };
        let ManagedEngine { view, compose, start_timeout, usages: _ } = watched;
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
    pub(super) fn selector(&self, name: &Arc<str>) -> Selector {
        Selector::new(name, &self.ownership)
    }

    /// Returns all known apps, sorted by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<AppHandle>> {
        let mut apps: Vec<_> = self.lock().values().cloned().collect();
        apps.sort_by(|a, b| a.name.cmp(&b.name));
        apps
    }

    pub(super) fn forget<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) {
        let mut apps = self.lock();
        for name in names {
            apps.remove(name);
            self.ownership.forget(name);
            if let Some(ManagedEngine { compose, .. }) = self.watched.get() {
                compose.files().forget(name);
            }
            self.send(Command::Forget(Arc::clone(name)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<AppHandle>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn send(&self, command: Command) {
        self.commands.send(command);
    }

    /// Returns how many commands the reconciler has not handled yet, and since when.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.commands.backlog()
    }

    /// Sets what containers are managed with; `false` if that has been set before.
    pub(super) fn manage(&self, watched: ManagedEngine) -> bool {
        self.ownership.set_files(Arc::clone(watched.compose.files()));
        self.watched.set(watched).is_ok()
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
        let command = |reply| Command::Sleep {
            app,
            mode,
            cause: Cause::Operator,
            unless_used_since: None,
            reply: Some(reply),
        };
        self.operate(command).await
    }

    /// Asks an app that is awake whether it answers, and notes the result with the app. What
    /// that moves is not a use of the app.
    ///
    /// Returns `None` if the app is asleep, or if it is not known where to ask.
    pub async fn probe(&self, app: &AppHandle) -> Option<LastProbe> {
        let ManagedEngine { view, usages, .. } = self.watched.get()?;
        let mut usages = usages.lock().await;
        let (snapshot, spec) = (view.snapshot(), app.spec());
        let observed = self.selector(&app.name).observe(&spec, &snapshot);
        if !snapshot.live || !app.is_awake() || observed.state != EngineState::Running {
            return None;
        }
        let (target, container) = observed.named_entrypoint(&spec)?;
        let addresses = &snapshot.network_owner(container).addresses;
        if addresses.is_empty() {
            return None;
        }
        let monitored = MonitoredApp::new(&observed, &spec, Activity::NONE, &snapshot);
        let host = app.host();
        let timed = async {
            let asked = Instant::now();
            let result = answers(addresses, target, host.as_deref()).await;
            (result, asked.elapsed())
        };
        let (result, took) = usages.without_counting(&monitored, timed).await;
        // An app that fell asleep meanwhile had no reason to answer.
        app.is_awake().then(|| {
            let probe = LastProbe { at: wall_clock(), result, took };
            app.note(|history| history.last_probe = Some(probe));
            probe
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_whose_description_breaks_is_what_it_was() {
        let (registry, _commands) = Registry::new();
        let mut spec = AppSpec::default();
        spec.lifecycle.always_on = true;
        let app = registry.handle(&"notes".into(), Some(spec.into()));
        let _same = registry.handle(&"notes".into(), None);
        assert!(app.spec().lifecycle.always_on);
        let _same = registry.handle(&"notes".into(), Some(Arc::default()));
        assert!(!app.spec().lifecycle.always_on);
    }
}
