//! What a thousand requests cost that are held at once.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{LONG, NO_SLEEP, Stage, program};
use crate::support::boxes::Store;
use crate::support::client::{Connection, Request, ask, poll};
use crate::support::docker::apps::Plan;
use crate::support::program::Program;

const HELD: usize = 1000;
/// In KiB; an open connection with a request that waits takes a fraction of it.
const MOST_FOR_ONE: u64 = 64;

/// What the process has in memory, in KiB.
fn resident(porter: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", porter.child.id()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_are_held_in_bounded_memory_that_is_given_back() {
    let stage = Stage::new(Store::Files).await;
    let app = stage.stopped(Plan::new("held")).await;
    let config = stage.sample.folder().join("held.toml");
    let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
    let text = format!("{}{ports}{}", stage.sample.store_config(), stage.config("", NO_SLEEP));
    std::fs::write(&config, text).expect("writable");
    let porter = Program::start(&config, 4096);
    poll("the app is known to sleep", LONG, async || {
        let apps = ask(porter.ops, &Request::new("GET", "/v1/apps")).await;
        apps.body().contains("\"state\":\"stopped\"")
    })
    .await;
    let before = resident(&porter);

    let starts = stage.proxy.hold("POST", "/start");
    let (asked, count) = watch::channel(0);
    let mut askers = JoinSet::new();
    for _ in 0..HELD {
        let (gate, request, asked) = (porter.gate, program(&app), asked.clone());
        askers.spawn(async move {
            let mut connection = Connection::open(gate).await.expect("the gate listens");
            asked.send_modify(|count| *count += 1);
            // On a machine so slow that a hold ends before all have come.
            while connection.ask(&request).await.expect("an answer").status != 200 {}
        });
    }
    starts.reached(1).await;
    let all = format!("nightporter_connections{{listener=\"gate\"}} {HELD}\n");
    poll("all are held", LONG, async || {
        *count.borrow() == HELD && porter.metrics().await.contains(&all)
    })
    .await;
    let during = resident(&porter);
    starts.release();
    while let Some(asker) = askers.join_next().await {
        asker.expect("granted");
    }
    assert_eq!(app.starts().await, 1);
    let after = resident(&porter);
    let most = before + MOST_FOR_ONE * u64::try_from(HELD).expect("64 bits");
    assert!(during <= most, "{during} KiB, of {before} KiB before");
    let began = Instant::now();
    poll("what they took is given back", LONG, async || resident(&porter) <= before * 3 / 2).await;
    println!(
        "{HELD} requests held: {before} KiB before, {during} KiB meanwhile, {after} KiB just \
         after, {} KiB {:.1} s later",
        resident(&porter),
        began.elapsed().as_secs_f64(),
    );
}
