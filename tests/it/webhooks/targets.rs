//! Targets that must not be reached through us (server-side request forgery).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use nightporter::ledger::Ledger;
use nightporter::webhooks::deliveries::Attempt;
use nightporter::webhooks::manage;
use nightporter::webhooks::outbox::enqueue;
use nightporter::webhooks::target::Target;
use serde_json::{Map, Value, json};

use super::site::{PATIENCE, SECRET, event};
use super::world::World;
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::poll;
use crate::support::server::config;
use crate::support::sign::BOX_KEY;

/// URLs that are refused as such.
const NO_URLS: [&str; 22] = [
    "https://user@example.com/",
    "https://user:pass@127.0.0.1/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1:0/",
    "https://127.0.0.1:65536/",
    "https://[fe80::1%25lo]/",
    "https://[fe80::1%lo]/",
    "https://[::1/",
    "https://[::ffff:127.0.0.1.5]/",
    "https://127.0.0.256/",
    "https://0x100000000/",
    "https://4294967296/",
    "https://1.2.3.4.5/",
    "https:///etc/passwd",
    "https://./",
    "file:///etc/passwd",
    "gopher://127.0.0.1:8080/_x",
    "ftp://127.0.0.1/",
    "unix:/var/run/docker.sock",
    "javascript:alert(1)",
    "https:\\\\127.0.0.1\\",
    "https://127.0.0.1\t/",
];

/// Spellings of addresses, and what of is said of them.
const ADDRESSES: [(&str, &str); 70] = [
    ("http://127.0.0.1:8080/", "loopback"),
    ("https://127.0.0.1/", "loopback"),
    ("http://127.1:8080/", "loopback"),
    ("http://127.0.1:8080/", "loopback"),
    ("http://127.255.255.254:8080/", "loopback"),
    ("http://2130706433:8080/", "loopback"),
    ("http://0x7f000001:8080/", "loopback"),
    ("http://0x7f.0.0.1:8080/", "loopback"),
    ("http://0x7F.0x0.0x0.0x1:8080/", "loopback"),
    ("http://0177.0.0.1:8080/", "loopback"),
    ("http://0177.0000.0000.0001:8080/", "loopback"),
    ("http://017700000001:8080/", "loopback"),
    ("http://127.0.0.1.:8080/", "loopback"),
    ("http://%31%32%37.0.0.1:8080/", "loopback"),
    ("http://１２７.０.０.１:8080/", "loopback"),
    ("http://127。0。0。1:8080/", "loopback"),
    ("http://①②⑦.⓪.⓪.①:8080/", "loopback"),
    ("http://0:8080/", "unspecified"),
    ("http://0.0.0.0:8080/", "unspecified"),
    ("http://0x0:8080/", "unspecified"),
    ("http://0.1.2.3:8080/", "unspecified"),
    ("http://10.1.2.3:8080/", "private"),
    ("http://0xa.1.2.3:8080/", "private"),
    ("http://167838211:8080/", "private"),
    ("http://172.16.0.1:8080/", "private"),
    ("http://172.31.255.254:8080/", "private"),
    ("http://192.168.1.1:8080/", "private"),
    ("http://192.168.257:8080/", "private"),
    ("http://100.64.0.1:8080/", "CGNAT"),
    ("http://100.127.255.254:8080/", "CGNAT"),
    ("http://169.254.1.1:8080/", "link-local"),
    ("http://169.254.169.254/", "metadata"),
    ("http://2852039166/", "metadata"),
    ("http://0xa9fea9fe/", "metadata"),
    ("http://0251.0376.0251.0376/", "metadata"),
    ("http://169.254.170.2/", "metadata"),
    ("http://100.100.100.200/", "metadata"),
    ("http://192.0.0.192/", "metadata"),
    ("https://168.63.129.16/", "metadata"),
    ("http://192.0.0.8:8080/", "protocols"),
    ("http://192.0.2.1:8080/", "documentation"),
    ("http://192.88.99.1:8080/", "6to4"),
    ("http://198.18.0.1:8080/", "benchmarks"),
    ("http://198.51.100.1:8080/", "documentation"),
    ("http://203.0.113.1:8080/", "documentation"),
    ("http://224.0.0.1:8080/", "multicast"),
    ("http://240.0.0.1:8080/", "reserved"),
    ("http://255.255.255.255:8080/", "broadcast"),
    ("http://[::1]:8080/", "loopback"),
    ("http://[0:0:0:0:0:0:0:1]:8080/", "loopback"),
    ("http://[::]:8080/", "unspecified"),
    ("http://[::ffff:127.0.0.1]:8080/", "mapped"),
    ("http://[::ffff:7f00:1]:8080/", "mapped"),
    ("http://[::ffff:169.254.169.254]/", "metadata"),
    ("http://[::127.0.0.1]:8080/", "compatible"),
    ("http://[::169.254.169.254]/", "metadata"),
    ("http://[::ffff:0:10.0.0.1]:8080/", "translated"),
    ("http://[64:ff9b::10.0.0.1]:8080/", "NAT64"),
    ("http://[64:ff9b::a9fe:a9fe]/", "metadata"),
    ("http://[64:ff9b:1::10.0.0.1]:8080/", "NAT64"),
    ("http://[2001:0:808:808::f5ff:fffe]:8080/", "Teredo"),
    ("http://[2002:7f00:1::]:8080/", "6to4"),
    ("http://[2002:a9fe:a9fe::1]/", "metadata"),
    ("http://[2001:db8::1]:8080/", "documentation"),
    ("http://[2001:10::1]:8080/", "ORCHID"),
    ("http://[fc00::1]:8080/", "ULA"),
    ("http://[fd00:ec2::254]/", "metadata"),
    ("http://[fe80::1]:8080/", "link-local"),
    ("http://[fec0::1]:8080/", "site-local"),
    ("http://[ff02::1]:8080/", "multicast"),
];

