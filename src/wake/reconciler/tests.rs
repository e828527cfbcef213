use std::sync::Mutex;

use super::completion::SLEEP_RETRY_DELAY;
use super::*;
use crate::config::{self, Environment};
use crate::domain::observation::{self, ActionKind};
use crate::store::{Freshness, Source};
use crate::wake::attempt::Outcome;
use crate::wake::compose::Compose;
use crate::wake::docker::watch::Watch;
use crate::wake::docker::{Container, Engine, Health, Snapshot, State};

/// A reconciler that the test drives, without a real engine.
struct Bench {
    reconciler: Reconciler,
    registry: Arc<Registry>,
    watch: Watch,
    told: Arc<Mutex<Vec<Told>>>,
}

/// What the observers were told of an action: kind, cause, result, names of the steps.
type Told = (ActionKind, Cause, Result<(), WakeError>, Vec<(&'static str, Duration)>);

#[derive(Debug)]
struct Listening(Arc<Mutex<Vec<Told>>>);

impl ActionObserver for Listening {
    fn observe_action(&self, action: &observation::Action<'_>) {
        let steps = action.steps.iter().map(|step| (step.name, step.took)).collect();
        let outcome = action.outcome.map_err(Clone::clone);
        self.0.lock().expect("no panic").push((action.kind, action.cause, outcome, steps));
    }
}

impl Bench {
    fn new() -> Self {
        let config = config::load(None, &Environment::new()).expect("defaults");
        let freshness = Arc::new(Freshness::new(config.cache.clone()));
        let source = Arc::new(Source::open(&config, &freshness).expect("a folder"));
        let engine = Arc::new(Engine::new(config.wake.docker.clone()));
        let (watch, view) = Watch::new(Arc::clone(&engine));
        let compose = Compose::new(&config.wake, &config.store.installed_apps_dir);
        let context = Arc::new(Context {
            reclaim: false,
            engine,
            source: Arc::clone(&source),
            compose: Arc::new(compose),
            config: config.wake,
        });
        let (registry, _commands) = Registry::new();
        let touches = Arc::new(Touches::new(config.touch));
        let (statuses, _writer) = Statuses::new(source);
        let told = Arc::default();
        let observers: Box<[Box<dyn ActionObserver>]> =
            Box::new([Box::new(Listening(Arc::clone(&told)))]);
        let reconciler =
            Reconciler::new(context, Arc::clone(&registry), touches, view, statuses, observers);
        Self { reconciler, registry, watch, told }
    }

    /// Adds a sleeping app with an action in progress.
    fn asleep(&mut self, name: &str, in_progress: InProgress) -> Arc<str> {
        let name: Arc<str> = name.into();
        let app = self.registry.handle(&name, None);
        app.show(Phase::Stopped, &Arc::default());
        self.reconciler.app_state(&name).expect("known").in_progress = in_progress;
        name
    }
}

impl Bench {
    /// Ends the action in progress with this completion.
    async fn ends(&mut self, name: &Arc<str>, ended: Completion) {
        let action = match &ended {
            Completion::Woken(_) => Action::Wake,
            Completion::Followed(_) => Action::Follow,
            Completion::Slept(mode, _) => Action::Sleep(*mode),
        };
        self.does(name, action, None, async move { ended });
        self.next_ends().await;
    }

    fn does(
        &mut self,
        name: &Arc<str>,
        action: Action,
        reply: Option<Reply>,
        future: impl Future<Output = Completion> + Send + 'static,
    ) {
        let app = Arc::clone(&self.reconciler.apps[name].app);
        self.reconciler.spawn(ActionTask::new(&app, action, Cause::Request, None, reply), future);
    }

    async fn next_ends(&mut self) {
        let ended = self.reconciler.running.join_next_with_id().await.expect("a task");
        self.reconciler.finish_task(ended);
    }
}

#[tokio::test]
async fn an_operator_is_told_of_what_was_ordered_and_of_nothing_else() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Sleeping);
    let (reply, mut woken) = tokio::sync::oneshot::channel();
    bench.reconciler.handle(Command::WakeNow(Arc::clone(&name), reply));
    let (reply, mut slept) = tokio::sync::oneshot::channel();
    let stopped = async { Completion::Slept(SleepMode::Stopped, Ok(())) };
    bench.does(&name, Action::Sleep(SleepMode::Stopped), Some(reply), stopped);
    bench.next_ends().await;
    assert_eq!(slept.try_recv(), Ok(Ok(())));
    assert!(woken.try_recv().is_err(), "it is still asleep");
    // Another program starts it before an attempt is made.
    bench.ends(&name, Completion::Followed(Outcome::Ready)).await;
    assert_eq!(woken.try_recv(), Ok(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_does_not_make_the_reconciler_spin() {
    let mut bench = Bench::new();
    let now = Instant::now();
    let waking = |at| InProgress::Waking { slot_until: Some(at) };
    bench.asleep("hangs", waking(now + SLOT_HOLD));
    let waits = bench.asleep("waits", InProgress::Queued);
    bench.reconciler.queue.push_back(waits);
    assert_eq!(bench.reconciler.next_due(), now + SLOT_HOLD);
    tokio::time::advance(SLOT_HOLD).await;
    bench.asleep("next", waking(now + 2 * SLOT_HOLD));
    assert_eq!(bench.reconciler.next_due(), now + 2 * SLOT_HOLD);
}

#[tokio::test]
async fn what_was_done_to_a_removed_app_ends_without_its_successor() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Waking { slot_until: None });
    bench.does(&name, Action::Wake, None, async { Completion::Woken(Outcome::Ready) });
    bench.registry.forget(std::iter::once(&name));
    bench.reconciler.handle(Command::Forget(Arc::clone(&name)));
    bench.asleep("notes", InProgress::Queued);
    bench.next_ends().await;
    let app_state = &bench.reconciler.apps[&name];
    assert_eq!(app_state.in_progress, InProgress::Queued);
    assert!(!app_state.app.is_awake());
}

#[tokio::test]
async fn a_request_that_waits_is_not_forgotten_if_its_app_is_put_to_sleep_once_more() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Nothing);
    bench.watch.shows(Snapshot { live: true, was_listed: true, ..Snapshot::default() });
    let app = Arc::clone(&bench.reconciler.apps[&name].app);
    let held = app.follow();
    // Both are handled before an attempt is made.
    app.request_wake();
    bench.reconciler.handle(Command::Wake(Arc::clone(&name)));
    let (reply, _receiver) = tokio::sync::oneshot::channel();
    bench.reconciler.sleep(&name, SleepMode::Stopped, Cause::Operator, None, Some(reply));
    assert!(!held.has_changed(), "the phase is the same as before");
    bench.ends(&name, Completion::Slept(SleepMode::Stopped, Ok(()))).await;
    assert!(bench.reconciler.apps[&name].wanted);
    drop(held);
    bench.reconciler.apps.get_mut(&name).expect("known").wanted = false;
    bench.ends(&name, Completion::Slept(SleepMode::Stopped, Ok(()))).await;
    assert!(!bench.reconciler.apps[&name].wanted, "nobody waits");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_to_sleep_is_not_closed_again_and_again() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Nothing);
    let app = Arc::clone(&bench.reconciler.apps[&name].app);
    app.show(Phase::Awake, &Arc::default());
    let (reply, mut receiver) = tokio::sync::oneshot::channel();
    bench.reconciler.sleep(&name, SleepMode::Stopped, Cause::Operator, None, Some(reply));
    assert_eq!(receiver.try_recv(), Ok(Err(WakeError::EngineAway)), "no engine has been seen");
    assert!(app.is_awake());
    bench.watch.shows(Snapshot { live: true, was_listed: true, ..Snapshot::default() });
    let refused = || Completion::Slept(SleepMode::Stopped, Err(WakeError::Declined("not now")));
    bench.ends(&name, refused()).await;
    bench.reconciler.sleep(&name, SleepMode::Stopped, Cause::Idle, None, None);
    assert!(app.is_awake(), "the last attempt failed a moment ago");
    tokio::time::advance(SLEEP_RETRY_DELAY).await;
    bench.reconciler.sleep(&name, SleepMode::Stopped, Cause::Idle, None, None);
    assert!(!app.is_awake());
    assert_eq!(bench.reconciler.apps[&name].in_progress, InProgress::Sleeping);
}

