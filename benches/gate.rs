//! The cost of a decision: its pure part, a cache hit, and a complete subrequest with warm
//! caches.

#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark panics if it cannot continue")]

mod sample;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use nightporter::config::{self, Config, Environment};
use nightporter::domain::app::{Access, PathRule};
use nightporter::domain::client::Client;
use nightporter::domain::policy::{PathMatching, Rules, match_rules};
use nightporter::domain::request::{Readings, app_label};
use nightporter::gate::Gate;
use nightporter::gate::verdict::Verdict;
use nightporter::store::touch::Touches;
use nightporter::store::{Cached, Freshness, Source, Table};
use nightporter::wake::Registry;

use sample::SampleBox;

criterion_group!(benches, domain, cache, gate);
criterion_main!(benches);

/// Returns the outcome of a future that must not wait, because all its data is in memory.
fn at_once<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("an answer from memory")
}

fn domain(criterion: &mut Criterion) {
    let rule =
        |prefix: &str, access| PathRule { prefix: prefix.into(), access, headers: [].into() };
    let paths =
        [rule("/public/", Access::Public), rule("/peer/", Access::Peer), rule("", Access::Private)];
    let rules = Rules::new(&paths, PathMatching::Prefix);
    let decide = |path: &str| {
        let readings = Readings::new(path).expect("readable");
        let governed = match_rules(&rules, &readings);
        governed.and_then(|governed| governed.admit(Client::Anonymous)).is_ok()
    };
    let mut group = criterion.benchmark_group("domain");
    let plain = "/public/notes/2024/index.html?page=2";
    group.bench_function("plain path", |bencher| bencher.iter(|| decide(black_box(plain))));
    let encoded = "/public/%252e%252e%252fnotes;v=1//a%5c..%2f.%2e/b%3fc";
    let others = Readings::new(encoded).and_then(|readings| readings.others());
    let count = others.expect("readable").len() + 1;
    group.bench_function(format!("encoded path, {count} readings"), |bencher| {
        bencher.iter(|| decide(black_box(encoded)));
    });
    let host = "Notes.F68XF7.freeshard.cloud:443";
    group.bench_function("host", |bencher| {
        bencher.iter(|| app_label(black_box(host), Some("f68xf7.freeshard.cloud")).is_ok());
    });
}

fn cache(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let config = config::load(None, &Environment::new()).expect("the defaults");
    let freshness = Arc::new(Freshness::new(config.cache));
    let cached = Cached::keyed(Arc::clone(&freshness), [Table::Apps, Table::AppMeta], |key| {
        std::future::ready(Ok(key.len()))
    });
    runtime.block_on(async { cached.get("app0", freshness.now()).await.expect("loaded") });
    criterion.bench_function("cache hit", |bencher| {
        freshness.verify(freshness.now());
        let mut hits = 0_u32;
        bencher.iter(|| {
            hits = hits.wrapping_add(1);
            let now = freshness.now();
            // There is no store here whose heartbeats would verify freshness.
            if hits.is_multiple_of(1 << 16) {
                freshness.verify(now);
            }
            at_once(cached.get(black_box("app0"), now)).expect("kept").value
        });
    });
}

fn gate(criterion: &mut Criterion) {
    let sample = SampleBox::new(10, 10);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let _inside = runtime.enter();
    let config = config::load(Some(&sample.config("")), &Environment::new()).expect("valid");
    let gate = serve(&config);
    let mut group = criterion.benchmark_group("auth");
    let token = ("cookie".to_owned(), SampleBox::cookie(0));
    let uri = "/peer/item";
    let [input, signature] = sample.signature(&sample::host(0), uri);
    let signature = [("signature-input".to_owned(), input), ("signature".to_owned(), signature)];
    for (name, uri, credentials, granted) in [
        ("anonymous, public", "/public/page", vec![], true),
        ("terminal, private", "/page", vec![token], true),
        ("peer, signature verified", uri, signature.into(), true),
        ("anonymous, denied", "/page", vec![], false),
    ] {
        let mut headers = sample::forwarded(&sample::host(0), uri);
        headers.extend(credentials);
        let headers: HeaderMap = headers.into_iter().map(header).collect();
        let verdict = runtime.block_on(gate.auth(&headers)).verdict;
        assert_eq!(matches!(verdict, Verdict::Grant(_)), granted, "{name}: {verdict:?}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| at_once(gate.auth(black_box(&headers))));
        });
    }
}

/// Starts a gate and waits until its store is live.
fn serve(config: &Config) -> Gate {
    let freshness = Arc::new(Freshness::new(config.cache.clone()));
    let source = Arc::new(Source::open(config, &freshness).expect("a folder"));
    let touches = Arc::new(Touches::new(config.touch.clone()));
    let gate = Gate::new(config, Arc::clone(&source), freshness, touches, Registry::new().0, None);
    tokio::spawn(async move { source.watch().await });
    let deadline = Instant::now() + Duration::from_secs(10);
    while !gate.health().live {
        assert!(Instant::now() < deadline, "the store is not live");
        std::thread::yield_now();
    }
    gate
}

fn header((name, value): (String, String)) -> (HeaderName, HeaderValue) {
    (name.parse().expect("a name"), value.parse().expect("a value"))
}
