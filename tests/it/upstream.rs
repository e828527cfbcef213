//! Beside a stand-in for shard_core: what it is asked, and what its word counts.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::boxes::{self, MANAGEMENT_SECRET, SampleBox, Store, TERMINAL};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::load::{Shot, drive};
use crate::support::server::Nightporter;
use crate::support::test_server::{Reply, TestServer};

const PATIENCE: Duration = Duration::from_secs(120);

/// Less than nightporter waits for the upstream: whoever waits with it takes longer,
/// however often that is tried.
const UNDISTURBED: Duration = Duration::from_secs(9);

const MANAGEMENT: &str = "/internal/authenticate_management";

/// Metrics are the whole process's, and nobody else here has an upstream.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

fn upstream(core: &TestServer, further: &str) -> String {
    format!("[upstream]\nurl = \"{}\"\n{further}", core.url())
}

async fn sample(apps: &[&str]) -> SampleBox {
    let sample = SampleBox::new(Store::Files).await;
    let headers = json!({"X-Ptl-Client-Type": "{{ auth.client_type }}",
        "X-Ptl-Client-Id": "{{ auth.client_id }}"});
    let rule = |access: &str| json!({"access": access, "headers": headers});
    for app in apps {
        sample.add_app(app, &json!({"": rule("private"), "/pub": rule("public")})).await;
    }
    sample
}

/// A counter's value now; 0 while it has none.
async fn counted(server: &Nightporter, series: &str) -> u64 {
    let metrics = ask(server.ops, &Request::new("GET", "/metrics")).await;
    let value =
        metrics.body().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().expect("a count"))
}

async fn mirrored(server: &Nightporter, outcome: &str) -> u64 {
    counted(server, &format!("nightporter_mirror_total{{outcome=\"{outcome}\"}}")).await
}

fn header<'a>(asked: &'a str, name: &str) -> Option<&'a str> {
    let mut values = asked.lines().filter_map(|line| {
        let (other, value) = line.split_once(": ")?;
        other.eq_ignore_ascii_case(name).then_some(value)
    });
    let value = values.next();
    assert_eq!(values.next(), None, "{name} came twice: {asked}");
    value
}

#[tokio::test]
async fn ten_thousand_requests_for_five_apps_are_five_at_the_upstream() {
    let _alone = alone().await;
    let apps = ["a", "b", "c", "d", "e"];
    let sample = sample(&apps).await;
    let core = TestServer::start().await;
    let server = Nightporter::with(&sample, &upstream(&core, "")).await;
    let before = mirrored(&server, "granted").await;
    let host = |app: &str| format!("{app}.box.example");
    let shots: Arc<[_]> = apps.map(|app| Shot::new(&Request::auth(host(app), "/pub"), 200)).into();
    drive(server.gate, &shots, 50, 10_000).await.is_as_expected(10_000);
    poll("five are granted", PATIENCE, async || mirrored(&server, "granted").await == before + 5)
        .await;
    // A description that changes is loaded anew; its app is not due for that, while
    // one that is new is.
    sample.edit_app("a", &json!({"": {"access": "public"}}));
    server.until(200, &Request::auth(host("a"), "/other")).await;
    sample.add_app("f", &json!({"": {"access": "public"}})).await;
    server.until(200, &Request::auth(host("f"), "/")).await;
    poll("so is a sixth", PATIENCE, async || mirrored(&server, "granted").await >= before + 6)
        .await;
    let asked = core.requests();
    let hosts: BTreeSet<_> = asked.iter().map(|asked| header(asked, "x-forwarded-host")).collect();
    assert_eq!((asked.len(), hosts.len()), (6, 6), "{asked:#?}");
    assert_eq!(mirrored(&server, "skipped").await, 0);
}

