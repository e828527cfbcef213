//! From a change's commit to the verdict it changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nightporter::config::Cache;
use nightporter::store::{Cached, Freshness, Table};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::boxes::{SampleBox, Store, TERMINAL_SECRET, id_of};
use crate::support::client::{Connection, Request, Response};
use crate::support::load::{Shot, Stream};
use crate::support::server::Nightporter;
use crate::support::sign::{self, BOX_KEY, OTHER_KEY};

/// A change that takes longer is a bug, however busy the machine is. What it
/// takes on an idle one is for the benchmark to say.
const BOUND: Duration = Duration::from_secs(2);

/// Tells a change that is late from one that is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests/s behind the changes.
const RATE: u32 = 5_000;

const ROUNDS: u32 = 100;

fn paths(access: &str) -> serde_json::Value {
    json!({"": {"access": access, "headers": {"X-Ptl-Id": "{{ portal.id }}"}}})
}

/// Watches one verdict, over a connection that stays open.
struct Observer {
    connection: Connection,
    witness: Connection,
    times: Vec<(&'static str, Duration)>,
}

impl Observer {
    async fn of(server: &Nightporter) -> Self {
        let (connection, witness) = (server.connect().await, server.connect().await);
        Self { connection, witness, times: Vec::new() }
    }

    /// Asks until the answer is the new one. Then it must stay so, for others too.
    async fn sees(
        &mut self,
        change: &'static str,
        request: &Request,
        is_new: impl Fn(&Response) -> bool,
    ) {
        let committed = Instant::now();
        loop {
            let response = self.connection.ask(request).await.expect("an answer");
            if is_new(&response) {
                break;
            }
            let waited = committed.elapsed();
            assert!(waited < PATIENCE, "{change} is not seen at all: still {response:?}");
        }
        let took = committed.elapsed();
        assert!(took < BOUND, "{change} was seen after {took:?}");
        self.times.push((change, committed.elapsed()));
        for _ in 0..2 {
            let response = self.witness.ask(request).await.expect("an answer");
            assert!(is_new(&response), "{change} was undone: {response:?}");
        }
    }

    async fn sees_status(&mut self, change: &'static str, request: &Request, status: u16) {
        self.sees(change, request, |response| response.status == status).await;
    }

