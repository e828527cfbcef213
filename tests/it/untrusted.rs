//! Peers from outside the trusted proxies, and what too many connections cost others.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, ask, poll};
use crate::support::program::Program;
use crate::support::server::Nightporter;

const PATIENCE: Duration = Duration::from_secs(60);

/// This machine's, and no trusted proxy's.
const STRANGER: [u8; 4] = [127, 0, 0, 2];
const ANOTHER: [u8; 4] = [127, 0, 0, 3];

async fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::from(source), 0))?;
    socket.connect(to).await
}

/// Whether the other side has closed, with an end or with a reset.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(timeout(PATIENCE, stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
}

const PORTS: &str = "[ops]\nlisten = \"127.0.0.1:0\"\n[wake]\nenabled = false\n";

async fn sample() -> SampleBox {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    sample
}

/// Serves a box with so many descriptors.
async fn program(sample: &SampleBox, gate: &str, open_files: u32) -> Program {
    let path = sample.folder().join("nightporter.toml");
    let gate = format!("[gate]\nlisten = \"127.0.0.1:0\"\n{gate}");
    std::fs::write(&path, format!("{}{gate}{PORTS}", sample.store_config())).unwrap();
    let program = Program::start(&path, open_files);
    poll("the gate answers", PATIENCE, async || grants(&program, "notes").await).await;
    program
}

async fn status(program: &Program, app: &str) -> Option<u16> {
    let mut connection = Connection::open(program.gate).await.ok()?;
    Some(connection.ask(&Request::auth(format!("{app}.box.test"), "/")).await.ok()?.status)
}

async fn grants(program: &Program, app: &str) -> bool {
    status(program, app).await == Some(200)
}

