//! Storms of denials, through the gate.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Watched;
use crate::support::boxes::{Store, TERMINAL, TERMINAL_SECRET, token};
use crate::support::client::{Request, poll};
use crate::support::load::{Shot, drive};
use crate::support::sign;
use crate::support::soak::DENIALS;

const ADDRESS: &str = "203.0.113.9";

fn denied(address: &str) -> Shot {
    Shot::new(&Request::auth("notes.localhost", "/").header("X-Forwarded-For", address), 401)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_from_one_address_is_one_alert() {
    for store in Store::BOTH {
        let watched = Watched::new(store, "denials_window = \"5s\"\n").await;
        let total = u64::from(DENIALS.count());
        let shots: Arc<[Shot]> = [denied(ADDRESS)].into();
        drive(watched.porter.gate, &shots, 16, total).await.is_as_expected(total);
        let alert = watched.fires("denials_address").await;
        assert_eq!(alert["subject"], json!({"kind": "address", "value": ADDRESS}), "{alert}");
        watched.resolves("denials_address").await;
        assert_eq!(watched.alerts("").await.len(), 1);
        assert_eq!(watched.history(&alert).await, ["firing", "resolved"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_from_ten_thousand_addresses_is_a_bounded_number_of_alerts() {
    let watched = Watched::new(Store::Files, "denials = 3\ndenials_window = \"1h\"\n").await;
    let addresses = (0..DENIALS.count() / 10).map(|n| Ipv4Addr::from_bits(0xcb00_0000 + n));
    let shots: Arc<[Shot]> = addresses.map(|address| denied(&address.to_string())).collect();
    let total = 10 * shots.len() as u64;
    drive(watched.porter.gate, &shots, 16, total).await.is_as_expected(total);
    // Counts of so many are rough; these go on knocking.
    drive(watched.porter.gate, &shots[..30].into(), 4, 600).await.is_as_expected(600);
    let mut firing = Vec::new();
    poll("one stands for the others", super::PATIENCE, async || {
        firing = watched.alerts("rule=denials_address").await;
        firing.iter().any(|alert| alert["subject"]["kind"] == "others")
    })
    .await;
    // Further looks change nothing: each of these alerts fires by one.
    for (number, phone) in ["phone2", "phone3"].into_iter().enumerate() {
        watched.sample.add_terminal(phone, "Another phone").await;
        let known = Request::auth("notes.localhost", "/peer/x");
        let known = known.cookie(sign::token(TERMINAL_SECRET, phone));
        poll("its denials fire", super::PATIENCE, async || {
            assert_eq!(watched.porter.ask(&known).await.status, 401);
            watched.alerts("rule=denials_client").await.len() == number + 1
        })
        .await;
    }
    let firing = watched.alerts("rule=denials_address").await;
    assert_eq!(firing.len(), 21, "{firing:#?}");
    for alert in &firing {
        assert_eq!(watched.history(alert).await, ["firing"], "{alert}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_client_is_told_by_its_id_and_refused_credentials_count_more() {
    let watched = Watched::new(Store::Files, "denials = 20\n").await;
    let known = Request::auth("notes.localhost", "/peer/x").cookie(token());
    let known = Shot::new(&known.header("X-Forwarded-For", ADDRESS), 401);
    drive(watched.porter.gate, &[known].into(), 2, 20).await.is_as_expected(20);
    let alert = watched.fires("denials_client").await;
    assert_eq!(alert["subject"], json!({"kind": "client", "value": TERMINAL}), "{alert}");
    let ordinary: Arc<[Shot]> = [denied("203.0.113.1")].into();
    drive(watched.porter.gate, &ordinary, 2, 19).await.is_as_expected(19);
    let forged = Request::auth("notes.localhost", "/").cookie("a.forged.token");
    let forged = Shot::new(&forged.header("X-Forwarded-For", "2001:db8::7"), 401);
    drive(watched.porter.gate, &[forged].into(), 1, 2).await.is_as_expected(2);
    let alert = watched.fires("denials_address").await;
    let expected: Value = json!({"kind": "address", "value": "2001:db8::/64"});
    assert_eq!(alert["subject"], expected, "only that one: {alert}");
}