/// Names, their answers, one after the other, and what is said in the end.
fn names() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("loopback", json!({"A": [["127.0.0.1"]]}), "loopback"),
        ("loopback6", json!({"AAAA": [["::1"]]}), "loopback"),
        ("private", json!({"A": [["10.0.0.1"]]}), "private"),
        ("private-b", json!({"A": [["172.20.1.1"]]}), "private"),
        ("private-c", json!({"A": [["192.168.0.10"]]}), "private"),
        ("tailnet", json!({"A": [["100.101.102.103"]]}), "CGNAT"),
        ("ula", json!({"AAAA": [["fd12::1"]]}), "ULA"),
        ("linklocal", json!({"A": [["169.254.7.7"]]}), "link-local"),
        ("metadata", json!({"A": [["169.254.169.254"]]}), "metadata"),
        ("metadata6", json!({"AAAA": [["fd00:ec2::254"]]}), "metadata"),
        ("mapped", json!({"AAAA": [["::ffff:10.0.0.1"]]}), ""),
        ("nat64", json!({"AAAA": [["64:ff9b::7f00:1"]]}), "NAT64"),
        ("sixtofour", json!({"AAAA": [["2002:a00:1::1"]]}), "6to4"),
        ("zero", json!({"A": [["0.0.0.0"]]}), "unspecified"),
        (
            "many",
            json!({"A": [(1..=40).map(|n| format!("8.8.4.{n}")).collect::<Vec<_>>()]}),
            "too many",
        ),
        // Of several addresses one is enough, wherever it stands.
        ("mixed-first", json!({"A": [["10.0.0.1", "8.8.8.8"]]}), "private"),
        ("mixed-last", json!({"A": [["8.8.8.8", "8.8.4.4", "10.0.0.1"]]}), "private"),
        ("mixed-families", json!({"A": [["8.8.8.8"]], "AAAA": [["::1"]]}), "loopback"),
        ("mixed-metadata", json!({"A": [["8.8.8.8", "169.254.169.254"]]}), "metadata"),
        // The second answer is another one.
        ("rebinding", json!({"A": [["8.8.8.8"], ["127.0.0.1"]]}), "loopback"),
        ("rebinding6", json!({"AAAA": [["2606:4700::1"], ["::1"]]}), "loopback"),
        ("rebinding-metadata", json!({"A": [["8.8.8.8"], ["169.254.169.254"]]}), "metadata"),
        ("nothing", json!({"A": [[]]}), "resolve"),
    ]
}

