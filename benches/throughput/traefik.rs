//! Through a real Traefik: how much of its rate is left with forwardAuth, by what answers.
//!
//! Clients send kept-alive requests over plain HTTP; Traefik asks the server over plain HTTP
//! or over TLS and HTTP/2, and passes granted requests to one app, a bare server.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::footprint::float;
use crate::load::{Headers, Load, Requests, Settings, Slice, Transport};
use crate::process::Process;
use crate::sample::{self, SampleBox};
use crate::write_settings;
use crate::{CONCURRENCY, Length, ask, bare, certificate, first_answer, median, start_load};

/// What is requested; the path is private, so each request carries a token.
const PATH: &str = "/page";

/// The least shares of Traefik's own rate that are aimed at.
const TARGET_TLS: f64 = 0.60;

/// How long Traefik may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// One entry point of Traefik.
struct Variant {
    name: String,
    /// Where Traefik asks, and whether the certificate is the sample's; `None` asks nobody.
    auth: Option<(String, bool)>,
    entry: SocketAddr,
}

/// Measures all variants in turn. `peers` are further forwardAuth servers: names and URLs.
pub fn print(length: &Length, peers: &[(String, String)]) {
    let program = traefik();
    if !program.exists() {
        println!("through Traefik: not measured; `tests/run` installs {}", program.display());
        return;
    }
    let sample = SampleBox::new(10, 10);
    let cookie = vec![("cookie".to_owned(), SampleBox::cookie(0))];
    let mut headers = sample::forwarded(&sample::host(0), PATH);
    headers.extend(cookie.clone());
    let ((pem, key), tls) = certificate(&sample);
    let mut plain = Process::nightporter(&sample.config(""));
    let plain_address = plain.address();
    let answer = first_answer(plain_address, &headers);
    let mut secured = Process::nightporter(&sample.config(&tls));
    let secured_address = secured.address();
    let part = |file: &str, tls| {
        let settings = sample.path().join(file);
        write_settings(&settings, &bare::Settings { answer: answer.clone(), tls });
        let mut process = Process::part("bare", &settings);
        let address = process.address();
        (process, address)
    };
    let (_app, app) = part("app.json", None);
    let (_bare, bare_plain) = part("bare.json", None);
    let (_bare_tls, bare_secured) = part("bare-tls.json", Some((pem, key)));
    let url = |scheme: &str, address: SocketAddr| {
        format!("{scheme}://127.0.0.1:{}/internal/auth", address.port())
    };
    let mut variants = vec![
        variant("without forwardAuth", None),
        variant("bare, plain", Some((url("http", bare_plain), false))),
        variant("nightporter, plain", Some((url("http", plain_address), false))),
        variant("bare, TLS and HTTP/2", Some((url("https", bare_secured), true))),
        variant("nightporter, TLS and HTTP/2", Some((url("https", secured_address), true))),
    ];
    variants.extend(peers.iter().map(|(name, url)| variant(name, Some((url.clone(), false)))));
    let traefik = start(&program, sample.path(), &variants, app);
    let mut request: Headers = vec![("host".to_owned(), sample::host(0))];
    request.extend(cookie);
    for variant in &variants {
        wait_until_granted(variant, &request);
    }
    let settings = Settings {
        transport: Transport::KeepAlive,
        concurrency: CONCURRENCY,
        path: PATH.to_owned(),
        requests: Requests::Listed(vec![request]),
        status: answer.status,
        body: answer.body,
        certificate: None,
    };
    let mut load = start_load(&sample, "load.json", &settings);
    let mut slice = |target, longest| ask(&mut load, Slice { target, longest, most: usize::MAX });
    for variant in &variants {
        slice(variant.entry, length.slice / 3);
    }
    let mut rounds: Vec<Vec<Load>> = Vec::new();
    for _ in 0..length.pairs {
        rounds.push(variants.iter().map(|variant| slice(variant.entry, length.slice)).collect());
    }
    println!(
        "\nthrough Traefik, medians of {} rounds of {:?}, {CONCURRENCY} concurrent requests; \
         shares of its rate without forwardAuth, with [lowest, highest]",
        length.pairs, length.slice
    );
    for (index, variant) in variants.iter().enumerate() {
        let rate = |load: &Load| float(load.requests as u64) / load.seconds;
        let rates = rounds.iter().map(|round| rate(&round[index]));
        let shares = rounds.iter().map(|round| rate(&round[index]) / rate(&round[0]));
        let p99 = median(rounds.iter().map(|round| float(round[index].p99) / 1e3)).0;
        let (share, [least, most]) = median(shares);
        let target = if variant.name == "nightporter, TLS and HTTP/2" {
            format!("  (target ≥ {TARGET_TLS:.2})")
        } else {
            String::new()
        };
        println!(
            "  {:<28} {:>8.0} requests/s  p99 {p99:>8.0} µs  share {share:.3} \
             [{least:.3}, {most:.3}]{target}",
            variant.name,
            median(rates).0
        );
    }
    for (name, bare, ours) in [("plain", 1, 2), ("TLS and HTTP/2", 3, 4)] {
        let ratio = |round: &Vec<Load>| {
            let rate = |load: &Load| float(load.requests as u64) / load.seconds;
            rate(&round[ours]) / rate(&round[bare])
        };
        let (ratio, [least, most]) = median(rounds.iter().map(ratio));
        println!("  {name}: nightporter to bare {ratio:.3} [{least:.3}, {most:.3}]");
    }
    drop(traefik);
}

