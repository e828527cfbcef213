//! Measures both archives with 1,000,000 records, each with three steps: how fast they are
//! written and placed, how long pages of history take, `verify`, what slow reads of the record
//! cost the gate beside them, and what row-level security costs in Postgres:
//! `cargo bench --bench ledger`, or fewer records with `cargo bench --bench ledger -- 50000`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints figures and panics if it cannot continue"
)]
#![allow(unreachable_pub, reason = "modules are shared with the tests")]

#[allow(dead_code, unused_imports, reason = "a part of the tests' support is used here")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use nightporter::config::{self, Secret};
use nightporter::ledger::archive::Archive;
use nightporter::ledger::archive::postgres::Postgres;
use nightporter::ledger::archive::sqlite::{Limits, Sqlite};
use nightporter::ledger::checkpoint::file::CheckpointFile;
use nightporter::ledger::history::{Filter, Order, PageRequest};
use nightporter::ledger::integrity::Integrity;
use nightporter::ledger::key::SigningKey;
use nightporter::ledger::record::{Entry, Kind, Micros, Record, RecordId, Step, WriterId};
use nightporter::ledger::seal::Sealer;
use nightporter::ledger::verify::{Evidence, verify};
use support::boxes::{SampleBox, Store};
use support::client::Request;
use support::postgres::{Cluster, Database};
use support::server::Nightporter;

const RECORDS: i64 = 1_000_000;
/// Records in a batch: the most that the ledger's writer puts into one.
const BATCH: i64 = 5_000;
const ROUNDS: u32 = 20;

/// The design's targets.
const ROWS: f64 = 20_000.0;
const PAGE: Duration = Duration::from_millis(20);
const VERIFY: Duration = Duration::from_secs(10);
const GATE_P99: f64 = 1.10;

/// Rounds of requests to the gate, each without scans and beside them.
const GATE_ROUNDS: usize = 10;
const GATE_REQUESTS: usize = 3_000;

/// The database of the Postgres archive.
static DATABASE: OnceLock<Database> = OnceLock::new();

/// The id of a box has 103 characters.
fn tenant() -> Arc<str> {
    "8".repeat(103).into()
}

#[tokio::main]
async fn main() {
    let records = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(RECORDS);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.db");
    let sqlite = Archive::Sqlite(Sqlite::new(file, Limits::default()));
    Box::pin(measure("SQLite", &sqlite, records, folder.path())).await;

    let created = Cluster::shared().database().await;
    let url = DATABASE.get_or_init(|| created).url();
    let config = config::Postgres {
        url: Secret::new(url),
        pool_size: 8,
        pool_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(60),
        query_timeout: Duration::from_secs(60),
        create_tables: false,
    };
    let postgres = Archive::Postgres(Postgres::new(&config).expect("a valid connection string"));
    let folder = tempfile::tempdir().expect("a folder");
    Box::pin(measure("Postgres", &postgres, records, folder.path())).await;
}

async fn measure(name: &str, archive: &Archive, records: i64, folder: &Path) {
    let key = SigningKey::load_or_create(&folder.join("ledger.key")).expect("a key");
    archive.prepare().await.expect("prepares");
    write(name, archive, records, &key).await;
    place(name, archive, &folder.join("checkpoints.txt"), &folder.join("ledger.key")).await;
    vacuum(archive).await;
    let size = archive.size().await.expect("answers");
    let each = size / u64::try_from(records).expect("positive");
    print(name, "size", &format!("{each} bytes a record"), None);
    for (what, request) in pages() {
        page(name, archive, what, &request).await;
    }
    if let Archive::Postgres(postgres) = archive {
        as_roles(name, postgres).await;
    }
    prove(name, archive, key).await;
    beside_scans(name, archive).await;
    println!();
}

