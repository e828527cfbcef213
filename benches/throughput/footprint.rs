//! The footprint of the nightporter binary: disk space, start time and memory.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::{AUTH, Load, Requests, Settings, Slice, Transport};
use crate::process::Process;
use crate::sample::SampleBox;
use crate::{CONCURRENCY, Length, ask, median, start_load};

/// How long to wait before memory is measured: memory for the start is freed by then.
const SETTLING: Duration = Duration::from_secs(1);

pub fn print(length: &Length) {
    let binary = Path::new(env!("CARGO_BIN_EXE_nightporter"));
    let size = std::fs::metadata(binary).expect("built").len();
    println!("binary      {:.1} MB (target 15)", float(size) / 1e6);

    let sample = SampleBox::new(10, 10);
    let config = sample.config("");
    let starts: Vec<_> = (0..length.starts).map(|_| start(&config)).collect();
    let milliseconds = starts.iter().map(|(_, taken)| taken.as_secs_f64() * 1e3);
    let (median, [least, most]) = median(milliseconds);
    println!("ready       {median:.0} ms after exec [{least:.0}, {most:.0}] (target 100)");
    drop(starts);

    let ((_, server), _) = start(&config);
    std::thread::sleep(SETTLING);
    println!(
        "idle        {:.1} MiB resident (target 15), {:.1} of it the program's file and libraries",
        mebibytes(server.resident()),
        mebibytes(server.resident_files())
    );
}

/// Starts the nightporter binary; returns it with its gate's address, and the time until it
/// was live.
pub fn start(config: &Path) -> ((SocketAddr, Process), Duration) {
    let began = Instant::now();
    let mut server = Process::nightporter(config);
    let (gate, ops) = (server.address(), server.address());
    while !probe(ops).is_some_and(|answer| answer.contains(r#"{"state":"live"}"#)) {
        assert!(began.elapsed() < Duration::from_secs(60), "not live");
    }
    ((gate, server), began.elapsed())
}

fn probe(ops: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(ops).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Measures memory and throughput with full caches: each request comes from another
/// terminal and is for another app.
pub fn print_crowd(length: &Length) {
    let (apps, requests) = (length.apps, length.requests);
    let sample = SampleBox::new(apps, apps);
    let cookies: Vec<_> = (0..apps).map(SampleBox::cookie).collect();
    let ((target, server), ready) = start(&sample.config(""));
    std::thread::sleep(SETTLING);
    let before = server.resident();
    print_parts(&sample, &server, target, apps, &cookies, length);
    let settings = pairs(apps, cookies);
    let mut load = start_load(&sample, "load.json", &settings);
    let slice = Slice { target, longest: length.crowd, most: requests };
    let Load { requests, seconds, p50, p99 } = ask(&mut load, slice);
    let after = server.resident();
    println!(
        "crowd       {apps} apps, {apps} terminals: ready in {:.0} ms",
        ready.as_secs_f64() * 1e3
    );
    println!(
        "            {:.1} MiB resident before and {:.1} after {requests} requests, each of \
         a different app and terminal",
        mebibytes(before),
        mebibytes(after)
    );
    let (p50, p99) = (float(p50) / 1e3, float(p99) / 1e3);
    println!(
        "            {:.0} requests/s, p50 {p50:.0} µs, p99 {p99:.0} µs",
        float(requests as u64) / seconds
    );
}

/// Prints what of the memory belongs to what, by what is added when it comes to be used.
fn print_parts(
    sample: &SampleBox,
    server: &Process,
    target: SocketAddr,
    apps: usize,
    cookies: &[String],
    length: &Length,
) {
    let few = SampleBox::new(10, 10);
    let ((_, empty), _) = start(&few.config(""));
    std::thread::sleep(SETTLING);
    let files = empty.resident_files();
    let mut last = empty.resident();
    println!("memory      {:>6.1} MiB the program's file and libraries", mebibytes(files));
    println!("            {:>6.1} MiB a box of 10 apps", mebibytes(last - files));
    drop(empty);
    let mut added = |what: &str| {
        let now = server.resident();
        let (more, each) = (float(now) - float(last), apps.max(1) as u64);
        println!(
            "            {:>+6.1} MiB {what}: {:.0} bytes each",
            more / 1024.0,
            more * 1024.0 / float(each)
        );
        last = now;
    };
    added("apps known to the reconciler, the idle loop and the file watch");
    for (what, cookies) in [
        ("apps in the gate's caches", &cookies[..1]),
        ("terminals, tokens and rendered headers", cookies),
    ] {
        let mut load = start_load(sample, "load.json", &pairs(apps, cookies.to_vec()));
        ask(&mut load, Slice { target, longest: length.crowd, most: apps });
        std::thread::sleep(SETTLING);
        added(what);
    }
}

/// Requests for all apps from the terminals of these cookies.
pub fn pairs(apps: usize, cookies: Vec<String>) -> Settings {
    Settings {
        transport: Transport::KeepAlive,
        concurrency: CONCURRENCY,
        path: AUTH.to_owned(),
        requests: Requests::Pairs { apps, cookies },
        status: 200,
        body: "null".into(),
        certificate: None,
    }
}

pub fn mebibytes(kibibytes: u64) -> f64 {
    float(kibibytes) / 1024.0
}

/// Numbers here stay far below 2^53.
#[expect(clippy::cast_precision_loss)]
pub fn float(number: u64) -> f64 {
    number as f64
}
