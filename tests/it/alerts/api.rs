//! Alerts over HTTP and on the command line.

use serde_json::{Value, json};

use super::{Watched, get, id};
use crate::support::boxes::Store;
use crate::support::client::{Request, Response, ask, poll};

/// Two alerts of addresses.
async fn two(store: Store) -> Watched {
    let watched = Watched::new(store, "denials = 2\ndenials_window = \"1h\"\n").await;
    for address in ["192.0.2.1", "192.0.2.2"] {
        watched.is_denied(address).await;
        watched.is_denied(address).await;
    }
    poll("both fire", super::PATIENCE, async || watched.alerts("state=firing").await.len() == 2)
        .await;
    watched
}

#[track_caller]
fn refused(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{}", response.body());
    assert_eq!(response.text("content-type"), Some("application/problem+json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_listed_in_pages_with_their_history() {
    for store in Store::BOTH {
        let watched = two(store).await;
        let first = get(&watched.porter, "/v1/alerts?limit=1").await;
        let next = first["next"].as_str().expect("there is one more");
        let second = get(&watched.porter, &format!("/v1/alerts?limit=1&after={next}")).await;
        assert_eq!(second["next"], Value::Null, "{second}");
        let alerts = [&first["alerts"][0], &second["alerts"][0]];
        assert_ne!(id(alerts[0]), id(alerts[1]));
        for alert in alerts {
            assert_eq!(alert["rule"], "denials_address", "{alert}");
            assert_eq!(alert["state"], "firing", "{alert}");
            assert_eq!(alert["silenced_until"], Value::Null, "{alert}");
            assert_eq!(watched.history(alert).await, ["firing"]);
        }
        assert_eq!(watched.alerts("state=resolved").await, Vec::<Value>::new());
        assert_eq!(watched.alerts("rule=disk_low&state=firing").await, Vec::<Value>::new());
        for (query, parameter) in [
            ("state=burning", "state"),
            ("rule=fire", "rule"),
            ("limit=0", "limit"),
            ("after=x", "after"),
            ("subject=x", "subject"),
        ] {
            let response =
                ask(watched.porter.ops, &Request::new("GET", &format!("/v1/alerts?{query}"))).await;
            assert_eq!(refused(&response, 400)["parameter"], parameter, "{query}");
        }
        let missing = Request::new("GET", "/v1/alerts/0000000000000000/history");
        refused(&ask(watched.porter.ops, &missing).await, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_silenced_for_a_time_and_on_record() {
    for store in Store::BOTH {
        let watched = two(store).await;
        let alert = watched.alerts("").await.remove(0);
        let path = format!("/v1/alerts/{}/silence", id(&alert));
        for (body, parameter) in [
            ("{}", "for"),
            (r#"{"for": "soon"}"#, "for"),
            (r#"{"until": "2099-01-01T00:00:00"}"#, "until"),
            (r#"{"until": "2020-01-01T00:00:00Z"}"#, "until"),
        ] {
            let response = watched.post(&path, body).await;
            assert_eq!(refused(&response, 400)["parameter"], parameter, "{body}");
        }
        for body in ["", "[]", "{\"fro\": \"2h\"}", "\u{0}"] {
            refused(&watched.post(&path, body).await, 400);
        }
        refused(&watched.post("/v1/alerts/0/silence", r#"{"for": "2h"}"#).await, 404);
        let silenced = watched.post(&path, r#"{"for": "2h"}"#).await;
        assert_eq!(silenced.status, 200, "{}", silenced.body());
        let shown: Value = serde_json::from_slice(&silenced.body).expect("JSON");
        assert_eq!(id(&shown), id(&alert));
        assert!(shown["silenced_until"].is_string(), "{shown}");
        let listed = watched.alerts("state=firing").await;
        assert_eq!(listed.len(), 2, "it is shown all the same");
        assert!(listed.contains(&shown), "{listed:#?}");
        let acts = get(&watched.porter, "/v1/requests?kind=act").await;
        let acts = acts["requests"].as_array().expect("a list").clone();
        assert_eq!(acts.len(), 1, "what was refused is no act: {acts:#?}");
        assert_eq!(acts[0]["reason"], "silence");
        let ended = watched.post(&path, r#"{"for": "0s"}"#).await;
        let shown: Value = serde_json::from_slice(&ended.body).expect("JSON");
        assert_eq!(shown["silenced_until"], Value::Null, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_or_switched_off_there_are_none() {
    let watched = Watched::new(Store::Files, "enabled = false\n").await;
    watched.is_denied("192.0.2.1").await;
    let path = "/v1/alerts/0/silence";
    for response in [
        ask(watched.porter.ops, &Request::new("GET", "/v1/alerts")).await,
        ask(watched.porter.ops, &Request::new("GET", "/v1/alerts/0/history")).await,
        watched.post(path, r#"{"for": "2h"}"#).await,
    ] {
        let problem = refused(&response, 404);
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("alerts.enabled"), "{detail}");
    }
    assert_eq!(get(&watched.porter, "/healthz").await.get("alerts"), None);
    let off = Watched::new(Store::Files, "denials = 1\noff = [\"denials_address\"]\n").await;
    off.is_denied("192.0.2.1").await;
    let phone = Request::auth("notes.localhost", "/peer/x").cookie(crate::support::boxes::token());
    assert_eq!(off.porter.ask(&phone).await.status, 401);
    off.fires("denials_client").await;
    assert_eq!(off.alerts("").await.len(), 1, "{}", json!(off.alerts("").await));
}
