//! The loop that puts apps to sleep when they are no longer used.
//!
//! A use is a granted request or a sign of activity: bytes that move in both directions
//! keep an app awake during streams, downloads and WebSockets, of which the gate sees only
//! the beginning. Activity is noted like any other use, so that it is written to the store
//! and other processes learn of it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::attempt::Context;
use super::clocks::Clocks;
use super::command::{Command, LastUse};
use super::docker::watch::View;
use super::docker::{APP_LABEL, Snapshot};
use super::handle::{AppHandle, wall_clock};
use super::observed::EngineState;
use super::registry::Registry;
use super::resources::{free_disk, memory_pressure};
use super::specs::Specs;
use super::usage::{ActivityStatus, MonitoredApp, Thresholds, Usages};
use crate::config::{Config, Sleep};
use crate::domain::app::Lifecycle;
use crate::domain::lifecycle::{Candidate, Phase, SleepMode, SleepRules};
use crate::domain::observation::Cause;
use crate::store::touch::Touches;
use crate::store::{Cached, Freshness, Table, Touched};

/// The traffic of an app is not measured this soon after a use.
const RECENT_USE: Duration = Duration::from_secs(1);

/// How far ahead of this process's clock a written use may be, because another process's
/// clock differs. A later use was written while a clock was wrong, and would keep its app
/// awake until that time.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Finds idle apps and puts them to sleep.
#[derive(Debug)]
pub(super) struct IdleLoop {
    config: Sleep,
    rules: SleepRules,
    context: Arc<Context>,
    registry: Arc<Registry>,
    freshness: Arc<Freshness>,
    touches: Arc<Touches>,
    view: View,
    names: Arc<Cached<Vec<Arc<str>>>>,
    specs: Specs,
    usages: Arc<Mutex<Usages>>,
    clocks: Clocks,
    /// The uses in the store, written by earlier or other processes; `None` until they have
    /// been read.
    written: Option<HashMap<Arc<str>, SystemTime>>,
    /// Apps that were not installed at the last check.
    missing: HashSet<Arc<str>>,
    /// Whether disk space was low at the last check.
    low_disk: bool,
    /// Apps without containers in the engine at the last check, and whether that has been
    /// logged.
    unmatched: HashMap<Arc<str>, bool>,
    /// Apps for which it has been logged that a stop would remove them.
    reported_lost: HashSet<Arc<str>>,
}

/// An app that is awake or paused.
struct TrackedApp {
    app: Arc<AppHandle>,
    lifecycle: Lifecycle,
    is_paused: bool,
    /// Whether a stop would remove its containers for good.
    is_lost_when_stopped: bool,
    last_use: SystemTime,
    /// Whether this process has seen it wake or be used.
    was_used_here: bool,
    /// Whether enough is known about the app to decide that it is idle.
    has_enough_data: bool,
    /// The last use that had been noted when the app was checked.
    noted: LastUse,
    monitored: MonitoredApp,
}

impl TrackedApp {
    fn candidate(&self, clocks: &Clocks, now: Now) -> Candidate<'_> {
        let idle = clocks.since(self.last_use, now.moment);
        Candidate { lifecycle: &self.lifecycle, is_paused: self.is_paused, idle }
    }
}

/// The time of a check, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    moment: Instant,
    wall: SystemTime,
}

impl Now {
    fn read() -> Self {
        Self { moment: Instant::now(), wall: wall_clock() }
    }
}

impl IdleLoop {
    pub(super) fn new(
        config: &Config,
        context: Arc<Context>,
        registry: &Arc<Registry>,
        freshness: &Arc<Freshness>,
        touches: &Arc<Touches>,
        view: View,
        usages: Arc<Mutex<Usages>>,
    ) -> Self {
        let source = Arc::clone(&context.source);
        let names = Cached::single(Arc::clone(freshness), Table::AppNames, move || {
            let source = Arc::clone(&source);
            async move {
                let names = source.app_names().await?;
                Ok(names.into_iter().map(Arc::from).collect())
            }
        });
        let descriptions = Arc::clone(context.source.descriptions());
        let specs = Specs::new(descriptions, Arc::clone(freshness));
        let Sleep { pause, idle_for_pause, idle_for_stop, .. } = config.sleep;
        let now = Now::read();
        Self {
            rules: SleepRules { pause, idle_for_pause, idle_for_stop },
            config: config.sleep.clone(),
            context,
            registry: Arc::clone(registry),
            freshness: Arc::clone(freshness),
            touches: Arc::clone(touches),
            view,
            names,
            specs,
            usages,
            clocks: Clocks::new(now.moment, now.wall),
            written: None,
            missing: HashSet::new(),
            low_disk: false,
            unmatched: HashMap::new(),
            reported_lost: HashSet::new(),
        }
    }

