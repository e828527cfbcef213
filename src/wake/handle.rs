//! The shared state of one app: whether it is awake, and what is shown of it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::command::{Command, CommandSender};
use super::docker::{Container, Health};
use super::readiness::Probe;
use crate::domain::activity::Activity;
use crate::domain::app::{AppMeta, EntrypointPort, Lifecycle, Size};
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};

/// The parts of an app's description that the reconciler needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppSpec {
    /// Containers and ports that the proxy sends requests to, those that speak HTTP first.
    pub entrypoints: Vec<Target>,
    pub lifecycle: Lifecycle,
    pub activity: Option<Activity>,
    pub minimum_size: Size,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name of the container, or of its service in the compose file.
    pub container: String,
    pub port: u16,
    pub speaks_http: bool,
}

impl AppSpec {
    #[must_use]
    pub fn of(meta: &AppMeta) -> Self {
        let mut entrypoints: Vec<_> = meta
            .entrypoints
            .iter()
            .map(|entry| Target {
                container: entry.container_name.clone(),
                port: entry.container_port,
                speaks_http: entry.entrypoint_port == EntrypointPort::Http,
            })
            .collect();
        entrypoints.sort_by_key(|target| !target.speaks_http);
        Self {
            entrypoints,
            lifecycle: meta.lifecycle.clone(),
            activity: meta.activity,
            minimum_size: meta.minimum_portal_size,
        }
    }
}

/// The state of one container, as shown to waiting visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    pub name: String,
    /// The engine's name for the state: `running`, `exited`, …
    pub state: &'static str,
    /// Its last exit code, if it is not running.
    pub exit_code: Option<i64>,
}

/// What is shown of an app at a given moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Increases with every change.
    pub version: u64,
    pub phase: Phase,
    /// When that phase began to be shown.
    pub since: Instant,
    pub containers: Arc<[ContainerState]>,
    /// When the attempt under way began.
    pub began: Option<Instant>,
    /// How long the app's last start took.
    pub usual: Option<Duration>,
    /// Why the last attempt failed, until one succeeds.
    pub last_failure: Option<WakeError>,
}

/// Further facts about an app, for the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When the shown phase began; `None` if the app has been in it since it was first seen.
    pub since: Option<SystemTime>,
    /// When the app last became ready.
    pub woken: Option<SystemTime>,
    /// The last use that this process knows of.
    pub last_use: Option<SystemTime>,
    pub last_failure: Option<(SystemTime, WakeError)>,
    /// How long the last start took until the app was ready.
    pub start_took: Option<Duration>,
    /// Until when the idle loop leaves the app alone, after it could not be put to sleep.
    pub no_sleep_before: Option<Instant>,
    /// Until when the app is not paused, after the engine refused to. It stays when it has
    /// passed, until the app is paused.
    pub no_pause_before: Option<Instant>,
    /// When the app goes to sleep unless it is used before, and in which mode.
    pub next_sleep: Option<(SystemTime, SleepMode)>,
    /// The last probe of the app while it was awake.
    pub last_probe: Option<LastProbe>,
}

/// A probe of an app that was awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastProbe {
    pub at: SystemTime,
    pub result: Probe,
    /// How long the app took to answer, or was waited for.
    pub took: Duration,
}

impl History {
    /// Whether the idle loop must leave the app alone.
    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.no_sleep_before.is_some_and(|at| at > now)
    }

    /// Whether the engine has refused to pause the app, not long ago.
    pub(super) fn cannot_be_paused(&self, now: Instant) -> bool {
        self.no_pause_before.is_some_and(|at| at > now)
    }
}

/// One app as the gate sees it: a flag that every request reads, and the phase that
/// waiting requests follow.
#[derive(Debug)]
pub struct AppHandle {
    pub name: Arc<str>,
    /// When this process first learned of the app.
    pub(super) known_since: SystemTime,
    awake: AtomicBool,
    /// Whether a wake command is on its way to the reconciler.
    wake_pending: AtomicBool,
    /// Whether a retry command is on its way to the reconciler.
    retry_pending: AtomicBool,
    /// Whether a request other than a stream has needed the app since it fell asleep.
    requested: AtomicBool,
    shown: watch::Sender<Shown>,
    spec: Mutex<Arc<AppSpec>>,
    /// Problems in the app's description.
    problems: Mutex<Vec<String>>,
    /// The host of the last request for the app.
    host: Mutex<Option<Arc<str>>>,
    /// Containers that have served requests although their health check did not pass.
    unhealthy: Mutex<HashSet<String>>,
    history: Mutex<History>,
    unanswered: Mutex<Option<Unanswered>>,
    commands: CommandSender,
}

