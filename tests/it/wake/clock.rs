//! A wall clock that is set puts nothing to sleep, and keeps nothing awake.

use std::ffi::OsStr;

use serde_json::json;

use super::idle::SLEEP;
use super::{LONG, Stage, program};
use crate::support::boxes::Store;
use crate::support::client::{Request, ask, poll};
use crate::support::docker::apps::{App, Plan};
use crate::support::program::{Program, faketime};

/// An app that is stopped so many seconds after its last use.
fn plan(label: &str, seconds: u32) -> Plan {
    let lifecycle = json!({"always_on": false, "skip_pause": true, "idle_for_stop": seconds});
    Plan::new(label).meta("lifecycle", lifecycle)
}

#[tokio::test]
async fn a_clock_that_is_set_puts_to_sleep_what_is_due_and_nothing_else() {
    let stage = Stage::new(Store::Files).await;
    let (long, soon) =
        (stage.running(plan("long", 3600)).await, stage.running(plan("soon", 5)).await);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, offset) = (folder.path().join("nightporter.toml"), folder.path().join("offset"));
    let listen = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
    let text = format!(
        "{}{listen}{}",
        stage.sample.store_config(),
        stage.config("throttle = \"1ms\"\n", SLEEP)
    );
    std::fs::write(&config, text).expect("writable");
    std::fs::write(&offset, "+0").expect("writable");
    let one = OsStr::new("1");
    let library = faketime();
    let porter = Program::start_with(
        &config,
        1024,
        &[
            ("LD_PRELOAD", library.as_os_str()),
            ("FAKETIME_TIMESTAMP_FILE", offset.as_os_str()),
            ("FAKETIME_NO_CACHE", one),
            ("FAKETIME_DONT_FAKE_MONOTONIC", one),
            ("DONT_FAKE_MONOTONIC", one),
            ("NO_FAKE_STAT", one),
        ],
    );
    let granted = async |app: &App| {
        let request: Request = program(app);
        poll("it is granted", LONG, async || ask(porter.gate, &request).await.status == 200).await;
        assert!(app.answers().await);
    };
    for (step, steps) in ["+3h", "-3h", "+400d"].into_iter().zip(1..) {
        for app in [&long, &soon] {
            granted(app).await;
        }
        std::fs::write(&offset, step).expect("writable");
        poll("the step is seen", LONG, async || porter.logged("the clock was set") == steps).await;
        // The loop has gone on since, and does its work.
        poll("what is due is stopped", LONG, async || soon.state().await == "exited").await;
        assert_eq!(long.state().await, "running", "{step}: {}", porter.log());
    }
    // Awake again, whatever the clock shows.
    granted(&soon).await;
}