    /// Checks every app periodically, as long as the process runs.
    pub(super) async fn run(mut self) -> Infallible {
        let began = Instant::now();
        loop {
            self.register().await;
            self.report_unmatched();
            let snapshot = self.view.snapshot();
            if self.config.enabled && snapshot.live {
                let holds_off = began.elapsed() < self.config.hold_off;
                self.tick(&snapshot, holds_off).await;
            }
            // The store is asked more often until it has returned the installed apps.
            let is_known = self.freshness.was_verified();
            let soon = Duration::from_millis(100);
            sleep(if is_known { self.config.interval } else { soon.min(self.config.interval) })
                .await;
        }
    }

    /// Registers every installed app, including those that have not been requested.
    ///
    /// An app that is no longer installed is forgotten when it has been missing twice: the
    /// names may be older than a change that the gate has just learned of.
    async fn register(&mut self) {
        let now = self.freshness.now();
        let names = match self.names.get("", now).await {
            Ok(names) => names,
            Err(error) => return debug!(%error, "cannot read the installed apps"),
        };
        for changed in self.context.compose.files().search(&names.value).await {
            self.registry.send(Command::Observe(changed.into()));
        }
        for name in &names.value {
            if let Some(spec) = self.specs.get(name, now).await {
                let _known = self.registry.handle(name, Some(spec));
            }
        }
        let known = self.registry.list().into_iter().map(|app| Arc::clone(&app.name));
        let installed: HashSet<&str> = names.value.iter().map(AsRef::as_ref).collect();
        let missing: HashSet<_> = known.filter(|name| !installed.contains(&**name)).collect();
        // No notification since could have brought a missing app back.
        if names.is_usable(&self.freshness, self.freshness.now()) {
            for name in missing.intersection(&self.missing) {
                self.specs.forget(name);
            }
            self.registry.forget(missing.intersection(&self.missing));
        }
        self.missing = missing;
    }

    /// Logs once for each app that it has no container in the engine: at the second check,
    /// since an app that is being installed gets its containers a moment later.
    fn report_unmatched(&mut self) {
        let mut unmatched = HashMap::new();
        for app in self.registry.list() {
            if !self.registry.is_unmatched(&app) {
                continue;
            }
            let known = self.unmatched.get(&app.name).copied();
            if known == Some(false) {
                let name = &app.name;
                warn!(
                    app = %name,
                    "no container belongs to this app, so it counts as awake; label its \
                     container {APP_LABEL}={name}"
                );
            }
            unmatched.insert(Arc::clone(&app.name), known.is_some());
        }
        self.unmatched = unmatched;
    }

    async fn tick(&mut self, snapshot: &Snapshot, holds_off: bool) {
        let now = Now::read();
        if let Some(milliseconds) = self.clocks.update(now.moment, now.wall) {
            info!(milliseconds, "the clock was set; idle times are not affected");
        }
        let mut apps = self.tracked_apps(snapshot);
        self.report_lost_when_stopped(&apps);
        self.note_activity(&mut apps, now).await;
        self.load_written_uses(&mut apps, now).await;
        self.note_commands(&mut apps, now).await;
        for tracked in &apps {
            let Candidate { lifecycle, is_paused, idle } = tracked.candidate(&self.clocks, now);
            let last_use = now.wall.checked_sub(idle).unwrap_or(tracked.last_use);
            let next = self.rules.next_sleep_at(lifecycle, is_paused, last_use);
            tracked.app.note(|history| history.next_sleep = next);
        }
        if self.is_disk_low().await {
            for tracked in &apps {
                self.sleep(tracked, SleepMode::Stopped, Cause::LowDisk, None);
            }
            return;
        }
        self.keep_running();
        if holds_off {
            return;
        }
        let mut is_any_due = false;
        for tracked in &apps {
            if let Some(mode) = self.due(tracked, now)
                && tracked.has_enough_data
            {
                is_any_due = true;
                self.sleep(tracked, mode, Cause::Idle, Some(tracked.noted));
            }
        }
        // Apps that go to sleep anyway free memory, too.
        if !is_any_due {
            self.relieve_memory(&apps, now).await;
        }
    }