#[tokio::test]
async fn an_app_that_somebody_else_starts_does_not_wait_for_its_turn() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Queued);
    bench.reconciler.queue.push_back(Arc::clone(&name));
    bench.reconciler.apps.get_mut(&name).expect("known").last_state = Some(EngineState::Exited);
    bench.watch.shows(running("notes"));
    bench.reconciler.observe_all();
    let app_state = &bench.reconciler.apps[&name];
    assert_eq!((app_state.in_progress, app_state.wanted), (InProgress::Following, true));
    assert!(bench.reconciler.queue.is_empty());
}

#[tokio::test]
async fn an_operators_order_to_sleep_does_not_wait_for_what_somebody_else_started() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Nothing);
    bench.reconciler.apps.get_mut(&name).expect("known").last_state = Some(EngineState::Exited);
    let mut snapshot = running("notes");
    let container = snapshot.containers.values_mut().next().expect("one");
    // It does not become ready.
    Arc::make_mut(container).health = Health::Starting;
    bench.watch.shows(snapshot);
    bench.reconciler.observe_all();
    assert_eq!(bench.reconciler.apps[&name].in_progress, InProgress::Following);
    bench.reconciler.sleep(&name, SleepMode::Stopped, Cause::Idle, None, None);
    assert_eq!(
        bench.reconciler.apps[&name].in_progress,
        InProgress::Following,
        "the idle loop tries again later"
    );
    let (reply, _receiver) = tokio::sync::oneshot::channel();
    bench.reconciler.sleep(&name, SleepMode::Stopped, Cause::Operator, None, Some(reply));
    assert_eq!(bench.reconciler.apps[&name].in_progress, InProgress::Sleeping);
    assert_eq!(bench.reconciler.tasks.len(), 1);
    bench.next_ends().await;
    assert_eq!(
        bench.reconciler.apps[&name].in_progress,
        InProgress::Sleeping,
        "only the wait has ended"
    );
}