/// Reads pages, and records with their steps, as the role for which row-level security shows
/// one tenant, and as the tables' owner without it, in turn; prints how much longer the role
/// takes.
async fn as_roles(name: &str, postgres: &Postgres) {
    const READS: i64 = 200;
    const TURNS: usize = 5;
    let database = DATABASE.get().expect("there is one");
    let tenant = tenant();
    let mut pages = pages();
    pages
        .retain(|(what, _)| ["all", "an app", "an hour long ago", "acts of an app"].contains(what));
    let record = pages.len();
    // Of each page, and at last of single records: the times of the role, and of the owner.
    let mut times = vec![[Vec::new(), Vec::new()]; record + 1];
    for turn in 0..2 * TURNS {
        let of = turn % 2;
        let wall = ["ENABLE", "DISABLE"][of];
        let set = format!("ALTER TABLE nightporter_ledger.requests {wall} ROW LEVEL SECURITY");
        database.batch(&set).await;
        postgres.check_isolation().await.expect("answers");
        assert_eq!(postgres.isolation_problem().is_none(), of == 0, "{wall}");
        for (page, (_, request)) in pages.iter().enumerate() {
            // The first one learns that the table has changed.
            postgres.page(request).await.expect("a page");
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                postgres.page(request).await.expect("a page");
                times[page][of].push(begin.elapsed());
            }
        }
        for seq in 1..=READS {
            let id = RecordId { writer: WriterId(7), seq: seq * 17 };
            let begin = Instant::now();
            let found = postgres.find(&tenant, id).await.expect("answers").expect("a record");
            times[record][of].push(begin.elapsed());
            assert_eq!(found.record.steps.len(), 3);
        }
    }
    let whats = pages.iter().map(|(what, _)| *what).chain(["a record with steps"]);
    for (what, [reader, owner]) in whats.zip(times) {
        for (figure, percent) in [("median", 50), ("p99", 99)] {
            let [reader, owner] = [&reader, &owner].map(|times| percentile(times.clone(), percent));
            let ratio = reader.as_secs_f64() / owner.as_secs_f64();
            let what = format!("row-level security, {figure}: {what}");
            print(name, &what, &format!("{ratio:.2} ({reader:.1?} to {owner:.1?})"), None);
        }
    }
    let set = "ALTER TABLE nightporter_ledger.requests ENABLE ROW LEVEL SECURITY";
    database.batch(set).await;
    postgres.check_isolation().await.expect("answers");
}

/// Does what Postgres does by itself within some minutes.
async fn vacuum(archive: &Archive) {
    if matches!(archive, Archive::Postgres(_)) {
        let tables = "VACUUM (ANALYZE) nightporter_ledger.requests";
        let database = DATABASE.get().expect("there is one");
        database.batch(tables).await;
    }
}

/// Asks the gate while four readers count all records again and again, and without them, in
/// turn.
async fn beside_scans(name: &str, archive: &Archive) {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &serde_json::json!({"": {"access": "public"}})).await;
    let porter = Nightporter::with(&sample, "").await;
    let request = Request::auth("notes.localhost", "/").bytes();
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..GATE_ROUNDS {
        ask_gate(&porter, &request, &mut quiet).await;
        let scans = futures_util::future::join_all((0..4).map(|_| scan(archive)));
        tokio::select! {
            () = ask_gate(&porter, &request, &mut beside) => {}
            _never = scans => {}
        }
    }
    let (quiet, beside) = (p99(quiet), p99(beside));
    let ratio = beside.as_secs_f64() / quiet.as_secs_f64();
    let figure = format!("{ratio:.2} ({beside:.1?} to {quiet:.1?})");
    print(name, "the gate's p99 beside four scans", &figure, Some(ratio <= GATE_P99));
}

/// Reads all records for as long as it is polled.
async fn scan(archive: &Archive) -> std::convert::Infallible {
    let tenant = tenant();
    loop {
        let mut snapshot = archive.snapshot().await.expect("begins");
        snapshot.holdings(&tenant).await.expect("counts");
    }
}

async fn ask_gate(porter: &Nightporter, request: &[u8], times: &mut Vec<Duration>) {
    let mut connection = porter.connect().await;
    for _ in 0..GATE_REQUESTS {
        let begin = Instant::now();
        let response = connection.ask_bytes(request).await.expect("an answer");
        times.push(begin.elapsed());
        assert_eq!(response.status, 200);
    }
}

fn p99(times: Vec<Duration>) -> Duration {
    percentile(times, 99)
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times[times.len() * percent / 100]
}

fn print(name: &str, what: &str, figure: &str, is_met: Option<bool>) {
    let verdict = is_met.map_or("", |is_met| if is_met { "met" } else { "missed" });
    println!("{name:<9} {what:<48} {figure:<28} {verdict}");
}

async fn write(name: &str, archive: &Archive, records: i64, key: &SigningKey) {
    let mut sealer = Sealer::new(key.seal_key().clone()).expect("random numbers");
    let tenant = tenant();
    let mut took = Duration::ZERO;
    for first in (1..=records).step_by(usize::try_from(BATCH).expect("small")) {
        let batch: Vec<Record> = (first..(first + BATCH).min(records + 1))
            .map(|seq| {
                let id = RecordId { writer: WriterId(7), seq };
                sealer.seal(id, &tenant, entry(seq))
            })
            .collect();
        let begin = Instant::now();
        archive.write(&batch).await.expect("writes");
        took += begin.elapsed();
    }
    rate(name, "requests written, with 3 steps", records, took, Some(ROWS));
}

async fn place(name: &str, archive: &Archive, checkpoints: &Path, key: &Path) {
    let key = SigningKey::load(key).expect("a key");
    let file = CheckpointFile::new(checkpoints.to_owned());
    let integrity = Integrity::new(key, file, Duration::ZERO);
    let tenant = tenant();
    let begin = Instant::now();
    let mut placed = 0;
    loop {
        let mut transaction = archive.begin().await.expect("begins");
        let extended = integrity.extend(&mut transaction, &tenant).await.expect("extends");
        transaction.commit().await.expect("commits");
        integrity.settle(&extended).expect("writable");
        placed += extended.placed;
        if extended.placed == 0 {
            break;
        }
    }
    rate(name, "given positions", i64::try_from(placed).expect("few"), begin.elapsed(), None);
}

