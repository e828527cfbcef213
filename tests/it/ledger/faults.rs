//! Nothing that was accepted is lost: not when the database dies, not when the disk is full,
//! and when nightporter itself dies, no more than was promised.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

mod disk;
mod killed;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nightporter::ledger::Ledger;
use nightporter::ledger::record::{Entry, Kind, Micros, Note, Step};
use tokio::task::JoinHandle;

use crate::support::client::poll;
use crate::support::postgres::{Cluster, Database};
use crate::support::server::config;
use crate::support::soak::KILLS;

/// What anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const RATE: u32 = 5_000;

/// A ledger that runs as in the process.
struct Running {
    ledger: Arc<Ledger>,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    /// Keeps its files in `path`, and its records in SQLite there unless there is a URL.
    fn start(path: &Path, url: Option<&str>) -> Self {
        let url = url.map_or_else(String::new, |url| format!("url = \"{url}\"\n"));
        let config = config(&format!("[ledger]\npath = \"{}\"\n{url}", path.display()));
        let ledger = Arc::new(Ledger::new(&config.ledger).expect("a valid configuration"));
        ledger.tenant.set("box");
        let (writer, replayer) = (Arc::clone(&ledger), Arc::clone(&ledger));
        let tasks = [
            tokio::spawn(async move { match writer.writer.run().await {} }),
            tokio::spawn(async move { match replayer.letters.run(&replayer.link).await {} }),
        ];
        Self { ledger, tasks }
    }

    /// Ends it in an orderly way, and replays what is left.
    async fn end(&self) {
        assert_eq!(self.ledger.writer.finish(PATIENCE).await, 0);
        poll("all is replayed", PATIENCE, async || {
            self.ledger.letters.replay(&self.ledger.link).await;
            self.ledger.letters.list().await.expect("readable").is_empty()
        })
        .await;
    }

    fn accepted(&self) -> i64 {
        i64::try_from(self.ledger.recorder.accepted()).expect("small")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A visit with two steps and a note.
fn visit(number: u32) -> Entry {
    let step = |name: &'static str| Step {
        name: name.into(),
        duration: Micros(i64::from(number)),
        outcome: "ok".into(),
    };
    Entry {
        app: Some("notes".into()),
        path: Some(format!("/{number}").into()),
        verdict: Some("deny".into()),
        steps: vec![step("app"), step("decide")],
        notes: vec![Note { topic: "test".into(), text: number.to_string().into() }],
        ..Entry::new(Kind::Visit, Micros(1_800_000_000_000_000 + i64::from(number)))
    }
}

/// Records at [`RATE`] until it is told to stop. Returns how many it has recorded.
fn produce(ledger: &Arc<Ledger>, stop: &Arc<AtomicBool>) -> JoinHandle<u32> {
    const TICK: Duration = Duration::from_millis(10);
    const MOST_WAITING: usize = 16_000;
    let (ledger, stop) = (Arc::clone(ledger), Arc::clone(stop));
    tokio::task::spawn_blocking(move || {
        let (begin, mut number) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            let due = begin.elapsed().as_millis() * u128::from(RATE) / 1000;
            // A debug build beside other tests may write less: the queue never overflows.
            while u128::from(number) < due && ledger.recorder.waiting() < MOST_WAITING {
                ledger.recorder.record(visit(number));
                number += 1;
            }
            std::thread::sleep(TICK);
        }
        number
    })
}

