use super::*;
use crate::config::{self, Environment};
use crate::store::{Freshness, Source};
use crate::wake::compose::Compose;
use crate::wake::docker::watch::Watch;
use crate::wake::docker::{Container, Engine, Health, Snapshot, State};

/// A waker whose engine is never heard of, and which nobody runs.
struct Bench {
    waker: Waker,
    wakes: Arc<Wakes>,
    watch: Watch,
}

impl Bench {
    fn new() -> Self {
        let config = config::load(None, &Environment::new()).expect("defaults");
        let freshness = Arc::new(Freshness::new(config.cache.clone()));
        let source = Arc::new(Source::open(&config, &freshness).expect("a folder"));
        let engine = Arc::new(Engine::new(config.wake.docker.clone()));
        let (watch, view) = Watch::new(Arc::clone(&engine));
        let compose = Compose::new(&config.wake, &config.store.installed_apps_dir);
        let means = Arc::new(Means {
            reclaim: false,
            engine,
            source: Arc::clone(&source),
            compose: Arc::new(compose),
            config: config.wake,
        });
        let (wakes, _orders) = Wakes::new();
        let touches = Arc::new(Touches::new(config.touch));
        let (statuses, _writer) = Statuses::new(source);
        let waker = Waker::new(means, Arc::clone(&wakes), touches, view, statuses);
        Self { waker, wakes, watch }
    }

    /// An app that sleeps, with something being done to it.
    fn asleep(&mut self, name: &str, doing: Doing) -> Arc<str> {
        let name: Arc<str> = name.into();
        let app = self.wakes.of(&name, None);
        app.show(Phase::Stopped, &Arc::default());
        self.waker.slot(&name).expect("known").doing = doing;
        name
    }
}

impl Bench {
    /// What is being done to an app comes to this.
    async fn ends(&mut self, name: &Arc<str>, ended: Ended) {
        let job = match &ended {
            Ended::Woken(_) => Job::Wake,
            Ended::Followed(_) => Job::Follow,
            Ended::Rested(rest, _) => Job::Rest(*rest),
        };
        self.does(name, job, None, async move { ended });
        self.next_ends().await;
    }

    fn does(
        &mut self,
        name: &Arc<str>,
        job: Job,
        reply: Option<Reply>,
        doing: impl Future<Output = Ended> + Send + 'static,
    ) {
        let app = Arc::clone(&self.waker.slots[name].app);
        self.waker.spawn(Task { app, job, reply }, doing);
    }

    async fn next_ends(&mut self) {
        let ended = self.waker.running.join_next_with_id().await.expect("a task");
        self.waker.end(ended);
    }
}

