//! A process is killed while alerts change.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::{PATIENCE, add_app, section};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, ask, poll};
use crate::support::program::Program;
use crate::support::soak::KILLS;

/// For how long each process works.
const LOAD: Duration = Duration::from_millis(6_000);

/// Denies so many addresses in turn until the connection breaks, so that alerts come and go.
async fn deny_until_killed(program: &Program) {
    let Ok(mut connection) = Connection::open(program.gate).await else { return };
    for number in 0_u32.. {
        // Each address for a second, and then another.
        let address = format!("192.0.2.{}", number / 100 % 8);
        let request = Request::auth("notes.localhost", "/").header("X-Forwarded-For", address);
        if connection.ask_bytes(&request.bytes()).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn read(program: &Program, path: &str) -> Value {
    let response = ask(program.ops, &Request::new("GET", path)).await;
    assert_eq!(response.status, 200, "{path}: {}", response.body());
    serde_json::from_slice(&response.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_whole_whenever_the_process_is_killed() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        add_app(&sample).await;
        let file = sample.folder().join("np.toml");
        let alerts = section("denials = 40\ndenials_window = \"1s\"\ncalm = \"1ms\"\n");
        let further = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                       [wake]\nenabled = false\n";
        let toml = format!("{}{alerts}{further}", sample.store_config());
        std::fs::write(&file, toml).expect("written");
        for round in 0..KILLS.count() {
            let mut program = Program::start(&file, 1024);
            tokio::join!(deny_until_killed(&program), async {
                sleep(LOAD + Duration::from_millis(u64::from(round * 137 % 700))).await;
                program.signal("KILL");
            });
            program.ended().await;
        }
        let program = Program::start(&file, 1024);
        let mut alerts = Vec::new();
        poll("alerts are read", PATIENCE, async || {
            let response = ask(program.ops, &Request::new("GET", "/v1/alerts?limit=500")).await;
            if response.status == 200 {
                let page: Value = serde_json::from_slice(&response.body).expect("JSON");
                page["alerts"].as_array().expect("a list").clone_into(&mut alerts);
            }
            !alerts.is_empty()
        })
        .await;
        let mut changes = 0;
        for alert in &alerts {
            let path = format!("/v1/alerts/{}/history?limit=500", super::id(alert));
            let history = read(&program, &path).await;
            let entries = history["changes"].as_array().expect("a list");
            let numbers: Vec<_> = entries.iter().rev().map(|entry| entry["n"].as_i64()).collect();
            let expected: Vec<_> = (1..).take(entries.len()).map(Some).collect();
            assert_eq!(numbers, expected, "{history}");
            for (entry, n) in entries.iter().rev().zip(1_i64..) {
                let state = if n % 2 == 1 { "firing" } else { "resolved" };
                assert_eq!(entry["state"], state, "{history}");
            }
            changes += entries.len();
        }
        assert!(changes > 1, "{alerts:#?}");
    }
}
