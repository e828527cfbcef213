//! A storm of denials, as the owner's phone hears of it.

use std::sync::Arc;

use serde_json::json;

use super::receiver::{Received, Receiver};
use super::site::{PATIENCE, webhook};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};
use crate::support::load::{Shot, drive};
use crate::support::server::Nightporter;
use crate::support::soak::DENIALS;

/// No state changes by time, and nothing is said about this machine.
const ALERTS: &str = "[alerts]\ncalm = \"100ms\"\ndisk_low = \"1 B\"\ndenials = 100\n\
                      denials_window = \"1h\"\n";

fn denied(address: &str) -> Arc<[Shot]> {
    let request = Request::auth("notes.localhost", "/").header("X-Forwarded-For", address);
    [Shot::new(&request, 401)].into()
}

/// Whether a message is about denials of an address in a network, also if the address itself is
/// masked.
fn is_about(message: &Received, network: &str) -> bool {
    let message = message.json();
    let told = &message["data"]["details"];
    let subject = told["subject"]["value"].as_str().unwrap_or_default();
    told["rule"] == "denials_address" && subject.starts_with(network)
}

async fn one_message_on(store: Store) {
    let (sample, receiver) = (SampleBox::new(store).await, Receiver::start().await);
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    let endpoint = webhook("phone", &receiver.url("/"), "");
    let porter = Nightporter::with(&sample, &format!("{ALERTS}{endpoint}")).await;
    let endpoints = Request::new("GET", "/v1/webhooks");
    poll("the endpoint is stored", PATIENCE, async || {
        ask(porter.ops, &endpoints).await.body().contains("\"phone\"")
    })
    .await;
    let total = u64::from(DENIALS.count());
    drive(porter.gate, &denied("203.0.113.9"), 16, total).await.is_as_expected(total);
    let count = |network| receiver.received().iter().filter(|told| is_about(told, network)).count();
    poll("the message arrives", PATIENCE, async || count("203.0.113.") > 0).await;
    // It goes on knocking. What is told of another one afterwards shows that nothing more is on
    // its way: messages to one receiver are sent in order.
    drive(porter.gate, &denied("203.0.113.9"), 4, total / 10).await.is_as_expected(total / 10);
    drive(porter.gate, &denied("198.51.100.9"), 4, 200).await.is_as_expected(200);
    poll("that of another arrives", PATIENCE, async || count("198.51.100.") > 0).await;
    assert_eq!((count("203.0.113."), count("198.51.100.")), (1, 1), "{:?}", receiver.received());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_from_one_address_is_one_message_sqlite() {
    Box::pin(one_message_on(Store::Files)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_from_one_address_is_one_message_postgres() {
    Box::pin(one_message_on(Store::Postgres)).await;
}
