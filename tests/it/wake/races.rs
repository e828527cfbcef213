//! Wake against sleep, and against removal.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::{LONG, NO_SLEEP, Stage, in_background, known, order, program, served, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Request, Response, poll};
use crate::support::docker::apps::{App, Apps, Plan};
use crate::support::server::Nightporter;
use crate::support::soak;

/// Rounds that run side by side.
const LANES: u32 = 4;
const QUICKLY: &str = "throttle = \"1ms\"\nlongest_backoff = \"10ms\"\nmax_concurrent = 4\n";

/// A path of every app that wakes nothing.
const LOOK: &str = "[wake.ignore]\npaths = [\"/look\"]\nstatus = 503\n";

/// Finds out whether an app is known to sleep.
fn look(app: &App) -> Request {
    Request::auth(format!("{}.box.example", app.name), "/look")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_put_to_sleep_while_it_is_woken_is_one_or_the_other() {
    let stage = Stage::new(Store::Postgres).await;
    let mut apps = Vec::new();
    for _ in 0..LANES {
        apps.push(stage.running(Plan::new("nap")).await);
    }
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    let lanes = apps.iter().zip(0..).map(|(app, lane)| naps(&porter, app, lane));
    let rested: u32 = join_all(lanes).await.into_iter().sum();
    println!("{rested} of {} rested", soak::NAPS.count());
}

/// One lane's share; how often it was put to sleep.
async fn naps(porter: &Nightporter, app: &App, lane: u32) -> u32 {
    until_state(porter, app, "awake", LONG).await;
    let mut rested = 0;
    for round in (lane..soak::NAPS.count()).step_by(LANES as usize) {
        let nth = round / LANES;
        // Stopping takes longer, so most of the rounds pause.
        let rest = if nth % 10 < 2 { "sleep" } else { "pause" };
        // In every other round it sleeps at first: there the wake is under way.
        if nth.is_multiple_of(2) {
            assert_eq!(order(porter, app, rest).await.status, 200, "round {round}");
        }
        let askers: Vec<_> = (0..4).map(|_| in_background(porter, &program(app))).collect();
        // Sooner and later in the course of the wake.
        tokio::time::sleep(Duration::from_millis(u64::from(nth % 16))).await;
        match order(porter, app, rest).await.status {
            200 => rested += 1,
            409 => {}
            status => panic!("{status} in round {round}"),
        }
        for asker in askers {
            let response = asker.await.expect("no panic").expect("an answer");
            assert_eq!(response.status, 200, "round {round}: {response:?}");
        }
        poll("what is known is what is", LONG, async || {
            let known = known(porter, &app.name).await;
            let expected = match known["state"].as_str() {
                Some("awake") => "running",
                Some("paused") => "paused",
                Some("stopped") => "exited",
                _ => return false,
            };
            app.state().await == expected
        })
        .await;
        // Whoever is let in now finds the app.
        let response = served(porter, &program(app)).await;
        assert_eq!(response.status, 200, "round {round}: {response:?}");
        // An app that was paused or stopped again would never answer; a busy one answers late.
        assert_eq!(app.state().await, "running", "granted, and nobody there: round {round}");
        app.until_it_answers().await;
    }
    rested
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_removed_while_it_is_woken_stays_away() {
    let stage = Stage::new(Store::Postgres).await;
    let wake = format!("{QUICKLY}hold_timeout = \"5s\"\n{LOOK}");
    let porter = stage.porter(&wake, NO_SLEEP).await;
    let lanes = (0..LANES).map(|lane| removals(&stage, &porter, lane));
    let (mut woken, mut late) = (0, 0);
    for lane in join_all(lanes).await {
        woken += lane.0;
        late += lane.1;
    }
    println!("{woken} woken, {late} late");
}

/// When in the course of a wake something is done to it: spread over the time that a
/// wake takes on this machine, so that both ends of the race are seen on any.
struct Moments {
    wake: Duration,
    rounds: u32,
}

impl Moments {
    fn within(wake: Duration, rounds: soak::Rounds) -> Self {
        Self { wake, rounds: rounds.count() }
    }

    /// From the wake's beginning to well after its end.
    fn of(&self, round: u32) -> Duration {
        self.wake * 2 * (round / LANES) / (self.rounds / LANES)
    }
}

/// How long an app that nobody disturbs takes to be there.
async fn time_of_a_wake(stage: &Stage, porter: &Nightporter, app: &App) -> Duration {
    porter.until(503, &look(app)).await;
    let began = Instant::now();
    porter.until(200, &program(app)).await;
    let taken = began.elapsed();
    app.remove().await;
    stage.sample.remove_app(&app.name).await;
    taken
}

/// One lane's share; how many requests were granted, and how many came too late.
async fn removals(stage: &Stage, porter: &Nightporter, lane: u32) -> (u32, u32) {
    // A network of its own: one has addresses for half of all rounds.
    let apps = Apps::on(&stage.apps.engine).await;
    let wake_time = async || {
        let app = apps.install(&stage.sample, Plan::new("timed")).await;
        app.create_quickly().await;
        time_of_a_wake(stage, porter, &app).await
    };
    // The first one is not like the others.
    let moments = Moments::within(wake_time().await.min(wake_time().await), soak::REMOVALS);
    let (mut woken, mut late) = (0, 0);
    for round in (lane..soak::REMOVALS.count()).step_by(LANES as usize) {
        let app = apps.install(&stage.sample, Plan::new("gone")).await;
        app.create_quickly().await;
        porter.until(503, &look(&app)).await;

        let askers: Vec<_> = (0..4).map(|_| in_background(porter, &program(&app))).collect();
        tokio::time::sleep(moments.of(round)).await;
        app.set_status(&stage.sample, "uninstalling").await;
        app.remove().await;
        stage.sample.remove_app(&app.name).await;
        for asker in askers {
            match answer_to_the_removed(asker, round).await {
                200 => woken += 1,
                _ => late += 1,
            }
        }
        // An attempt that saw the app installed and its container gone has it made anew by Compose,
        // and then removes what was made.
        poll(&format!("nothing is left in round {round}"), LONG, async || {
            !is_composing(&app) && of_project(stage, &app).await.is_empty()
        })
        .await;
        for _ in 0..2 {
            assert_eq!(of_project(stage, &app).await, "", "it came back in round {round}");
            assert_eq!(porter.ask(&program(&app)).await.status, 404);
        }
    }
    (woken, late)
}

async fn answer_to_the_removed(asker: JoinHandle<std::io::Result<Response>>, round: u32) -> u16 {
    let response = asker.await.expect("no panic").expect("an answer");
    assert!(matches!(response.status, 200 | 404 | 503), "round {round}: {response:?}");
    response.status
}

/// Ids of whatever containers there are of an app.
async fn of_project(stage: &Stage, app: &App) -> String {
    let project = format!("label=com.docker.compose.project={}", app.name);
    stage.apps.engine.docker(["ps", "--all", "--quiet", "--filter", &project]).await
}

/// Whether a Compose that works on an app runs still, whoever began it.
fn is_composing(app: &App) -> bool {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let words = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    words.into_iter().any(|line| line.contains("compose") && line.contains(&app.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_removed_while_compose_makes_it_stays_away() {
    let stage = Stage::new(Store::Postgres).await;
    let wake = format!("{QUICKLY}hold_timeout = \"20s\"\n{LOOK}");
    let porter = stage.porter(&wake, NO_SLEEP).await;
    let lanes = (0..LANES).map(|lane| remakings(&stage, &porter, lane));
    let (mut woken, mut late) = (0, 0);
    for lane in join_all(lanes).await {
        woken += lane.0;
        late += lane.1;
    }
    println!("{woken} woken, {late} late");
}

/// The end of that race that Compose wins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_compose_makes_of_an_app_that_was_removed_meanwhile_is_removed_too() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.apps.install(&stage.sample, Plan::new("overtaken")).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "missing", LONG).await;
    let making = stage.proxy.hold("POST", "/containers/create");
    let asker = in_background(&porter, &program(&app));
    making.reached(1).await;
    app.set_status(&stage.sample, "uninstalling").await;
    assert_eq!(of_project(&stage, &app).await, "", "whoever removes it finds nothing");
    stage.sample.remove_app(&app.name).await;
    porter.until(404, &program(&app)).await;
    making.release();
    answer_to_the_removed(asker, 0).await;
    poll("nothing is left", LONG, async || {
        !is_composing(&app) && of_project(&stage, &app).await.is_empty()
    })
    .await;
    let made = stage.proxy.calls("POST", "/containers/create");
    assert!(made.iter().all(|call| call.answered.is_some_and(|(_, status)| status == 201)));
    let calls = stage.proxy.all_calls().into_iter();
    let mut removals = calls.filter(|call| call.method == "DELETE");
    assert!(removals.any(|call| call.path.starts_with("/containers/")), "Compose made nothing");
}

/// One lane's share; how many requests were granted, and how many came too late.
async fn remakings(stage: &Stage, porter: &Nightporter, lane: u32) -> (u32, u32) {
    let timed = stage.apps.install(&stage.sample, Plan::new("timed")).await;
    let moments = Moments::within(time_of_a_wake(stage, porter, &timed).await, soak::REMAKINGS);
    let (mut woken, mut late) = (0, 0);
    for round in (lane..soak::REMAKINGS.count()).step_by(LANES as usize) {
        let app = stage.apps.install(&stage.sample, Plan::new("remade")).await;
        porter.until(503, &look(&app)).await;
        let asker = in_background(porter, &program(&app));
        poll("Compose runs", LONG, async || is_composing(&app)).await;
        // From before its first call until it is done.
        tokio::time::sleep(moments.of(round)).await;
        app.set_status(&stage.sample, "uninstalling").await;
        if round % 2 == 0 {
            // It may find things half made, and fail over them.
            app.try_compose(&["down", "--timeout=1"]).await.ok();
        } else {
            let ids = of_project(stage, &app).await;
            let remove = ["rm", "--force"].into_iter().chain(ids.lines());
            stage.apps.engine.try_docker(remove).await.ok();
        }
        stage.sample.remove_app(&app.name).await;
        match answer_to_the_removed(asker, round).await {
            200 => woken += 1,
            _ => late += 1,
        }
        porter.until(404, &program(&app)).await;
        poll(&format!("nothing is left in round {round}"), LONG, async || {
            !is_composing(&app) && of_project(stage, &app).await.is_empty()
        })
        .await;
        for _ in 0..3 {
            assert_eq!(of_project(stage, &app).await, "", "it came back in round {round}");
            assert!(!is_composing(&app), "it is made again in round {round}");
        }
    }
    (woken, late)
}

#[tokio::test]
async fn containers_removed_between_order_and_start_are_made_anew() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.stopped(Plan::new("anew")).await;
        let porter = stage.porter("", NO_SLEEP).await;
        until_state(&porter, &app, "stopped", LONG).await;
        let starts = stage.proxy.hold("POST", "/start");
        let asking = in_background(&porter, &program(&app));
        starts.reached(1).await;
        app.remove().await;
        starts.release();
        let response = asking.await.expect("no panic").expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        assert!(app.answers().await);
        assert!(stage.proxy.calls("POST", "/start").len() >= 2);

        // Paused in the same moment: the engine answers 409, or does not mind.
        assert_eq!(order(&porter, &app, "pause").await.status, 200);
        let unpausing = stage.proxy.hold("POST", "/unpause");
        let asking = in_background(&porter, &program(&app));
        unpausing.reached(1).await;
        app.all("unpause").await;
        unpausing.release();
        let response = asking.await.expect("no panic").expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
    }
}

#[tokio::test]
async fn an_order_to_wake_that_comes_during_a_stop_is_answered_by_the_wake() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("again")).await;
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;
    let stops = stage.proxy.hold("POST", "/stop");
    let resting = async {
        let done = order(&porter, &app, "sleep").await;
        assert_eq!(done.status, 200, "{done:?}");
    };
    let waking = async {
        stops.reached(1).await;
        let (done, ()) = tokio::join!(order(&porter, &app, "wake"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stops.release();
        });
        assert_eq!(done.status, 200, "{done:?}");
        assert!(app.answers().await, "said to be awake, and nobody there");
    };
    tokio::join!(resting, waking);
}

