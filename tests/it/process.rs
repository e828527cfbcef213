//! The program as its operator meets it: started, signalled, starved.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};
use crate::support::program::Program;
use crate::support::test_server::{Reply, TestServer};

const PATIENCE: Duration = Duration::from_secs(120);

const PORTS: &str = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";

fn write(sample: &SampleBox, sections: &str) -> std::path::PathBuf {
    let path = sample.folder().join("nightporter.toml");
    std::fs::write(&path, format!("{}{sections}", sample.store_config())).unwrap();
    path
}

async fn sample() -> SampleBox {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    sample
}

async fn answers(program: &Program) {
    poll("the gate answers", PATIENCE, async || {
        ask(program.gate, &Request::auth("notes.box.test", "/")).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_hangup_changes_the_level_and_names_what_waits_for_a_restart() {
    let sample = sample().await;
    let program = Program::start(&write(&sample, PORTS), 256);
    answers(&program).await;
    assert_eq!(program.logged("granted"), 0, "debug lines at level info");

    write(&sample, &format!("{PORTS}[log]\nlevel = \"debug\"\n[cache]\ncapacity = 4711\n"));
    program.signal("HUP");
    poll("reloaded", PATIENCE, async || program.logged("need a restart") == 1).await;
    assert_eq!(program.logged("cache.capacity"), 1, "{}", program.log());
    assert_eq!(program.logged("log.level"), 0, "{}", program.log());
    answers(&program).await;
    poll("debug lines", PATIENCE, async || program.logged("granted") > 0).await;

    write(&sample, &format!("{PORTS}[nonsense]\nx = 1\n"));
    program.signal("HUP");
    poll("refused", PATIENCE, async || program.logged("not reloaded") == 1).await;
    answers(&program).await;
}

#[tokio::test]
async fn sigterm_ends_it_well() {
    let sample = sample().await;
    // Longer than anybody waits here.
    let gate = PORTS.replace("[ops]", "drain_timeout = \"1h\"\n[ops]");
    let mut program = Program::start(&write(&sample, &gate), 256);
    answers(&program).await;
    let _idle = TcpStream::connect(program.gate).unwrap();
    program.signal("TERM");
    assert!(program.ended().await.success(), "{}", program.log());
}

#[tokio::test]
async fn a_second_signal_cuts_what_runs() {
    let sample = sample().await;
    // Takes connections and never says a word, so that requests wait.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/none", silent.local_addr().unwrap());
    let path = sample.folder().join("nightporter.toml");
    let waits = "[store]\npool_timeout = \"60s\"\nconnect_timeout = \"60s\"\n";
    let store = sample.store_config_with(Some(&url)).replace("[store]\n", waits);
    let gate = PORTS.replace("[ops]", "drain_timeout = \"60s\"\n[ops]");
    std::fs::write(&path, format!("{store}{gate}")).unwrap();
    let mut program = Program::start(&path, 256);

    let gate = program.gate;
    let request = Request::auth("notes.box.test", "/").bytes();
    let waiting = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(gate).unwrap();
        std::io::Write::write_all(&mut stream, &request).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        let mut answer = Vec::new();
        // Cut off, by an end or by a reset.
        stream.read_to_end(&mut answer).ok();
        answer
    });
    let probe = Request::new("GET", "/healthz");
    poll("the request runs", PATIENCE, async || {
        let health = ask(gate, &probe).await;
        let health: serde_json::Value = serde_json::from_slice(&health.body).unwrap();
        health["caches"]["app_names"]["loads"].as_u64() > Some(0)
    })
    .await;
    program.signal("TERM");
    poll("draining", PATIENCE, async || program.logged("draining") > 0).await;
    assert!(program.child.try_wait().unwrap().is_none(), "waits for the request");
    program.signal("INT");
    let status = program.ended().await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert_eq!(waiting.await.unwrap(), b"");
}

#[tokio::test]
async fn a_lock_that_another_process_holds_does_not_keep_the_program_alive() {
    let sample = sample().await;
    let lock = std::fs::File::create(sample.folder().join(".lock")).unwrap();
    lock.lock().unwrap();
    let sections = format!("{PORTS}[touch]\nflush_interval = \"10ms\"\n");
    let mut program = Program::start(&write(&sample, &sections), 1024);
    let granted = Request::auth("notes.box.example", "/");
    poll("granted", PATIENCE, async || ask(program.gate, &granted).await.status == 200).await;
    program.signal("TERM");
    assert!(program.ended().await.success());
}

fn beside(core: &TestServer, sample: &SampleBox, further: &str) -> Program {
    let upstream = format!("[wake]\nenabled = false\n[upstream]\nurl = \"{}\"\n", core.url());
    Program::start(&write(sample, &format!("{PORTS}{upstream}{further}")), 1024)
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_said_once_and_metrics_are_there_for_one_alone() {
    let sample = sample().await;
    for app in ["a", "b", "c", "d"] {
        sample.add_app(app, &json!({"": {"access": "public"}})).await;
    }
    let core = TestServer::start().await;
    let program = beside(&core, &sample, "");
    core.stop().await;
    answers(&program).await;
    for app in ["a", "b", "c", "d"] {
        assert_eq!(ask(program.gate, &Request::auth(app, "/")).await.status, 200);
    }
    let failed = "nightporter_mirror_total{outcome=\"failed\"} 5\n";
    poll("five failures", PATIENCE, async || program.metrics().await.contains(failed)).await;
    assert_eq!(program.logged("shard_core does not answer"), 1);
    assert!(!program.metrics().await.contains("nightporter_shadow_total{"));

    let without = Program::start(&write(&sample, PORTS), 1024);
    answers(&without).await;
    let metrics = without.metrics().await;
    for name in ["mirror", "management_fallback", "shadow"] {
        assert!(!metrics.contains(&format!("nightporter_{name}_total{{")), "{metrics}");
    }
}

#[tokio::test]
async fn verdicts_are_counted_by_app_and_rule_unless_that_is_switched_off() {
    let sample = sample().await;
    let paths = json!({"": {"access": "private"}, "/pub/": {"access": "public"}});
    sample.add_app("wiki", &paths).await;
    for (setting, counted) in [("", true), ("app_metrics = false\n", false)] {
        let program = Program::start(&write(&sample, &format!("{PORTS}{setting}")), 1024);
        answers(&program).await;
        for (host, uri, status) in [
            ("wiki.x", "/pub/a", 200),
            ("wiki.x", "/pub/b?c=d", 200),
            ("wiki.x", "/private", 401),
            ("unknown.x", "/", 404),
        ] {
            let response = ask(program.gate, &Request::auth(host, uri)).await;
            assert_eq!(response.status, status, "{host}{uri}");
        }
        let metrics = program.metrics().await;
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("nightporter_app_verdicts_total{app=\"wiki\""));
        let lines: Vec<_> = lines.filter(|line| !line.ends_with(" 0")).collect();
        let named = |rule, verdict, count| {
            format!(
                "nightporter_app_verdicts_total{{app=\"wiki\",rule=\"{rule}\",verdict=\"{verdict}\"}} {count}"
            )
        };
        let expected = [named("/pub/", "grant", 2), named("", "deny", 1)];
        assert_eq!(lines.len(), if counted { 2 } else { 0 }, "{metrics}");
        assert_eq!(metrics.contains("nightporter_app_verdicts_total{"), counted);
        assert!(!counted || expected.iter().all(|line| lines.contains(&&**line)), "{lines:?}");
    }
}

#[tokio::test]
async fn a_difference_is_logged_by_the_names_of_headers_and_never_their_values() {
    let sample = sample().await;
    let headers = json!({"X-Ptl-Client-Id": "our-id", "X-Ptl-Same": "same"});
    sample.add_app("named", &json!({"": {"access": "public", "headers": headers}})).await;
    let core = TestServer::start().await;
    core.reply_by(|head| {
        if head.contains("secret-of-nobody") {
            return Reply::status(401);
        }
        let answer = Reply::status(200).header("X-Ptl-Client-Id", "their-id");
        answer.header("X-Ptl-Same", "same")
    });
    let program = beside(&core, &sample, "shadow = true\n[log]\nlevel = \"debug\"\n");
    let request = Request::auth("named.box.test", "/secret-path").cookie("secret-cookie");
    poll("the gate answers", PATIENCE, async || ask(program.gate, &request).await.status == 200)
        .await;
    let management = Request::new("GET", "/internal/authenticate_management");
    ask(program.gate, &management.header("Authorization", "secret-of-nobody")).await;
    poll("it is logged", PATIENCE, async || program.logged("shard_core's verdict differs") > 0)
        .await;
    core.wait_for_requests(3).await;
    assert!(program.logged("x-ptl-client-id") > 0);
    for kept in ["our-id", "their-id", "x-ptl-same", "secret-"] {
        assert_eq!(program.logged(kept), 0, "{kept}: {}", program.log());
    }
}
