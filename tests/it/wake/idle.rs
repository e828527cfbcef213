//! Who is used stays awake, who is not goes to sleep on time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::{LONG, Stage, known, program, served, state, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Connection, Request, ask, poll};
use crate::support::docker::apps::{App, Plan, Service};
use crate::support::docker::front::{Errors, Front};

/// How long a download and a silent WebSocket last; several times [`IDLE`].
const LASTING: Duration = Duration::from_secs(24);
const IDLE: Duration = Duration::from_secs(8);
/// Often enough for several to be late on a busy machine.
const PING_EVERY: Duration = Duration::from_secs(1);
pub(super) const SLEEP: &str = "interval = \"1s\"\nhold_off = \"1s\"\n";

/// Sleeps after [`IDLE`], in one step or in two.
fn plan(label: &str, skip_pause: bool) -> Plan {
    let lifecycle = if skip_pause {
        json!({"always_on": false, "skip_pause": true, "idle_for_stop": IDLE.as_secs()})
    } else {
        json!({"always_on": false, "idle_for_pause": IDLE.as_secs(), "idle_for_stop": 3600})
    };
    Plan::new(label).meta("lifecycle", lifecycle)
}

/// Reads a slow download; how many of so many bytes came.
async fn download(front: &Front, app: &App, expected: usize) -> usize {
    let path = format!("/download?seconds={}&rate=2000", LASTING.as_secs());
    let mut stream = TcpStream::connect(front.address).await.expect("Traefik listens");
    stream.write_all(&front.request("GET", app, &path).bytes()).await.expect("sent");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (mut came, mut chunk) = (0, [0; 1 << 10]);
    while came < expected {
        let reading = tokio::time::timeout(LONG, stream.read(&mut chunk)).await;
        match reading.expect("in time").expect("not cut") {
            0 => break,
            more => came += more,
        }
    }
    came
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    String::from_utf8(head).expect("UTF-8")
}

