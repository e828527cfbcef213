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

use super::hostile::{ADDRESSES, BEHAVIOURS, CHAIN, NO_URLS, SPELLINGS, names};
use super::site::{PATIENCE, SECRET, event};
use super::world::World;
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::poll;
use crate::support::server::config;
use crate::support::sign::BOX_KEY;

const ALLOWED: &str = "10.9.9.9";

#[test]
fn what_is_no_url_of_a_receiver_is_refused_by_the_configuration() {
    for url in NO_URLS {
        let error = Target::parse(url).expect_err(url).to_string();
        assert!(error.starts_with("invalid URL: "), "{url}: {error}");
    }
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
    // Other spellings of names.
    for (n, (host, zone, class)) in SPELLINGS.into_iter().enumerate() {
        hostile.add(&format!("spelling-{n}"), &format!("https://{host}/"), "");
        hostile.zones.insert(zone.into(), json!({"A": [["169.254.169.254"]]}));
        expected.push((format!("spelling-{n}"), class, 1));
    }
    // Chains of names that end where nothing may be sent.
    for (name, target) in CHAIN {
        hostile.zones.insert(name.into(), json!({"CNAME": target}));
    }
    hostile.zones.insert("end.attacker.example".into(), json!({"A": [["192.168.3.4"]]}));
    // Whatever is allowed, metadata services are not.
    let everything = "allow = [\"0.0.0.0/0\", \"::/0\", \"metadata.attacker.example\"]";
    hostile.add("allowed-metadata", "http://169.254.169.254/", everything);
    hostile.add("allowed-metadata-name", "http://metadata.attacker.example/", everything);
    expected.push(("allowed-metadata".into(), "metadata", 1));
    expected.push(("allowed-metadata-name".into(), "metadata", 1));
    // Without TLS only where it is allowed.
    hostile.add("plain", "http://8.8.8.8:8080/", "");
    expected.push(("plain".into(), "not be encrypted", 1));

    let cases: BTreeSet<&str> = expected.iter().map(|(id, ..)| &**id).collect();
    assert!(cases.len() >= 120 && cases.len() == expected.len(), "{}", cases.len());
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