/// Fails unless the database has exactly these visits, each once and whole, and the numbers of
/// all records from 1 to `accepted`.
async fn has_exactly(database: &Database, visits: u32, accepted: i64) {
    let client = database.connect().await;
    let number = async |sql: &str| -> i64 {
        client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    };
    let of = "nightporter_ledger";
    let visits = i64::from(visits);
    let found = [
        number(&format!("SELECT count(*) FROM {of}.requests WHERE kind = 'visit'")).await,
        number(&format!("SELECT count(DISTINCT path) FROM {of}.requests")).await,
        number(&format!("SELECT count(*) FROM {of}.steps")).await / 2,
        number(&format!("SELECT count(*) FROM {of}.notes WHERE topic = 'test'")).await,
    ];
    assert_eq!(found, [visits; 4], "visits, paths, pairs of steps, notes");
    let numbers = number(&format!("SELECT count(DISTINCT seq) FROM {of}.requests")).await;
    let last = number(&format!("SELECT max(seq) FROM {of}.requests")).await;
    assert_eq!((numbers, last), (accepted, accepted), "no number is missing");
    let orphans = format!(
        "SELECT (SELECT count(*) FROM {of}.steps LEFT JOIN {of}.requests USING (writer, seq)
                 WHERE requests.seq IS NULL)
              + (SELECT count(*) FROM {of}.notes LEFT JOIN {of}.requests USING (writer, seq)
                 WHERE requests.seq IS NULL)"
    );
    assert_eq!(number(&orphans).await, 0, "orphans");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let folder = tempfile::tempdir().expect("a folder");
    let running = Running::start(folder.path(), Some(&database.url()));
    let ledger = &running.ledger;
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let producer = produce(ledger, &stop);
    for round in 0..KILLS.count() {
        let written = ledger.link.records();
        poll("records are written", PATIENCE, async || ledger.link.records() > written + 5_000)
            .await;
        // At another point of a batch each time.
        tokio::time::sleep(Duration::from_millis(u64::from(round * 37 % 100))).await;
        cluster.kill().await;
        if round % 2 == 1 {
            // Long enough for the writer to notice.
            let spooled = ledger.writer.spooled();
            poll("records are spooled", PATIENCE, async || ledger.writer.spooled() > spooled).await;
        }
        cluster.start_again().await;
    }
    stop.store(true, Ordering::Relaxed);
    let recorded = producer.await.expect("no panic");
    let took = begin.elapsed();
    running.end().await;
    let health = ledger.health();
    println!(
        "{} kills in {took:?}: {recorded} records, of them {} spooled",
        KILLS.count(),
        health.spooled,
    );
    assert_eq!((&health.refused, health.dropped()), (&Vec::new(), 0));
    has_exactly(&database, recorded, running.accepted()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_record_among_ten_thousand_stays_alone_with_its_error() {
    let database = Cluster::shared().database().await;
    let folder = tempfile::tempdir().expect("a folder");
    let running = Running::start(folder.path(), Some(&database.url()));
    let ledger = &running.ledger;
    for number in 0..10_000 {
        let mut entry = visit(number);
        if number == 1_000 {
            poll("the tables are there", PATIENCE, async || ledger.link.records() > 0).await;
            // What the database does not take, whatever its other columns are.
            let refuse = "ALTER TABLE nightporter_ledger.requests
                              ADD CHECK (path IS DISTINCT FROM '/poison')";
            database.batch(refuse).await;
        }
        if number == 7_321 {
            entry.path = Some("/poison".into());
        }
        ledger.recorder.record(entry);
        // Faster than a busy machine writes, some would find no room.
        while ledger.recorder.waiting() > 1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    poll("the others are there", PATIENCE, async || {
        ledger.letters.replay(&ledger.link).await;
        ledger.link.records() >= 9_999
    })
    .await;
    let client = database.connect().await;
    let sql = "SELECT count(*), count(DISTINCT path) FROM nightporter_ledger.requests";
    let row = client.query_one(sql, &[]).await.expect("counted");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (9_999, 9_999));
    let letters = ledger.letters.list().await.expect("readable");
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = ledger.letters.get(&letters[0].id).await.expect("there");
    assert_eq!(letter.records.len(), 1);
    assert_eq!(letter.records[0].path.as_deref(), Some("/poison"));
    let error = letter.summary.error.expect("an error");
    println!("kept with: {error}");
    assert_eq!(ledger.letters.dismiss(&letters[0].id).await.expect("dismissed"), 1);
    ledger.writer.finish(PATIENCE).await;
    let sql = "SELECT reason, count FROM nightporter_ledger.requests WHERE kind = 'loss'";
    let row = client.query_one(sql, &[]).await.expect("one loss");
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), ("dismissed".into(), 1));
}

/// Returns how many records each reason has among losses.
async fn losses(database: &Database) -> BTreeMap<String, i64> {
    let sql = "SELECT reason, sum(count)::bigint FROM nightporter_ledger.requests
               WHERE kind = 'loss' GROUP BY reason";
    let rows = database.connect().await.query(sql, &[]).await.expect("counted");
    rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
}
