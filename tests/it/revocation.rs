//! Revocation: every kind of change takes effect, at once and for good.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

mod measure;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::boxes::{SampleBox, Store, TERMINAL_SECRET};
use crate::support::client::{Connection, Request, poll};
use crate::support::postgres::Cluster;
use crate::support::server::{Nightporter, config};
use crate::support::sign;
use crate::support::soak;

use measure::{Kind, Load, Scene, Times};

const PATIENCE: Duration = Duration::from_secs(60);

async fn changes_take_effect_under_load(store: Store, of_each_kind: usize) -> Vec<Times> {
    let scene = Scene::new(store).await;
    let load = Load::begin(scene.porter.gate, 5_000);
    let mut all = Vec::new();
    for kind in Kind::of(store) {
        let times = scene.time(kind, of_each_kind).await;
        println!("{store:?}  {:<9} {times}", format!("{kind:?}"));
        all.push(times);
    }
    println!("{store:?}  all       {}", Times::together(&all));
    println!("{store:?}  meanwhile {:.0} other requests/s, all granted", load.end().await);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_in_postgres_take_effect_under_load() {
    let all = changes_take_effect_under_load(Store::Postgres, 220).await;
    assert!(Times::together(&all).count() >= 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_files_take_effect_under_load() {
    changes_take_effect_under_load(Store::Files, 60).await;
}

/// The name of a terminal is a number that only grows, so an answer tells how
/// old the row was that it was made from.
struct Race {
    porter: Nightporter,
    sample: SampleBox,
    question: Request,
}

impl Race {
    async fn new() -> Self {
        let sample = SampleBox::new(Store::Postgres).await;
        let headers = json!({"X-Ptl-Client-Name": "{{ auth.client_name }}"});
        sample.add_app("notes", &json!({"": {"access": "private", "headers": headers}})).await;
        sample.add_terminal("racer", "0").await;
        let porter = Nightporter::of(&sample).await;
        let token = sign::token(TERMINAL_SECRET, "racer");
        Self { porter, sample, question: Request::auth("notes.box.test", "/").cookie(token) }
    }
}

async fn number(connection: &mut Connection, question: &Request) -> u64 {
    let answer = connection.ask(question).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text("x-ptl-client-name").expect("a name").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_race_with_questions_leave_nothing_stale() {
    const ASKERS: usize = 4;
    let rounds = u64::from(soak::REVOCATIONS.count());
    let race = Race::new().await;
    let newest_seen = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let askers: Vec<_> = (0..ASKERS)
        .map(|_| {
            let (newest_seen, over) = (Arc::clone(&newest_seen), Arc::clone(&over));
            let (gate, question) = (race.porter.gate, race.question.clone());
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let mut connection = Connection::open(gate).await.expect("the gate listens");
                while !over.load(Ordering::SeqCst) {
                    let floor = newest_seen.load(Ordering::SeqCst);
                    let seen = number(&mut connection, &question).await;
                    assert!(seen >= floor, "{seen} after {floor} was seen");
                    newest_seen.fetch_max(seen, Ordering::SeqCst);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut connections = [race.porter.connect().await, race.porter.connect().await];
    for round in 1..=rounds {
        let sql = "UPDATE terminals SET name = $1 WHERE id = 'racer'";
        let name = round.to_string();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&name];
        let update = race.sample.database().execute(sql, &params);
        // At once: these load the row before, while and after it changes.
        let [one, other] = &mut connections;
        let (updated, ..) =
            tokio::join!(update, number(one, &race.question), number(other, &race.question));
        assert_eq!(updated, 1);
        poll("the newest row", PATIENCE, async || number(one, &race.question).await == round).await;
        newest_seen.fetch_max(round, Ordering::SeqCst);
        assert_eq!(number(other, &race.question).await, round, "a stale entry came back");
    }
    over.store(true, Ordering::SeqCst);
    for asker in askers {
        asker.await.expect("nobody saw an older row after a newer one");
    }
    let metrics = Connection::open(race.porter.ops).await.unwrap();
    let loads = loads_of_terminals(metrics).await;
    let asked = asked.load(Ordering::Relaxed);
    println!("race: {rounds} changes among {asked} questions made {loads} loads; none was stale");
    assert!(loads >= rounds, "{loads} loads: the changes did not race with loads");
}

async fn loads_of_terminals(mut ops: Connection) -> u64 {
    let metrics = ops.ask(&Request::new("GET", "/metrics")).await.unwrap();
    let line = r#"nightporter_cache_loads_total{cache="terminals"} "#;
    let value = metrics.body().lines().find_map(|found| found.strip_prefix(line));
    value.expect("a metric").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_gates_hear_of_one_revocation() {
    const GATES: usize = 32;
    const ROUNDS: usize = 40;
    // Nobody else's connections count against this server's limit.
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let sample = SampleBox::in_database(Store::Postgres, Some(database)).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    sample.add_terminal("tablet", "Tablet").await;
    let toml = format!("{}pool_size = 2\n", sample.store_config());
    let gates: Vec<_> = (0..GATES).map(|_| Nightporter::start(config(&toml))).collect();
    for gate in &gates {
        gate.ready().await;
    }
    let token = sign::token(TERMINAL_SECRET, "tablet");
    let question = Request::auth("notes.box.test", "/").cookie(token);
    let mut all = Vec::new();
    let mut slowest = Vec::new();
    for round in 0..ROUNDS {
        let (before, after) = if round % 2 == 0 { (200, 401) } else { (401, 200) };
        let mut connections = Vec::new();
        for gate in &gates {
            let mut connection = gate.connect().await;
            // Warm: what follows is heard, not read for the first time.
            assert_eq!(connection.ask(&question).await.unwrap().status, before);
            connections.push(connection);
        }
        match after {
            401 => sample.remove_terminal("tablet").await,
            _ => sample.add_terminal("tablet", "Tablet").await,
        }
        let changed = Instant::now();
        let times = join_all(connections.iter_mut().map(async |connection| {
            poll("the change", PATIENCE, async || {
                connection.ask(&question).await.unwrap().status == after
            })
            .await;
            changed.elapsed()
        }))
        .await;
        slowest.push(*times.iter().max().expect("32"));
        all.extend(times);
    }
    println!("{GATES} gates, each    {}", all.into_iter().collect::<Times>());
    let slowest: Times = slowest.into_iter().collect();
    println!("{GATES} gates, slowest {slowest}");
}
