//! Two processes with one database: what is asked of both is done once.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::program::Program;

const CLIENTS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);
const OPEN_FILES: u32 = 1024;

/// Writes the configurations of two replicas.
fn configs(sample: &SampleBox) -> [PathBuf; 2] {
    ["one", "two"].map(|name| {
        let path = sample.ledger().display().to_string();
        let store = sample.store_config().replace(&path, &format!("{path}-{name}"));
        let further = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                       [wake]\nenabled = false\n";
        let file = sample.folder().join(format!("{name}.toml"));
        std::fs::write(&file, format!("{store}{further}")).expect("written");
        file
    })
}

/// Starts a replica that knows the app.
async fn started(config: &Path) -> Program {
    let program = Program::start(config, OPEN_FILES);
    let request = Request::auth("notes.localhost", "/");
    poll("the app is known", PATIENCE, async || ask(program.gate, &request).await.status == 401)
        .await;
    program
}

async fn sample() -> SampleBox {
    let sample = SampleBox::new(Store::Postgres).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    sample
}

fn wake(key: &str) -> Request {
    Request::new("POST", "/v1/apps/notes/wake").header("Idempotency-Key", format!("\"{key}\""))
}

/// Whether the answer is that of the request, and not that it is being done.
fn is_final(response: &Response) -> bool {
    response.text("retry-after").is_none()
}

/// Sends requests to each replica in turn, all at once.
async fn storm(replicas: [SocketAddr; 2], key: &str) -> Vec<Response> {
    let barrier = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let clients = (0..CLIENTS).map(|n| {
        let (barrier, request) = (Arc::clone(&barrier), wake(key));
        tokio::spawn(async move {
            let connection = Connection::open(replicas[n % 2]).await;
            barrier.wait().await;
            connection.expect("it listens").ask(&request).await.expect("it answers")
        })
    });
    let answers = futures_util::future::join_all(clients).await;
    answers.into_iter().map(|answer| answer.expect("no panic")).collect()
}

/// Repeats the request until it is answered for good.
async fn until_final(replica: SocketAddr, key: &str) -> Response {
    let mut last = None;
    poll("a final answer", PATIENCE, async || {
        let answer = ask(replica, &wake(key)).await;
        assert!(answer.status == 409, "{}", answer.body());
        let is_final = is_final(&answer);
        last = Some(answer);
        is_final
    })
    .await;
    last.expect("an answer")
}

async fn acts(replica: SocketAddr) -> usize {
    let page =
        ask(replica, &Request::new("GET", "/v1/requests?kind=act&verdict=accepted&limit=500"))
            .await;
    let page: Value = serde_json::from_slice(&page.body).expect("JSON");
    page["requests"].as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_requests_with_one_key_are_one() {
    let sample = sample().await;
    let [one, two] = configs(&sample);
    let (one, two) = (started(&one).await, started(&two).await);
    let replicas = [one.ops, two.ops];
    for round in 1..=5 {
        let key = format!("round {round}");
        let answers = storm(replicas, &key).await;
        let expected = until_final(replicas[round % 2], &key).await.body;
        let mut at_once = 0;
        for answer in answers {
            assert_eq!(answer.status, 409, "{}", answer.body());
            if is_final(&answer) {
                assert_eq!(answer.body, expected);
                at_once += 1;
            }
        }
        for n in 0..CLIENTS {
            let again = ask(replicas[n % 2], &wake(&key)).await;
            assert_eq!(again.text("idempotency-replayed"), Some("true"));
            assert_eq!(again.body, expected);
        }
        println!("round {round}: {at_once} of {CLIENTS} were answered for good at once");
        for replica in replicas {
            assert_eq!(acts(replica).await, round, "one act a round");
        }
    }
}
