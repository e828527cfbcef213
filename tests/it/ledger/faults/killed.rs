//! nightporter is killed under load.

use std::collections::BTreeSet;

use super::*;
use crate::support::boxes::{SampleBox, Store};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::client::{Connection, Request, ask};
use crate::support::program::Program;

/// `ledger.flush_interval`, and what a write may take in a debug build on a busy machine.
const BOUND: Duration = Duration::from_millis(200 + 3_000);

/// For how long each process works: well beyond the bound.
const LOAD: Duration = Duration::from_secs(6);

/// Between requests, so that each of them is recorded by itself: 1,000 are at once, and then 200
/// a second.
const PAUSE: Duration = Duration::from_millis(5);

/// A request that was denied: its path, and when that was answered.
type Answered = (String, Instant);

/// Asks for pages until the connection breaks.
async fn ask_until_killed(program: &Program, prefix: &str) -> Vec<Answered> {
    let mut answered = Vec::new();
    let Ok(mut connection) = Connection::open(program.gate).await else { return answered };
    for number in 0.. {
        let path = format!("{prefix}/{number}");
        let request = Request::auth("notes.box.example", &path);
        match connection.ask_bytes(&request.bytes()).await {
            Ok(response) => assert_eq!(response.status, 401),
            Err(_) => break,
        }
        answered.push((path, Instant::now()));
        tokio::time::sleep(PAUSE).await;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_loses_no_more_than_was_promised_and_starts_again() {
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &serde_json::json!({"": {"access": "private"}})).await;
    let file = sample.folder().join("np.toml");
    let url = format!("[ledger]\nurl = \"{}\"\n", database.url_at(proxy.address));
    let store = sample.store_config().replace("[ledger]\n", &url);
    let further = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                   [wake]\nenabled = false\n[jobs]\ndead_letters = \"500ms\"\n";
    std::fs::write(&file, format!("{store}{further}")).expect("written");
    let mut answered = Vec::new();
    for round in 0..KILLS.count() {
        // Every other process has no database and spools all it is asked.
        proxy.set(if round % 2 == 0 { Network::Pass } else { Network::Cut });
        let mut program = Program::start(&file, 1024);
        let prefixes = [format!("/{round}/a"), format!("/{round}/b")];
        let (one, other, killed) = tokio::join!(
            ask_until_killed(&program, &prefixes[0]),
            ask_until_killed(&program, &prefixes[1]),
            async {
                tokio::time::sleep(LOAD + Duration::from_millis(u64::from(round * 13 % 200))).await;
                program.signal("KILL");
                Instant::now()
            },
        );
        program.ended().await;
        let with_age = |(path, at): Answered| (path, killed.saturating_duration_since(at));
        answered.extend(one.into_iter().chain(other).map(with_age));
    }
    proxy.set(Network::Pass);
    // What the killed left behind is replayed by the next.
    let program = Program::start(&file, 1024);
    let spool = sample.ledger().join("spool");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let names = std::fs::read_dir(&spool).into_iter().flatten().flatten();
        let names = names.map(|file| file.file_name().into_string().expect("text"));
        // The spool's id is hidden.
        let files: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        if files.is_empty() {
            break;
        }
        let health = ask(program.ops, &Request::new("GET", "/healthz")).await;
        let (health, log) = (health.body(), program.log());
        assert!(Instant::now() < deadline, "{files:?}\n{health}\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(program);
    let sql = "SELECT path FROM nightporter_ledger.requests WHERE kind = 'visit'";
    let rows = database.connect().await.query(sql, &[]).await.expect("read");
    let paths: Vec<String> = rows.into_iter().map(|row| row.get(0)).collect();
    let found: BTreeSet<_> = paths.iter().collect();
    assert_eq!(found.len(), paths.len(), "each once");
    let lost: Vec<_> = answered.iter().filter(|(path, _)| !found.contains(path)).collect();
    let oldest = lost.iter().map(|(_, age)| *age).max().unwrap_or_default();
    println!(
        "{} kills: {} requests answered, {} lost, answered at most {oldest:?} before",
        KILLS.count(),
        answered.len(),
        lost.len(),
    );
    assert!(answered.len() > 100, "{}", answered.len());
    assert!(oldest <= BOUND, "{oldest:?}");
}