fn variant(name: &str, auth: Option<(String, bool)>) -> Variant {
    // The port is free again when Traefik binds it.
    let port =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Variant { name: name.to_owned(), auth, entry: port.expect("a free port") }
}

/// Returns Traefik of the virtual environment that the tests make: `TESTS_VENV`, or
/// `target/venv`.
fn traefik() -> PathBuf {
    let venv = std::env::var_os("TESTS_VENV")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv").into(), PathBuf::from);
    venv.join("bin/traefik")
}

fn start(program: &Path, folder: &Path, variants: &[Variant], app: SocketAddr) -> Process {
    let (mut entries, mut routers, mut middlewares) = (String::new(), String::new(), String::new());
    for (index, Variant { entry, auth, .. }) in variants.iter().enumerate() {
        writeln!(entries, "  entry{index}: {{address: \"{entry}\"}}").expect("text");
        let used =
            if auth.is_some() { format!(", middlewares: [auth{index}]") } else { String::new() };
        writeln!(
            routers,
            "    router{index}: {{rule: \"PathPrefix(`/`)\", entryPoints: [entry{index}], \
             service: app{used}}}"
        )
        .expect("text");
        if let Some((url, is_sample)) = auth {
            let tls = if *is_sample {
                format!(", tls: {{ca: \"{}\"}}", folder.join("gate.pem").display())
            } else {
                String::new()
            };
            writeln!(
                middlewares,
                "    auth{index}: {{forwardAuth: {{address: \"{url}\", authResponseHeadersRegex: \
                 \"(?i)^x[^a-z0-9]ptl[^a-z0-9]\"{tls}}}}}"
            )
            .expect("text");
        }
    }
    let dynamic = folder.join("dynamic.yml");
    let text = format!(
        "http:\n  routers:\n{routers}  middlewares:\n{middlewares}  services:\n    app: \
         {{loadBalancer: {{servers: [{{url: \"http://{app}\"}}]}}}}\n"
    );
    std::fs::write(&dynamic, text).expect("writable");
    let fixed = folder.join("traefik.yml");
    let text = format!(
        "entryPoints:\n{entries}providers:\n  file: {{filename: \"{}\"}}\nlog: {{level: ERROR}}\n\
         global: {{checkNewVersion: false, sendAnonymousUsage: false}}\n",
        dynamic.display()
    );
    std::fs::write(&fixed, text).expect("writable");
    let mut command = Command::new(program);
    Process::start(
        command.arg(format!("--configFile={}", fixed.display())).stderr(Stdio::inherit()),
    )
}

/// Waits until an entry point grants.
#[tokio::main(flavor = "current_thread")]
async fn wait_until_granted(variant: &Variant, request: &Headers) {
    let began = Instant::now();
    loop {
        let status = crate::status_of(variant.entry, PATH, request).await;
        if status == Some(200) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{} answers {status:?}", variant.name);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