/// A series of requests that a running app has not answered.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    since: Instant,
    last: Instant,
}

/// The longest time between two unanswered requests of one series: the waiting page asks
/// again every few seconds.
const UNANSWERED_GAP: Duration = Duration::from_secs(60);

impl AppHandle {
    pub(super) fn new(name: Arc<str>, spec: AppSpec, commands: CommandSender) -> Self {
        let (phase, since) = (Phase::Awake, Instant::now());
        let shown = Shown {
            version: first_version(),
            phase,
            since,
            containers: Arc::default(),
            began: None,
            usual: None,
            last_failure: None,
        };
        Self {
            name,
            known_since: wall_clock(),
            awake: AtomicBool::new(true),
            wake_pending: AtomicBool::new(false),
            retry_pending: AtomicBool::new(false),
            requested: AtomicBool::new(false),
            shown: watch::Sender::new(shown),
            spec: Mutex::new(Arc::new(spec)),
            problems: Mutex::default(),
            host: Mutex::default(),
            unhealthy: Mutex::default(),
            history: Mutex::default(),
            unanswered: Mutex::default(),
            commands,
        }
    }

    /// Stores why requests for the app, or for some of its paths, are answered with 503,
    /// for the operator.
    pub fn note_problems(&self, problems: Vec<String>) {
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }

    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether requests may pass at once.
    ///
    /// Sequentially consistent with the use that a grant notes before it reads this flag:
    /// the reconciler clears the flag first and checks for uses afterwards, so that one of
    /// the two sees the other.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::SeqCst)
    }

    /// Asks the reconciler to wake the app. Costs nothing if a wake command is already
    /// on its way.
    pub fn request_wake(&self) {
        self.requested.store(true, Ordering::SeqCst);
        if !self.wake_pending.swap(true, Ordering::AcqRel) {
            self.commands.send(Command::Wake(Arc::clone(&self.name)));
        }
    }

    /// Whether the app is awake, has been requested, or is being started.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.is_awake()
            || self.requested.load(Ordering::SeqCst)
            || self.shown.borrow().phase.is_under_way()
    }

    /// Stores the host of a request for the app.
    pub fn note_host(&self, host: &str) {
        let mut known = lock(&self.host);
        if known.as_deref() != Some(host) {
            *known = Some(host.into());
        }
    }

    pub(super) fn host(&self) -> Option<Arc<str>> {
        lock(&self.host).clone()
    }

    /// Whether this container, or one created from the same description, has served
    /// requests although its health check did not pass.
    pub(super) fn serves_unhealthy(&self, container: &Container) -> bool {
        lock(&self.unhealthy).contains(&recreation_key(container))
    }

    /// Records whether the health check of a serving container passes.
    pub(super) fn note_serving(&self, container: &Container) {
        match container.health {
            Health::Healthy => lock(&self.unhealthy).remove(&recreation_key(container)),
            Health::Unhealthy => lock(&self.unhealthy).insert(recreation_key(container)),
            Health::Starting | Health::Unknown => false,
        };
    }

    /// Records that a container serves before its health check has passed.
    pub(super) fn note_serving_unhealthy(&self, container: &Container) {
        lock(&self.unhealthy).insert(recreation_key(container));
    }

    /// Returns what is shown now; `retry_after` is the time left until the next attempt.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let mut shown = self.shown.borrow().clone();
        shown.usual = lock(&self.history).start_took;
        if let Phase::Failed { retry_after, .. } = &mut shown.phase {
            *retry_after = retry_after.saturating_sub(shown.since.elapsed());
        }
        shown
    }

    /// Notes that the app, which counts as awake, has not answered a request. Returns how
    /// long it has answered none.
    pub fn note_unanswered(&self) -> Duration {
        self.note_unanswered_since(Instant::now())
    }

    /// Does the same as [`AppHandle::note_unanswered`]; a new series begins at `since`.
    pub(super) fn note_unanswered_since(&self, since: Instant) -> Duration {
        let now = Instant::now();
        let mut known = lock(&self.unanswered);
        let since = match *known {
            Some(before) if now.duration_since(before.last) <= UNANSWERED_GAP => before.since,
            _ => since,
        };
        *known = Some(Unanswered { since, last: now });
        now.duration_since(since)
    }

    /// Whether a recent request went unanswered.
    pub(super) fn is_unanswered(&self) -> bool {
        lock(&self.unanswered).is_some_and(|known| known.last.elapsed() <= UNANSWERED_GAP)
    }

    /// Asks for another attempt even if the last one failed a moment ago: the visitor may
    /// have fixed the cause.
    pub fn retry(&self) {
        let is_failed = matches!(self.shown.borrow().phase, Phase::Failed { .. });
        if is_failed && !self.retry_pending.swap(true, Ordering::AcqRel) {
            self.commands.send(Command::Retry(Arc::clone(&self.name)));
        }
    }

    /// Returns a receiver that follows what is shown.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Whether a request is waiting for what is shown to change.
    pub(super) fn is_waited_for(&self) -> bool {
        self.shown.receiver_count() > 0
    }

    #[must_use]
    pub fn spec(&self) -> Arc<AppSpec> {
        Arc::clone(&lock(&self.spec))
    }

    #[must_use]
    pub fn history(&self) -> History {
        lock(&self.history).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut History)) {
        change(&mut lock(&self.history));
    }

    /// Replaces the spec; returns whether it differs from the last one.
    pub(super) fn set_spec(&self, spec: AppSpec) -> bool {
        let mut known = lock(&self.spec);
        let differs = **known != spec;
        if differs {
            *known = Arc::new(spec);
        }
        differs
    }

    /// Marks the pending wake command as received, so that the next request sends a new one.
    pub(super) fn clear_pending_wake(&self) {
        self.wake_pending.store(false, Ordering::Release);
    }

    /// Notes that the reconciler has received the retry command.
    pub(super) fn clear_pending_retry(&self) {
        self.retry_pending.store(false, Ordering::Release);
    }

    /// Holds requests back, before anything is done to the containers.
    pub(super) fn close(&self) {
        self.requested.store(false, Ordering::SeqCst);
        self.awake.store(false, Ordering::SeqCst);
    }

    /// Shows a phase and notifies all that follow it.
    pub(super) fn show(&self, phase: Phase, containers: &Arc<[ContainerState]>) {
        let is_awake = phase == Phase::Awake;
        if !is_awake && self.is_awake() {
            self.requested.store(false, Ordering::SeqCst);
        }
        let flag_changed = self.awake.swap(is_awake, Ordering::SeqCst) != is_awake;
        let mut phase_changed = false;
        self.shown.send_if_modified(|shown| {
            phase_changed = shown.phase != phase;
            if !flag_changed && !phase_changed && shown.containers == *containers {
                return false;
            }
            shown.version += 1;
            if phase_changed {
                shown.since = Instant::now();
            }
            if phase.is_under_way() {
                shown.began.get_or_insert_with(Instant::now);
            } else {
                shown.began = None;
            }
            match &phase {
                Phase::Awake => shown.last_failure = None,
                Phase::Failed { failure, .. } => shown.last_failure = Some(failure.clone()),
                _ => {}
            }
            shown.phase = phase;
            shown.containers = Arc::clone(containers);
            true
        });
        if phase_changed {
            self.note(|history| {
                history.since = Some(wall_clock());
                // Computed anew while the app is awake.
                history.next_sleep = None;
            });
        }
    }
}

