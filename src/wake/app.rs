//! What is known of one app's sleep, for all who ask at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Order;
use super::docker::{Container, Health};
use crate::domain::activity::Activity;
use crate::domain::app::{AppMeta, EntrypointPort, Lifecycle, Size};
use crate::domain::lifecycle::{Failure, Phase, Rest};

/// What the waker needs of an app's description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Containers and ports that the proxy sends requests to, HTTP ones first.
    pub entrypoints: Vec<Target>,
    pub lifecycle: Lifecycle,
    pub activity: Option<Activity>,
    pub minimum_size: Size,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The container's name, or its service's in the compose file.
    pub container: String,
    pub port: u16,
    pub speaks_http: bool,
}

impl Facts {
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

/// One container in words, for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    pub name: String,
    /// The engine's word: `running`, `exited`, …
    pub state: &'static str,
    /// Its last exit code, where it is not running.
    pub exit_code: Option<i64>,
}

/// What is shown of an app at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Grows with every change.
    pub version: u64,
    pub phase: Phase,
    /// When that phase began to be shown.
    pub since: Instant,
    pub containers: Arc<[ContainerState]>,
    /// When what is under way began.
    pub began: Option<Instant>,
    /// How long the app's last start took.
    pub usual: Option<Duration>,
    /// Why the last attempt failed, until one succeeds.
    pub last_failure: Option<Failure>,
}

/// What an operator wants to know of an app besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When the phase that is shown began; `None` where it was found so.
    pub since: Option<SystemTime>,
    /// When it was last seen to come up.
    pub woken: Option<SystemTime>,
    /// As far as it is known here.
    pub last_use: Option<SystemTime>,
    pub last_failure: Option<(SystemTime, Failure)>,
    /// How long its last start took until it was ready.
    pub start_took: Option<Duration>,
    /// Could not be put to sleep a moment ago, and is left alone until then.
    pub no_rest_before: Option<Instant>,
    /// Whether the engine has refused to pause it.
    pub cannot_be_paused: bool,
    /// When it goes to sleep if nobody uses it before, and how deep.
    pub next_rest: Option<(SystemTime, Rest)>,
}

impl History {
    /// Whether the idle loop is to leave the app alone.
    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.no_rest_before.is_some_and(|at| at > now)
    }
}

/// One app as the gate sees it: a flag on the way of every request, and for those
/// who wait, what they wait for.
#[derive(Debug)]
pub struct AppWake {
    pub name: Arc<str>,
    /// When it was first heard of here.
    pub(super) known_since: SystemTime,
    awake: AtomicBool,
    /// Whether an order to wake it is on its way to the waker.
    wanted: AtomicBool,
    /// Whether anything but a stream has asked for it since it fell asleep.
    called: AtomicBool,
    shown: watch::Sender<Shown>,
    facts: Mutex<Arc<Facts>>,
    /// What is wrong with its description.
    problems: Mutex<Vec<String>>,
    /// The host that it was last asked for by.
    host: Mutex<Option<Arc<str>>>,
    /// Containers that have served although their health check did not pass.
    unwell: Mutex<HashSet<String>>,
    history: Mutex<History>,
    unanswered: Mutex<Option<Unanswered>>,
    orders: mpsc::UnboundedSender<Order>,
}

/// Requests that a running app has not answered, one after the other.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    since: Instant,
    last: Instant,
}

/// Two that are further apart are not of one time: the page comes again every few seconds.
const APART: Duration = Duration::from_secs(60);

