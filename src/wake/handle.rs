//! The shared state of one app: whether it is awake, and what is shown of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::app_view::{AppView, ContainerState};
use super::command::{Command, CommandSender};
use super::docker::{Container, Health};
use super::history::{Details, History, Unanswered};
use super::spec::AppSpec;
use crate::domain::lifecycle::Phase;
use crate::domain::trace::SpanContext;

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
    shown: Mutex<AppView>,
    /// Tells those who follow that something else is shown. Nobody has ever waited for most
    /// apps, and a channel is larger than all the rest.
    changes: OnceLock<Box<watch::Sender<()>>>,
    spec: Mutex<Arc<AppSpec>>,
    /// `None` as long as there is nothing to know.
    details: Mutex<Option<Box<Details>>>,
    commands: CommandSender,
}

/// The longest time between two unanswered requests of one series: the waiting page asks
/// again every few seconds.
const UNANSWERED_GAP: Duration = Duration::from_secs(60);

impl AppHandle {
    pub(super) fn new(name: Arc<str>, spec: Arc<AppSpec>, commands: CommandSender) -> Self {
        let (phase, since) = (Phase::Awake, Instant::now());
        let shown = AppView {
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
            shown: Mutex::new(shown),
            changes: OnceLock::new(),
            spec: Mutex::new(spec),
            details: Mutex::default(),
            commands,
        }
    }

    /// Stores why requests for the app, or for some of its paths, are answered with 503,
    /// for the operator.
    pub fn note_problems(&self, problems: Vec<String>) {
        self.change_details(|details| details.problems = problems);
    }

    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.details(|details| details.problems.clone())
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

    /// Does the same for the request that this is the span of.
    pub fn request_wake_for(&self, span: SpanContext) {
        self.change_details(|details| details.asked_by = Some(span));
        self.request_wake();
    }

    /// Returns the span of the request that last asked for a wake.
    pub(super) fn asked_by(&self) -> Option<SpanContext> {
        self.details(|details| details.asked_by)
    }

    /// Whether the app is awake, has been requested, or is being started.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.is_awake()
            || self.requested.load(Ordering::SeqCst)
            || lock(&self.shown).phase.is_under_way()
    }

    /// Stores the host of a request for the app.
    pub fn note_host(&self, host: &str) {
        self.change_details(|details| {
            if details.host.as_deref() != Some(host) {
                details.host = Some(host.into());
            }
        });
    }

    pub(super) fn host(&self) -> Option<Arc<str>> {
        self.details(|details| details.host.clone())
    }

    /// Whether this container, or one created from the same description, has served
    /// requests although its health check did not pass.
    pub(super) fn serves_unhealthy(&self, container: &Container) -> bool {
        self.details(|details| details.unhealthy.contains(&recreation_key(container)))
    }

    /// Records whether the health check of a serving container passes.
    pub(super) fn note_serving(&self, container: &Container) {
        self.change_details(|details| {
            match container.health {
                Health::Healthy => details.unhealthy.remove(&recreation_key(container)),
                Health::Unhealthy => details.unhealthy.insert(recreation_key(container)),
                Health::Starting | Health::Unknown => false,
            };
        });
    }

    /// Records that a container serves before its health check has passed.
    pub(super) fn note_serving_unhealthy(&self, container: &Container) {
        self.change_details(|details| details.unhealthy.insert(recreation_key(container)));
    }

    /// Returns what is shown now; `retry_after` is the time left until the next attempt.
    #[must_use]
    pub fn shown(&self) -> AppView {
        let mut shown = lock(&self.shown).clone();
        shown.usual = self.details(|details| details.history.start_took);
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
        self.change_details(|details| {
            let since = match details.unanswered {
                Some(before) if now.duration_since(before.last) <= UNANSWERED_GAP => before.since,
                _ => since,
            };
            details.unanswered = Some(Unanswered { since, last: now });
            now.duration_since(since)
        })
    }

    /// Whether a recent request went unanswered.
    pub(super) fn is_unanswered(&self) -> bool {
        let last = self.details(|details| details.unanswered.map(|series| series.last));
        last.is_some_and(|last| last.elapsed() <= UNANSWERED_GAP)
    }

    /// Asks for another attempt even if the last one failed a moment ago: the visitor may
    /// have fixed the cause.
    pub fn retry(&self) {
        let is_failed = matches!(lock(&self.shown).phase, Phase::Failed { .. });
        if is_failed && !self.retry_pending.swap(true, Ordering::AcqRel) {
            self.commands.send(Command::Retry(Arc::clone(&self.name)));
        }
    }

    /// Returns what tells that something else is shown.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.get_or_init(|| Box::new(watch::Sender::new(()))).subscribe()
    }

    /// Returns what is shown now if it meets a condition.
    pub(super) fn shown_if(&self, is_met: impl FnOnce(&AppView) -> bool) -> Option<AppView> {
        let shown = lock(&self.shown);
        is_met(&shown).then(|| shown.clone())
    }

    /// Whether a request is waiting for what is shown to change.
    pub(super) fn is_waited_for(&self) -> bool {
        self.changes.get().is_some_and(|changes| changes.receiver_count() > 0)
    }

    #[must_use]
    pub fn spec(&self) -> Arc<AppSpec> {
        Arc::clone(&lock(&self.spec))
    }

    #[must_use]
    pub fn history(&self) -> History {
        self.details(|details| details.history.clone())
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut History)) {
        self.change_details(|details| change(&mut details.history));
    }

    fn details<T>(&self, read: impl FnOnce(&Details) -> T) -> T {
        match &*lock(&self.details) {
            Some(details) => read(details),
            None => read(&Details::default()),
        }
    }

    fn change_details<T>(&self, change: impl FnOnce(&mut Details) -> T) -> T {
        let mut known = lock(&self.details);
        if let Some(details) = &mut *known {
            return change(details);
        }
        let mut details = Details::default();
        let changed = change(&mut details);
        if details != Details::default() {
            *known = Some(Box::new(details));
        }
        changed
    }

    /// Replaces the spec; returns whether it differs from the last one.
    pub(super) fn set_spec(&self, spec: &Arc<AppSpec>) -> bool {
        let mut known = lock(&self.spec);
        let differs = *known != *spec;
        if differs {
            *known = Arc::clone(spec);
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
        let phase_changed = {
            let mut shown = lock(&self.shown);
            let phase_changed = shown.phase != phase;
            if !flag_changed && !phase_changed && shown.containers == *containers {
                return;
            }
            shown.change(phase, containers);
            phase_changed
        };
        if let Some(changes) = self.changes.get() {
            changes.send_replace(());
        }
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
    use crate::domain::lifecycle::WakeError;
    use crate::wake::docker::State;

    #[test]
    fn what_served_unwell_is_known_again_when_it_is_made_anew() {
        let (commands, _receiver) = super::super::command::channel();
        let app = AppHandle::new("notes".into(), Arc::default(), commands);
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
        let app = AppHandle::new("notes".into(), Arc::default(), commands);
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
        let app = AppHandle::new("notes".into(), Arc::default(), commands);
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
        let app = AppHandle::new("notes".into(), Arc::default(), commands);
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
        let app = AppHandle::new("notes".into(), Arc::default(), commands);
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