/// Receivers on a private address that is allowed, and what is said of them.
const BEHAVIOURS: [(&str, &str, &str); 9] = [
    ("/redirect", "redirect", "not followed"),
    ("/redirect-again", "redirect", "not followed"),
    ("/slow-head", "timeout", "within 15s"),
    ("/slow-body", "delivered", "did not end in time"),
    ("/endless-head", "protocol", "no HTTP"),
    ("/endless-body", "delivered", "longer than 64 KiB"),
    ("/endless-chunks", "delivered", "longer than 64 KiB"),
    ("/bomb", "delivered", "longer than 64 KiB"),
    ("/continue", "timeout", "within 15s"),
];

const ALLOWED: &str = "10.9.9.9";

#[test]
fn what_is_no_url_of_a_receiver_is_refused_by_the_configuration() {
    for url in NO_URLS {
        let error = Target::parse(url).expect_err(url).to_string();
        assert!(error.starts_with("invalid URL: "), "{url}: {error}");
    }
    let hostile = NO_URLS.len() + ADDRESSES.len() + names().len() + BEHAVIOURS.len();
    assert!(hostile >= 120, "{hostile}");
}

/// A world with one endpoint for each target.
struct Hostile {
    sample: SampleBox,
    toml: String,
    zones: Map<String, Value>,
}

impl Hostile {
    async fn new() -> Self {
        let sample = SampleBox::new(Store::Files).await;
        let socket = |name: &str| sample.folder().join(name).display().to_string();
        let toml = format!(
            "{}[gate]\nlisten = \"unix:{}\"\n[ops]\nlisten = \"unix:{}\"\n[wake]\nenabled = false\n",
            sample.store_config(),
            socket("gate.sock"),
            socket("ops.sock"),
        );
        Self { sample, toml, zones: Map::new() }
    }

    fn add(&mut self, name: &str, url: &str, more: &str) {
        write!(
            self.toml,
            "[[endpoint]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n{more}\n"
        )
        .expect("text");
    }

    fn start(&self) -> World {
        let path = self.sample.folder().join("nightporter.toml");
        std::fs::write(&path, &self.toml).expect("writable");
        World::start(&path, self.sample.folder(), &Value::Object(self.zones.clone()))
    }

    /// Queues one event for all endpoints, once they are stored.
    async fn queue(&self, count: usize) -> Arc<Ledger> {
        let config = config(&self.sample.store_config());
        let ledger = Arc::new(Ledger::new(&config.ledger).expect("valid"));
        let tenant = id_of(&BOX_KEY);
        poll("the endpoints are stored", PATIENCE, async || {
            let Ok(mut snapshot) = ledger.archive.snapshot().await else { return false };
            manage::list(&mut snapshot, &tenant).await.is_ok_and(|list| list.len() == count)
        })
        .await;
        let mut transaction = ledger.archive.begin().await.expect("begins");
        enqueue(&mut transaction, &tenant, &event("e1", "alert.firing")).await.expect("queues");
        transaction.commit().await.expect("commits");
        ledger
    }
}

