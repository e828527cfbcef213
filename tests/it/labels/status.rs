//! Whether an app is awake, for monitors.

use serde_json::Value;

use super::{House, LONG, host};
use crate::support::client::{Request, ask, poll};

#[tokio::test]
async fn a_monitor_learns_of_sleep_and_wakes_nobody() {
    let house = House::new().await;
    let (app, porter) = (house.name("watched"), house.porter().await);
    let whole = format!("www.{app}.org");
    house.container(&app, &[("app", &app), ("port", "80"), ("hosts", &whole)]).await;
    let targets = [
        format!("/v1/status/{app}"),
        format!("/v1/status?host={}", host(&app)),
        format!("/v1/status?host={}:8443", whole.to_uppercase()),
    ];
    let state = async |target: &str| {
        let answer = ask(porter.ops, &Request::new("GET", target)).await;
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        (answer.status, body["state"].as_str().unwrap_or_default().to_owned())
    };
    let until = async |expected: &str| {
        for target in &targets {
            poll(&format!("{target} is {expected}"), LONG, async || {
                state(target).await == (200, expected.to_owned())
            })
            .await;
        }
    };
    until("asleep").await;
    for _ in 0..20 {
        assert_eq!(state(&targets[0]).await, (200, "asleep".to_owned()));
    }
    let shown = super::shown(&porter, &app).await;
    assert_eq!((&shown["state"], &shown["last_use"]), (&"stopped".into(), &Value::Null));
    let wake = Request::new("POST", &format!("/v1/apps/{app}/wake"));
    assert_eq!(ask(porter.ops, &wake).await.status, 200);
    until("awake").await;
    for (target, status) in [
        ("/v1/status/nobody", 404),
        ("/v1/status?host=nobody.example", 404),
        ("/v1/status", 400),
        ("/v1/status?host=a&app=b", 400),
        ("/v1/status?host=a%20b", 404),
    ] {
        assert_eq!(state(target).await.0, status, "{target}");
    }
}