#[tokio::test]
async fn an_app_that_is_being_installed_is_tried_again_for_those_who_wait() {
    let mut bench = Bench::new();
    let installing = || Phase::Unavailable { status: "installing".into() };
    let name = bench.asleep("notes", InProgress::Waking { slot_until: None });
    bench.ends(&name, Completion::Woken(Outcome::Declined(installing()))).await;
    assert!(!bench.reconciler.apps[&name].wanted, "no request waits");
    let _held = bench.reconciler.apps[&name].app.follow();
    bench.ends(&name, Completion::Woken(Outcome::Declined(Phase::LowDisk))).await;
    assert!(!bench.reconciler.apps[&name].wanted, "low disk space does not end by itself");
    bench.ends(&name, Completion::Woken(Outcome::Declined(installing()))).await;
    assert!(bench.reconciler.apps[&name].wanted);
}

async fn panics() -> Completion {
    tokio::task::yield_now().await;
    panic!("intended by the test")
}

#[tokio::test]
async fn a_task_that_panics_is_told_for_what_it_is() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Sleeping);
    let (reply, mut slept) = tokio::sync::oneshot::channel();
    bench.does(&name, Action::Sleep(SleepMode::Paused), Some(reply), panics());
    bench.next_ends().await;
    assert_eq!(slept.try_recv(), Ok(Err(WakeError::Panicked)));
    let app_state = &bench.reconciler.apps[&name];
    assert_eq!(
        (app_state.failures, &app_state.outcome_phase),
        (0, &None),
        "there was no attempt to wake it"
    );
    assert_eq!(app_state.app.history().last_failure, None);

    bench.does(&name, Action::Follow, None, panics());
    bench.next_ends().await;
    let app_state = &bench.reconciler.apps[&name];
    let failed = |app_state: &AppState| match app_state.outcome_phase.as_deref() {
        Some(Phase::Failed { failure, .. }) => failure.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((app_state.failures, failed(app_state)), (0, WakeError::Panicked));

    bench.does(&name, Action::Wake, None, panics());
    bench.next_ends().await;
    let app_state = &bench.reconciler.apps[&name];
    assert_eq!((app_state.failures, failed(app_state)), (1, WakeError::Panicked));
}