    fn due(&self, tracked: &TrackedApp, now: Now) -> Option<SleepMode> {
        let due = self.rules.due(&tracked.candidate(&self.clocks, now));
        due.filter(|mode| *mode != SleepMode::Stopped || !tracked.is_lost_when_stopped)
    }

    /// Logs once for each app that it is never stopped, and why.
    fn report_lost_when_stopped(&mut self, apps: &[TrackedApp]) {
        for tracked in apps.iter().filter(|tracked| tracked.is_lost_when_stopped) {
            let name = &tracked.app.name;
            if self.reported_lost.insert(Arc::clone(name)) {
                warn!(
                    app = %name,
                    "never stopped: its container was run with `--rm`, so the engine would \
                     remove it, and there is no compose file to create it from again"
                );
            }
        }
    }

    /// Returns the apps that are awake or paused, with the last use that this process knows of.
    fn tracked_apps(&self, snapshot: &Snapshot) -> Vec<TrackedApp> {
        let mut apps = Vec::new();
        for app in self.registry.list() {
            let spec = app.spec();
            let selector = self.registry.selector(&app.name);
            let observed = selector.observe(&spec, snapshot);
            let noted = LastUse(self.touches.last_use(&app.name));
            let here = noted.0.max(app.history().woken);
            let written = self.written.as_ref().and_then(|uses| uses.get(&app.name).copied());
            let last_use = here.max(written);
            app.note(|history| history.last_use = last_use);
            let shown = app.shown().phase;
            let is_paused = match observed.state {
                // Its containers are kept for other apps that share them.
                _ if observed.is_kept_by_others() && shown == Phase::Stopped => {
                    app.note(|history| history.next_sleep = None);
                    continue;
                }
                EngineState::Running => observed.is_all_shared() && shown == Phase::Paused,
                // One of its containers does not run, but requests pass all the same.
                EngineState::Exited if app.is_awake() => false,
                EngineState::Paused => true,
                EngineState::Exited | EngineState::Missing => {
                    app.note(|history| history.next_sleep = None);
                    continue;
                }
            };
            let own_choice = self.config.apps.get(&*app.name).copied().or(spec.activity);
            let activity = own_choice.unwrap_or(self.config.activity);
            let monitored = MonitoredApp::new(&observed, &spec, activity, snapshot);
            let mut lifecycle = spec.lifecycle.clone();
            // A service can be scaled but not paused, and some engines pause nothing.
            lifecycle.skip_pause |= !observed.services.is_empty()
                || app.history().cannot_be_paused(Instant::now())
                || self.context.engine.cannot_pause();
            apps.push(TrackedApp {
                is_lost_when_stopped: self
                    .context
                    .is_lost_when_stopped(&app.name, &selector, &observed),
                last_use: last_use.unwrap_or(app.known_since),
                was_used_here: here.is_some(),
                has_enough_data: !app.history().is_left_alone(Instant::now()),
                lifecycle,
                is_paused,
                noted,
                monitored,
                app,
            });
        }
        apps
    }

    /// Counts activity in apps that have not been requested recently as a use.
    async fn note_activity(&mut self, apps: &mut [TrackedApp], now: Now) {
        let quiet: Vec<_> = (0..apps.len())
            .filter(|place| {
                let tracked = &apps[*place];
                let idle = tracked.candidate(&self.clocks, now).idle;
                !tracked.is_paused && idle >= RECENT_USE
            })
            .collect();
        let monitored: Vec<_> = quiet.iter().map(|place| apps[*place].monitored.clone()).collect();
        let limits =
            Thresholds { bytes: self.config.activity_bytes, cpu: self.config.activity_cpu };
        let statuses = self.usages.lock().await.measure(&monitored, limits).await;
        let mut statuses = statuses.into_iter();
        for (place, tracked) in apps.iter_mut().enumerate() {
            let status = if quiet.contains(&place) { statuses.next() } else { None };
            self.apply_status(tracked, status.unwrap_or(ActivityStatus::Unknown), now);
        }
    }

    /// Checks for running commands in apps that are about to be put to sleep.
    async fn note_commands(&mut self, apps: &mut [TrackedApp], now: Now) {
        for tracked in apps {
            let is_due = self.due(tracked, now).is_some() && tracked.has_enough_data;
            if is_due && !tracked.is_paused && tracked.monitored.activity.exec {
                let status = self.usages.lock().await.commands(&tracked.monitored).await;
                self.apply_status(tracked, status, now);
            }
        }
    }