#[tokio::test]
async fn an_operator_is_told_of_what_was_ordered_and_of_nothing_else() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", Doing::Resting);
    let (reply, mut woken) = tokio::sync::oneshot::channel();
    bench.waker.take(Order::WakeNow(Arc::clone(&name), reply));
    let (reply, mut rested) = tokio::sync::oneshot::channel();
    let stopped = async { Ended::Rested(Rest::Stopped, Ok(())) };
    bench.does(&name, Job::Rest(Rest::Stopped), Some(reply), stopped);
    bench.next_ends().await;
    assert_eq!(rested.try_recv(), Ok(Ok(())));
    assert!(woken.try_recv().is_err(), "it sleeps still");
    // Somebody else starts it before there is an attempt.
    bench.ends(&name, Ended::Followed(Outcome::Ready)).await;
    assert_eq!(woken.try_recv(), Ok(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_does_not_make_the_waker_spin() {
    let mut bench = Bench::new();
    let now = Instant::now();
    let waking = |at| Doing::Waking { place_until: Some(at) };
    bench.asleep("hangs", waking(now + HELD_PLACE));
    let waits = bench.asleep("waits", Doing::Queued);
    bench.waker.queue.push_back(waits);
    assert_eq!(bench.waker.next_due(), now + HELD_PLACE);
    tokio::time::advance(HELD_PLACE).await;
    bench.asleep("next", waking(now + 2 * HELD_PLACE));
    assert_eq!(bench.waker.next_due(), now + 2 * HELD_PLACE);
}

#[tokio::test]
async fn what_was_done_to_a_removed_app_ends_without_its_successor() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", Doing::Waking { place_until: None });
    bench.does(&name, Job::Wake, None, async { Ended::Woken(Outcome::Ready) });
    bench.wakes.forget(std::iter::once(&name));
    bench.waker.take(Order::Forget(Arc::clone(&name)));
    bench.asleep("notes", Doing::Queued);
    bench.next_ends().await;
    let slot = &bench.waker.slots[&name];
    assert_eq!(slot.doing, Doing::Queued);
    assert!(!slot.app.is_awake());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_to_sleep_is_not_closed_again_and_again() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", Doing::Nothing);
    let app = Arc::clone(&bench.waker.slots[&name].app);
    app.show(Phase::Awake, &Arc::default());
    let (reply, mut told) = tokio::sync::oneshot::channel();
    bench.waker.rest(&name, Rest::Stopped, None, Some(reply));
    assert_eq!(told.try_recv(), Ok(Err(Failure::EngineAway)), "nobody has seen an engine");
    assert!(app.is_awake());
    bench.watch.shows(Snapshot { live: true, was_listed: true, ..Snapshot::default() });
    let refused = || Ended::Rested(Rest::Stopped, Err(Failure::Declined("not now")));
    bench.ends(&name, refused()).await;
    bench.waker.rest(&name, Rest::Stopped, None, None);
    assert!(app.is_awake(), "a moment ago it could not be");
    tokio::time::advance(RESTLESS).await;
    bench.waker.rest(&name, Rest::Stopped, None, None);
    assert!(!app.is_awake());
    assert_eq!(bench.waker.slots[&name].doing, Doing::Resting);
}

#[tokio::test]
async fn an_app_that_somebody_else_starts_does_not_wait_for_its_turn() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", Doing::Queued);
    bench.waker.queue.push_back(Arc::clone(&name));
    bench.waker.slots.get_mut(&name).expect("known").seen = Some(EngineState::Exited);
    bench.watch.shows(running("notes"));
    bench.waker.look_around();
    let slot = &bench.waker.slots[&name];
    assert_eq!((slot.doing, slot.wanted), (Doing::Following, true));
    assert!(bench.waker.queue.is_empty());
}

#[tokio::test]
async fn an_operators_order_to_sleep_does_not_wait_for_what_somebody_else_started() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", Doing::Nothing);
    bench.waker.slots.get_mut(&name).expect("known").seen = Some(EngineState::Exited);
    let mut snapshot = running("notes");
    let container = snapshot.containers.values_mut().next().expect("one");
    // It does not become ready.
    Arc::make_mut(container).health = Health::Starting;
    bench.watch.shows(snapshot);
    bench.waker.look_around();
    assert_eq!(bench.waker.slots[&name].doing, Doing::Following);
    bench.waker.rest(&name, Rest::Stopped, None, None);
    assert_eq!(bench.waker.slots[&name].doing, Doing::Following, "the idle loop comes again");
    let (reply, _told) = tokio::sync::oneshot::channel();
    bench.waker.rest(&name, Rest::Stopped, None, Some(reply));
    assert_eq!(bench.waker.slots[&name].doing, Doing::Resting);
    assert_eq!(bench.waker.tasks.len(), 1);
    bench.next_ends().await;
    assert_eq!(bench.waker.slots[&name].doing, Doing::Resting, "only the waiting has ended");
}

#[tokio::test]
async fn an_app_that_is_being_installed_is_tried_again_for_those_who_wait() {
    let mut bench = Bench::new();
    let installing = || Phase::Unavailable { status: "installing".into() };
    let name = bench.asleep("notes", Doing::Waking { place_until: None });
    bench.ends(&name, Ended::Woken(Outcome::Declined(installing()))).await;
    assert!(!bench.waker.slots[&name].wanted, "nobody waits");
    let _held = bench.waker.slots[&name].app.follow();
    bench.ends(&name, Ended::Woken(Outcome::Declined(Phase::LowDisk))).await;
    assert!(!bench.waker.slots[&name].wanted, "that will not pass by itself");
    bench.ends(&name, Ended::Woken(Outcome::Declined(installing()))).await;
    assert!(bench.waker.slots[&name].wanted);
}

async fn panics() -> Ended {
    tokio::task::yield_now().await;
    panic!("of the test's own making")
}

