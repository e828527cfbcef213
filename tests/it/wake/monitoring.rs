//! What is shipped for Prometheus and Grafana names only what there is: every metric and every
//! label is compared with `/metrics` of a box that has seen traffic, wakes and jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{LONG, NO_SLEEP, Stage, order, program, until_granted, until_state};
use crate::support::boxes::{Store, TERMINAL_NAME};
use crate::support::client::{Request, ask};
use crate::support::collector::Collector;
use crate::support::docker::apps::Plan;
use crate::support::server::Nightporter;

/// Labels that Prometheus adds, and what becomes of our own of the same name.
const OF_THE_SCRAPE: [&str; 2] = ["job", "instance"];

/// Labels by metric.
type Series = BTreeMap<String, BTreeSet<String>>;

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Reads the text format.
fn exposed(metrics: &str) -> Series {
    let mut series = Series::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).expect("a value");
        let labels = series.entry(line[..end].to_owned()).or_default();
        let inner = line[end..].strip_prefix('{').and_then(|rest| rest.rsplit_once("} "));
        for label in inner.into_iter().flat_map(|(inner, _)| inner.split("\",")) {
            labels.insert(label.split_once('=').expect("a label").0.to_owned());
        }
    }
    series
}

/// Returns the expressions of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let rules = std::fs::read_to_string(deployed("prometheus/nightporter.rules.yml")).unwrap();
    let of_rules = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let mut all: Vec<_> = of_rules.map(str::to_owned).collect();
    assert_eq!(all.len(), rules.matches("- alert:").count(), "one line each");
    let dashboard = std::fs::read(deployed("grafana/nightporter.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&dashboard).expect("JSON");
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push(target["expr"].as_str().expect("an expression").to_owned());
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables").iter();
    all.extend(variables.filter_map(|variable| variable["definition"].as_str()).map(str::to_owned));
    all
}

/// The words of an expression outside of quotes, with what follows each.
fn words(expression: &str) -> Vec<(String, char)> {
    let mut outside = String::new();
    for (index, part) in expression.split('"').enumerate() {
        outside.push_str(if index % 2 == 0 { part } else { "\"" });
    }
    let is_word = |character: char| character.is_ascii_alphanumeric() || "_$".contains(character);
    let mut words = Vec::new();
    let mut rest = outside.as_str();
    while let Some(begin) = rest.find(is_word) {
        rest = &rest[begin..];
        let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
        let next = rest[end..].trim_start().chars().next().unwrap_or(' ');
        words.push((rest[..end].to_owned(), next));
        rest = &rest[end..];
    }
    words
}

/// Returns what an expression names that there is not.
fn unknown(expression: &str, series: &Series) -> Vec<String> {
    let words = words(expression);
    let names: Vec<_> = words.iter().filter(|(word, _)| word.starts_with("nightporter")).collect();
    let mut known: BTreeSet<String> = OF_THE_SCRAPE.map(str::to_owned).into();
    let mut unknown = Vec::new();
    for (name, _) in &names {
        match series.get(name) {
            Some(labels) => known.extend(labels.iter().map(|label| {
                let is_taken = OF_THE_SCRAPE.contains(&label.as_str());
                if is_taken { format!("exported_{label}") } else { label.clone() }
            })),
            None => unknown.push(name.clone()),
        }
    }
    // A label is compared, or listed after `by` and `on`.
    let mut labels: Vec<_> = words
        .iter()
        .filter(|(_, next)| "=!".contains(*next))
        .map(|(word, _)| word.clone())
        .collect();
    for clause in ["by (", "on ("] {
        for (at, _) in expression.match_indices(clause) {
            let list = &expression[at + clause.len()..];
            let list = &list[..list.find(')').expect("closed")];
            labels.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    let is_unknown = |label: &String| !known.contains(label) && !label.starts_with("nightporter_");
    unknown.extend(labels.into_iter().filter(is_unknown));
    unknown
}

#[test]
fn a_name_that_there_is_not_is_found() {
    let series =
        exposed("# HELP a b\na{b=\"c,d=\\\"e\\\"\",f=\"g\"} 1\nnightporter_x{job=\"a\"} 1\n");
    assert_eq!(series["a"], ["b", "f"].map(str::to_owned).into());
    let unknown = |expression| unknown(expression, &series);
    assert_eq!(
        unknown("sum by (exported_job) (rate(nightporter_x{instance=~\"$i\"}[5m])) > 0"),
        [""; 0]
    );
    assert_eq!(
        unknown("nightporter_x == 0 and on (instance) nightporter_x{instance!=\"c\"} > 0"),
        [""; 0]
    );
    assert_eq!(unknown("rate(nightporter_y[5m])"), ["nightporter_y"]);
    assert_eq!(unknown("nightporter_x{reason!=\"nightporter_z\"}"), ["reason"]);
    assert_eq!(unknown("sum by (instance, task) (nightporter_x)"), ["task"]);
}

#[tokio::test]
async fn the_dashboard_and_the_rules_name_only_metrics_that_there_are() {
    let (stage, collector) = (Stage::new(Store::Files).await, Collector::start());
    let app = stage.stopped(Plan::new("watched")).await;
    let traces = format!("{NO_SLEEP}[telemetry]\notlp_endpoint = \"{}\"\n", collector.url());
    let porter = stage.porter("throttle = \"1ms\"\n", &traces).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    until_state(&porter, &app, "stopped", LONG).await;
    until_granted(&porter, &program(&app).header("traceparent", &parent)).await;
    assert_eq!(order(&porter, &app, "pause").await.status, 200);
    assert_eq!(porter.auth("nothere.box.example", "/").await.status, 404);

    // The wake is a child of the request that asked for it.
    let wake = collector.span("the wake", |span| span["name"] == "wake").await;
    assert_eq!((wake["trace"].as_str(), &wake["status"]), (Some(trace), &0.into()), "{wake}");
    let visit = collector.span("its request", |span| span["id"] == wake["parent"]).await;
    assert_eq!((visit["name"].as_str(), visit["trace"].as_str()), (Some("visit"), Some(trace)));
    let is_step = |span: &Value| span["parent"] == wake["id"] && span["name"] == "starting";
    collector.span("its step", is_step).await;
    let sleep = collector.span("the sleep", |span| span["name"] == "sleep").await;
    assert_eq!(sleep["attributes"]["nightporter.cause"], "operator");
    assert!(!collector.spans().iter().any(|span| span.to_string().contains(TERMINAL_NAME)));

    // Some are set by jobs, soon after the start.
    let deadline = Instant::now() + LONG;
    loop {
        let series = exposed(&metrics(&porter).await);
        let missing = missing(&series);
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{missing:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns what the expressions name that there is not, each with its expression.
fn missing(series: &Series) -> Vec<(String, String)> {
    let of = |expression: String| {
        let unknown = unknown(&expression, series).into_iter();
        unknown.map(move |name| (name, expression.clone()))
    };
    expressions().into_iter().flat_map(of).collect()
}

async fn metrics(porter: &Nightporter) -> String {
    ask(porter.ops, &Request::new("GET", "/metrics")).await.body().to_owned()
}

#[test]
fn prometheus_accepts_the_rules_and_they_fire_as_they_should() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "nightporter.rules.yml"],
        ["test", "rules", "nightporter.test.yml"],
    ] {
        let mut command = Command::new("promtool");
        let command = command.args(arguments).current_dir(deployed("prometheus"));
        let output = command.output().expect("promtool; `tests/run` installs it");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{errors}");
    }
}