/// Returns a key that stays the same when a container is created anew from the same
/// description.
fn recreation_key(container: &Container) -> String {
    let service = container.labels.service.as_ref().unwrap_or(&container.name);
    [service, &container.image, &container.check].map(String::as_str).join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a random first version: a page may have been shown by a previous process, and
/// should not happen to carry the version that is shown now.
fn first_version() -> u64 {
    u64::from(crate::backoff::random())
}

#[expect(clippy::disallowed_methods, reason = "shown to the operator, and compared with uses")]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Returns a time in milliseconds since 1970, as the engine's times are kept.
pub(super) fn milliseconds_since_1970(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::docker::State;

    #[test]
    fn what_served_unwell_is_known_again_when_it_is_made_anew() {
        let (commands, _receiver) = super::super::command::channel();
        let app = AppHandle::new("notes".into(), AppSpec::default(), commands);
        let made = |id: &str, check: &str, health| Container {
            id: id.into(),
            check: check.into(),
            health,
            ..Container::sample("notes", "web", State::Running)
        };
        app.note_serving(&made("a", "CMD wrong", Health::Starting));
        assert!(!app.serves_unhealthy(&made("a", "CMD wrong", Health::Starting)));
        app.note_serving(&made("a", "CMD wrong", Health::Unhealthy));
        assert!(app.serves_unhealthy(&made("b", "CMD wrong", Health::Starting)));
        assert!(!app.serves_unhealthy(&made("b", "CMD right", Health::Starting)), "another check");
        app.note_serving(&made("b", "CMD wrong", Health::Healthy));
        assert!(!app.serves_unhealthy(&made("b", "CMD wrong", Health::Starting)), "it can pass");
        app.note_serving_unhealthy(&made("b", "CMD wrong", Health::Starting));
        assert!(app.serves_unhealthy(&made("b", "CMD wrong", Health::Unhealthy)));
    }

    #[test]
    fn nobody_has_called_an_app_that_falls_asleep_until_somebody_asks_anew() {
        let (commands, _receiver) = super::super::command::channel();
        let app = AppHandle::new("notes".into(), AppSpec::default(), commands);
        let show = |phase| app.show(phase, &Arc::default());
        assert!(app.is_requested(), "it is awake");
        show(Phase::Stopped);
        assert!(!app.is_requested(), "stopped by another program");
        app.request_wake();
        show(Phase::Queued { place: 1 });
        show(Phase::Failed { failure: WakeError::EngineAway, retry_after: Duration::ZERO });
        assert!(app.is_requested(), "the visitor who requested it is waiting");
        show(Phase::Awake);
        // From a request that read the flag just before it was cleared.
        app.request_wake();
        app.close();
        show(Phase::Paused);
        assert!(!app.is_requested(), "put to sleep");
        show(Phase::Stopped);
        assert!(!app.is_requested());
        show(Phase::Starting);
        assert!(app.is_requested(), "started by another program");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_until_the_next_attempt_grows_shorter() {
        let (commands, _receiver) = super::super::command::channel();
        let app = AppHandle::new("notes".into(), AppSpec::default(), commands);
        let retry_after = Duration::from_secs(300);
        let failed = Phase::Failed { failure: WakeError::EngineAway, retry_after };
        app.show(failed.clone(), &Arc::default());
        assert_eq!(app.shown().phase, failed);
        let left = |app: &AppHandle| match app.shown().phase {
            Phase::Failed { retry_after, .. } => retry_after.as_secs(),
            other => panic!("{other:?}"),
        };
        tokio::time::advance(Duration::from_secs(200)).await;
        app.show(failed, &[].into());
        assert_eq!(left(&app), 100, "showing the same failure again does not restart the wait");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(left(&app), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_until_an_attempt_succeeds() {
        let (commands, _receiver) = super::super::command::channel();
        let app = AppHandle::new("notes".into(), AppSpec::default(), commands);
        let failure = WakeError::OutOfMemory { container: "web".into() };
        let retry_after = Duration::from_secs(5);
        app.show(Phase::Failed { failure: failure.clone(), retry_after }, &Arc::default());
        for phase in [Phase::Queued { place: 1 }, Phase::Starting, Phase::AwaitingPort] {
            app.show(phase, &Arc::default());
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(app.shown().last_failure.as_ref(), Some(&failure));
        }
        let began = app.shown().began.expect("it is under way");
        assert_eq!(began.elapsed(), Duration::from_secs(30), "since the first phase");
        app.show(Phase::Awake, &Arc::default());
        assert_eq!((app.shown().last_failure, app.shown().began), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_an_app_has_not_answered_is_counted_from_the_first_time() {
        let (commands, _receiver) = super::super::command::channel();
        let app = AppHandle::new("notes".into(), AppSpec::default(), commands);
        assert_eq!(app.note_unanswered(), Duration::ZERO);
        for seconds in [5, 10, 65] {
            let step = if seconds == 65 { 55 } else { 5 };
            tokio::time::advance(Duration::from_secs(step)).await;
            assert_eq!(app.note_unanswered(), Duration::from_secs(seconds));
            assert!(app.is_unanswered());
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!app.is_unanswered());
        assert_eq!(app.note_unanswered(), Duration::ZERO, "it has answered in between");
    }
}