    fn apply_status(&self, tracked: &mut TrackedApp, status: ActivityStatus, now: Now) {
        match status {
            ActivityStatus::Quiet => {}
            // Two checks are needed to know that an app is quiet.
            ActivityStatus::Unknown => tracked.has_enough_data &= tracked.is_paused,
            ActivityStatus::InUse => {
                tracked.last_use = now.wall;
                tracked.was_used_here = true;
                let used = self.touches.get(Touched::App, &tracked.app.name);
                self.touches.touch(&used, now.wall);
            }
        }
    }

    /// Reads the uses in the store before an app is put to sleep, because another process
    /// may know of a later one.
    async fn load_written_uses(&mut self, apps: &mut [TrackedApp], now: Now) {
        if self.written.is_some() && !apps.iter().any(|app| self.due(app, now).is_some()) {
            return;
        }
        let written = match self.context.source.last_uses().await {
            Ok(mut uses) => {
                uses.retain(|_, at| is_believable(*at, now.wall));
                self.written.insert(uses)
            }
            Err(error) => {
                debug!(%error, "cannot read the uses in the store");
                // No app is put to sleep on incomplete information.
                for tracked in apps.iter_mut() {
                    tracked.last_use = now.wall;
                }
                return;
            }
        };
        for tracked in apps {
            match written.get(&tracked.app.name) {
                // It was last used before this process began.
                Some(at) if !tracked.was_used_here => tracked.last_use = *at,
                Some(at) => {
                    let ago = |at| self.clocks.since(at, now.moment);
                    if ago(*at) < ago(tracked.last_use) {
                        tracked.last_use = *at;
                    }
                }
                None => {}
            }
        }
    }

    async fn is_disk_low(&mut self) -> bool {
        let free = match free_disk(&self.context.config.data_dir).await {
            Ok(free) => free,
            Err(error) => {
                debug!(%error, "cannot read the free disk space");
                return false;
            }
        };
        let is_low = free < self.context.config.min_free_disk;
        if is_low && !std::mem::replace(&mut self.low_disk, true) {
            warn!(free, "low disk space: all apps are stopped and none is started");
        } else if !is_low && std::mem::take(&mut self.low_disk) {
            info!(free, "enough free disk space again");
        }
        is_low
    }

    /// Wakes apps that are always on and have been stopped.
    fn keep_running(&self) {
        for app in self.registry.list() {
            if app.spec().lifecycle.always_on && !app.is_awake() {
                self.registry.send(Command::KeepRunning(Arc::clone(&app.name)));
            }
        }
    }

    /// Demotes one app if memory is short.
    async fn relieve_memory(&self, apps: &[TrackedApp], now: Now) {
        // The contract's rule: if pausing is off, no app is demoted.
        let Some(limit) = self.config.memory_pressure.filter(|_| self.rules.pause) else { return };
        let Some(pressure) =
            memory_pressure().await.filter(|pressure| *pressure > f64::from(limit))
        else {
            return;
        };
        let known: Vec<_> = apps.iter().filter(|tracked| tracked.has_enough_data).collect();
        let candidates: Vec<_> =
            known.iter().map(|tracked| tracked.candidate(&self.clocks, now)).collect();
        if let Some((place, mode)) = self.rules.demoted(&candidates)
            && let Some(tracked) = known.get(place)
        {
            info!(app = %tracked.app.name, pressure, ?mode, "memory is short");
            self.sleep(tracked, mode, Cause::LowMemory, Some(tracked.noted));
        }
    }

    fn sleep(
        &self,
        tracked: &TrackedApp,
        mode: SleepMode,
        cause: Cause,
        unless_used_since: Option<LastUse>,
    ) {
        if mode == SleepMode::Stopped && tracked.is_lost_when_stopped {
            return;
        }
        let app = Arc::clone(&tracked.app.name);
        self.registry.send(Command::Sleep { app, mode, cause, unless_used_since, reply: None });
    }
}

fn is_believable(use_: SystemTime, now: SystemTime) -> bool {
    use_.duration_since(now).unwrap_or_default() <= MAX_CLOCK_SKEW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_that_are_still_to_come_are_not_believed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = at(1_000_000);
        for (use_, expected) in
            [(0, true), (1_000_000, true), (1_000_060, true), (1_000_061, false), (1 << 62, false)]
        {
            assert_eq!(is_believable(at(use_), now), expected, "{use_}");
        }
    }
}