#[tokio::test(start_paused = true)]
async fn what_failed_for_want_of_the_engine_is_free_when_it_is_back() {
    let mut bench = Bench::new();
    let live = |live| Snapshot { live, was_listed: true, ..Snapshot::default() };
    bench.watch.shows(live(true));
    bench.reconciler.observe_all();
    let honest = bench.asleep("honest", InProgress::Nothing);
    let exited = WakeError::Exited { container: "web".into(), code: 1 };
    bench.ends(&honest, Completion::Woken(Outcome::Failed(exited))).await;
    bench.watch.shows(live(false));
    bench.reconciler.observe_all();
    let away = bench.asleep("away", InProgress::Nothing);
    for _ in 0..10 {
        bench.ends(&away, Completion::Woken(Outcome::Failed(WakeError::EngineAway))).await;
    }
    // Compose reports it in its own words.
    let compose = bench.asleep("compose", InProgress::Nothing);
    let failure = WakeError::Compose("cannot connect".into());
    bench.ends(&compose, Completion::Woken(Outcome::Failed(failure))).await;
    let not_before = |bench: &Bench, name| bench.reconciler.apps[name].not_before;
    assert!(not_before(&bench, &away).is_some_and(|at| at > Instant::now()));
    let _held = bench.reconciler.apps[&away].app.follow();
    bench.watch.shows(live(true));
    bench.reconciler.observe_all();
    let app_state = &bench.reconciler.apps[&away];
    assert_eq!((app_state.not_before, app_state.failures, app_state.wanted), (None, 0, true));
    assert_eq!(not_before(&bench, &compose), None);
    assert!(not_before(&bench, &honest).is_some(), "it did not fail because of the engine");
}

#[tokio::test]
async fn what_has_just_been_started_when_it_is_first_seen_is_waited_for() {
    let now = milliseconds_since_1970(wall_clock());
    for (started, in_progress) in
        [(now - 1000, InProgress::Following), (now - 3_600_000, InProgress::Nothing)]
    {
        let mut bench = Bench::new();
        let mut container = Container::sample("notes", "web", State::Running);
        container.started = Some(started);
        let containers = [(Arc::clone(&container.id), Arc::new(container))].into();
        let snapshot = Snapshot { live: true, was_listed: true, containers, ..Snapshot::default() };
        bench.watch.shows(snapshot);
        let name: Arc<str> = "notes".into();
        let app = bench.registry.handle(&name, None);
        bench.reconciler.handle(Command::Observe(Arc::clone(&name)));
        bench.reconciler.observe_all();
        assert_eq!(bench.reconciler.apps[&name].in_progress, in_progress);
        assert_eq!(app.is_awake(), in_progress == InProgress::Nothing);
        // Only the first observation counts: its requests are not held back again.
        bench.ends(&name, Completion::Followed(Outcome::Ready)).await;
        bench.reconciler.apps.get_mut(&name).expect("known").last_state = None;
        bench.reconciler.observe_all();
        assert!(app.is_awake());
    }
}

/// Returns an engine's snapshot with one running container of the project.
fn running(project: &str) -> Snapshot {
    let container = Container::sample(project, "web", State::Running);
    let containers = [(Arc::clone(&container.id), Arc::new(container))].into();
    Snapshot { live: true, was_listed: true, containers, ..Snapshot::default() }
}