    /// Prints the times of each kind of change and of all.
    fn report(mut self, store: Store) {
        self.times.sort_by_key(|(_, time)| *time);
        let mut kinds: Vec<&str> = self.times.iter().map(|(change, _)| *change).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds.into_iter().map(Some).chain([None]) {
            let of_kind = |(change, _): &&(&str, Duration)| kind.is_none_or(|kind| *change == kind);
            let times: Vec<_> = self.times.iter().filter(of_kind).map(|(_, time)| *time).collect();
            let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
            eprintln!(
                "{store:?}: {} of {}: p50 {:?} p99 {:?} max {:?}",
                times.len(),
                kind.unwrap_or("all changes"),
                at(50),
                at(99),
                at(100),
            );
        }
    }
}

/// One of each kind of change, each seen.
async fn change_everything(sample: &SampleBox, observer: &mut Observer, round: u32) {
    let id = format!("t{round}");
    let terminal = Request::auth("private.x", "/").cookie(sign::token(TERMINAL_SECRET, &id));
    sample.add_terminal(&id, "Phone").await;
    observer.sees_status("terminal added", &terminal, 200).await;
    sample.remove_terminal(&id).await;
    observer.sees_status("terminal deleted", &terminal, 401).await;

    let app = format!("app{round}");
    let public = Request::auth(format!("{app}.x"), "/");
    observer.sees_status("nothing", &public, 404).await;
    sample.add_app(&app, &paths("public")).await;
    observer.sees_status("app added", &public, 200).await;
    sample.remove_app(&app).await;
    observer.sees_status("app removed", &public, 404).await;

    let even = round.is_multiple_of(2);
    let (access, status) = if even { ("private", 401) } else { ("public", 200) };
    sample.edit_app("edited", &paths(access));
    observer.sees_status("app_meta edited", &Request::auth("edited.x", "/"), status).await;

    let key = if even { &OTHER_KEY } else { &BOX_KEY };
    let portal = id_of(key);
    sample.set_identity(key).await;
    let asked = Request::auth("public.x", "/");
    observer
        .sees("identity changed", &asked, |response| response.text("x-ptl-id") == Some(&*portal))
        .await;

    if sample.store == Store::Postgres {
        let (status, word) =
            if even { ("unknown", "Initializing") } else { ("running", "Starting") };
        let sql = "UPDATE installed_apps SET status = $1 WHERE name = 'public'";
        sample.database().execute(sql, &[&status]).await;
        let page = Request::new("GET", "/internal/app_error/503")
            .without("Host")
            .header("Host", "public.x");
        observer.sees("status changed", &page, |response| response.body().contains(word)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_seen_at_once_and_for_good() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        for (app, access) in [("private", "private"), ("public", "public"), ("edited", "public")] {
            sample.add_app(app, &paths(access)).await;
        }
        let server = Nightporter::of(&sample).await;
        let terminal = Request::auth("private.x", "/").cookie(sample.token());
        let shots: Arc<[Shot]> = Arc::new([
            Shot::new(&Request::auth("public.x", "/"), 200),
            Shot::new(&terminal, 200),
            Shot::new(&Request::auth("private.x", "/"), 401),
            Shot::new(&Request::auth("unknown.x", "/"), 404),
        ]);
        let stream = Stream::start(server.gate, &shots, 16, RATE);
        let mut observer = Observer::of(&server).await;
        for round in 0..ROUNDS {
            change_everything(&sample, &mut observer, round).await;
        }
        let (outcome, rate) = stream.stop().await;
        assert!(outcome.wrong.is_empty(), "{:#?}", outcome.wrong);
        eprintln!("{store:?}: {rate:.0} requests/s meanwhile");
        observer.report(store);
    }
}

/// Writers that never wait, readers that never stop: loads and invalidations
/// meet at every point. When the writers are done, nobody may be left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_loads_over_postgres_leave_nothing_stale() {
    const WRITERS: usize = 8;
    const CHANGES: usize = 500;
    let sample = Arc::new(SampleBox::new(Store::Postgres).await);
    sample.add_app("private", &paths("private")).await;
    let server = Nightporter::of(&sample).await;
    let ask = |n: usize| {
        Request::auth("private.x", "/").cookie(sign::token(TERMINAL_SECRET, &format!("t{n}")))
    };
    let stop = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for n in 0..WRITERS {
        let (request, stop, gate) = (ask(n), Arc::clone(&stop), server.gate);
        readers.spawn(async move {
            let mut connection = Connection::open(gate).await.expect("the gate listens");
            let mut granted = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                let status = connection.ask(&request).await.expect("an answer").status;
                assert!(matches!(status, 200 | 401), "{status}");
                granted += u32::from(status == 200);
            }
            granted
        });
    }
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let client = sample.database().connect().await;
        writers.spawn(async move {
            let id = format!("t{n}");
            for change in 0..CHANGES {
                let sql = if change % 2 == 0 {
                    "INSERT INTO terminals VALUES ($1, 'Phone')"
                } else {
                    "DELETE FROM terminals WHERE id = $1"
                };
                client.execute(sql, &[&id]).await.expect("a change");
            }
            // Odd ones stay.
            if n % 2 == 1 {
                let sql = "INSERT INTO terminals VALUES ($1, 'Phone')";
                client.execute(sql, &[&id]).await.expect("a change");
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.expect("no panic");
    }
    for n in 0..WRITERS {
        let expected = if n % 2 == 1 { 200 } else { 401 };
        server.until(expected, &ask(n)).await;
    }
    for _ in 0..50 {
        for n in 0..WRITERS {
            let expected = if n % 2 == 1 { 200 } else { 401 };
            assert_eq!(server.ask(&ask(n)).await.status, expected, "t{n}");
        }
    }
    stop.store(1, Ordering::Relaxed);
    let mut granted = 0;
    while let Some(reader) = readers.join_next().await {
        granted += reader.expect("no panic");
    }
    assert!(granted > 0, "readers and writers met");
}

fn freshness() -> Arc<Freshness> {
    let hour = Duration::from_secs(3600);
    let freshness = Freshness::new(Cache {
        capacity: 1000,
        ttl: hour,
        degraded_ttl: hour,
        max_stale: hour,
        heartbeat: hour,
    });
    freshness.verify(freshness.now());
    Arc::new(freshness)
}

/// The race itself, forced: each load has read its row and not yet stored it
/// when the row changes and the notification is processed.
#[tokio::test]
async fn forty_thousand_forced_races_leave_nothing_stale() {
    const RACES: u64 = 40_000;
    let freshness = freshness();
    let row = Arc::new(AtomicU64::new(0));
    let (has_read, may_store) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let cached = {
        let (row, has_read, may_store) =
            (Arc::clone(&row), Arc::clone(&has_read), Arc::clone(&may_store));
        Cached::keyed(Arc::clone(&freshness), [Table::Terminals; 2], move |_| {
            let (row, has_read, may_store) =
                (Arc::clone(&row), Arc::clone(&has_read), Arc::clone(&may_store));
            async move {
                let value = row.load(Ordering::SeqCst);
                has_read.notify_one();
                may_store.notified().await;
                Ok(value)
            }
        })
    };
    for race in 1..=RACES {
        // A key in ten is asked again and again, the others are new.
        let key = if race % 10 == 0 { "again".to_owned() } else { format!("t{}", race % 2000) };
        freshness.outdate(Table::Terminals, &key);
        let asking = tokio::spawn({
            let (cached, freshness, key) =
                (Arc::clone(&cached), Arc::clone(&freshness), key.clone());
            async move { cached.get(&key, freshness.now()).await.expect("loads").value }
        });
        has_read.notified().await;
        row.store(race, Ordering::SeqCst);
        freshness.outdate(Table::Terminals, &key);
        may_store.notify_one();
        // What was overtaken is loaded again.
        has_read.notified().await;
        may_store.notify_one();
        assert_eq!(asking.await.expect("no panic"), race, "who asked before the change");
        let entry = cached.get(&key, freshness.now()).await.expect("is there");
        assert_eq!(entry.value, race, "who asks after it");
        assert!(entry.is_current(&freshness));
    }
    assert_eq!(cached.loads(), 2 * RACES, "each was overtaken once, and none loaded in vain");
}

/// One row that a writer changes, and its cache.
#[derive(Clone)]
struct Contested {
    key: usize,
    rows: Arc<[AtomicU64]>,
    cached: Arc<Cached<u64>>,
    freshness: Arc<Freshness>,
}

impl Contested {
    const CHANGES: u64 = 5_000;

    fn row(&self) -> &AtomicU64 {
        &self.rows[self.key]
    }

    async fn seen(&self) -> u64 {
        let key = self.key.to_string();
        self.cached.get(&key, self.freshness.now()).await.expect("loads").value
    }

    /// Changes the row, which nobody else does, and so knows what must be seen.
    async fn write(self) {
        for change in 1..=Self::CHANGES {
            self.row().store(change, Ordering::SeqCst);
            let table = if change % 2 == 0 { Table::Apps } else { Table::AppMeta };
            self.freshness.outdate(table, &self.key.to_string());
            if change % 3 == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(self.seen().await, change);
        }
    }

    /// Keeps loads under way for the changes to overtake. What was announced
    /// before it asks, it must see: all but the change now being made.
    async fn read(self) {
        let mut seen = 0;
        while seen < Self::CHANGES {
            let announced = self.row().load(Ordering::SeqCst).saturating_sub(1);
            seen = self.seen().await;
            assert!(seen >= announced, "{seen} is older than {announced}");
            tokio::task::yield_now().await;
        }
    }
}

/// The same without choreography: readers and writers on all threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loads_and_changes_on_all_threads_leave_nothing_stale() {
    const ROWS: usize = 8;
    let freshness = freshness();
    let rows: Arc<[AtomicU64]> = (0..ROWS).map(|_| AtomicU64::new(0)).collect();
    let read_from = Arc::clone(&rows);
    let cached = Cached::keyed(Arc::clone(&freshness), [Table::Apps, Table::AppMeta], move |key| {
        let rows = Arc::clone(&read_from);
        async move {
            let row: usize = key.parse().expect("a number");
            let value = rows[row].load(Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(value)
        }
    });
    let mut tasks = JoinSet::new();
    for key in 0..ROWS {
        let (rows, cached) = (Arc::clone(&rows), Arc::clone(&cached));
        let contested = Contested { key, rows, cached, freshness: Arc::clone(&freshness) };
        tasks.spawn(contested.clone().read());
        tasks.spawn(contested.clone().read());
        tasks.spawn(contested.write());
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("nothing stale");
    }
}
