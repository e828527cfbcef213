//! Compares nightporter with a bare hyper server that gives the same responses.
//!
//! `cargo bench --bench throughput [-- --quick] [--only NAME] [--peer NAME=URL]`. With
//! `--peer`, another forwardAuth server takes part in the run through Traefik. Both servers
//! are driven in turn within one run, so that other load on the machine affects
//! both; ratios are computed from adjacent slices. The benchmark only reports, and
//! its figures are reliable only on a quiet machine.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints figures and panics if it cannot continue"
)]

mod apps;
mod bare;
mod footprint;
mod instructions;
mod load;
mod process;
#[path = "../sample/mod.rs"]
mod sample;
mod stranger;
mod traefik;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;

use bare::Answer;
use footprint::float;
use load::{AUTH, Headers, Load, Requests, Settings, Slice, Transport};
use process::Process;
use sample::SampleBox;

/// The number of concurrent requests.
const CONCURRENCY: usize = 64;

/// The number of signatures in rotation: more than are cached, so that each is verified
/// every time.
const SIGNATURES: usize = 2000;

/// The extent of a run.
struct Length {
    pairs: usize,
    slice: Duration,
    starts: usize,
    apps: usize,
    requests: usize,
    /// The time limit for all of `requests`.
    crowd: Duration,
    /// The numbers of apps whose costs are compared.
    boxes: &'static [usize],
}

const FULL: Length = Length {
    pairs: 7,
    slice: Duration::from_millis(1250),
    starts: 11,
    apps: 10_000,
    requests: 1_000_000,
    crowd: Duration::from_secs(120),
    boxes: &[10, 1000, 10_000, 100_000],
};

const QUICK: Length = Length {
    pairs: 3,
    slice: Duration::from_millis(300),
    starts: 3,
    apps: 1000,
    requests: 50_000,
    crowd: Duration::from_secs(20),
    boxes: &[10, 1000],
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["part", "bare", settings] => bare::serve(Path::new(settings)),
        ["part", "load", settings] => load::run(Path::new(settings)),
        // `cargo test` also runs benchmarks, but without this argument.
        _ if !words.contains(&"--bench") => println!("run this with `cargo bench`"),
        _ => {
            let length = if words.contains(&"--quick") { &QUICK } else { &FULL };
            let only = words.windows(2).find_map(|pair| (pair[0] == "--only").then_some(pair[1]));
            let peers: Vec<_> = words.windows(2).filter(|pair| pair[0] == "--peer").collect();
            let peers: Vec<_> = peers.iter().map(|pair| peer(pair[1])).collect();
            report(length, &peers, |name| only.is_none_or(|only| name.contains(only)));
        }
    }
}

/// One comparison of the two servers.
struct Scenario {
    name: &'static str,
    transport: Transport,
    requests: Vec<Headers>,
    /// The targets: the lowest ratio of the throughputs and the highest ratio of the p99s.
    target: Option<(f64, f64)>,
}

fn scenarios(sample: &SampleBox) -> Vec<Scenario> {
    use Transport::{Fresh, Http2, KeepAlive};
    let ask = |uri: &str, credentials: Vec<(&str, String)>| {
        let mut headers = sample::forwarded(&sample::host(0), uri);
        headers.extend(credentials.into_iter().map(|(name, value)| (name.to_owned(), value)));
        headers
    };
    let plain = vec![ask("/public/page", vec![])];
    let token = vec![ask("/page", vec![("cookie", SampleBox::cookie(0))])];
    let denied = vec![ask("/page", vec![])];
    let signed = |number| {
        let uri = format!("/peer/item{number}");
        let [input, signature] = sample.signature(&sample::host(0), &uri);
        ask(&uri, vec![("signature-input", input), ("signature", signature)])
    };
    let peer: Vec<_> = (0..SIGNATURES).map(signed).collect();
    let peer_again = vec![peer[0].clone()];
    let target = |least| Some((least, 1.10));
    [
        ("plain, keep-alive", KeepAlive, &plain, target(0.97)),
        ("token, keep-alive", KeepAlive, &token, target(0.97)),
        ("peer, keep-alive", KeepAlive, &peer, None),
        ("peer again, keep-alive", KeepAlive, &peer_again, target(0.80)),
        ("denied, keep-alive", KeepAlive, &denied, target(0.97)),
        ("plain, new connection", Fresh, &plain, target(0.97)),
        ("token, new connection", Fresh, &token, target(0.97)),
        ("peer, new connection", Fresh, &peer, None),
        ("denied, new connection", Fresh, &denied, None),
        ("plain, TLS and HTTP/2", Http2, &plain, target(0.95)),
        ("token, TLS and HTTP/2", Http2, &token, target(0.95)),
    ]
    .map(|(name, transport, requests, target)| Scenario {
        name,
        transport,
        requests: requests.clone(),
        target,
    })
    .into()
}