/// Keeps a WebSocket open, with a ping now and then that must be answered.
async fn web_socket(front: &Front, app: &App) {
    let request = front
        .request("GET", app, "/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut stream = TcpStream::connect(front.address).await.expect("Traefik listens");
    stream.write_all(&request.bytes()).await.expect("sent");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let began = Instant::now();
    while began.elapsed() < LASTING {
        tokio::time::sleep(PING_EVERY).await;
        // A ping without a payload, masked with zeros: RFC 6455 section 5.2.
        stream.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.expect("sent");
        let mut pong = [0; 2];
        let answer = tokio::time::timeout(LONG, stream.read_exact(&mut pong));
        answer.await.expect("in time").expect("the app is there");
        assert_eq!(pong, [0x8A, 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_and_a_quiet_web_socket_outlive_the_idle_time() {
    let stage = Stage::new(Store::Postgres).await;
    let mut apps = Vec::new();
    for skip_pause in [false, true] {
        for label in ["download", "socket", "silent"] {
            apps.push(stage.running(plan(label, skip_pause)).await);
        }
    }
    let porter = stage.porter("", SLEEP).await;
    let all: Vec<_> = apps.iter().collect();
    let front = Front::before(&stage.sample, &porter, &all, Errors::Replaced).await;
    let [paused, stopped] = [&apps[..3], &apps[3..]];
    let silent = async |app: &App, expected: &str| {
        let asked = Instant::now();
        let response = ask(front.address, &front.request("GET", app, "/")).await;
        assert_eq!(response.status, 200, "{response:?}");
        poll("it sleeps", LONG, async || state(&porter, app).await == expected).await;
        let slept = asked.elapsed();
        // The times are kept in whole seconds.
        assert!(slept + Duration::from_secs(1) >= IDLE, "too soon: {slept:?}");
    };
    let expected = 2000 * usize::try_from(LASTING.as_secs()).expect("small");
    let (one, other, (), (), (), ()) = tokio::join!(
        download(&front, &paused[0], expected),
        download(&front, &stopped[0], expected),
        web_socket(&front, &paused[1]),
        web_socket(&front, &stopped[1]),
        silent(&paused[2], "paused"),
        silent(&stopped[2], "stopped"),
    );
    assert_eq!([one, other], [expected; 2], "cut in the middle");
    // Nobody uses them any more.
    for (app, expected) in [
        (&paused[0], "paused"),
        (&paused[1], "paused"),
        (&stopped[0], "stopped"),
        (&stopped[1], "stopped"),
    ] {
        until_state(&porter, app, expected, LONG).await;
    }
}

#[tokio::test]
async fn a_paused_app_is_stopped_in_the_end_and_one_that_is_always_on_never() {
    let stage = Stage::new(Store::Postgres).await;
    let short = json!({"always_on": false, "idle_for_pause": 5, "idle_for_stop": 10});
    let app = stage.running(Plan::new("steps").meta("lifecycle", short)).await;
    let on = stage.running(Plan::new("on").meta("lifecycle", json!({"always_on": true}))).await;
    let porter = stage.porter("", SLEEP).await;
    assert_eq!(served(&porter, &program(&app)).await.status, 200);
    until_state(&porter, &app, "paused", LONG).await;
    poll("it is paused", LONG, async || app.state().await == "paused").await;
    until_state(&porter, &app, "stopped", LONG).await;
    // The door is closed first, and the containers are stopped then.
    poll("it is stopped", LONG, async || app.state().await == "exited").await;
    assert_eq!(state(&porter, &on).await, "awake");
    on.all("kill").await;
    until_state(&porter, &on, "awake", LONG).await;
    on.until_it_answers().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "compared with another program's clock")]
async fn a_restart_puts_nothing_to_sleep() {
    let stage = Stage::new(Store::Postgres).await;
    let short = json!({"always_on": false, "skip_pause": true, "idle_for_stop": 5});
    let app = stage.running(Plan::new("stays").meta("lifecycle", short)).await;
    // Longer than the test, so that it has not ended however slow the machine is.
    let held_off = "interval = \"1s\"\nhold_off = \"1h\"\n";
    for _ in 0..2 {
        let porter = stage.porter("", held_off).await;
        // The loop has been at work, and the app's time is up.
        poll("the app is due", LONG, async || {
            let known = known(&porter, &app.name).await;
            let due = known["next_sleep"]["at"].as_str();
            due.is_some_and(|due| {
                humantime::parse_rfc3339(due).expect("a time") < SystemTime::now()
            })
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(porter);
        assert_eq!(app.state().await, "running");
    }
    // Without it the app is stopped.
    let porter = stage.porter("", SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
}

/// Talks to a container past the proxy, in both directions, as long as the test runs.
pub(super) fn talk_to(address: SocketAddr) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        let mut connection = Connection::open(address).await.expect("it listens");
        loop {
            let answer = connection.ask(&Request::new("GET", "/")).await;
            assert_eq!(answer.expect("an answer").status, 200);
            // Often enough to stand out from what parts say to each other.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }))
}

/// Fills the network of an app with what nobody answers, as long as the test runs.
async fn make_noise(app: &App) -> AbortOnDrop {
    let SocketAddr::V4(address) = app.address() else { panic!("IPv4") };
    let [a, b, c, _] = address.ip().octets();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a free port");
    socket.set_broadcast(true).expect("a setting");
    AbortOnDrop(tokio::spawn(async move {
        loop {
            // The discard port: RFC 863.
            let sent = socket.send_to(&[0; 500], (Ipv4Addr::new(a, b, c, 255), 9)).await;
            sent.expect("sent");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
}

/// Bytes that have come in at an app, as its network's own count has it.
async fn received(stage: &Stage, app: &App) -> u64 {
    let pid = stage.apps.engine.inspect(&app.name, "{{.State.Pid}}").await.expect("it runs");
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("Linux");
    let counts = table.lines().filter_map(|line| line.trim().strip_prefix("eth0:"));
    let bytes = counts.filter_map(|counts| counts.split_whitespace().next());
    bytes.map(|bytes| bytes.parse::<u64>().expect("a number")).sum()
}

pub(super) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_heard_and_talk_behind_the_entrypoint_keep_nobody_awake() {
    let stage = Stage::new(Store::Postgres).await;
    let noisy = stage.running(plan("noisy", false)).await;
    let lifecycle = json!({"always_on": false, "idle_for_pause": IDLE.as_secs()});
    let behind = Plan::of("behind", vec![Service::new("web"), Service::new("database")]);
    let behind = stage.running(behind.meta("lifecycle", lifecycle)).await;
    let used = stage.running(plan("used", false)).await;

    let heard = received(&stage, &noisy).await;
    let _noise = make_noise(&noisy).await;
    poll("it is heard", LONG, async || received(&stage, &noisy).await > heard + 5000).await;
    let _talk = talk_to(behind.address_of(1));
    let use_of_it = talk_to(used.address());
    let porter = stage.porter("", SLEEP).await;
    let asked = Instant::now();
    for app in [&noisy, &behind] {
        assert_eq!(served(&porter, &program(app)).await.status, 200);
    }
    for app in [&noisy, &behind] {
        until_state(&porter, app, "paused", LONG).await;
        let slept = asked.elapsed();
        assert!(slept + Duration::from_secs(1) >= IDLE, "too soon: {slept:?}");
    }
    // Talk with the entrypoint is use, though no request was.
    assert_eq!(state(&porter, &used).await, "awake");
    drop(use_of_it);
    until_state(&porter, &used, "paused", LONG).await;
}

#[tokio::test]
async fn an_app_installed_later_has_its_whole_idle_time() {
    const IDLE: Duration = Duration::from_secs(6);
    let stage = Stage::new(Store::Files).await;
    let app = stage.running(Plan::new("late")).await;
    let early = stage.running(Plan::new("early")).await;
    let folder = stage.sample.folder().join("installed_apps").join(&app.name);
    let (meta, aside) = (folder.join("app_meta.json"), folder.join("aside.json"));
    std::fs::rename(&meta, &aside).expect("moved");
    let sleep = "interval = \"1s\"\nhold_off = \"1s\"\nidle_for_pause = \"6s\"\n";
    let porter = stage.porter("", sleep).await;
    // As long as it takes for one that is installed.
    until_state(&porter, &early, "paused", LONG).await;
    let installed = Instant::now();
    std::fs::rename(&aside, &meta).expect("moved");
    until_state(&porter, &app, "paused", LONG).await;
    let slept = installed.elapsed();
    assert!(slept + Duration::from_secs(1) >= IDLE, "too soon: {slept:?}");
}
