//! Measures the time that nightporter adds to the engine's own, and how starts affect
//! requests for apps that are awake: `cargo bench --bench wake`. Needs root, or a Docker
//! engine.
//!
//! Everything is measured in alternating pairs in one run: the engine's own times vary
//! more from one minute to the next than the time that is added to them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints figures and panics if it cannot continue"
)]
#![allow(unreachable_pub, reason = "modules are shared with the tests")]

#[allow(dead_code, unused_imports, reason = "a part of the tests' support is used here")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::{Empty, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use support::boxes::{SampleBox, Store};
use support::client::{Connection, Request, ask, poll};
use support::docker::apps::{App, Apps, Plan};
use support::docker::browser::{Seen, Visit};
use support::docker::engine::Engine;
use support::docker::front::{Errors, Front};
use support::server::Nightporter;
use support::sign::unix_nanoseconds;
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;

const ROUNDS: usize = 20;
const VISITS: usize = 20;
const SLEEPERS: usize = 50;
const QUIET: Duration = Duration::from_secs(5);
/// The design's targets.
const ADDED: f64 = 20.0;
const OPENED: f64 = 100.0;
const BESIDE: f64 = 1.10;

#[tokio::main]
async fn main() {
    let engine = Engine::shared();
    let sample = SampleBox::new(Store::Files).await;
    let apps = Apps::on(&engine).await;
    let app = apps.install(&sample, Plan::new("bench")).await;
    app.create_quickly().await;
    let mut sleepers = Vec::new();
    for _ in 0..SLEEPERS {
        let sleeper = apps.install(&sample, Plan::new("many")).await;
        sleeper.create_quickly().await;
        sleepers.push(sleeper);
    }
    let config = format!(
        "[wake]\nenabled = true\ndocker = \"{}\"\nthrottle = \"1ms\"\n[sleep]\nenabled = false\n",
        engine.host()
    );
    let porter = Nightporter::with(&sample, &config).await;
    porter.until(200, &held(&app)).await;

    paired(&engine, &porter, &app, "stop", "start", "stopped").await;
    paired(&engine, &porter, &app, "pause", "unpause", "paused").await;
    others(&porter, &app, &sleepers).await;
    let front = Front::before(&sample, &porter, &[&app], Errors::Replaced).await;
    page(&porter, &front, &app).await;
}

/// Returns a request of a program, which is held while the app sleeps.
fn held(app: &App) -> Request {
    Request::auth(format!("{}.box.example", app.name), "/").header("Sec-Fetch-Mode", "cors")
}

/// Makes the engine perform an action on a container through its API: starting the client
/// program would take longer than much of what is measured.
async fn post(socket: &Path, container: &str, verb: &str) {
    let stream = UnixStream::connect(socket).await.expect("the engine listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = http::Request::post(format!("/containers/{container}/{verb}"))
        .header("Host", "docker")
        .body(Empty::<bytes::Bytes>::new())
        .expect("a request");
    let status = sender.send_request(request).await.expect("an answer").status();
    assert!(status.is_success(), "{verb}: {status}");
}

/// Measures wakes by the engine and by a request in pairs. In both cases the time begins
/// when nightporter knows that the app is asleep, and ends when the app answers.
async fn paired(
    engine: &Engine,
    porter: &Nightporter,
    app: &App,
    asleep: &str,
    awake: &str,
    state: &str,
) {
    let (mut by_hand, mut by_request, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        post(engine.socket(), &app.name, asleep).await;
        until_state(porter, app, state).await;
        let began = Instant::now();
        post(engine.socket(), &app.name, awake).await;
        while !app.answers().await {}
        let hand = milliseconds(began.elapsed());
        until_state(porter, app, "awake").await;

        post(engine.socket(), &app.name, asleep).await;
        until_state(porter, app, state).await;
        let began = Instant::now();
        let response = porter.ask(&held(app)).await;
        assert_eq!(response.status, 200, "{response:?}");
        while !app.answers().await {}
        let request = milliseconds(began.elapsed());

        by_hand.push(hand);
        by_request.push(request);
        added.push(request - hand);
    }
    let (hand, request) = (median(&mut by_hand), median(&mut by_request));
    let added = median(&mut added);
    println!(
        "{awake:<8} docker {hand:.1} ms, held request {request:.1} ms: ratio {:.2}, \
         added {added:.1} ms of {ADDED} {}",
        request / hand,
        verdict(added <= ADDED),
    );
}

/// Measures the latency of requests for an app that is awake while many others start, and of
/// those to a bare server in the same minute: starts keep the processors busy for both.
async fn others(porter: &Nightporter, app: &App, sleepers: &[App]) {
    for sleeper in sleepers {
        until_state(porter, sleeper, "stopped").await;
    }
    let bare = bare_server();
    let began = Instant::now();
    let quiet = latencies(porter, bare, app, || began.elapsed() >= QUIET).await;
    let mut starts = JoinSet::new();
    for sleeper in sleepers {
        let (gate, request) = (porter.gate, held(sleeper));
        starts.spawn(async move { while ask(gate, &request).await.status != 200 {} });
    }
    let began = Instant::now();
    let mut left = sleepers.len();
    let busy = latencies(porter, bare, app, || {
        while starts.try_join_next().is_some() {
            left -= 1;
        }
        left == 0
    })
    .await;
    let took = began.elapsed();
    for (when, pairs) in [("quiet".to_owned(), quiet), (starting(took), busy)] {
        let [mut gate, mut bare] =
            [0, 1].map(|of| pairs.iter().map(|pair: &[f64; 2]| pair[of]).collect::<Vec<_>>());
        let (gate, bare) = (percentile_99(&mut gate), percentile_99(&mut bare));
        let (above, requests) = (gate / bare, pairs.len());
        println!(
            "gate     {when}: p99 {gate:.3} ms, a bare server {bare:.3} ms: ratio {above:.2} of \
             {BESIDE}, {requests} requests each {}",
            verdict(above <= BESIDE),
        );
    }
}

fn starting(took: Duration) -> String {
    format!("while {SLEEPERS} apps start in {:.1} s", took.as_secs_f64())
}

/// Sends requests for an app that is awake to the gate and to a bare server in turn; returns
/// the latencies of each pair.
async fn latencies(
    porter: &Nightporter,
    bare: SocketAddr,
    app: &App,
    mut ended: impl FnMut() -> bool,
) -> Vec<[f64; 2]> {
    let request = held(app);
    let mut connections = Vec::new();
    for address in [porter.gate, bare] {
        connections.push(Connection::open(address).await.expect("it listens"));
    }
    let mut all = Vec::new();
    while !ended() {
        let mut pair = [0.0; 2];
        for (connection, time) in connections.iter_mut().zip(&mut pair) {
            let began = Instant::now();
            let response = connection.ask(&request).await.expect("an answer");
            *time = milliseconds(began.elapsed());
            assert_eq!(response.status, 200, "{response:?}");
        }
        all.push(pair);
    }
    all
}

/// Starts hyper with a constant response, in a runtime of its own, as the gate has one.
fn bare_server() -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("threads").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("bound")).expect("it is waited for");
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                stream.set_nodelay(true).ok();
                let service = service_fn(|_| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"null"))))
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
    });
    address.recv().expect("it starts")
}

