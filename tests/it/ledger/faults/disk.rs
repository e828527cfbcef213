//! A disk that is full or read-only.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::support::boxes::{SampleBox, Store};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::client::{Request, ask};
use crate::support::disk::SmallDisk;
use crate::support::server::Nightporter;

/// More than the queue and the writer's hand hold.
const FLOOD: u32 = 50_000;

/// Fills a disk to the last byte.
fn fill(disk: &Path) {
    let mut file = fs::File::create(disk.join("filler")).expect("created");
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

async fn without_database_and_spool(breaks: impl Fn(&SmallDisk), repairs: impl Fn(&SmallDisk)) {
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let (folder, disk) = (tempfile::tempdir().expect("a folder"), SmallDisk::of_kib(128 * 1024));
    std::os::unix::fs::symlink(disk.path(), folder.path().join("spool")).expect("a link");
    let running = Running::start(folder.path(), Some(&database.url_at(proxy.address)));
    let ledger = &running.ledger;
    ledger.recorder.record(visit(0));
    poll("it works", PATIENCE, async || ledger.link.records() == 1).await;
    proxy.set(Network::Cut);
    breaks(&disk);
    ledger.recorder.record(visit(1));
    poll("it is said", PATIENCE, async || !ledger.health().problems.is_empty()).await;
    let begin = Instant::now();
    (2..FLOOD).for_each(|number| ledger.recorder.record(visit(number)));
    println!("{FLOOD} records took {:?}", begin.elapsed());
    let act = ledger.recorder.commit(Entry::new(Kind::Act, Micros(1))).await;
    println!("an act: {}", act.expect_err("refused"));
    let health = ledger.health();
    assert!(health.dropped() > 0 && health.spooled == 0, "{health:?}");
    assert!(health.problems.iter().any(|problem| problem.contains("dropped")), "{health:?}");
    let visits = health.accepted;
    // Room again: all goes on without a restart, first without the database.
    repairs(&disk);
    poll("all is spooled", PATIENCE, async || ledger.writer.spooled() + 1 >= visits).await;
    proxy.set(Network::Pass);
    running.end().await;
    let of = |kind| health.refused.iter().find(|(of, _)| *of == kind).map_or(0, |found| found.1);
    let dropped = of(Kind::Visit);
    assert!(dropped > 0, "{health:?}");
    let there = FLOOD - u32::try_from(dropped).expect("small");
    let said = losses(&database).await;
    let total: i64 = said.values().sum();
    assert_eq!(said.keys().collect::<Vec<_>>(), ["queue_full"]);
    assert!(total >= i64::try_from(dropped).expect("small"), "{said:?}, {health:?}");
    has_exactly(&database, there, running.accepted()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_disk_drops_and_says_so_and_goes_on_when_there_is_room() {
    without_database_and_spool(
        |disk| fill(disk.path()),
        |disk| fs::remove_file(disk.path().join("filler")).expect("removed"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_spool_drops_and_says_so_and_goes_on_when_it_can_be_written() {
    without_database_and_spool(|disk| disk.set_read_only(true), |disk| disk.set_read_only(false))
        .await;
}

/// Something that is done to a disk.
type Change = fn(&SmallDisk);

/// How a disk may be when a process starts, how that is ended, and what is said of it meanwhile.
const AT_THE_START: [(Change, Change, &str); 2] = [
    (
        |disk| fill(disk.path()),
        |disk| fs::remove_file(disk.path().join("filler")).expect("removed"),
        "free some space",
    ),
    (|disk| disk.set_read_only(true), |disk| disk.set_read_only(false), "make its folder writable"),
];

/// Neither the database nor the spool takes anything from the first record on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_cannot_be_written_at_the_start_is_named_and_loses_nothing() {
    const VISITS: u32 = 100;
    for (breaks, repairs, remedy) in AT_THE_START {
        let database = Cluster::shared().database().await;
        let proxy = ChaosProxy::before(database.server_address()).await;
        proxy.set(Network::Cut);
        let folder = tempfile::tempdir().expect("a folder");
        let disk = SmallDisk::of_kib(16 * 1024);
        let spool = folder.path().join("spool");
        std::os::unix::fs::symlink(disk.path(), &spool).expect("a link");
        breaks(&disk);
        let running = Running::start(folder.path(), Some(&database.url_at(proxy.address)));
        let ledger = &running.ledger;
        (0..VISITS).for_each(|number| ledger.recorder.record(visit(number)));
        let name = spool.display().to_string();
        poll("it is said", PATIENCE, async || {
            let problems = ledger.health().problems;
            problems.iter().any(|problem| problem.contains(&name) && problem.contains(remedy))
        })
        .await;
        assert_eq!(ledger.health().dropped(), 0);
        repairs(&disk);
        let visits = u64::from(VISITS);
        poll("all is spooled", PATIENCE, async || ledger.writer.spooled() >= visits).await;
        proxy.set(Network::Pass);
        running.end().await;
        assert_eq!(ledger.health().dropped(), 0);
        has_exactly(&database, VISITS, running.accepted()).await;
    }
}

/// Starts on a folder that cannot be written, which may hold the record of an earlier process.
async fn starts_without_a_disk(is_first: bool, (breaks, repairs, remedy): (Change, Change, &str)) {
    const VISITS: usize = 20;
    let disk = SmallDisk::of_kib(24 * 1024);
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &serde_json::json!({"": {"access": "private"}})).await;
    let path = format!("[ledger]\npath = \"{}\"\n", disk.path().join("ledger").display());
    let own = format!("[ledger]\npath = \"{}\"\n", sample.ledger().display());
    let config = config(&sample.store_config().replace(&own, &path));
    let denied = async |porter: &Nightporter, path: &str| {
        assert_eq!(porter.auth("notes.box.example", path).await.status, 401);
    };
    let get =
        async |porter: &Nightporter, path: &str| ask(porter.ops, &Request::new("GET", path)).await;
    let visits = async |porter: &Nightporter| -> Option<usize> {
        let page = get(porter, "/v1/requests?kind=visit&limit=500").await;
        let page: Value = serde_json::from_slice(&page.body).expect("JSON");
        page["requests"].as_array().map(Vec::len)
    };
    let mut before = 0;
    if !is_first {
        let porter = Nightporter::start(config.clone());
        porter.ready().await;
        denied(&porter, "/before").await;
        poll("it is recorded", PATIENCE, async || visits(&porter).await == Some(1)).await;
        before = 1;
    }
    breaks(&disk);
    let porter = Nightporter::start(config);
    porter.ready().await;
    for number in 0..VISITS {
        denied(&porter, &format!("/{number}")).await;
    }
    let mut problems = Value::Null;
    let name = disk.path().join("ledger").display().to_string();
    poll("it is said", PATIENCE, async || {
        let health = get(&porter, "/healthz").await;
        let health: Value = serde_json::from_slice(&health.body).expect("JSON");
        assert_eq!(health["ledger"]["dropped"], 0, "{health}");
        problems = health["ledger"]["problems"].clone();
        let problems = problems.as_array().expect("a list").iter().filter_map(Value::as_str);
        problems.into_iter().any(|text| text.contains(&name) && text.contains(remedy))
    })
    .await;
    println!("{problems}");
    let wake = Request::new("POST", "/v1/apps/notes/wake");
    assert_eq!(ask(porter.ops, &wake).await.status, 503, "no act without a record");
    denied(&porter, "/last").await;
    repairs(&disk);
    let all = before + VISITS + 1;
    poll("all are there", PATIENCE, async || visits(&porter).await >= Some(all)).await;
    assert_eq!(visits(&porter).await, Some(all), "each once");
    poll("nothing is wrong", PATIENCE, async || {
        let health = get(&porter, "/healthz").await;
        let health: Value = serde_json::from_slice(&health.body).expect("JSON");
        health["ledger"]["problems"] == serde_json::json!([]) && health["ledger"]["dropped"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_at_the_first_start_loses_nothing() {
    for state in AT_THE_START {
        Box::pin(starts_without_a_disk(true, state)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_at_another_start_loses_nothing() {
    for state in AT_THE_START {
        Box::pin(starts_without_a_disk(false, state)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_answers_while_the_disk_of_the_record_is_full() {
    let disk = SmallDisk::of_kib(24 * 1024);
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &serde_json::json!({"": {"access": "private"}})).await;
    let path = format!("[ledger]\npath = \"{}\"\n", disk.path().join("ledger").display());
    let own = format!("[ledger]\npath = \"{}\"\n", sample.ledger().display());
    let porter = Nightporter::start(config(&sample.store_config().replace(&own, &path)));
    porter.ready().await;
    let get = async |path: &str| -> Value {
        let response = ask(porter.ops, &Request::new("GET", path)).await;
        serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("{}", response.body()))
    };
    let denied = async |number: u32| {
        let response = porter.auth("notes.box.example", &format!("/{number}")).await;
        assert_eq!(response.status, 401);
    };
    let records = async || get("/v1/requests?limit=500").await["requests"].as_array().map(Vec::len);
    denied(0).await;
    poll("the first is there", PATIENCE, async || records().await == Some(1)).await;
    fill(disk.path());
    let mut number = 1;
    poll("it is said", PATIENCE, async || {
        denied(number).await;
        number += 1;
        get("/healthz").await["ledger"]["problems"] != serde_json::json!([])
    })
    .await;
    println!("{}", get("/healthz").await["ledger"]);
    for _ in 0..100 {
        denied(number).await;
        number += 1;
    }
    fs::remove_file(disk.path().join("filler")).expect("removed");
    let all = usize::try_from(number).expect("small");
    poll("all are there", PATIENCE, async || records().await >= Some(all.min(500))).await;
    poll("nothing is wrong", PATIENCE, async || {
        get("/healthz").await["ledger"]["problems"] == serde_json::json!([])
    })
    .await;
}
