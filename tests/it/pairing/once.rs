//! A code pairs one device, within its time, and bears few wrong tries.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use nightporter::store::Source;
use nightporter::store::invitations::Redeemed;

use super::{Form, House, view};
use crate::support::boxes::Store;
use crate::support::soak::DOUBLE_USES;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "codes expire by the clock")]
async fn of_two_replicas_with_the_same_code_one_pairs() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let (one, other) = (house.server().await, house.replica().await);
        let rounds = 30;
        for round in 0..rounds {
            let code = house.invite("phone").await;
            // Each from an address of its own: a second use is a wrong code.
            let from = [0, 1].map(|half| format!("10.0.{half}.{}", round + 1));
            let form = |from| Form { from, ..Form::new(&code) };
            let (first, second) = (form(&from[0]), form(&from[1]));
            let (first, second) = tokio::join!(first.send(&one), second.send(&other));
            let mut statuses = [first.status, second.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [303, 403], "round {round} {store:?}");
        }
        assert_eq!(house.names().await.len(), rounds + 1, "one device a round {store:?}");

        let replicas: [Arc<Source>; 2] = [(); 2].map(|()| Arc::new(view(&house.sample)));
        for round in 0..DOUBLE_USES.count() {
            let (code, digest) = house.invitation("phone").await;
            let uses = replicas.iter().map(|replica| {
                let (replica, code, digest) = (Arc::clone(replica), code.clone(), digest.clone());
                tokio::spawn(async move {
                    replica.redeem_invitation(code.handle(), &digest, SystemTime::now()).await
                })
            });
            let uses = join_all(uses).await.into_iter();
            let uses = uses.map(|used| used.expect("no panic").expect("the store answers"));
            let uses = uses.filter(|used| *used == Redeemed::Name("phone".into()));
            assert_eq!(uses.count(), 1, "round {round} {store:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_dead_after_five_wrong_tries_and_a_stranger_cannot_make_it_so() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let server = house.server().await;
        let (tried, other) = (house.invite("tried").await, house.invite("other").await);
        let end = if tried.ends_with('0') { '1' } else { '0' };
        let almost = format!("{}{end}", &tried[..tried.len() - 1]);
        for attempt in 0..5 {
            let from = format!("192.0.2.{attempt}");
            let response = Form { from: &from, ..Form::new(&almost) }.send(&server).await;
            assert_eq!(response.status, 403);
        }
        assert_eq!(Form { from: "192.0.2.9", ..Form::new(&tried) }.send(&server).await.status, 403);
        assert_eq!(Form { from: "192.0.2.9", ..Form::new(&other) }.send(&server).await.status, 303);
        assert_eq!(house.names().await, ["Büro-Handy", "other"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_ends_by_itself_and_is_stored_nowhere() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let server = house.server().await;
        let code = house.invite("late").await;
        let secret = code.replace('-', "")[4..].to_owned();
        let file = house.sample.folder().join("invitations.json");
        match store {
            Store::Files => {
                let json = std::fs::read_to_string(&file).unwrap();
                assert!(!json.contains(&secret), "{json}");
                let mut rows: serde_json::Value = serde_json::from_str(&json).unwrap();
                let expires = rows[0]["expires"].as_u64().unwrap();
                rows[0]["expires"] = (expires - 301).into();
                std::fs::write(&file, rows.to_string()).unwrap();
            }
            Store::Postgres => {
                let database = house.sample.database();
                let sql = "SELECT string_agg(i::text, ' ') FROM nightporter.invitations i";
                let rows: String = database.client.query_one(sql, &[]).await.unwrap().get(0);
                assert!(!rows.contains(&secret), "{rows}");
                let sql = "UPDATE nightporter.invitations SET expires = expires - interval '301 s'";
                assert_eq!(database.execute(sql, &[]).await, 1);
            }
        }
        assert_eq!(Form::new(&code).send(&server).await.status, 403);
        assert_eq!(house.names().await, ["Büro-Handy"]);
    }
}