#[tokio::test]
async fn strangers_who_say_nothing_cost_the_proxy_nothing() {
    let sample = sample().await;
    let only_one = "trusted_proxies = [\"127.0.0.1\"]\n[cache]\nheartbeat = \"200ms\"\n\
                    degraded_ttl = \"100ms\"\nmax_stale = \"2s\"\n";
    let program = program(&sample, only_one, 256).await;
    let mut proxy = Connection::open(program.gate).await.unwrap();
    let request = Request::auth("notes.box.test", "/");
    assert_eq!(proxy.ask(&request).await.unwrap().status, 200);

    let (gate, mut strangers) = (program.gate, Vec::new());
    for _ in 0..300 {
        strangers.push(tokio::spawn(async move {
            // The reset may come before the connection is known to be there.
            let stranger = connect_from(STRANGER, gate).await;
            match stranger {
                Ok(mut stranger) => is_closed(&mut stranger).await,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }));
    }
    for stranger in strangers {
        assert!(stranger.await.unwrap(), "kept open");
        assert_eq!(proxy.ask(&request).await.unwrap().status, 200);
    }
    assert!(grants(&program, "notes").await, "a new connection");
    poll("they are gone", PATIENCE, async || {
        let metrics = program.metrics().await;
        metrics.contains("nightporter_connections{listener=\"gate\"} 1\n")
    })
    .await;
    let metrics = program.metrics().await;
    let counted =
        "nightporter_connections_refused_total{listener=\"gate\",reason=\"untrusted\"} 300\n";
    assert!(metrics.contains(counted), "{metrics}");
    poll("the store is live", PATIENCE, async || {
        program.metrics().await.contains("nightporter_store_live 1\n")
    })
    .await;
    assert_eq!(program.logged("outside gate.trusted_proxies"), 1, "{}", program.log());
}

#[tokio::test]
async fn a_proxy_that_takes_all_its_places_leaves_others_theirs_and_the_store_its_files() {
    let sample = sample().await;
    let program = program(&sample, "", 96).await;
    let mut proxy = Connection::open(program.gate).await.unwrap();
    let request = Request::auth("notes.box.test", "/");
    assert_eq!(proxy.ask(&request).await.unwrap().status, 200);
    let mut flood = Vec::new();
    for _ in 0..150 {
        // Those that are too many may be reset at once.
        flood.extend(connect_from(STRANGER, program.gate).await);
    }
    poll("the address has its share", PATIENCE, async || {
        program.logged("as many as one address may have") == 1
    })
    .await;
    let mut other = connect_from(ANOTHER, program.gate).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut other, &request.bytes()).await.unwrap();
    let mut first = [0; 12];
    timeout(PATIENCE, other.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(proxy.ask(&request).await.unwrap().status, 200);

    // Files are read as ever.
    sample.add_app("wiki", &json!({"": {"access": "public"}})).await;
    poll("a new app is found", PATIENCE, async || grants(&program, "wiki").await).await;
    sample.edit_app("notes", &json!({"": {"access": "private"}}));
    poll("a change is heard of", PATIENCE, async || {
        proxy.ask(&request).await.unwrap().status == 401
    })
    .await;
    assert_eq!(program.logged("cannot accept"), 0, "{}", program.log());
    assert_eq!(program.logged("cannot be"), 0, "{}", program.log());
}

/// Leaves a process no descriptor but those it has.
fn starve(program: &Program) {
    let pid = program.child.id();
    let listed = || -> Vec<u32> {
        let used = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        used.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    // A file that the process reads just now will be closed.
    let mut used = listed();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        let now = listed();
        used.retain(|number| now.contains(number));
    }
    let free = (0..=256).find(|number| !used.contains(number)).unwrap();
    limit_files(program, &format!("{free}:"));
}

fn limit_files(program: &Program, limit: &str) {
    let pid = program.child.id().to_string();
    let nofile = format!("--nofile={limit}");
    let status = Command::new("prlimit").args(["--pid", &pid, &nofile]).status().unwrap();
    assert!(status.success(), "prlimit {nofile}");
}

#[tokio::test]
async fn without_a_free_descriptor_the_store_is_as_sure_as_ever() {
    let sample = sample().await;
    let cache = "[cache]\nheartbeat = \"200ms\"\ndegraded_ttl = \"200ms\"\nmax_stale = \"4s\"\n";
    let program = program(&sample, cache, 256).await;
    // They take the numbers that are free below those of the spare ones.
    let mut proxies = Vec::new();
    for _ in 0..16 {
        let mut proxy = Connection::open(program.gate).await.unwrap();
        proxy.ask(&Request::auth("notes.box.test", "/")).await.unwrap();
        proxies.push(proxy);
    }
    starve(&program);
    let mut waiting = TcpStream::connect(program.gate).await.unwrap();
    poll("no connection can be accepted", PATIENCE, async || program.logged("cannot accept") > 0)
        .await;

    // For longer than anything would be believed in doubt, and by what is read anew.
    let proxy = &mut proxies[0];
    let request = Request::auth("notes.box.test", "/");
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        assert_eq!(proxy.ask(&request).await.unwrap().status, 200, "{}", program.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sample.edit_app("notes", &json!({"": {"access": "private"}}));
    poll("a change is heard of", PATIENCE, async || {
        proxy.ask(&request).await.unwrap().status == 401
    })
    .await;
    for told in ["cannot be used", "cannot be read", "rescanning"] {
        assert_eq!(program.logged(told), 0, "{}", program.log());
    }

    limit_files(&program, "256:");
    tokio::io::AsyncWriteExt::write_all(&mut waiting, &request.bytes()).await.unwrap();
    let mut first = [0; 12];
    timeout(PATIENCE, waiting.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 401");
}

/// What the process has in memory, in KiB.
fn resident(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn memory_comes_back_after_a_burst() {
    let sample = sample().await;
    let program = program(&sample, "", 1024).await;
    for _ in 0..200 {
        assert!(grants(&program, "notes").await);
    }
    let quiet = resident(&program);
    let request = Request::auth("notes.box.test", "/").header("X-Large", "x".repeat(60_000));
    let mut burst = Vec::new();
    for _ in 0..400 {
        let mut connection = Connection::open(program.gate).await.unwrap();
        assert_eq!(connection.ask(&request).await.unwrap().status, 200);
        burst.push(connection);
    }
    let most = resident(&program);
    assert!(most > quiet * 3 / 2, "no burst: {quiet} KiB, then {most}");
    drop(burst);
    poll("what the burst took is given back", PATIENCE, async || {
        resident(&program) <= quiet * 3 / 2
    })
    .await;
}

#[tokio::test]
async fn without_a_token_the_operators_listener_answers_to_its_own_names_only() {
    let sample = sample().await;
    let porter = Nightporter::with(&sample, "[ops]\nhosts = [\"porter.lan\"]\n").await;
    let asked = async |path: &str, host: &str| {
        ask(porter.ops, &Request::new("GET", path).without("Host").header("Host", host)).await
    };
    let own = ["127.0.0.1:8401", "[::1]:8401", "localhost:1", "x.localhost", "porter.lan"];
    for path in ["/metrics", "/v1/apps", "/healthz"] {
        for host in own {
            assert_eq!(asked(path, host).await.status, 200, "{path} {host}");
        }
        for host in ["evil.example", "evil.example:8401", "127.0.0.1.evil.example", ""] {
            let answer = asked(path, host).await;
            assert_eq!(answer.status, 403, "{path} {host}");
            assert!(answer.body().contains("ops.hosts"), "{answer:?}");
        }
        let absolute = Request::new("GET", &format!("http://evil.example{path}"));
        let answer = ask(porter.ops, &absolute.without("Host").header("Host", "localhost")).await;
        assert_eq!(answer.status, 403, "{path} by its target");
    }
    let order = Request::new("POST", "/v1/apps/notes/wake").without("Host");
    assert_eq!(ask(porter.ops, &order.header("Host", "evil.example")).await.status, 403);
    assert_eq!(asked("/readyz", "evil.example").await.status, 200, "says one word");

    // Who has the token may come by any name.
    let token = "0123456789abcdef0123";
    let guarded = Nightporter::start(crate::support::server::config(&format!(
        "{}[ops]\ntoken = \"{token}\"\n",
        sample.store_config()
    )));
    let request = Request::new("GET", "/metrics").without("Host").header("Host", "porter.example");
    let request = request.header("Authorization", format!("Bearer {token}"));
    poll("answered", PATIENCE, async || ask(guarded.ops, &request).await.status == 200).await;
}

#[tokio::test]
async fn lists_of_a_proxy_before_this_one_may_have_several_lines() {
    let sample = sample().await;
    let porter = Nightporter::of(&sample).await;
    let request = Request::auth("notes.box.test", "/");
    let lists = [
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-For", "198.51.100.7, 192.0.2.1"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Port", "8443"),
        ("X-Forwarded-Server", "one"),
        ("X-Forwarded-Server", "two"),
        ("X-Forwarded-Prefix", "/a"),
        ("X-Forwarded-Prefix", "/b"),
        ("Forwarded", "for=192.0.2.1"),
        ("Forwarded", "for=198.51.100.7"),
        ("Via", "1.1 one"),
        ("Via", "1.1 two"),
    ];
    assert_eq!(porter.ask(&request.clone().headers(lists)).await.status, 200);
    for (name, value) in [
        ("X-Forwarded-Host", "notes.box.test"),
        ("X-Forwarded-Uri", "/"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Proto", "https"),
    ] {
        let answer = porter.ask(&request.clone().header(name, value)).await;
        assert_eq!(answer.status, 400, "{name} is read and must be one");
    }
}

#[test]
fn check_names_networks_that_are_more_than_proxies() {
    let sample = tempfile::tempdir().unwrap();
    let check = |gate: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let store = format!("[store]\npath = \"{}\"\n", sample.path().display());
        write!(file, "{store}[gate]\n{gate}\n").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
        let output = command.arg("--config").arg(file.path()).arg("check").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (network, told) in [
        ("0.0.0.0/0", "lets anyone connect"),
        ("::/0", "lets anyone connect"),
        ("100.64.0.0/10", "Tailscale"),
        ("100.64.0.0/11", "Tailscale"),
        ("100.0.0.0/8", "Tailscale"),
        ("172.16.0.0/12", "every container"),
        ("10.0.0.0/8", "every container"),
    ] {
        let said = check(&format!("trusted_proxies = [\"{network}\"]"));
        assert!(said.contains(told) && said.contains(network), "{network}: {said}");
    }
    let narrow = check("trusted_proxies = [\"127.0.0.1\", \"100.64.3.7\", \"172.31.84.0/24\"]");
    assert!(!narrow.contains("gate.trusted_proxies"), "{narrow}");
    let outside = check("listen = \"0.0.0.0:8400\"");
    assert!(
        outside.contains("gate.trusted_proxies") && outside.contains("0.0.0.0:8400"),
        "{outside}"
    );
}
