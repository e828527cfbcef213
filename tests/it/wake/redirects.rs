//! Requests for apps that take longer than one hold: sent to their own address again
//! until the app is there, or told after a bounded number of times.

use std::process::Stdio;
use std::time::Duration;

use super::{LONG, NO_SLEEP, Stage, order, program, until_state};
use crate::support::boxes::Store;
use crate::support::client::Request;
use crate::support::docker::apps::Plan;
use crate::support::docker::front::{Errors, Front};
use crate::support::soak;

#[tokio::test]
async fn what_is_held_in_vain_is_sent_to_the_same_address_until_the_app_is_there() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("slow").env("START_DELAY_MS", 3000)).await;
    let wake = "hold_timeout = \"2s\"\nmax_redirects = 15\n";
    let porter = stage.porter(wake, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let host = format!("{}.box.example:8443", app.name);
    let post = Request::unforwarded()
        .header("X-Forwarded-Method", "POST")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", &host)
        .header("X-Forwarded-Uri", "/echo?a=%2Fb&c");
    let mut rounds = 0;
    loop {
        let response = porter.ask(&post).await;
        if response.status == 200 {
            break;
        }
        assert_eq!(response.status, 307, "{response:?}");
        let location = response.text("location").expect("a location");
        assert_eq!(location, format!("https://{host}/echo?a=%2Fb&c"));
        assert_eq!(response.text("cache-control"), Some("no-store"), "{response:?}");
        rounds += 1;
    }
    assert!((1..=15).contains(&rounds), "{rounds}");
    assert!(app.answers().await);
    assert_eq!(app.starts().await, 1);
}

#[tokio::test]
async fn nobody_is_sent_round_more_often_than_is_set() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("never").env("START_DELAY_MS", 3_600_000)).await;
    let wake = "hold_timeout = \"1s\"\nmax_redirects = 2\nstart_timeout = \"10m\"\n";
    let porter = stage.porter(wake, NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    // A program's: those of pages wake nothing.
    let host = format!("{}.box.example", app.name);
    let socket = Request::auth(host, "/").header("Sec-WebSocket-Key", "x");
    let response = porter.ask(&socket).await;
    assert_eq!(response.status, 503, "a WebSocket follows no redirect: {response:?}");
    let mut redirects = 0;
    let told = loop {
        let response = porter.ask(&program(&app)).await;
        if response.status != 307 {
            break response;
        }
        redirects += 1;
        assert!(redirects <= 2, "{response:?}");
    };
    assert!(redirects > 0);
    assert_eq!(told.status, 503, "{told:?}");
    assert_eq!(told.text("content-type"), Some("application/problem+json"));
    assert!(told.text("retry-after").is_some(), "{told:?}");
}

/// A program's upload through Traefik to an app that takes several holds to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_by_curl_is_delivered_once_and_whole() {
    const SIZE: usize = 1 << 20;
    let stage = Stage::new(Store::Files).await;
    let start = soak::SLOW_START.count() * 1000;
    let app = stage.stopped(Plan::new("upload").env("START_DELAY_MS", start)).await;
    let hold = soak::HOLD.count();
    let wake = format!(
        "hold_timeout = \"{hold}s\"\nmax_redirects = 15\nthrottle = \"100ms\"\nstart_timeout = \"5m\"\n"
    );
    let porter = stage.porter(&wake, NO_SLEEP).await;
    let front = Front::before(&stage.sample, &porter, &[&app], Errors::Replaced).await;
    until_state(&porter, &app, "stopped", LONG).await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), vec![b'x'; SIZE]).expect("writable");
    for _ in 0..2 {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--location", "--max-redirs", "20"])
            .args(["--write-out", "\n%{http_code} %{num_redirects}"])
            .arg("--resolve")
            .arg(format!("{}:{}:127.0.0.1", front.host(&app), front.address.port()))
            .arg("--data-binary")
            .arg(format!("@{}", file.path().display()))
            .arg(front.url(&app, "/echo"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(300), curl.output()).await;
        let output = output.expect("in time").expect("curl");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (body, told) = text.rsplit_once('\n').expect("two lines");
        let (status, redirects) = told.split_once(' ').expect("two numbers");
        assert_eq!(status, "200", "{body}");
        assert!(redirects.parse::<u32>().expect("a number") > 0, "it was not held in vain");
        let echo: serde_json::Value = serde_json::from_str(body).expect("the app's answer");
        assert_eq!(echo["method"], "POST");
        assert_eq!(echo["body"].as_str().map(str::len), Some(SIZE));
        assert_eq!(order(&porter, &app, "sleep").await.status, 200);
    }
}
