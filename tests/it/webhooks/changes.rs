//! Endpoints that are changed over the API, and what is told of those that are disabled.

use serde_json::{Value, json};

use super::api::{ALLOW, Served};
use super::receiver::{Receiver, Reply};
use super::site::{PATIENCE, webhook};
use crate::support::boxes::Store;
use crate::support::client::{Request, poll};

/// Short times, and no alerts about this machine.
const ALERTS: &str = "[alerts]\ncalm = \"100ms\"\ndisk_low = \"1 B\"\n";

async fn changed_on(store: Store) {
    let served = Served::new(store, ALLOW).await;
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    let draft = json!({"name": "hook", "kind": "webhook", "url": old.url("/in?key=SECRET"),
                       "apps": ["notes"], "quiet": "22:00-07:00"});
    let created = served.json("POST", "/v1/webhooks", Some(&draft), 201).await;
    let put = async |body: &Value, status| {
        served.json("PUT", "/v1/webhooks/hook", Some(body), status).await
    };
    let mut expected = created.clone();
    expected.as_object_mut().expect("an object").remove("secret");
    assert_eq!(put(&json!({}), 200).await, expected, "nothing is changed");
    let shown = put(
        &json!({"name": "hook", "kind": "webhook", "url": new.url("/out?key=SECRET"),
                            "events": ["app.*", "alert.firing"], "quiet": null}),
        200,
    )
    .await;
    expected["url"] = json!(new.url(""));
    expected["events"] = json!(["app.*", "alert.firing"]);
    expected["quiet"] = Value::Null;
    assert_eq!(shown, expected, "what is missing stays, and the path is not shown");
    assert_eq!(served.json("GET", "/v1/webhooks/hook", None, 200).await, expected);
    served.json("POST", "/v1/webhooks/hook/test", None, 202).await;
    poll("it goes to the new URL", PATIENCE, async || !new.received().is_empty()).await;
    assert_eq!(new.received()[0].line, "POST /out?key=SECRET HTTP/1.1");
    assert!(old.received().is_empty());

    for (body, parameter, said) in [
        (json!({"url": "http://169.254.169.254/"}), "url", "never sent to"),
        (json!({"url": "https://a:b@hooks.example/"}), "url", "user name"),
        (json!({"name": "other"}), "name", "cannot be changed"),
        (json!({"kind": "ntfy"}), "kind", "cannot be changed"),
        (json!({"events": []}), "events", "gets no messages"),
        (json!({"token": "t"}), "token", "no token"),
    ] {
        let problem = put(&body, 400).await;
        assert_eq!(problem["parameter"], parameter, "{body}: {problem}");
        assert!(problem["detail"].as_str().expect("text").contains(said), "{problem}");
    }
    for body in [
        json!([]),
        json!({"secret": "whsec_x"}),
        json!({"events": ["alert.unknown"]}),
        json!({"quiet": "22-7"}),
        json!({"enabled": null, "unknown": 1}),
        json!({"allow": ["127.0.0.1"]}),
    ] {
        put(&body, 400).await;
    }
    assert_eq!(served.json("GET", "/v1/webhooks/hook", None, 200).await, expected);
    served.json("PUT", "/v1/webhooks/other", Some(&json!({})), 404).await;

    // With a key it is done once, and a repetition is told what the first was.
    let keyed = async || {
        let body = json!({"apps": []}).to_string();
        let request = Request::new("PUT", "/v1/webhooks/hook")
            .header("Idempotency-Key", "\"change-1\"")
            .header("Content-Length", body.len().to_string());
        served.send(request, &body).await
    };
    let first = keyed().await;
    assert_eq!(first.status, 200, "{}", first.body());
    put(&json!({"apps": ["photos"]}), 200).await;
    let again = keyed().await;
    assert_eq!((again.status, again.body()), (200, first.body()));
    assert_eq!(again.text("idempotency-replayed"), Some("true"));
    let now = served.json("GET", "/v1/webhooks/hook", None, 200).await;
    assert_eq!(now["apps"], json!(["photos"]));
    let acts = served.json("GET", "/v1/requests?kind=act&reason=change_endpoint", None, 200).await;
    assert_eq!(acts["requests"].as_array().map(Vec::len), Some(4), "those with an effect: {acts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_changed_and_what_is_missing_stays_sqlite() {
    Box::pin(changed_on(Store::Files)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_changed_and_what_is_missing_stays_postgres() {
    Box::pin(changed_on(Store::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_the_configuration_is_changed_there() {
    let receiver = Receiver::start().await;
    let toml = format!("{ALLOW}{}", webhook("fixed", &receiver.url("/"), ""));
    let served = Served::new(Store::Files, &toml).await;
    poll("it is stored", PATIENCE, async || {
        served.ask("GET", "/v1/webhooks/fixed", None).await.status == 200
    })
    .await;
    let before = served.json("GET", "/v1/webhooks/fixed", None, 200).await;
    for body in [json!({}), json!({"enabled": false}), json!({"events": ["*"]})] {
        let problem = served.json("PUT", "/v1/webhooks/fixed", Some(&body), 409).await;
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("belongs to the configuration"), "{problem}");
    }
    assert_eq!(served.json("GET", "/v1/webhooks/fixed", None, 200).await, before);
}

/// Whoever may not see personal values does not send them to a place of his own either.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_the_right_does_not_decide_where_personal_values_go() {
    for store in Store::BOTH {
        let served = Served::new(store, ALLOW).await;
        let mut draft = json!({"name": "hook", "kind": "webhook", "url": "https://hooks.example/a",
                               "pii": true});
        served.json("POST", "/v1/webhooks", Some(&draft), 201).await;
        let wanted = json!({"name": "ci", "rights": ["read", "operate"]});
        let token = served.json("POST", "/v1/tokens", Some(&wanted), 201).await;
        let token = format!("Bearer {}", token["token"].as_str().expect("its text"));
        let put = async |id: &str, body: Value| {
            let body = body.to_string();
            let request = Request::new("PUT", &format!("/v1/webhooks/{id}"))
                .header("Authorization", token.clone())
                .header("Content-Length", body.len().to_string());
            served.send(request, &body).await
        };
        for body in [
            json!({"url": "https://evil.example/"}),
            json!({"events": ["*"]}),
            json!({"apps": ["notes"]}),
            json!({"pii": false, "url": "https://evil.example/"}),
        ] {
            let refused = put("hook", body.clone()).await;
            assert_eq!(refused.status, 403, "{body}: {}", refused.body());
        }
        assert_eq!(put("hook", json!({"enabled": false})).await.status, 200);
        draft["name"] = json!("plain");
        draft["pii"] = json!(false);
        served.json("POST", "/v1/webhooks", Some(&draft), 201).await;
        assert_eq!(put("plain", json!({"pii": true})).await.status, 403);
        assert_eq!(put("plain", json!({"events": ["*"]})).await.status, 200);
        let shown = served.json("GET", "/v1/webhooks/plain", None, 200).await;
        assert_eq!((&shown["pii"], &shown["events"]), (&json!(false), &json!(["*"])));
    }
}

/// Returns the messages about disabled endpoints: state and endpoint.
fn told(receiver: &Receiver) -> Vec<(String, String)> {
    let received = receiver.received();
    let details = received.iter().map(|message| message.json()["data"]["details"].clone());
    let of_rule = details.filter(|details| details["rule"] == "endpoint_disabled");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    of_rule.map(|details| (text(&details["state"]), text(&details["subject"]["value"]))).collect()
}

async fn disabled_on(store: Store) {
    let (other, gone) = (Receiver::start().await, Receiver::start().await);
    let toml = format!("{ALLOW}{ALERTS}{}", webhook("other", &other.url("/"), ""));
    let served = Served::new(store, &toml).await;
    for name in ["gone", "off", "left"] {
        let draft = json!({"name": name, "kind": "webhook", "url": gone.url("/")});
        served.json("POST", "/v1/webhooks", Some(&draft), 201).await;
    }
    gone.reply([Reply::status(410)]);
    served.json("POST", "/v1/webhooks/gone/test", None, 202).await;
    served.json("PUT", "/v1/webhooks/off", Some(&json!({"enabled": false})), 200).await;
    served.json("PUT", "/v1/webhooks/left", Some(&json!({"enabled": false})), 200).await;
    served.json("POST", "/v1/webhooks/off/test", None, 409).await;

    let firing = "/v1/alerts?rule=endpoint_disabled&state=firing";
    let mut alerts = Value::Null;
    let mut count = async |expected: usize| {
        poll(&format!("{expected} alerts fire"), PATIENCE, async || {
            alerts = served.json("GET", firing, None, 200).await;
            alerts["alerts"].as_array().map(Vec::len) == Some(expected)
        })
        .await;
        alerts["alerts"].as_array().expect("a list").clone()
    };
    let all = count(3).await;
    let of = |name: &str| {
        let found = all.iter().find(|alert| alert["subject"]["value"] == name);
        found.unwrap_or_else(|| panic!("{name}: {all:?}"))
    };
    assert_eq!(of("gone")["subject"], json!({"kind": "endpoint", "value": "gone"}));
    let detail = of("gone")["detail"].as_str().expect("text");
    assert!(detail.contains("410 Gone"), "{detail}");
    assert!(of("off")["detail"].as_str().expect("text").contains("over the API"), "{all:?}");
    assert!(of("off")["help"].as_str().expect("text").contains("webhook enable"), "{all:?}");
    poll("the other one is told", PATIENCE, async || told(&other).len() == 3).await;

    // It resolves when the endpoint is enabled or removed.
    gone.reply([Reply::status(204)]);
    served.json("POST", "/v1/webhooks/gone/enable", None, 200).await;
    served.json("PUT", "/v1/webhooks/off", Some(&json!({"enabled": true})), 200).await;
    served.json("DELETE", "/v1/webhooks/left", None, 200).await;
    count(0).await;
    poll("the other one is told", PATIENCE, async || told(&other).len() == 6).await;
    let mut expected = Vec::new();
    for state in ["firing", "resolved"] {
        expected.extend(["gone", "left", "off"].map(|name| (state.to_owned(), name.to_owned())));
    }
    let mut messages = told(&other);
    messages.sort_unstable();
    assert_eq!(messages, expected, "once each");
    served.json("POST", "/v1/webhooks/off/test", None, 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_is_an_alert_until_it_is_enabled_or_removed_sqlite() {
    Box::pin(disabled_on(Store::Files)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_is_an_alert_until_it_is_enabled_or_removed_postgres() {
    Box::pin(disabled_on(Store::Postgres)).await;
}
