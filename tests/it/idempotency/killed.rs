//! A process that is killed with `kill -9` while it does a request: the request is done once all
//! the same, and nobody waits for it longer than its lease.
//!
//! In each round the request is held inside the process, at its effect or at the storing of its
//! answer, so that it is being done when the process is killed.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

mod act;
mod site;

use std::time::{Duration, Instant};

use nightporter::idempotency::LEASE;
use serde_json::Value;

use self::act::{Act, Kind, Write};
use self::site::{PATIENCE, Site};
use crate::support::boxes::Store;
use crate::support::client::{Connection, Response, poll};
use crate::support::soak::KILLS;

const CLIENTS: usize = 64;

/// Where a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Effect,
    Answer,
}

/// Rounds go through kinds and places in steps that reach all of them.
const PLACES: usize = 2 * Kind::ALL.len();
const STEP: usize = 5;

fn plan(round: usize) -> (Kind, At) {
    let n = round * STEP % PLACES;
    let at = if n < Kind::ALL.len() { At::Effect } else { At::Answer };
    (Kind::ALL[n % Kind::ALL.len()], at)
}

impl Kind {
    /// Whether its effect is committed before its answer is stored: it is outside the database,
    /// or a record of its own.
    fn is_done_before_its_answer(self) -> bool {
        matches!(self, Self::Wake | Self::Sleep | Self::Replay | Self::Dismiss)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_process_is_killed_is_done_once_on_postgres() {
    rounds(Store::Postgres, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_process_is_killed_is_done_once_on_sqlite() {
    rounds(Store::Files, 7).await;
}

async fn rounds(store: Store, first: usize) {
    let mut site = Site::new(store).await;
    let rounds = usize::try_from(KILLS.count()).expect("small");
    let is_whole = KILLS.count() == KILLS.all;
    let mut longest = Duration::ZERO;
    for round in first..first + rounds {
        // The lease of one is waited for; the others are moved to their end.
        let waits = is_whole && round == first;
        longest = longest.max(one(&mut site, round, waits).await);
    }
    println!("{rounds} of {rounds} kills hit a request that was being done; {longest:?} at most");
}

/// One round; returns how long it took from the kill to the answer.
async fn one(site: &mut Site, round: usize, waits: bool) -> Duration {
    let (kind, at) = plan(round);
    let what = format!("round {round}: {kind:?}, held at its {at:?}");
    site.start().await;
    let spool = site.spool();
    let act = Act::new(site, kind, round, spool).await;
    let request = act.request(&format!("round {round}"));
    let answer =
        Write { event: "UPDATE", table: "idempotency_keys", of: "NEW.state = 'done'".to_owned() };
    let held = if at == At::Effect { &act.effect } else { &answer };
    site.hold(held).await;
    let (victim, sent) = (site.victim().ops, request.clone());
    let first = tokio::spawn(async move {
        let mut connection = Connection::open(victim).await?;
        connection.ask_bytes(&sent).await
    });
    poll(&what, PATIENCE, async || {
        assert!(!first.is_finished(), "{what}: it was answered");
        site.is_held().await
    })
    .await;
    // Nobody waits for it, on either replica.
    for answer in storm(site, &request).await {
        is_running(&answer.expect("both replicas answer"), &what);
    }
    assert!(!first.is_finished() && site.is_held().await, "{what}: it is still being done");
    let done = i64::from(at == At::Answer && kind.is_done_before_its_answer());
    assert_eq!(act.effects(site).await, done, "{what}: before the kill");

    site.kill().await;
    let killed = Instant::now();
    let first = first.await.expect("no panic");
    assert!(first.is_err(), "{what}: the killed process has answered {first:?}");
    site.release(held).await;
    site.recover().await;
    let other = site.replicas()[0];
    let early = site.send(other, &request).await.expect("answers");
    // A busy machine may have taken longer than what was left of the lease.
    if killed.elapsed() < LEASE / 2 {
        is_running(&early, &what);
        assert_eq!(act.effects(site).await, done, "{what}: after the kill");
    }
    let left = "SELECT coalesce(max(lease_until), 0) - {now} FROM {s}idempotency_keys
                WHERE state = 'running'";
    let left = site.number(left).await;
    assert!(left <= i64::try_from(LEASE.as_micros()).expect("small"), "{what}: {left}");
    if !waits {
        let lapse = "UPDATE {s}idempotency_keys SET lease_until = {now} WHERE state = 'running'";
        site.execute(lapse).await;
    }

    let answers = if waits { Vec::new() } else { storm(site, &request).await };
    let mut last = None;
    poll(&what, PATIENCE, async || {
        let answer = site.send(other, &request).await.expect("answers");
        let is_last = is_final(&answer);
        last = Some(answer);
        is_last
    })
    .await;
    let took = killed.elapsed();
    let last = last.expect("an answer");
    assert!(act.statuses.contains(&last.status), "{what}: {} {}", last.status, last.body());
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    for answer in answers.iter().filter(|answer| is_final(answer)) {
        assert_eq!((answer.status, &answer.body), (last.status, &last.body), "{what}");
    }
    assert_eq!(act.effects(site).await, 1, "{what}: {}", last.body());
    for replica in site.replicas() {
        let again = site.send(replica, &request).await.expect("answers");
        assert_eq!(again.text("idempotency-replayed"), Some("true"), "{what}: {}", again.body());
        assert_eq!((again.status, &again.body), (last.status, &last.body), "{what}");
    }
    assert_eq!(act.effects(site).await, 1, "{what}: {}", last.body());
    took
}

/// Sends the request by many clients at once, to each replica in turn.
async fn storm(site: &Site, request: &[u8]) -> Vec<Option<Response>> {
    let replicas = site.replicas();
    let clients = (0..CLIENTS).map(|n| {
        let (replica, request) = (replicas[n % replicas.len()], request.to_vec());
        tokio::spawn(
            async move { Connection::open(replica).await.ok()?.ask_bytes(&request).await.ok() },
        )
    });
    let answers = futures_util::future::join_all(clients).await;
    answers.into_iter().map(|answer| answer.expect("no panic")).collect()
}

/// Whether the answer is that of the request, and not that it cannot be done now.
fn is_final(answer: &Response) -> bool {
    answer.text("retry-after").is_none()
}

#[track_caller]
fn is_running(answer: &Response, what: &str) {
    assert_eq!(answer.status, 409, "{what}: {}", answer.body());
    assert_eq!(answer.text("retry-after"), Some("1"), "{what}");
    let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["type"], "/problems/idempotency-key-in-use", "{what}");
}