#[allow(clippy::cast_precision_loss, reason = "a figure to print")]
fn rate(name: &str, what: &str, count: i64, took: Duration, target: Option<f64>) {
    let rate = count as f64 / took.as_secs_f64();
    print(name, what, &format!("{rate:.0} a second"), target.map(|target| rate >= target));
}

async fn page(name: &str, archive: &Archive, what: &str, request: &PageRequest) {
    let mut times = Vec::new();
    let mut count = 0;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        count = archive.page(request).await.expect("a page").records.len();
        times.push(begin.elapsed());
    }
    let first = times[0];
    times.sort();
    let median = times[times.len() / 2];
    let figure = format!("{median:.1?} (first {first:.1?})");
    print(name, &format!("page: {what} ({count})"), &figure, Some(median <= PAGE));
}

async fn prove(name: &str, archive: &Archive, key: SigningKey) {
    let tenant = tenant();
    let evidence = Evidence {
        key: key.verifier(&tenant),
        tenant,
        signer: Some(key),
        kept: Vec::new(),
        spooled: BTreeMap::new(),
        now: now(),
    };
    let begin = Instant::now();
    let mut snapshot = archive.snapshot().await.expect("begins");
    let report = verify(&mut snapshot, evidence, |_, _| ()).await.expect("reads");
    let took = begin.elapsed();
    assert!(report.unaltered_since().is_some(), "{report:?}");
    let what = format!("verify of {}", report.records);
    print(name, &what, &format!("{took:.1?}"), Some(took <= VERIFY));
}

#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Micros {
    SystemTime::now().into()
}

/// A denied visit; one in a hundred is a wake, one in ten thousand an act.
fn entry(seq: i64) -> Entry {
    let pick =
        |words: &[&'static str], n: i64| words[usize::try_from(n).expect("positive") % words.len()];
    let kind = match seq {
        seq if seq % 10_000 == 0 => Kind::Act,
        seq if seq % 100 == 0 => Kind::Wake,
        _ => Kind::Visit,
    };
    let reasons = ["no_credential", "no_credential", "private", "expired", "revoked"];
    let step = |name: &'static str, duration| Step {
        name: name.into(),
        duration: Micros(duration),
        outcome: "ok".into(),
    };
    Entry {
        app: Some(format!("app-{}", seq % 50).into()),
        host: Some(format!("app-{}.example.org", seq % 50).into()),
        path: Some(format!("/some/path/{}", seq % 1_000).into()),
        rule: Some("/some".into()),
        client: Some("terminal".into()),
        client_id: Some(format!("terminal-{}", seq % 5_000).into()),
        client_name: Some("Phone".into()),
        address: Some([192, 0, 2, u8::try_from(seq % 250).expect("small")].into()),
        verdict: Some(if kind == Kind::Visit { "deny" } else { "done" }.into()),
        reason: Some(pick(&reasons, seq).into()),
        trace: Some(format!("{seq:032x}").into()),
        duration: Micros(321),
        steps: vec![step("app", 3), step("client", 120), step("decide", 7)],
        // Ten a second.
        ..Entry::new(kind, Micros(1_700_000_000_000_000 + seq * 100_000))
    }
}

fn pages() -> Vec<(&'static str, PageRequest)> {
    let text = |text: &str| Some(text.to_owned());
    let at = |seq: i64| Some(entry(seq).at);
    let all = Filter::default;
    let of = |filter| PageRequest {
        tenant: tenant().to_string(),
        filter,
        order: Order::NewestFirst,
        after: None,
        limit: 50,
        with_unplaced: true,
    };
    vec![
        ("all", of(all())),
        ("oldest first", PageRequest { order: Order::OldestFirst, ..of(all()) }),
        ("an app", of(Filter { app: text("app-7"), ..all() })),
        ("a client", of(Filter { client: text("terminal-77"), ..all() })),
        ("acts", of(Filter { kind: Some(Kind::Act), ..all() })),
        ("visits", of(Filter { kind: Some(Kind::Visit), ..all() })),
        ("a reason", of(Filter { reason: text("revoked"), ..all() })),
        ("a verdict", of(Filter { verdict: text("deny"), ..all() })),
        ("an hour long ago", of(Filter { from: at(36_000), to: at(72_000), ..all() })),
        ("a second long ago", of(Filter { from: at(36_000), to: at(36_010), ..all() })),
        ("acts of an app", of(Filter { app: text("app-0"), kind: Some(Kind::Act), ..all() })),
        ("nothing", of(Filter { app: text("nobody"), ..all() })),
        ("never together", of(Filter { app: text("app-1"), reason: text("revoked"), ..all() })),
    ]
}
