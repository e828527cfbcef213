//! Traces and request ids, as a program writes them: spans at a collector, log lines.

mod collectors;
mod log_lines;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::boxes::{SampleBox, Store, TERMINAL, TERMINAL_NAME, token};
use crate::support::client::{Request, ask, poll};
use crate::support::collector::Collector;
use crate::support::program::Program;

const PATIENCE: Duration = Duration::from_secs(120);

const HOST: &str = "notes.box.example";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn sample() -> SampleBox {
    let sample = SampleBox::new(Store::Files).await;
    let paths = json!({"": {"access": "private"}, "/pub": {"access": "public"}});
    sample.add_app("notes", &paths).await;
    sample
}

/// Writes a configuration with free ports, no engine and these lines.
fn configured(sample: &SampleBox, lines: &str) -> PathBuf {
    let path = sample.ledger().with_extension("toml");
    let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
    let text = format!("{}{ports}[wake]\nenabled = false\n{lines}", sample.store_config());
    std::fs::write(&path, text).expect("writable");
    path
}

fn started(sample: &SampleBox, lines: &str) -> Program {
    Program::start(&configured(sample, lines), 1024)
}

fn traced(uri: &str, flags: &str) -> Request {
    Request::auth(HOST, uri).header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}"))
}

fn uri_of(span: &Value) -> &Value {
    &span["attributes"]["nightporter.rule"]
}

#[tokio::test]
async fn a_request_becomes_a_span_of_the_trace_that_it_names() {
    let (sample, collector) = (sample().await, Collector::start());
    let lines = format!(
        "[telemetry]\notlp_endpoint = \"{}\"\notlp_headers = \"Authorization=Bearer%20of-the-box\"\n",
        collector.url()
    );
    let porter = started(&sample, &lines);
    let mut known = Request::auth(HOST, "/marker-path/1?token=marker-query")
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .header("tracestate", "vendor=opaque")
        .header("X-Forwarded-For", "203.0.113.77")
        .header("User-Agent", "marker-agent")
        .cookie(token());
    known = known.header("Referer", "https://marker-referer.example/");
    assert_eq!(ask(porter.gate, &known).await.status, 200);
    assert_eq!(ask(porter.gate, &traced("/pub/unsampled", "00")).await.status, 200);
    assert_eq!(ask(porter.gate, &Request::auth(HOST, "/")).await.status, 401);

    let span = collector.span("a span", |span| span["trace"] == TRACE).await;
    assert_eq!((&span["name"], &span["parent"]), (&json!("visit"), &json!(PARENT)));
    assert_eq!((&span["kind"], &span["state"]), (&json!(2), &json!("vendor=opaque")));
    let attributes = json!({
        "http.response.status_code": 200,
        "nightporter.endpoint": "auth",
        "nightporter.verdict": "grant",
        "nightporter.client": "terminal",
        "nightporter.app": "notes",
        "nightporter.rule": "",
    });
    assert_eq!(span["attributes"], attributes);
    assert_eq!(span["resource"]["service.name"], "nightporter");
    assert!(span["ended"].as_u64() > span["began"].as_u64(), "{span}");
    assert_eq!(span["request"]["path"], "/v1/traces");
    assert_eq!(span["request"]["type"], "application/x-protobuf");
    assert_eq!(span["request"]["authorization"], "Bearer of-the-box");

    // Without a parent, a trace of its own, and the steps of what is out of the ordinary.
    let denied = |span: &Value| span["attributes"]["nightporter.verdict"] == "deny";
    let denied = collector.span("a denial", denied).await;
    assert_eq!(denied["attributes"]["nightporter.reason"], "terminal_required");
    assert!(denied["parent"] == "" && denied["trace"] != TRACE, "{denied}");
    let is_step = |span: &Value| span["parent"] == denied["id"] && span["name"] == "decide";
    let step = collector.span("its step", is_step).await;
    assert_eq!(step["trace"], denied["trace"]);

    let job = collector.span("a job", |span| span["name"] == "job").await;
    assert_eq!(job["attributes"]["nightporter.outcome"], "done", "{job}");

    let spans = collector.spans();
    let unsampled = spans.iter().filter(|span| uri_of(span) == "/pub").count();
    assert_eq!(unsampled, 0, "its trace is not recorded");
    let id = collector.spans().iter().map(Value::to_string).collect::<String>();
    for personal in
        ["marker", "203.0.113.77", TERMINAL, TERMINAL_NAME, "Handy", &token(), "box.example"]
    {
        assert!(!id.contains(personal), "{personal} has left in {id}");
    }
    // They are counted when the collector has answered.
    poll("they are counted", PATIENCE, async || {
        let metrics = porter.metrics().await;
        let mut lines = metrics.lines();
        let exported =
            lines.find_map(|line| line.strip_prefix("nightporter_spans_exported_total "));
        exported.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= 3)
    })
    .await;
}

#[tokio::test]
async fn the_last_spans_are_exported_at_the_end() {
    let (sample, collector) = (sample().await, Collector::start());
    let lines = format!("[telemetry]\notlp_endpoint = \"{}\"\n", collector.url());
    let mut porter = started(&sample, &lines);
    assert_eq!(ask(porter.gate, &traced("/pub/", "01")).await.status, 200);
    porter.signal("TERM");
    assert!(porter.ended().await.success(), "{}", porter.log());
    collector.span("the last span", |span| span["trace"] == TRACE).await;
}

#[tokio::test]
async fn without_a_collector_nothing_is_traced() {
    let sample = sample().await;
    let porter = started(&sample, "");
    assert_eq!(ask(porter.gate, &traced("/pub/", "01")).await.status, 200);
    assert!(!porter.metrics().await.contains("nightporter_spans"));
}