/// Reads `NAME=URL`.
fn peer(text: &str) -> (String, String) {
    let (name, url) = text.split_once('=').unwrap_or_else(|| panic!("--peer NAME=URL, not {text}"));
    (name.to_owned(), url.to_owned())
}

fn report(length: &Length, peers: &[(String, String)], wanted: impl Fn(&str) -> bool) {
    if wanted("footprint") {
        footprint::print(length);
    }
    let sample = SampleBox::new(10, 10);
    let scenarios = scenarios(&sample);
    if scenarios.iter().any(|scenario| wanted(scenario.name)) {
        println!(
            "\nmedians of {} pairs of {:?}, {CONCURRENCY} concurrent requests; ratios are \
             nightporter to bare, with [lowest, highest] of the pairs\n",
            length.pairs, length.slice
        );
    }
    for scenario in scenarios.iter().filter(|scenario| wanted(scenario.name)) {
        print(scenario, ["bare", "nightporter"], &measure(&sample, scenario, length));
    }
    if wanted("ledger") {
        println!("\nthe gate with the ledger against without it\n");
        let configs =
            [&|| sample.config_without_ledger(), &|| sample.config("")] as [Config<'_>; 2];
        print_with_and_without(&sample, &scenarios, length, configs);
    }
    if wanted("traces") {
        // It accepts connections, and never answers.
        let collector = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = collector.local_addr().expect("bound");
        let traces = format!("[telemetry]\notlp_endpoint = \"http://{address}\"\n");
        println!("\nthe gate with every request traced and a dead collector against without\n");
        let configs = [&|| sample.config(""), &|| sample.config(&traces)] as [Config<'_>; 2];
        print_with_and_without(&sample, &scenarios, length, configs);
    }
    if wanted("traefik") {
        traefik::print(length, peers);
    }
    if wanted("instructions") {
        let kept_alive = |scenario: &&Scenario| scenario.transport == Transport::KeepAlive;
        instructions::print(&sample, &scenarios.iter().filter(kept_alive).collect::<Vec<_>>());
    }
    if wanted("stranger") {
        stranger::print(length);
    }
    if wanted("crowd") {
        footprint::print_crowd(length);
    }
    if wanted("apps") {
        apps::print(length);
    }
}

/// The figures of one slice of one server.
#[derive(Debug, Clone, Copy)]
struct Measured {
    throughput: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Processor time of the server per request, in microseconds.
    cpu: f64,
}

/// Measures slices of the bare server and of nightporter in pairs.
fn measure(sample: &SampleBox, scenario: &Scenario, length: &Length) -> Vec<[Measured; 2]> {
    let mut nightporter = Process::nightporter(&sample.config(""));
    let mut gate = nightporter.address();
    let answer = first_answer(gate, &scenario.requests[0]);
    let mut tls = None;
    if scenario.transport == Transport::Http2 {
        let (pair, config) = certificate(sample);
        tls = Some(pair);
        nightporter = Process::nightporter(&sample.config(&config));
        gate = nightporter.address();
    }
    let settings = sample.path().join("bare.json");
    let certificate = tls.as_ref().map(|(certificate, _)| certificate.clone());
    write_settings(&settings, &bare::Settings { answer: answer.clone(), tls });
    let mut bare = Process::part("bare", &settings);
    let servers = [(bare.address(), bare), (gate, nightporter)];
    pairs(sample, scenario, &servers, answer, certificate, length)
}

/// Measures slices of two servers in pairs.
fn pairs(
    sample: &SampleBox,
    scenario: &Scenario,
    servers: &[(SocketAddr, Process); 2],
    answer: Answer,
    certificate: Option<String>,
    length: &Length,
) -> Vec<[Measured; 2]> {
    let settings = Settings {
        transport: scenario.transport,
        concurrency: CONCURRENCY,
        path: AUTH.to_owned(),
        requests: Requests::Listed(scenario.requests.clone()),
        status: answer.status,
        body: answer.body,
        certificate,
    };
    let mut load = start_load(sample, "load.json", &settings);
    let mut slice = |(target, server): &(SocketAddr, Process), longest| {
        let before = server.cpu();
        let Load { requests, seconds, p50, p99 } =
            ask(&mut load, Slice { target: *target, longest, most: usize::MAX });
        let requests = float(requests as u64);
        Measured {
            throughput: requests / seconds,
            p50: float(p50) / 1e3,
            p99: float(p99) / 1e3,
            cpu: float(server.cpu() - before) / requests,
        }
    };
    for server in servers {
        slice(server, length.slice / 3);
    }
    let pair = |number: usize| {
        // The two servers take turns in going first.
        let [first, second] = if number.is_multiple_of(2) { [0, 1] } else { [1, 0] };
        let mut measured = [first, second].map(|index| slice(&servers[index], length.slice));
        if first != 0 {
            measured.reverse();
        }
        measured
    };
    (0..length.pairs).map(pair).collect()
}

/// Measures what the ledger costs the gate: with it against without it.
/// Writes a configuration, which a process reads when it starts.
type Config<'a> = &'a dyn Fn() -> PathBuf;

fn print_with_and_without(
    sample: &SampleBox,
    scenarios: &[Scenario],
    length: &Length,
    [without, with]: [Config<'_>; 2],
) {
    for scenario in scenarios.iter().filter(|scenario| scenario.transport == Transport::KeepAlive) {
        if scenario.target.is_none() {
            continue;
        }
        let mut without = Process::nightporter(&without());
        let gate = without.address();
        let answer = first_answer(gate, &scenario.requests[0]);
        let mut with = Process::nightporter(&with());
        let scenario = Scenario {
            target: Some((0.97, 1.05)),
            requests: scenario.requests.clone(),
            ..*scenario
        };
        let servers = [(gate, without), (with.address(), with)];
        let pairs = pairs(sample, &scenario, &servers, answer, None, length);
        print(&scenario, ["without", "with"], &pairs);
    }
}

fn print(scenario: &Scenario, [first, second]: [&str; 2], pairs: &[[Measured; 2]]) {
    let row = |name: &str, unit: &str, of: fn(&Measured) -> f64, target: Option<String>| {
        let [bare, ours] =
            [0, 1].map(|server| median(pairs.iter().map(|pair| of(&pair[server]))).0);
        let (ratio, [least, most]) = median(pairs.iter().map(|[bare, ours]| of(ours) / of(bare)));
        let target = target.map_or_else(String::new, |target| format!("  (target {target})"));
        println!(
            "  {name:<10} {first} {bare:>8.1}  {second} {ours:>8.1} {unit:<10} \
             ratio {ratio:.3} [{least:.3}, {most:.3}]{target}"
        );
    };
    let (least, most) = scenario.target.unzip();
    println!("{}", scenario.name);
    row("throughput", "requests/s", |slice| slice.throughput, least.map(|t| format!("≥ {t:.2}")));
    row("p50", "µs", |slice| slice.p50, None);
    row("p99", "µs", |slice| slice.p99, most.map(|t| format!("≤ {t:.2}")));
    row("processor", "µs/request", |slice| slice.cpu, None);
    println!();
}

/// Returns the median, the lowest and the highest number.
fn median(numbers: impl Iterator<Item = f64>) -> (f64, [f64; 2]) {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    (numbers[numbers.len() / 2], [numbers[0], numbers[numbers.len() - 1]])
}

fn start_load(sample: &SampleBox, file: &str, settings: &Settings) -> Process {
    let path = sample.path().join(file);
    write_settings(&path, settings);
    Process::part("load", &path)
}

fn write_settings(path: &Path, settings: &impl serde::Serialize) {
    std::fs::write(path, serde_json::to_vec(settings).expect("JSON")).expect("writable");
}

fn ask(load: &mut Process, slice: Slice) -> Load {
    load.write_line(&serde_json::to_string(&slice).expect("JSON"));
    serde_json::from_str(&load.read_line()).expect("a load")
}

/// Returns the status of a response, if there is one.
async fn status_of(server: SocketAddr, path: &str, headers: &Headers) -> Option<u16> {
    let stream = tokio::net::TcpStream::connect(server).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let mut request = http::Request::get(path);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
    Some(response.status().as_u16())
}

/// Returns nightporter's first response other than 503.
#[tokio::main(flavor = "current_thread")]
async fn first_answer(gate: SocketAddr, headers: &Headers) -> Answer {
    loop {
        let stream = tokio::net::TcpStream::connect(gate).await.expect("it listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = http::Request::get("/internal/auth");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status().as_u16();
        if status == 503 {
            continue;
        }
        let own = response
            .headers()
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "date" | "content-length"));
        let text = |value: &http::HeaderValue| value.to_str().expect("ASCII").to_owned();
        let headers = own.map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let body = String::from_utf8(body.into()).expect("UTF-8");
        return Answer { status, headers, body };
    }
}

/// Creates a certificate and its key; returns them and the configuration that uses them.
fn certificate(sample: &SampleBox) -> ((String, String), String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost", "127.0.0.1"].map(str::to_owned))
            .expect("a certificate");
    let pair = (cert.pem(), signing_key.serialize_pem());
    let (certificate, key) = (sample.path().join("gate.pem"), sample.path().join("gate.key"));
    std::fs::write(&certificate, &pair.0).expect("writable");
    std::fs::write(&key, &pair.1).expect("writable");
    let config = format!(
        "[gate.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    (pair, config)
}