#[tokio::test]
async fn a_command_for_each_of_many_apps_delays_no_other() {
    let bench = Bench::new();
    bench.watch.shows(Snapshot { live: false, ..running("app0") });
    let (commands, receiver) = super::super::command::channel();
    for n in 0..3000 {
        let name: Arc<str> = format!("app{n}").into();
        let _known = bench.registry.handle(&name, None);
        commands.send(Command::Observe(name));
    }
    let (reply, answer) = tokio::sync::oneshot::channel();
    let sleep = Command::Sleep {
        app: "app2999".into(),
        mode: SleepMode::Stopped,
        cause: Cause::Operator,
        unless_used_since: None,
        reply: Some(reply),
    };
    commands.send(sleep);
    // One observation of all apps for each command would take minutes.
    let running = bench.reconciler.run(receiver);
    let answered = async { tokio::time::timeout(Duration::from_secs(20), answer).await };
    let answered =
        tokio::select! { biased; answered = answered => answered, _ = running => return };
    assert_eq!(answered, Ok(Ok(Err(WakeError::EngineAway))));
}

#[tokio::test(start_paused = true)]
async fn an_operator_whose_wake_is_overtaken_by_a_sleep_is_told() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Nothing);
    bench.watch.shows(running("notes"));
    let (reply, mut woken) = tokio::sync::oneshot::channel();
    bench.reconciler.handle(Command::WakeNow(Arc::clone(&name), reply));
    let sleep = |reply| Command::Sleep {
        app: Arc::clone(&name),
        mode: SleepMode::Stopped,
        cause: if reply { Cause::Operator } else { Cause::Idle },
        unless_used_since: None,
        reply: reply.then(|| tokio::sync::oneshot::channel().0),
    };
    bench.reconciler.handle(sleep(false));
    assert!(bench.reconciler.apps[&name].wanted, "it has not been idle: it is to be woken");
    bench.reconciler.handle(sleep(true));
    assert_eq!(bench.reconciler.apps[&name].in_progress, InProgress::Sleeping);
    assert_eq!(woken.try_recv(), Ok(Err(WakeError::Declined("it was ordered to sleep"))));
}

#[tokio::test(start_paused = true)]
async fn observers_are_told_why_an_app_was_woken_and_how_long_each_step_took() {
    const SECOND: Duration = Duration::from_secs(1);
    let mut bench = Bench::new();
    let name = bench.asleep("notes", InProgress::Nothing);
    let commands = [
        Command::KeepRunning(Arc::clone(&name)),
        Command::Wake(Arc::clone(&name)),
        Command::KeepRunning(Arc::clone(&name)),
    ];
    for (command, cause) in
        commands.into_iter().zip([Cause::AlwaysOn, Cause::Request, Cause::Request])
    {
        bench.reconciler.handle(command);
        let app_state = &bench.reconciler.apps[&name];
        assert_eq!((app_state.wanted, app_state.cause), (true, cause));
    }
    bench.reconciler.start_due_attempts();
    tokio::time::advance(2 * SECOND).await;
    bench.reconciler.fill_start_slots();
    // The attempt itself is replaced, since there is no engine.
    bench.reconciler.running.abort_all();
    for (phase, passed) in
        [(Phase::Starting, SECOND), (Phase::Starting, SECOND), (Phase::AwaitingPort, 3 * SECOND)]
    {
        bench.reconciler.report(&name, phase);
        tokio::time::advance(passed).await;
    }
    bench.next_ends().await;
    let told = std::mem::take(&mut *bench.told.lock().expect("no panic"));
    let steps = vec![("queued", 2), ("lock", 0), ("starting", 2), ("awaiting_port", 3)].into_iter();
    let steps: Vec<_> = steps.map(|(name, took)| (name, took * SECOND)).collect();
    assert_eq!(told, [(ActionKind::Wake, Cause::Request, Err(WakeError::Panicked), steps)]);
}

#[derive(Debug)]
struct Panicking;

impl ActionObserver for Panicking {
    fn observe_action(&self, _: &observation::Action<'_>) {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn an_observer_that_panics_keeps_nobody_from_the_result() {
    let mut bench = Bench::new();
    bench.reconciler.observers = Box::new([Box::new(Panicking)]);
    let name = bench.asleep("notes", InProgress::Waking { slot_until: None });
    bench.ends(&name, Completion::Woken(Outcome::Ready)).await;
    assert!(bench.reconciler.apps[&name].app.is_awake());
}