#[tokio::test]
async fn a_task_that_panics_is_told_for_what_it_is() {
    let mut bench = Bench::new();
    let name = bench.asleep("notes", Doing::Resting);
    let (reply, mut rested) = tokio::sync::oneshot::channel();
    bench.does(&name, Job::Rest(Rest::Paused), Some(reply), panics());
    bench.next_ends().await;
    assert_eq!(rested.try_recv(), Ok(Err(Failure::Panicked)));
    let slot = &bench.waker.slots[&name];
    assert_eq!((slot.failures, &slot.after), (0, &None), "nobody has tried to wake it");
    assert_eq!(slot.app.history().last_failure, None);

    bench.does(&name, Job::Follow, None, panics());
    bench.next_ends().await;
    let slot = &bench.waker.slots[&name];
    let failed = |slot: &Slot| match &slot.after {
        Some(Phase::Failed { failure, .. }) => failure.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((slot.failures, failed(slot)), (0, Failure::Panicked));

    bench.does(&name, Job::Wake, None, panics());
    bench.next_ends().await;
    let slot = &bench.waker.slots[&name];
    assert_eq!((slot.failures, failed(slot)), (1, Failure::Panicked));
}

#[tokio::test(start_paused = true)]
async fn what_failed_for_want_of_the_engine_is_free_when_it_is_back() {
    let mut bench = Bench::new();
    let live = |live| Snapshot { live, was_listed: true, ..Snapshot::default() };
    bench.watch.shows(live(true));
    bench.waker.look_around();
    let honest = bench.asleep("honest", Doing::Nothing);
    let exited = Failure::Exited { container: "web".into(), code: 1 };
    bench.ends(&honest, Ended::Woken(Outcome::Failed(exited))).await;
    bench.watch.shows(live(false));
    bench.waker.look_around();
    let away = bench.asleep("away", Doing::Nothing);
    for _ in 0..10 {
        bench.ends(&away, Ended::Woken(Outcome::Failed(Failure::EngineAway))).await;
    }
    // Compose says it in its own words.
    let compose = bench.asleep("compose", Doing::Nothing);
    let said = Failure::Compose("cannot connect".into());
    bench.ends(&compose, Ended::Woken(Outcome::Failed(said))).await;
    let not_before = |bench: &Bench, name| bench.waker.slots[name].not_before;
    assert!(not_before(&bench, &away).is_some_and(|at| at > Instant::now()));
    let _held = bench.waker.slots[&away].app.follow();
    bench.watch.shows(live(true));
    bench.waker.look_around();
    let slot = &bench.waker.slots[&away];
    assert_eq!((slot.not_before, slot.failures, slot.wanted), (None, 0, true));
    assert_eq!(not_before(&bench, &compose), None);
    assert!(not_before(&bench, &honest).is_some(), "the engine had nothing to do with it");
}

#[tokio::test]
async fn what_has_just_been_started_when_it_is_first_seen_is_waited_for() {
    let now = milliseconds_since_1970(wall_clock());
    for (started, doing) in [(now - 1000, Doing::Following), (now - 3_600_000, Doing::Nothing)] {
        let mut bench = Bench::new();
        let mut container = Container::sample("notes", "web", State::Running);
        container.started = Some(started);
        let containers = [(Arc::clone(&container.id), Arc::new(container))].into();
        let snapshot = Snapshot { live: true, was_listed: true, containers, ..Snapshot::default() };
        bench.watch.shows(snapshot);
        let name: Arc<str> = "notes".into();
        let app = bench.wakes.of(&name, None);
        bench.waker.take(Order::Look(Arc::clone(&name)));
        bench.waker.look_around();
        assert_eq!(bench.waker.slots[&name].doing, doing);
        assert_eq!(app.is_awake(), doing == Doing::Nothing);
        // Once only: it is not closed again for what it was.
        bench.ends(&name, Ended::Followed(Outcome::Ready)).await;
        bench.waker.slots.get_mut(&name).expect("known").seen = None;
        bench.waker.look_around();
        assert!(app.is_awake());
    }
}

/// An engine in which one container runs, of the project of that name.
fn running(project: &str) -> Snapshot {
    let container = Container::sample(project, "web", State::Running);
    let containers = [(Arc::clone(&container.id), Arc::new(container))].into();
    Snapshot { live: true, was_listed: true, containers, ..Snapshot::default() }
}
