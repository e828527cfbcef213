//! An app that does not start is an alert until it does.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{LONG, NO_SLEEP, Stage, program, until_state};
use crate::alerts::{fires, resolves};
use crate::support::boxes::Store;
use crate::support::client::poll;
use crate::support::docker::apps::Plan;
use crate::support::server::Nightporter;

#[tokio::test]
async fn an_app_that_exits_at_once_again_and_again_is_an_alert_until_it_starts() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let app = stage.stopped(Plan::new("failing").env("FAIL_STARTS", 12)).await;
        let wake = "throttle = \"1ms\"\nlongest_backoff = \"1ms\"\nhold_timeout = \"1ms\"\n";
        let alerts = "[alerts]\ncalm = \"100ms\"\ndisk_low = \"1 B\"\n";
        let toml = format!("{}{alerts}", stage.config(wake, NO_SLEEP));
        let porter = Nightporter::with(&stage.sample, &toml).await;
        until_state(&porter, &app, "stopped", LONG).await;
        let failures = async |number: u32| {
            poll("attempts fail", LONG, async || {
                porter.ask(&program(&app)).await;
                sleep(Duration::from_millis(200)).await;
                let metrics = crate::support::client::Request::new(
                    "GET",
                    "/v1/requests?kind=wake&verdict=failed&limit=500",
                );
                let page = crate::support::client::ask(porter.ops, &metrics).await;
                let page: serde_json::Value = serde_json::from_slice(&page.body).expect("JSON");
                page["requests"].as_array().expect("a list").len() >= number as usize
            })
            .await;
        };
        failures(3).await;
        let alert = fires(&porter, "app_failing").await;
        assert_eq!(alert["subject"], json!({"kind": "app", "value": app.name}), "{alert}");
        assert!(alert["detail"].as_str().expect("text").contains("exited with code 3"), "{alert}");
        // One of the next starts is well.
        super::until_granted(&porter, &program(&app)).await;
        resolves(&porter, "app_failing").await;
    }
}