/// Waits until the log of an endpoint has so many attempts that have ended, oldest first.
async fn attempts(ledger: &Ledger, id: &str, count: usize) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    poll(&format!("{count} attempts at {id}"), PATIENCE, async || {
        let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
        let page = manage::log(&mut snapshot, &id_of(&BOX_KEY), id, None, None, 100).await;
        attempts = page.expect("a page").attempts;
        attempts.retain(|attempt| attempt.outcome != "running");
        attempts.len() >= count
    })
    .await;
    attempts.reverse();
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_target_is_connected_to_and_each_refusal_is_explained() {
    let mut hostile = Hostile::new().await;
    let mut expected: Vec<(String, &str, usize)> = Vec::new();
    for (n, (url, class)) in ADDRESSES.into_iter().enumerate() {
        hostile.add(&format!("address-{n}"), url, "");
        expected.push((format!("address-{n}"), class, 1));
    }
    for (name, answers, class) in names() {
        let host = format!("{name}.attacker.example");
        hostile.add(name, &format!("https://{host}/"), "");
        hostile.zones.insert(host, answers);
        expected.push((name.to_owned(), class, if name.starts_with("rebinding") { 2 } else { 1 }));
    }
    // Whatever is allowed, metadata services are not.
    let everything = "allow = [\"0.0.0.0/0\", \"::/0\", \"metadata.attacker.example\"]";
    hostile.add("allowed-metadata", "http://169.254.169.254/", everything);
    hostile.add("allowed-metadata-name", "http://metadata.attacker.example/", everything);
    expected.push(("allowed-metadata".into(), "metadata", 1));
    expected.push(("allowed-metadata-name".into(), "metadata", 1));
    // Without TLS only where it is allowed.
    hostile.add("plain", "http://8.8.8.8:8080/", "");
    expected.push(("plain".into(), "not be encrypted", 1));

    let world = hostile.start();
    let ledger = hostile.queue(expected.len()).await;
    for (id, said, count) in &expected {
        let attempts = attempts(&ledger, id, *count).await;
        let last = attempts.last().expect("an attempt");
        let detail = last.detail.as_deref().unwrap_or_default();
        assert!(detail.contains(said), "{id}: {last:?}");
        if *said != "resolve" && *said != "too many" {
            assert_eq!(last.outcome, "refused", "{id}: {last:?}");
            let names_line = detail.contains("add `allow = [") && detail.contains("[[endpoint]]");
            let is_never = detail.contains("never sent to, whatever is allowed");
            assert!(names_line || is_never, "{id}: {detail}");
            assert!(*said != "metadata" || is_never, "{id}: {detail}");
        }
    }
    // The first answers of the rebinding names: public, and over TLS.
    let public: BTreeSet<String> = ["2606:4700::1 443", "8.8.8.8 443"].map(Into::into).into();
    assert_eq!(world.accepted(), public, "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_reached_and_cannot_harm() {
    let mut hostile = Hostile::new().await;
    let allow = format!("allow = [\"{ALLOWED}\"]");
    for (n, (path, ..)) in BEHAVIOURS.into_iter().enumerate() {
        hostile.add(&format!("target-{n}"), &format!("http://{ALLOWED}:8080{path}"), &allow);
    }
    let mut names = Map::new();
    names.insert("ntfy.lan".into(), json!({"A": [["192.168.7.7"]]}));
    hostile.zones = names;
    hostile.add("by-name", "http://ntfy.lan:8080/", "allow = [\"ntfy.lan\"]");
    hostile.add("by-network", "http://ntfy.lan:8080/", "allow = [\"192.168.0.0/16\"]");
    hostile.add("by-other", "http://ntfy.lan:8080/", "allow = [\"ntfy.home\", \"10.0.0.0/8\"]");
    let world = hostile.start();
    let ledger = hostile.queue(BEHAVIOURS.len() + 3).await;
    for (n, (path, outcome, said)) in BEHAVIOURS.into_iter().enumerate() {
        let attempt = attempts(&ledger, &format!("target-{n}"), 1).await.remove(0);
        assert_eq!(attempt.outcome, outcome, "{path}: {attempt:?}");
        assert!(
            attempt.detail.as_deref().unwrap_or_default().contains(said),
            "{path}: {attempt:?}"
        );
        let kept = attempt.answer.as_deref().unwrap_or_default();
        assert!(kept.chars().count() <= 1024, "{path}: {attempt:?}");
    }
    for id in ["by-name", "by-network"] {
        let attempt = attempts(&ledger, id, 1).await.remove(0);
        assert_eq!((&*attempt.outcome, attempt.answer.as_deref()), ("delivered", Some("ok")));
    }
    let refused = attempts(&ledger, "by-other", 1).await.remove(0);
    let detail = refused.detail.expect("a reason");
    assert!(detail.contains("192.168.7.7 is a private address"), "{detail}");
    let expected: BTreeSet<String> = ["10.9.9.9 8080", "192.168.7.7 8080"].map(Into::into).into();
    assert_eq!(world.accepted(), expected, "{}", world.log());
    // None of the endless answers was kept.
    assert!(world.memory() < 100 * 1024, "{} KiB", world.memory());
}