/// The time from the moment an app listens until a waiting browser shows it, by part.
#[derive(Default)]
struct Parts {
    /// From the click to the waiting page.
    shown: Vec<f64>,
    /// Until nightporter releases requests: the probe and the release.
    released: Vec<f64>,
    /// Until the waiting page has received its poll's response.
    answered: Vec<f64>,
    /// Until the browser starts to load the app's document.
    began: Vec<f64>,
    /// Until the document is loaded.
    loaded: Vec<f64>,
    /// Until the document is first painted.
    painted: Vec<f64>,
    /// From listening until the document is loaded.
    opened: Vec<f64>,
}

async fn page(porter: &Nightporter, front: &Front, app: &App) {
    let mut parts = Parts::default();
    for _ in 0..VISITS {
        let sleep = Request::new("POST", &format!("/v1/apps/{}/sleep", app.name));
        assert_eq!(ask(porter.ops, &sleep).await.status, 200);
        let release = async {
            // Requests are held as soon as the page has triggered the wake.
            until_leaves(porter, app, "stopped").await;
            while porter.ask(&held(app)).await.status != 200 {}
            unix_nanoseconds()
        };
        let visit = Visit::to(&front.url(app, "/"), "#app");
        let (seen, released) = tokio::join!(visit.go(), release);
        let found = seen.found.unwrap_or_else(|| panic!("never opened: {seen:#?}"));
        let ready = app.listens_since().await;
        parts.note(&seen, [ready, released, found]);
    }
    parts.print();
}

impl Parts {
    fn note(&mut self, seen: &Seen, [ready, released, found]: [u128; 3]) {
        // The page is never painted if the app is loaded before.
        if let Some(painted) = seen.documents.first().and_then(|first| first.painted) {
            self.shown.push(nanoseconds_between(seen.asked, painted));
        }
        self.released.push(nanoseconds_between(ready, released));
        self.opened.push(nanoseconds_between(ready, found));
        let last = seen.last();
        self.loaded.push(nanoseconds_between(last.began, found));
        if let Some(painted) = last.painted {
            self.painted.push(nanoseconds_between(found, painted));
        }
        let mut polls = seen.requests.iter().filter(|request| request.poll.is_some());
        // A poll is not counted if its page is gone before the time is known.
        if let Some(answered) = polls.next_back().and_then(|poll| poll.answered) {
            self.answered.push(nanoseconds_between(released, answered));
            self.began.push(nanoseconds_between(answered, last.began));
        }
    }

    fn print(mut self) {
        let opened = median(&mut self.opened);
        println!(
            "page     shown after {:.0} ms; the app opens {opened:.0} ms after it listens, of \
             {OPENED} {}",
            median(&mut self.shown),
            verdict(opened <= OPENED),
        );
        println!(
            "         probe and release {:.1} ms, answer to the poll {:.1} ms, reload {:.1} ms, \
             document {:.1} ms, paint {:.1} ms",
            median(&mut self.released),
            median(&mut self.answered),
            median(&mut self.began),
            median(&mut self.loaded),
            median(&mut self.painted),
        );
    }
}

/// Waits until the app is no longer in this state.
async fn until_leaves(porter: &Nightporter, app: &App, state: &str) {
    let request = Request::new("GET", &format!("/v1/apps/{}", app.name));
    let left = format!("\"state\":\"{state}\"");
    poll(&format!("{} is no longer {state}", app.name), Duration::from_secs(60), async || {
        !ask(porter.ops, &request).await.body().contains(&left)
    })
    .await;
}

async fn until_state(porter: &Nightporter, app: &App, state: &str) {
    let request = Request::new("GET", &format!("/v1/apps/{}", app.name));
    let expected = format!("\"state\":\"{state}\"");
    poll(&format!("{} is {state}", app.name), Duration::from_secs(60), async || {
        ask(porter.ops, &request).await.body().contains(&expected)
    })
    .await;
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "differences of seconds at most")]
fn nanoseconds_between(from: u128, to: u128) -> f64 {
    (to.cast_signed() - from.cast_signed()) as f64 / 1e6
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentile_99(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "(met)" } else { "(missed)" }
}
