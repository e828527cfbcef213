//! Several processes of one box: what each sees a part of is counted together.

use serde_json::json;

use super::{PATIENCE, Watched, add_app, alerts, fires, get, id, section};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, poll};
use crate::support::load::{Shot, drive};
use crate::support::server::Nightporter;

const THRESHOLD: u64 = 100;

fn denied(address: &str) -> Shot {
    Shot::new(&Request::auth("notes.localhost", "/").header("X-Forwarded-For", address), 401)
}

async fn together_on(store: Store) {
    let sample = SampleBox::new(store).await;
    add_app(&sample).await;
    let more = section(&format!("denials = {THRESHOLD}\ndenials_window = \"1h\"\n"));
    let first = Nightporter::with(&sample, &more).await;
    let second = Nightporter::with(&sample, &more).await;
    let third = Nightporter::with(&sample, &more).await;
    let replicas = [&first, &second, &third];
    for replica in replicas {
        for (address, number) in [("203.0.113.4", THRESHOLD * 4 / 10), ("203.0.113.3", 30)] {
            let shots = [denied(address)].into();
            drive(replica.gate, &shots, 2, number).await.is_as_expected(number);
        }
    }
    let mut firing = Vec::new();
    poll("it fires", PATIENCE, async || {
        firing = alerts(&first, "rule=denials_address&state=firing").await;
        !firing.is_empty()
    })
    .await;
    let alert = firing.remove(0);
    let subject = json!({"kind": "address", "value": "203.0.113.4"});
    assert_eq!(alert["subject"], subject, "the other one is below the threshold: {alert}");
    let value = alert["value"].as_u64().expect("a number");
    assert!((THRESHOLD..=THRESHOLD * 12 / 10).contains(&value), "{alert}");

    // The other address comes over it at one replica alone, so the sum is up to date by then.
    let shots = [denied("203.0.113.3")].into();
    drive(third.gate, &shots, 1, 15).await.is_as_expected(15);
    poll("both fire", PATIENCE, async || {
        alerts(&second, "rule=denials_address&state=firing").await.len() == 2
    })
    .await;
    for replica in replicas {
        for alert in alerts(replica, "").await {
            let path = format!("/v1/alerts/{}/history", id(&alert));
            let history = get(replica, &path).await;
            assert_eq!(history["changes"].as_array().map(Vec::len), Some(1), "{history}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_of_three_replicas_are_counted_together_sqlite() {
    Box::pin(together_on(Store::Files)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_of_three_replicas_are_counted_together_postgres() {
    Box::pin(together_on(Store::Postgres)).await;
}

/// What is counted together ends as what is counted alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_of_several_replicas_resolves_when_all_are_calm() {
    let sample = SampleBox::new(Store::Files).await;
    add_app(&sample).await;
    let more = section("denials = 100\ndenials_window = \"20s\"\n");
    let first = Nightporter::with(&sample, &more).await;
    let second = Watched { porter: Nightporter::with(&sample, &more).await, sample };
    let shots = [denied("2001:db8::9")].into();
    for gate in [first.gate, second.porter.gate] {
        drive(gate, &shots, 2, 70).await.is_as_expected(70);
    }
    let alert = fires(&second.porter, "denials_address").await;
    second.resolves("denials_address").await;
    assert_eq!(second.history(&alert).await, ["firing", "resolved"]);
}