#[tokio::test]
async fn a_granted_request_arrives_as_a_proxy_would_send_it() {
    let _alone = alone().await;
    let sample = sample(&["notes"]).await;
    let core = TestServer::start().await;
    let ignore = "[wake.ignore]\nuser_agents = [\"uptime\"]\npaths = [\"/pub/health\"]\n";
    let server = Nightporter::with(&sample, &upstream(&core, ignore)).await;
    let host = "notes.box.example";
    assert_eq!(server.auth(host, "/private").await.status, 401);
    assert_eq!(server.auth(host, "/pub/health").await.status, 200);
    let checker = Request::auth(host, "/pub").header("User-Agent", "Uptime/1");
    assert_eq!(server.ask(&checker).await.status, 200);
    let token = boxes::token();
    let asked = Request::auth(host, "/a%20b?c=d")
        .cookie(&token)
        .header("X-Forwarded-For", "192.0.2.7")
        .header("X-Forwarded-Port", "443")
        .header("User-Agent", "Firefox")
        .header("Accept", "text/html")
        .header("Connection", "keep-alive, X-Hop")
        .header("X-Hop", "1")
        .header("Keep-Alive", "timeout=5")
        .header("TE", "trailers")
        .header("Proxy-Authorization", "Basic eA==");
    assert_eq!(server.ask(&asked).await.status, 200);
    core.wait_for_requests(1).await;
    let [asked] = &core.requests()[..] else { panic!("{:#?}", core.requests()) };
    assert!(asked.starts_with("GET /internal/auth HTTP/1.1\r\n"), "{asked}");
    let cookie = format!("authorization={token}");
    let address = core.address.to_string();
    let expected = BTreeSet::from([
        ("host", &*address),
        ("cookie", &*cookie),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", host),
        ("x-forwarded-uri", "/a%20b?c=d"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-port", "443"),
        ("user-agent", "Firefox"),
        ("accept", "text/html"),
    ]);
    let headers: BTreeSet<_> = asked.lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(headers, expected);
}

/// Without what differs from one answer to the next.
async fn answers(server: &Nightporter) -> Vec<Response> {
    let mut answers = Vec::new();
    for request in [
        Request::auth("notes.box.example", "/").cookie(boxes::token()),
        Request::auth("notes.box.example", "/"),
        Request::auth("notes.box.example", "/pub"),
        Request::auth("wiki.box.example", "/pub"),
        Request::auth("nothing.box.example", "/"),
        Request::unforwarded(),
        Request::new("GET", "/internal/authenticate_terminal").cookie(boxes::token()),
        Request::new("GET", MANAGEMENT),
        Request::new("GET", MANAGEMENT).header("Authorization", MANAGEMENT_SECRET),
    ] {
        let mut answer = server.ask(&request).await;
        answer.headers.retain(|(name, _)| name != "date");
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn an_upstream_that_fails_changes_no_answer() {
    let _alone = alone().await;
    let sample = sample(&["notes", "wiki"]).await;
    let without = format!("{:#?}", answers(&Nightporter::of(&sample).await).await);
    for shadow in ["", "shadow = true\n"] {
        for told in [
            Reply::status(401),
            Reply::status(500),
            Reply::status(200).header("X-Ptl-Client-Id", "somebody").body(&vec![b'x'; 1 << 20]),
            Reply::BrokenOff,
            Reply::NoHttp,
            Reply::Hang,
        ] {
            let mut tries = 0..3;
            loop {
                let core = TestServer::start().await;
                core.reply_with(told.clone());
                let server = Nightporter::with(&sample, &upstream(&core, shadow)).await;
                let start = Instant::now();
                let with = format!("{:#?}", answers(&server).await);
                let taken = start.elapsed();
                assert_eq!(with, without, "{told:?}");
                core.wait_for_requests(2).await;
                if taken < UNDISTURBED {
                    break;
                }
                assert!(tries.next().is_some(), "{told:?} delays: {taken:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_counted_and_costs_no_answer() {
    let _alone = alone().await;
    let sample = sample(&["notes", "wiki"]).await;
    let core = TestServer::start().await;
    let config = upstream(&core, "");
    core.stop().await;
    let server = Nightporter::with(&sample, &config).await;
    let before = mirrored(&server, "failed").await;
    let shots: Arc<[_]> =
        ["notes", "wiki"].map(|app| Shot::new(&Request::auth(app, "/pub"), 200)).into();
    drive(server.gate, &shots, 10, 1000).await.is_as_expected(1000);
    poll("both fail", PATIENCE, async || mirrored(&server, "failed").await == before + 2).await;
}

fn with(secret: &str) -> Request {
    Request::new("GET", MANAGEMENT).header("Authorization", secret)
}

/// Asks with ever new secrets until the upstream is asked about one; that one's answer.
async fn asked_about(server: &Nightporter, core: &TestServer, name: &str) -> (String, u16) {
    let before = core.requests().len();
    let mut answer = (String::new(), 0);
    let mut times = 0;
    poll("a turn", PATIENCE, async || {
        times += 1;
        let secret = format!("secret-of-{name}-{times}");
        let status = server.ask(&with(&secret)).await.status;
        let asked = core.requests().len() > before;
        if !asked {
            assert_eq!(status, 401, "nobody vouched");
        }
        answer = (secret, status);
        asked
    })
    .await;
    let asked = core.requests().pop().expect("a question");
    assert!(asked.starts_with(&format!("GET {MANAGEMENT} HTTP/1.1\r\n")), "{asked}");
    assert_eq!(header(&asked, "authorization"), Some(&*answer.0));
    answer
}

#[tokio::test]
async fn the_upstream_vouches_for_a_management_secret_by_a_clear_word_alone() {
    let _alone = alone().await;
    let sample = sample(&[]).await;
    let core = TestServer::start().await;
    let server = Nightporter::with(&sample, &upstream(&core, "")).await;
    let outcome =
        |word: &str| format!("nightporter_management_fallback_total{{outcome=\"{word}\"}}");
    let before = counted(&server, &outcome("failed")).await;

    for secret in ["", "1234567"] {
        assert_eq!(server.ask(&with(secret)).await.status, 401);
    }
    assert_eq!(server.ask(&Request::new("GET", MANAGEMENT)).await.status, 401);
    assert_eq!(server.ask(&with(MANAGEMENT_SECRET)).await.status, 200);
    assert_eq!(core.requests(), [""; 0], "nothing to ask about");

    let (secret, status) = asked_about(&server, &core, "granted").await;
    assert_eq!(status, 200);
    assert_eq!(server.ask(&with(&secret)).await.status, 401, "for one request only");

    let failing = [
        Reply::status(500),
        Reply::status(302),
        Reply::status(404),
        Reply::status(204).body(b""),
        Reply::status(200).body(b"<!doctype html>"),
        Reply::BrokenOff,
        Reply::NoHttp,
    ];
    for told in &failing {
        core.reply_with(told.clone());
        assert_eq!(asked_about(&server, &core, "nobody").await.1, 401, "{told:?}");
    }
    assert_eq!(counted(&server, &outcome("failed")).await, before + failing.len() as u64);

    core.reply_with(Reply::status(401));
    let (refused, status) = asked_about(&server, &core, "refused").await;
    assert_eq!(status, 401);
    // By the next turn the core has changed its mind, and is not asked again.
    core.reply_with(Reply::status(200));
    asked_about(&server, &core, "another").await;
    let remembered = counted(&server, &outcome("remembered")).await;
    assert_eq!(server.ask(&with(&refused)).await.status, 401);
    assert_eq!(counted(&server, &outcome("remembered")).await, remembered + 1);
    let about_it = |asked: &&String| header(asked, "authorization") == Some(&refused);
    assert_eq!(core.requests().iter().filter(about_it).count(), 1);
}

#[tokio::test]
async fn a_flood_of_secrets_is_a_trickle_at_the_upstream_and_locks_nobody_out() {
    let _alone = alone().await;
    let sample = sample(&[]).await;
    let core = TestServer::start().await;
    core.reply_with(Reply::status(401));
    let server = Nightporter::with(&sample, &upstream(&core, "")).await;
    let start = Instant::now();
    let shots: Arc<[_]> =
        (0..2000).map(|n| Shot::new(&with(&format!("wrong-secret-{n}")), 401)).collect();
    let gate = server.gate;
    let flood = tokio::spawn(async move { drive(gate, &shots, 10, 2000).await });
    core.wait_for_requests(1).await;
    // The question of whoever it was made the core fetch the key and store it.
    sample.set_management_secret("the-new-key-of-the-controller").await;
    server.until(200, &with("the-new-key-of-the-controller")).await;
    flood.await.expect("no panic").is_as_expected(2000);
    let asked = core.requests().len();
    let seconds = usize::try_from(start.elapsed().as_secs()).expect("short");
    assert!(asked <= seconds + 1, "{asked} questions in {seconds} s");
}

#[tokio::test]
async fn a_question_that_hangs_holds_up_nobody_else() {
    let _alone = alone().await;
    let sample = sample(&[]).await;
    let core = TestServer::start().await;
    core.reply_with(Reply::Hang);
    let server = Nightporter::with(&sample, &upstream(&core, "")).await;
    let mut hanging = Connection::open(server.gate).await.expect("the gate listens");
    let asking = tokio::spawn(async move { hanging.ask(&with("secret-that-hangs")).await });
    core.wait_for_requests(1).await;
    for n in 0..4 {
        assert_eq!(server.ask(&with(&format!("other-secret-{n}"))).await.status, 401);
        assert_eq!(server.ask(&with(MANAGEMENT_SECRET)).await.status, 200);
    }
    assert!(!asking.is_finished(), "the others were held up until it was over");
    assert_eq!(core.requests().len(), 1);
    asking.abort();
}

/// Waits until exactly these outcomes were counted since `before`.
async fn shadowed(server: &Nightporter, before: &[u64], expected: [u64; 6]) {
    let mut found = String::new();
    let start = Instant::now();
    loop {
        let now = shadow_counts(server).await;
        let since: Vec<_> = now.iter().zip(before).map(|(now, before)| now - before).collect();
        if since == expected {
            return;
        }
        found.clear();
        write!(found, "{since:?}").expect("text");
        assert!(start.elapsed() < PATIENCE, "{found}, not {expected:?}");
        tokio::task::yield_now().await;
    }
}

const OUTCOMES: [&str; 6] = ["same", "expected", "status", "headers", "failed", "skipped"];

/// Over all endpoints.
async fn shadow_counts(server: &Nightporter) -> Vec<u64> {
    let mut counts = Vec::new();
    for outcome in OUTCOMES {
        let mut sum = 0;
        for endpoint in ["auth", "authenticate_terminal", "authenticate_management"] {
            let labels = format!("{{endpoint=\"{endpoint}\",outcome=\"{outcome}\"}}");
            sum += counted(server, &format!("nightporter_shadow_total{labels}")).await;
        }
        counts.push(sum);
    }
    counts
}

#[tokio::test]
async fn a_shadow_compares_every_verdict_and_changes_none() {
    let _alone = alone().await;
    let sample = sample(&["notes"]).await;
    let core = TestServer::start().await;
    // The core as it is, with mistakes on some paths.
    core.reply_by(|head| {
        let grant = |kind: &str, id: &str| {
            Reply::status(200).header("X-Ptl-Client-Type", kind).header("X-Ptl-Client-Id", id)
        };
        let knows = head.contains(&boxes::token());
        if head.starts_with("GET /internal/authenticate_management") {
            return Reply::status(if head.contains(MANAGEMENT_SECRET) { 200 } else { 401 });
        }
        if head.starts_with("GET /internal/authenticate_terminal") {
            return grant("terminal", TERMINAL).header("X-Ptl-Client-Name", b"B\xfcro-Handy");
        }
        if head.contains("Notes.box.example") {
            return Reply::status(404);
        }
        match header(head, "x-forwarded-uri") {
            None => Reply::status(500),
            Some("/pub/broken-off") => Reply::BrokenOff,
            Some("/pub/forbidden") => Reply::status(401),
            Some("/pub/other") => grant("terminal", ""),
            Some(uri) if uri.starts_with("/pub") => {
                if knows {
                    grant("terminal", TERMINAL)
                } else {
                    grant("anonymous", "")
                }
            }
            Some(_) if knows => grant("terminal", TERMINAL),
            Some(_) => Reply::status(401),
        }
    });
    let server = Nightporter::with(&sample, &upstream(&core, "shadow = true\n")).await;
    let before = shadow_counts(&server).await;
    let asks = async |request: Request, status| {
        let answer = server.ask(&request).await;
        assert_eq!(answer.status, status, "{request:?}");
    };
    let auth = |uri: &str| Request::auth("notes.box.example", uri);

    asks(auth("/"), 401).await;
    asks(auth("/").cookie(boxes::token()), 200).await;
    asks(auth("/pub"), 200).await;
    asks(Request::new("GET", "/internal/authenticate_terminal").cookie(boxes::token()), 200).await;
    asks(with(MANAGEMENT_SECRET), 200).await;
    shadowed(&server, &before, [5, 0, 0, 0, 0, 0]).await;

    asks(auth("/pub/../private"), 401).await;
    asks(Request::auth("Notes.box.example", "/pub"), 200).await;
    asks(Request::unforwarded(), 400).await;
    shadowed(&server, &before, [5, 3, 0, 0, 0, 0]).await;

    asks(auth("/pub/forbidden"), 200).await;
    asks(Request::new("GET", "/internal/authenticate_terminal"), 401).await;
    asks(auth("/pub/other"), 200).await;
    asks(auth("/pub/broken-off"), 200).await;
    shadowed(&server, &before, [5, 3, 2, 1, 1, 0]).await;
    assert_eq!(core.requests().len(), 12, "each is asked once, and nothing is mirrored");

    core.reply_with(Reply::Hang);
    let shots: Arc<[_]> = [Shot::new(&auth("/pub"), 200)].into();
    drive(server.gate, &shots, 4, 100).await.is_as_expected(100);
    shadowed(&server, &before, [5, 3, 2, 1, 1, 36]).await;
}
