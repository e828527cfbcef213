//! Senders and receivers that are killed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use nightporter::ledger::Ledger;
use nightporter::webhooks::manage;
use nightporter::webhooks::outbox::enqueue;

use super::receiver::{Received, Receiver, Reply};
use super::site::{PATIENCE, event, webhook};
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::poll;
use crate::support::program::Program;
use crate::support::server::config;
use crate::support::sign::BOX_KEY;
use crate::support::soak;

const EVENTS: u32 = 8;

/// A box whose program is started and killed.
struct Site {
    sample: SampleBox,
    config: PathBuf,
    ledger: Arc<Ledger>,
    tenant: String,
}

impl Site {
    async fn new(store: Store, url: &str) -> Self {
        let sample = SampleBox::new(store).await;
        let text = format!(
            "{}[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
             [wake]\nenabled = false\n{}",
            sample.store_config(),
            webhook("hook", url, ""),
        );
        let path = sample.folder().join("nightporter.toml");
        std::fs::write(&path, &text).expect("writable");
        let config = config(&sample.store_config());
        let ledger = Arc::new(Ledger::new(&config.ledger).expect("valid"));
        Self { sample, config: path, ledger, tenant: id_of(&BOX_KEY) }
    }

    fn start(&self) -> Program {
        assert!(self.sample.folder().exists());
        Program::start(&self.config, 1024)
    }

    async fn until_stored(&self) {
        poll("the endpoint is stored", PATIENCE, async || {
            let Ok(mut snapshot) = self.ledger.archive.snapshot().await else { return false };
            manage::list(&mut snapshot, &self.tenant).await.is_ok_and(|list| list.len() == 1)
        })
        .await;
    }

    async fn queue(&self, id: &str) {
        let mut transaction = self.ledger.archive.begin().await.expect("begins");
        let event = event(id, "alert.firing");
        enqueue(&mut transaction, &self.tenant, &event).await.expect("queues");
        transaction.commit().await.expect("commits");
    }
}

fn ids(received: &[Received]) -> BTreeSet<String> {
    received.iter().map(|received| received.header("webhook-id").to_owned()).collect()
}

async fn killed_on(store: Store) {
    let mut receiver = Receiver::start().await;
    let address = receiver.address;
    let site = Site::new(store, &receiver.url("/")).await;
    let mut program = site.start();
    site.until_stored().await;
    let (mut got, mut expected) = (Vec::new(), BTreeSet::new());
    for round in 0..soak::KILLS.count() {
        // One receiver hangs, so that the sender is killed in the middle of an exchange.
        receiver.reply([Reply::Hang]);
        let before = receiver.received().len();
        for n in 0..EVENTS {
            let id = format!("event-{round}-{n}");
            site.queue(&id).await;
            expected.insert(id);
        }
        poll("some are under way", PATIENCE, async || receiver.received().len() > before).await;
        program.child.kill().expect("it runs");
        program.child.wait().expect("it ends");
        got.extend(receiver.stop().await);
        receiver = Receiver::on(address).await;
        program = site.start();
    }
    poll("all events arrive", PATIENCE, async || {
        let mut all = got.clone();
        all.extend(receiver.received());
        ids(&all) == expected
    })
    .await;
    // The log of each event is complete: whatever arrived had been written down before.
    let mut log = Vec::new();
    poll("all deliveries end", PATIENCE, async || {
        let mut snapshot = site.ledger.archive.snapshot().await.expect("a snapshot");
        let page = manage::log(&mut snapshot, &site.tenant, "hook", None, None, 100_000).await;
        log = page.expect("a page").attempts;
        log.iter().all(|attempt| attempt.state == "delivered")
            && ids(&receiver.received()).len() + ids(&got).len() >= expected.len()
    })
    .await;
    got.extend(receiver.received());
    assert_eq!(ids(&got), expected);
    let mut resent = 0;
    for id in &expected {
        let arrived: Vec<_> = got.iter().filter(|got| got.header("webhook-id") == id).collect();
        let mut attempts: Vec<_> = log.iter().filter(|attempt| attempt.event == *id).collect();
        attempts.sort_unstable_by_key(|attempt| attempt.number);
        let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
        let count = i64::try_from(attempts.len()).expect("few");
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{id}: {attempts:?}");
        assert!(arrived.len() <= attempts.len(), "{id}: {} {attempts:?}", arrived.len());
        let (last, others) = attempts.split_last().expect("an attempt");
        assert_eq!(last.outcome, "delivered", "{id}: {attempts:?}");
        assert!(others.iter().all(|attempt| attempt.outcome != "running"), "{id}: {attempts:?}");
        assert!(arrived.iter().all(|got| got.body == arrived[0].body), "{id}");
        resent += others.iter().filter(|attempt| attempt.outcome == "lost").count();
    }
    assert!(resent > 0, "no exchange was interrupted");
}

#[tokio::test]
async fn every_event_arrives_although_sender_and_receiver_are_killed_sqlite() {
    killed_on(Store::Files).await;
}

#[tokio::test]
async fn every_event_arrives_although_sender_and_receiver_are_killed_postgres() {
    killed_on(Store::Postgres).await;
}
