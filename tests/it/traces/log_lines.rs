//! Every log line of a request carries its id.

use std::time::Duration;

use serde_json::Value;

use super::{HOST, PARENT, TRACE, sample, started};
use crate::support::client::{Request, ask, poll};
use crate::support::program::Program;
use crate::support::programs::free_address;

const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a line that contains a text.
async fn line(porter: &Program, text: &str) -> String {
    let mut found = None;
    poll(text, PATIENCE, async || {
        let log = porter.log();
        found = log.lines().find(|line| line.contains(text)).map(str::to_owned);
        found.is_some()
    })
    .await;
    found.expect("found")
}

/// Beside an upstream that is not there: a management secret that differs has it asked.
fn beside_nobody(lines: &str) -> String {
    format!("[upstream]\nurl = \"http://{}\"\n{lines}", free_address())
}

fn management(id: &str) -> Request {
    Request::new("GET", "/internal/authenticate_management")
        .header("Authorization", "another-secret")
        .header("X-Request-Id", id)
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
}

#[tokio::test]
async fn a_warning_at_the_default_level_names_the_request_that_met_with_it() {
    let sample = sample().await;
    let porter = started(&sample, &beside_nobody("[log]\ntimestamps = false\n"));
    ask(porter.gate, &management("id-of.the:proxy_1")).await;
    let warned = line(&porter, "shard_core does not answer").await;
    let end = format!(" request=id-of.the:proxy_1 trace={TRACE}");
    assert!(warned.starts_with(" WARN ") && warned.ends_with(&end), "{warned}");
    let listening = line(&porter, "gate listening on").await;
    assert!(!listening.contains("request="), "{listening}");
}

#[tokio::test]
async fn a_broken_app_is_logged_with_the_request_that_found_it() {
    let sample = sample().await;
    sample.add_app_bytes("broken", b"{").await;
    let porter = started(&sample, "[log]\ntimestamps = false\n");
    let request = Request::auth("broken.box.example", "/").header("X-Request-Id", "finder");
    ask(porter.gate, &request).await;
    let warned = line(&porter, "answer 503").await;
    assert!(warned.ends_with(" request=finder"), "{warned}");
}

#[tokio::test]
async fn json_lines_have_the_id_as_a_field() {
    let sample = sample().await;
    let porter = started(&sample, &beside_nobody("[log]\nformat = \"json\"\n"));
    ask(porter.gate, &management("from-the-proxy")).await;
    let warned: Value =
        serde_json::from_str(&line(&porter, "shard_core does not answer").await).expect("JSON");
    assert_eq!((&warned["request"], &warned["trace"]), (&"from-the-proxy".into(), &TRACE.into()));
    assert_eq!(warned["level"], "WARN");
}

#[tokio::test]
async fn an_id_that_is_not_plain_is_replaced_and_all_lines_of_a_request_have_the_same() {
    let sample = sample().await;
    let porter = started(&sample, "[log]\nlevel = \"nightporter=debug\"\ntimestamps = false\n");
    for id in ["a b=c", "\u{e9}", &"x".repeat(65), "a\"b"] {
        ask(porter.gate, &Request::auth(HOST, "/").header("X-Request-Id", id)).await;
    }
    let ids = async || {
        let log = porter.log();
        let ids = log.lines().filter(|line| line.contains("denied"));
        ids.map(|line| line.rsplit_once(" request=").expect("an id").1.to_owned())
            .collect::<Vec<_>>()
    };
    poll("all are logged", PATIENCE, async || ids().await.len() == 4).await;
    let ids = ids().await;
    for id in &ids {
        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ids:?}");
    }
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{ids:?}");
}
