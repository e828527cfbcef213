//! What receivers get, when, and what is written about it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nightporter::webhooks::signature::SigningSecret;
use serde_json::{Value, json};

use super::receiver::{Received, Receiver, Reply};
use super::site::{PATIENCE, SECRET, Site, event, personal, webhook};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;
use crate::support::sign::python;
use crate::support::soak;

/// Waits until a receiver has got so many messages.
async fn until(receiver: &Receiver, count: usize) -> Vec<Received> {
    poll(&format!("{count} messages"), PATIENCE, async || receiver.received().len() >= count).await;
    receiver.received()
}

/// Puts messages to the published library; returns what it says of each.
fn verified(messages: &[(&str, &Received)]) -> Vec<Value> {
    let mut child = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/webhooks/verify.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python of the virtual environment");
    let mut input = child.stdin.take().expect("piped");
    for (secret, received) in messages {
        let headers: serde_json::Map<String, Value> =
            received.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let body = String::from_utf8(received.body.clone()).expect("text");
        writeln!(input, "{}", json!({"secret": secret, "body": body, "headers": headers}))
            .expect("it reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn a_webhook_is_verified_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    let url = receiver.url("/in?key=1");
    let site = Site::new(&sample, &webhook("hook", &url, "")).await;
    site.queue(&event("alert-1-1", "alert.firing")).await;
    let first = until(&receiver, 1).await.remove(0);
    assert_eq!(first.line, "POST /in?key=1 HTTP/1.1");
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("host"), receiver.address.to_string());
    assert_eq!(first.header("webhook-id"), "alert-1-1");
    assert_eq!(first.header("accept-encoding"), "");
    let body = first.json();
    assert_eq!(
        (&body["type"], &body["data"]["details"]),
        (&json!("alert.firing"), &json!({"rule": "disk_low"}))
    );
    let log = site.until("hook", 1).await;
    assert_eq!(
        (&*log[0].outcome, log[0].status, &*log[0].state),
        ("delivered", Some(204), "delivered")
    );
    site.stop().await;

    // The secret is changed: for a day both sign.
    let new = SigningSecret::random().expect("random numbers");
    let changed = webhook("hook", &url, "").replace(SECRET, new.expose());
    let site = Site::new(&sample, &changed).await;
    poll("the secret is stored", PATIENCE, async || {
        site.endpoint("hook").await.secrets.signing.as_ref() == Some(&new)
    })
    .await;
    site.queue(&event("alert-1-2", "alert.resolved")).await;
    let second = until(&receiver, 2).await.remove(1);
    let mut altered = second.clone();
    altered.body[10] ^= 1;
    let said = verified(&[
        (SECRET, &first),
        (SECRET, &second),
        (new.expose(), &second),
        (new.expose(), &first),
        (SECRET, &altered),
    ]);
    let types: Vec<_> = said.iter().map(|said| said["type"].as_str()).collect();
    let resolved = Some("alert.resolved");
    assert_eq!(types, [Some("alert.firing"), resolved, resolved, None, None], "{said:?}");
}

#[tokio::test]
async fn the_published_library_verifies_webhooks_sqlite() {
    a_webhook_is_verified_on(Store::Files).await;
}

#[tokio::test]
async fn the_published_library_verifies_webhooks_postgres() {
    a_webhook_is_verified_on(Store::Postgres).await;
}

async fn retries_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    let broken = "\u{1b}[31mbroken\r\n".to_owned() + &"x".repeat(3_000);
    receiver.reply([Reply::with(500, "", &broken), Reply::status(204)]);
    let site = Site::new(&sample, &webhook("hook", &receiver.url("/"), "")).await;
    let queued = Instant::now();
    site.queue(&event("e1", "alert.firing")).await;
    let received = until(&receiver, 2).await;
    // Five seconds, less the jitter.
    assert!(queued.elapsed() >= Duration::from_millis(4_400), "{:?}", queued.elapsed());
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert_eq!(received[0].body, received[1].body);
    let log = site.until("hook", 2).await;
    let told: Vec<_> =
        log.iter().map(|attempt| (attempt.number, &*attempt.outcome, attempt.status)).collect();
    assert_eq!(told, [(2, "delivered", Some(204)), (1, "status", Some(500))]);
    let answer = log[1].answer.as_deref().expect("an answer");
    assert!(answer.starts_with(" [31mbroken  xxx"), "{answer}");
    assert_eq!(answer.len(), 1024);
    assert_eq!(site.endpoint("hook").await.failing_since, None);
}