impl AppWake {
    pub(super) fn new(name: Arc<str>, facts: Facts, orders: mpsc::UnboundedSender<Order>) -> Self {
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
            wanted: AtomicBool::new(false),
            called: AtomicBool::new(false),
            shown: watch::Sender::new(shown),
            facts: Mutex::new(Arc::new(facts)),
            problems: Mutex::default(),
            host: Mutex::default(),
            unwell: Mutex::default(),
            history: Mutex::default(),
            unanswered: Mutex::default(),
            orders,
        }
    }

    /// Keeps for the operator why requests for the app, or for some of its paths, are
    /// answered with 503.
    pub fn note_problems(&self, problems: Vec<String>) {
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }

    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether requests may pass at once.
    ///
    /// Sequentially consistent with the note of a use that a grant makes before it
    /// looks here: who puts the app to sleep clears the flag first and looks for
    /// uses then, so that one of the two sees the other.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::SeqCst)
    }

    /// Asks the waker to bring the app up. Costs nothing where it was asked already.
    pub fn ask(&self) {
        self.called.store(true, Ordering::SeqCst);
        if !self.wanted.swap(true, Ordering::AcqRel) {
            // The waker is gone only when the process ends.
            let _ = self.orders.send(Order::Wake(Arc::clone(&self.name)));
        }
    }

    /// Whether it is awake, or on its way since somebody has asked for it or has started it.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.is_awake()
            || self.called.load(Ordering::SeqCst)
            || self.shown.borrow().phase.is_under_way()
    }

    /// Notes by which host a request has asked for it.
    pub fn asked_by(&self, host: &str) {
        let mut known = lock(&self.host);
        if known.as_deref() != Some(host) {
            *known = Some(host.into());
        }
    }

    pub(super) fn host(&self) -> Option<Arc<str>> {
        lock(&self.host).clone()
    }

    /// Whether the container, or one that was made like it, has served with a health
    /// check that did not pass.
    pub(super) fn serves_unwell(&self, container: &Container) -> bool {
        lock(&self.unwell).contains(&kind_of(container))
    }

    /// Remembers of a container that serves whether its health check passes.
    pub(super) fn note_serving(&self, container: &Container) {
        match container.health {
            Health::Healthy => lock(&self.unwell).remove(&kind_of(container)),
            Health::Unhealthy => lock(&self.unwell).insert(kind_of(container)),
            Health::Starting | Health::Unknown => false,
        };
    }

    /// Remembers that a container serves before its health check has passed.
    pub(super) fn note_unwell(&self, container: &Container) {
        lock(&self.unwell).insert(kind_of(container));
    }

    /// What is shown now, with what is left of the time until the next attempt.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let mut shown = self.shown.borrow().clone();
        shown.usual = lock(&self.history).start_took;
        if let Phase::Failed { retry_after, .. } = &mut shown.phase {
            *retry_after = retry_after.saturating_sub(shown.since.elapsed());
        }
        shown
    }

    /// Notes that the app, which counts as awake, has not answered a request, and for how
    /// long it has answered none.
    pub fn note_unanswered(&self) -> Duration {
        self.note_unanswered_since(Instant::now())
    }

    /// The same where it is known since when.
    pub(super) fn note_unanswered_since(&self, since: Instant) -> Duration {
        let now = Instant::now();
        let mut known = lock(&self.unanswered);
        let since = match *known {
            Some(before) if now.duration_since(before.last) <= APART => before.since,
            _ => since,
        };
        *known = Some(Unanswered { since, last: now });
        now.duration_since(since)
    }

    /// Whether it has not answered a moment ago.
    pub(super) fn is_unanswered(&self) -> bool {
        lock(&self.unanswered).is_some_and(|known| known.last.elapsed() <= APART)
    }

    /// Asks for another attempt although the last one failed a moment ago: who asks
    /// may have mended what it failed for.
    pub fn retry(&self) {
        if matches!(self.shown.borrow().phase, Phase::Failed { .. }) {
            // The waker is gone only when the process ends.
            let _ = self.orders.send(Order::Retry(Arc::clone(&self.name)));
        }
    }

    /// Follows what is shown.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Whether somebody waits for what is shown to change.
    pub(super) fn is_waited_for(&self) -> bool {
        self.shown.receiver_count() > 0
    }

    #[must_use]
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&lock(&self.facts))
    }

    #[must_use]
    pub fn history(&self) -> History {
        lock(&self.history).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut History)) {
        change(&mut lock(&self.history));
    }

    /// Takes a new description; whether it differs from the last one.
    pub(super) fn describe(&self, facts: Facts) -> bool {
        let mut known = lock(&self.facts);
        let differs = **known != facts;
        if differs {
            *known = Arc::new(facts);
        }
        differs
    }

    /// From here on an order counts as a new one.
    pub(super) fn order_taken(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// Holds requests back before anything is done to the containers.
    pub(super) fn close(&self) {
        self.called.store(false, Ordering::SeqCst);
        self.awake.store(false, Ordering::SeqCst);
    }

    /// Shows a phase and lets those who wait for it know.
    pub(super) fn show(&self, phase: Phase, containers: &Arc<[ContainerState]>) {
        let is_awake = phase == Phase::Awake;
        if !is_awake && self.is_awake() {
            self.called.store(false, Ordering::SeqCst);
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
                // Found out anew, where it is awake.
                history.next_rest = None;
            });
        }
    }
}