#[tokio::test]
async fn what_somebody_else_unpauses_first_is_no_failure() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("first")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    std::fs::remove_file(folder.join("docker-compose.yml")).expect("removed");
    let porter = stage.porter(QUICKLY, NO_SLEEP).await;
    until_state(&porter, &app, "awake", LONG).await;

    assert_eq!(order(&porter, &app, "pause").await.status, 200);
    let unpausing = stage.proxy.hold("POST", "/unpause");
    let asking = in_background(&porter, &program(&app));
    unpausing.reached(1).await;
    app.all("unpause").await;
    unpausing.release();
    let response = asking.await.expect("no panic").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    let known = known(&porter, &app.name).await;
    assert!(known["last_failure"].is_null(), "{known}");

    assert_eq!(order(&porter, &app, "pause").await.status, 200);
    let unpausing = stage.proxy.hold("POST", "/unpause");
    let stopped = async {
        let done = order(&porter, &app, "sleep").await;
        assert_eq!(done.status, 200, "{done:?}");
    };
    let unpaused = async {
        unpausing.reached(1).await;
        app.all("unpause").await;
        unpausing.release();
    };
    tokio::join!(stopped, unpaused);
    assert_eq!(app.state().await, "exited");
}

/// A container that another took the place of while its port was waited for: the new
/// one has never been started, and nobody else will.
#[tokio::test]
async fn a_container_replaced_while_it_is_waited_for_is_started_too() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("replaced").env("START_DELAY_MS", 600_000)).await;
    let porter = stage.porter("throttle = \"100ms\"\nstart_timeout = \"10m\"\n", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let _asking = in_background(&porter, &program(&app));
    until_state(&porter, &app, "awaiting_port", LONG).await;
    app.remove().await;
    app.create_quickly().await;
    poll("it is started", LONG, async || app.state().await == "running").await;
}