#[tokio::test]
async fn a_message_that_fails_is_sent_again_sqlite() {
    retries_on(Store::Files).await;
}

#[tokio::test]
async fn a_message_that_fails_is_sent_again_postgres() {
    retries_on(Store::Postgres).await;
}

#[tokio::test]
async fn a_receiver_is_obeyed_when_it_asks_for_more_time() {
    let (sample, receiver) = (SampleBox::new(Store::Files).await, Receiver::start().await);
    receiver.reply([Reply::with(429, "retry-after: 7200\r\n", "")]);
    let site = Site::new(&sample, &webhook("hook", &receiver.url("/"), "")).await;
    site.queue(&event("e1", "alert.firing")).await;
    let attempt = site.until("hook", 1).await.remove(0);
    let wait = attempt.next.expect("it is tried again").0 - attempt.at.0;
    assert!((7_200_000_000..7_300_000_000).contains(&wait), "{wait}");
}

async fn ends_on(store: Store) {
    let sample = SampleBox::new(store).await;
    let (gone, failing) = (Receiver::start().await, Receiver::start().await);
    gone.reply([Reply::status(410)]);
    failing.reply([Reply::status(503)]);
    let endpoints =
        webhook("gone", &gone.url("/"), "") + &webhook("failing", &failing.url("/"), "");
    let site = Site::new(&sample, &endpoints).await;
    site.queue(&event("e1", "alert.firing")).await;
    site.until("gone", 1).await;
    let log = site.until("failing", 1).await;
    assert!(log[0].next.is_some(), "{log:?}");
    let (_, reason) = site.endpoint("gone").await.disabled.expect("disabled");
    assert!(reason.contains("410"), "{reason}");
    assert!(site.endpoint("failing").await.disabled.is_none());

    // It fails for five days, and what waits is tried once more.
    let sql = "UPDATE {}endpoints SET failing_since = failing_since - 432000000000
               WHERE id = 'failing'; UPDATE {}deliveries SET due = 0 WHERE state = 'queued'";
    site.execute(&sample, sql).await;
    poll("it is disabled", PATIENCE, async || site.endpoint("failing").await.disabled.is_some())
        .await;
    let (_, reason) = site.endpoint("failing").await.disabled.expect("disabled");
    assert!(reason.contains("five days"), "{reason}");
    let log = site.log("failing").await;
    assert!(log.iter().all(|attempt| attempt.state == "failed"), "{log:?}");

    // A disabled endpoint gets nothing more.
    site.queue(&event("e2", "alert.firing")).await;
    assert_eq!(count(&sample, "SELECT count(*) FROM {}deliveries WHERE event = 'e2'").await, 0);
    assert_eq!((gone.received().len(), failing.received().len()), (1, 2));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_or_fails_for_days_is_disabled_sqlite() {
    ends_on(Store::Files).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_or_fails_for_days_is_disabled_postgres() {
    ends_on(Store::Postgres).await;
}

#[tokio::test]
async fn an_endpoint_gets_what_it_wants_and_may_see() {
    let sample = SampleBox::new(Store::Files).await;
    let (all, apps, clear) =
        (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let endpoints = webhook("all", &all.url("/"), "events = [\"*\"]")
        + &webhook("apps", &apps.url("/"), "events = [\"app.*\"]\napps = [\"notes\"]")
        + &webhook("clear", &clear.url("/"), "events = [\"terminal.*\"]\npii = true");
    let site = Site::new(&sample, &endpoints).await;
    let of = |app: &str, id: &str| {
        let mut event = event(id, "app.woken");
        event.app = Some(app.into());
        event
    };
    for event in [of("notes", "e1"), of("photos", "e2"), personal("e3")] {
        site.queue(&event).await;
        // The same event is queued once.
        site.queue(&event).await;
    }
    let everything = until(&all, 3).await;
    let (of_apps, of_clear) = (until(&apps, 1).await, until(&clear, 1).await);
    site.until("all", 3).await;
    assert_eq!((everything.len(), all.received().len()), (3, 3));
    assert_eq!(of_apps.len(), 1);
    assert_eq!(of_apps[0].json()["data"]["app"], "notes");
    assert_eq!(of_clear[0].json()["data"]["title"], "Ada's phone was added");
    let bytes: Vec<u8> = everything.iter().flat_map(|received| received.body.clone()).collect();
    assert!(!String::from_utf8(bytes).expect("text").contains("Ada"));
}

#[tokio::test]
async fn the_other_kinds_are_sent_as_their_services_document_it() {
    let (sample, receiver) = (SampleBox::new(Store::Files).await, Receiver::start().await);
    let allow = "allow = [\"127.0.0.1\"]\n";
    let of = |kind: &str, path: &str, more: &str| {
        let url = receiver.url(path);
        format!(
            "[[endpoint]]\nname = \"{kind}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{more}{allow}"
        )
    };
    let endpoints = of("ntfy", "/my-topic", "token = \"tk_a\"\n")
        + &of("gotify", "", "token = \"A.b\"\n")
        + &of("discord", "/api/webhooks/1/x", "");
    let site = Site::new(&sample, &endpoints).await;
    site.queue(&event("e1", "alert.firing")).await;
    let received = until(&receiver, 3).await;
    let by_line = |line: &str| {
        let found = received.iter().find(|received| received.line == line);
        found.unwrap_or_else(|| panic!("{line}: {received:?}"))
    };
    let ntfy = by_line("POST / HTTP/1.1");
    assert_eq!(ntfy.header("authorization"), "Bearer tk_a");
    assert_eq!(ntfy.json()["topic"], "my-topic");
    let gotify = by_line("POST /message HTTP/1.1");
    assert_eq!(gotify.header("x-gotify-key"), "A.b");
    assert_eq!(gotify.json()["title"], "The disk is nearly full");
    let discord = by_line("POST /api/webhooks/1/x HTTP/1.1");
    assert!(discord.json()["content"].as_str().expect("text").contains("1 GiB"));
    assert!(received.iter().all(|received| received.header("webhook-signature").is_empty()));
    site.stop().await;
}

#[tokio::test]
async fn a_slow_receiver_delays_no_other() {
    let sample = SampleBox::new(Store::Files).await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.reply([Reply::Hang]);
    let endpoints = webhook("slow", &slow.url("/"), "") + &webhook("quick", &quick.url("/"), "");
    let site = Site::new(&sample, &endpoints).await;
    for n in 0..40 {
        site.queue(&event(&format!("e{n}"), "alert.firing")).await;
    }
    until(&quick, 40).await;
    let log = site.log("slow").await;
    assert!(log.iter().all(|attempt| attempt.number == 1), "{log:?}");
    let running = log.iter().filter(|attempt| attempt.outcome == "running").count();
    assert!(running <= 4, "{running} at a time");
    let attempt = site.until("slow", 1).await;
    let ended = attempt.iter().find(|attempt| attempt.outcome != "running").expect("one");
    assert_eq!(ended.outcome, "timeout");
    assert!(ended.duration.expect("known") >= 15_000_000, "{ended:?}");
}

/// However many endpoints hang, connections are bounded, and no endpoint is left out for long.
#[tokio::test(flavor = "multi_thread")]
async fn many_slow_receivers_take_a_bounded_number_of_connections() {
    const SLOW: usize = 100;
    let sample = SampleBox::new(Store::Files).await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.reply([Reply::Hang]);
    let mut endpoints = String::new();
    for n in 0..SLOW {
        endpoints += &webhook(&format!("slow-{n}"), &slow.url("/"), "");
    }
    // The last by its name.
    endpoints += &webhook("the-quick", &quick.url("/"), "");
    let site = Site::new(&sample, &endpoints).await;
    for n in 0..6 {
        site.queue(&event(&format!("e{n}"), "alert.firing")).await;
    }
    let running = "SELECT count(*) FROM {}attempts WHERE outcome = 'running'";
    let mut most = 0;
    poll("the quick one gets all", PATIENCE, async || {
        most = most.max(count(&sample, running).await);
        quick.received().len() == 6
    })
    .await;
    assert!((16..=64).contains(&most), "{most} at a time");
}

async fn quiet_hours_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    // A time zone in which it is noon now, so that the hours around it are those of one day.
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let hour = i64::try_from(seconds / 3600 % 24).expect("small");
    let zone = format!("[webhooks]\ntime_zone = \"<box>{}\"\n", hour - 12);
    let quiet = zone.clone() + &webhook("hook", &receiver.url("/"), "quiet = \"10:00-14:30\"");
    let site = Site::new(&sample, &quiet).await;
    let of = |id: &str, kind, subject: &str, second| {
        let mut event = event(id, kind);
        (event.subject, event.at.0) = (Some(subject.to_owned()), second);
        event
    };
    for event in [
        of("f1", "alert.firing", "over", 1),
        of("r1", "alert.resolved", "over", 2),
        of("f2", "alert.firing", "stands", 3),
    ] {
        site.queue(&event).await;
    }
    let held = "SELECT count(*) FROM {}deliveries WHERE held = 1";
    poll("all are held", PATIENCE, async || count(&sample, held).await == 3).await;
    assert!(receiver.received().is_empty() && site.log("hook").await.is_empty());
    site.stop().await;

    // The quiet hours are over.
    let awake = zone + &webhook("hook", &receiver.url("/"), "quiet = \"15:00-16:00\"");
    let site = Site::new(&sample, &awake).await;
    site.execute(&sample, "UPDATE {}deliveries SET due = 0").await;
    site.until("hook", 1).await;
    let dropped = "SELECT count(*) FROM {}deliveries WHERE state = 'dropped'";
    assert_eq!(count(&sample, dropped).await, 2);
    let ids: Vec<_> =
        receiver.received().iter().map(|got| got.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, ["f2"]);
}

async fn count(sample: &SampleBox, sql: &str) -> i64 {
    match sample.store {
        Store::Files => {
            let connection = rusqlite::Connection::open(sample.ledger().join("ledger.db"));
            let connection = connection.expect("opens");
            connection.busy_timeout(PATIENCE).expect("set");
            let sql = sql.replace("{}", "");
            connection.query_row(&sql, [], |row| row.get(0)).expect(&sql)
        }
        Store::Postgres => {
            let sql = sql.replace("{}", "nightporter_ledger.");
            sample.database().client.query_one(&sql, &[]).await.expect(&sql).get(0)
        }
    }
}

#[tokio::test]
async fn messages_wait_for_the_end_of_quiet_hours_and_what_is_over_by_then_is_not_told_sqlite() {
    quiet_hours_on(Store::Files).await;
}

#[tokio::test]
async fn messages_wait_for_the_end_of_quiet_hours_and_what_is_over_by_then_is_not_told_postgres() {
    quiet_hours_on(Store::Postgres).await;
}

/// Three senders, and three that queue the same changes.
async fn replicas_on(store: Store) {
    let changes = soak::STATE_CHANGES.count();
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    let endpoints = webhook("hook", &receiver.url("/"), "");
    let mut sites = Vec::new();
    for _ in 0..3 {
        sites.push(Site::new(&sample, &endpoints).await);
    }
    let queue = async |site: &Site| {
        for n in 0..changes {
            site.queue(&event(&format!("change-{n}"), "alert.firing")).await;
        }
    };
    let [a, b, c] = &sites[..] else { panic!("three") };
    tokio::join!(queue(a), queue(b), queue(c));
    let expected = usize::try_from(changes).expect("small");
    until(&receiver, expected).await;
    a.until("hook", expected).await;
    let mut ids: Vec<_> =
        receiver.received().iter().map(|got| got.header("webhook-id").to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), receiver.received().len()), (expected, expected));
    let log = a.log("hook").await;
    assert!(log.iter().all(|attempt| attempt.number == 1 && attempt.outcome == "delivered"));
    assert_eq!(log.len(), expected);
}

#[tokio::test]
async fn three_replicas_send_one_message_of_each_change_sqlite() {
    Box::pin(replicas_on(Store::Files)).await;
}

#[tokio::test]
async fn three_replicas_send_one_message_of_each_change_postgres() {
    Box::pin(replicas_on(Store::Postgres)).await;
}