/// What does not change where a container is made anew from the same description.
fn kind_of(container: &Container) -> String {
    let service = container.belongs.service.as_ref().unwrap_or(&container.name);
    [service, &container.image, &container.check].map(String::as_str).join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page may have been shown by the process before this one: that it has the very
/// version that is shown now is unlikely.
fn first_version() -> u64 {
    let mut random = [0; 4];
    // aws-lc aborts the process rather than give bytes that are not random.
    let _never_fails = aws_lc_rs::rand::fill(&mut random);
    u64::from(u32::from_le_bytes(random))
}

#[expect(clippy::disallowed_methods, reason = "for an operator's eyes, and held against uses")]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// By which the engine's times are kept.
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
        let (orders, _taken) = mpsc::unbounded_channel();
        let app = AppWake::new("notes".into(), Facts::default(), orders);
        let made = |id: &str, check: &str, health| Container {
            id: id.into(),
            check: check.into(),
            health,
            ..Container::sample("notes", "web", State::Running)
        };
        app.note_serving(&made("a", "CMD wrong", Health::Starting));
        assert!(!app.serves_unwell(&made("a", "CMD wrong", Health::Starting)));
        app.note_serving(&made("a", "CMD wrong", Health::Unhealthy));
        assert!(app.serves_unwell(&made("b", "CMD wrong", Health::Starting)));
        assert!(!app.serves_unwell(&made("b", "CMD right", Health::Starting)), "another check");
        app.note_serving(&made("b", "CMD wrong", Health::Healthy));
        assert!(!app.serves_unwell(&made("b", "CMD wrong", Health::Starting)), "it can pass");
        app.note_unwell(&made("b", "CMD wrong", Health::Starting));
        assert!(app.serves_unwell(&made("b", "CMD wrong", Health::Unhealthy)));
    }

    #[test]
    fn nobody_has_called_an_app_that_falls_asleep_until_somebody_asks_anew() {
        let (orders, _taken) = mpsc::unbounded_channel();
        let app = AppWake::new("notes".into(), Facts::default(), orders);
        let show = |phase| app.show(phase, &Arc::default());
        assert!(app.is_called(), "it is awake");
        show(Phase::Stopped);
        assert!(!app.is_called(), "stopped by somebody else");
        app.ask();
        show(Phase::Queued { place: 1 });
        show(Phase::Failed { failure: Failure::EngineAway, retry_after: Duration::ZERO });
        assert!(app.is_called(), "whoever has opened it waits");
        show(Phase::Awake);
        // Of a request that has looked just before.
        app.ask();
        app.close();
        show(Phase::Paused);
        assert!(!app.is_called(), "put to sleep");
        show(Phase::Stopped);
        assert!(!app.is_called());
        show(Phase::Starting);
        assert!(app.is_called(), "started by somebody else");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_until_the_next_attempt_grows_shorter() {
        let (orders, _taken) = mpsc::unbounded_channel();
        let app = AppWake::new("notes".into(), Facts::default(), orders);
        let retry_after = Duration::from_secs(300);
        let failed = Phase::Failed { failure: Failure::EngineAway, retry_after };
        app.show(failed.clone(), &Arc::default());
        assert_eq!(app.shown().phase, failed);
        let left = |app: &AppWake| match app.shown().phase {
            Phase::Failed { retry_after, .. } => retry_after.as_secs(),
            other => panic!("{other:?}"),
        };
        tokio::time::advance(Duration::from_secs(200)).await;
        app.show(failed, &[].into());
        assert_eq!(left(&app), 100, "shown again, it is the same failure");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(left(&app), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_until_an_attempt_succeeds() {
        let (orders, _taken) = mpsc::unbounded_channel();
        let app = AppWake::new("notes".into(), Facts::default(), orders);
        let failure = Failure::OutOfMemory { container: "web".into() };
        let retry_after = Duration::from_secs(5);
        app.show(Phase::Failed { failure: failure.clone(), retry_after }, &Arc::default());
        for phase in [Phase::Queued { place: 1 }, Phase::Starting, Phase::AwaitingPort] {
            app.show(phase, &Arc::default());
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(app.shown().last_failure.as_ref(), Some(&failure));
        }
        let began = app.shown().began.expect("it is under way");
        assert_eq!(began.elapsed(), Duration::from_secs(30), "of all that is under way");
        app.show(Phase::Awake, &Arc::default());
        assert_eq!((app.shown().last_failure, app.shown().began), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_an_app_has_not_answered_is_counted_from_the_first_time() {
        let (orders, _taken) = mpsc::unbounded_channel();
        let app = AppWake::new("notes".into(), Facts::default(), orders);
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
