//! In which order messages are sent, and that no row stops those of others.

use nightporter::webhooks::event::Event;
use nightporter::webhooks::manage::{self, ManageError};

use super::receiver::{Received, Receiver, Reply};
use super::site::{PATIENCE, Site, TENANT, event, webhook};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;

fn of(id: &str, kind: &'static str, second: i64) -> Event {
    let mut event = event(id, kind);
    (event.subject, event.at.0) = (Some("disk".to_owned()), second);
    event
}

fn ids(received: &[Received]) -> Vec<String> {
    received.iter().map(|got| got.header("webhook-id").to_owned()).collect()
}

async fn superseded_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    // The first attempt fails, and the next one would be in hours.
    receiver.reply([Reply::with(503, "retry-after: 36000\r\n", ""), Reply::status(204)]);
    let site = Site::new(&sample, &webhook("hook", &receiver.url("/"), "")).await;
    site.queue(&of("fires", "alert.firing", 1)).await;
    site.until("hook", 1).await;
    site.queue(&of("resolved", "alert.resolved", 2)).await;
    let log = site.until("hook", 2).await;
    assert_eq!(ids(&receiver.received()), ["fires", "resolved"]);
    let states: Vec<_> = log.iter().map(|attempt| (&*attempt.event, &*attempt.state)).collect();
    assert_eq!(states, [("resolved", "delivered"), ("fires", "dropped")]);
    // What is about something else does not wait, and is not dropped.
    site.queue(&event("other", "alert.firing")).await;
    site.until("hook", 3).await;
}

#[tokio::test]
async fn what_no_longer_stands_is_not_tried_again_before_what_does_sqlite() {
    superseded_on(Store::Files).await;
}

#[tokio::test]
async fn what_no_longer_stands_is_not_tried_again_before_what_does_postgres() {
    superseded_on(Store::Postgres).await;
}

async fn in_order_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    receiver.reply([Reply::Hang, Reply::status(204)]);
    let site = Site::new(&sample, &webhook("hook", &receiver.url("/"), "")).await;
    site.queue(&of("fires", "alert.firing", 1)).await;
    poll("it is under way", PATIENCE, async || receiver.received().len() == 1).await;
    site.queue(&of("resolved", "alert.resolved", 2)).await;
    site.queue(&event("other", "alert.firing")).await;
    // What is queued later, about something else, is sent at once: the resolution waits.
    poll("the other is sent", PATIENCE, async || receiver.received().len() == 2).await;
    assert_eq!(ids(&receiver.received()), ["fires", "other"]);
    // The first one times out, and what has overtaken it then is what stands.
    poll("all are sent", PATIENCE, async || receiver.received().len() == 3).await;
    assert_eq!(ids(&receiver.received())[2], "resolved");
    let is_ended = async || {
        let log = site.log("hook").await;
        log.iter().any(|attempt| (&*attempt.event, &*attempt.outcome) == ("fires", "timeout"))
    };
    assert!(is_ended().await, "it was not sent before the first one had ended");
}

#[tokio::test]
async fn messages_about_one_thing_do_not_overtake_each_other_sqlite() {
    in_order_on(Store::Files).await;
}

#[tokio::test]
async fn messages_about_one_thing_do_not_overtake_each_other_postgres() {
    in_order_on(Store::Postgres).await;
}

async fn unreadable_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    let configured = webhook("sound", &receiver.url("/"), "");
    let site = Site::new(&sample, &configured).await;
    let draft = |name: &str| {
        let url = "https://receiver.example/";
        serde_json::from_value(serde_json::json!({"name": name, "kind": "webhook", "url": url}))
            .expect("a draft")
    };
    let mut transaction = site.ledger.archive.begin().await.expect("begins");
    for name in ["broken", "odd"] {
        manage::create(&mut transaction, TENANT, draft(name), &[]).await.expect("created");
    }
    transaction.commit().await.expect("commits");
    site.queue(&event("e1", "alert.firing")).await;
    site.execute(
        &sample,
        "UPDATE {}endpoints SET definition = '{\"kind\": 1}' WHERE id = 'broken'",
    )
    .await;
    site.execute(&sample, "UPDATE {}endpoints SET secrets = 'x' WHERE id = 'odd'").await;
    site.stop().await;
    // Another process begins with the rows as they are.
    let site = Site::new(&sample, &configured).await;
    site.execute(&sample, "UPDATE {}deliveries SET due = 0 WHERE endpoint <> 'sound'").await;
    site.until("sound", 1).await;
    site.queue(&event("e2", "alert.firing")).await;
    site.until("sound", 2).await;
    assert_eq!(ids(&receiver.received()), ["e1", "e2"]);
    let mut snapshot = site.ledger.archive.snapshot().await.expect("a snapshot");
    let unreadable = manage::unreadable(&mut snapshot, TENANT).await.expect("listed");
    assert_eq!(unreadable, ["broken", "odd"]);
    drop(snapshot);
    let mut transaction = site.ledger.archive.begin().await.expect("begins");
    for name in ["broken", "odd"] {
        let removed = manage::remove(&mut transaction, TENANT, name).await;
        assert!(removed.expect("removed").is_none(), "{name} cannot be read");
        let again = manage::remove(&mut transaction, TENANT, name).await;
        assert!(matches!(again, Err(ManageError::NotFound)), "{again:?}");
    }
    transaction.commit().await.expect("commits");
    assert_eq!(site.endpoints().await.len(), 1);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_no_other_endpoint_sqlite() {
    unreadable_on(Store::Files).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_no_other_endpoint_postgres() {
    unreadable_on(Store::Postgres).await;
}
