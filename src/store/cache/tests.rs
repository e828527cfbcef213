use std::sync::atomic::AtomicBool;

use tokio::sync::Notify;

#[path = "../../../tests/it/support/soak.rs"]
mod soak;

use super::*;
use crate::config;

fn freshness() -> Arc<Freshness> {
    Arc::new(Freshness::new(config::Cache {
        capacity: 1000,
        ttl: Duration::from_secs(3600),
        degraded_ttl: Duration::from_secs(1),
        max_stale: Duration::from_secs(60),
        heartbeat: Duration::from_secs(5),
    }))
}

/// A row of a database that can fail or stall.
#[derive(Default)]
struct Row {
    value: AtomicU64,
    fails: AtomicBool,
    stalls: AtomicBool,
}

fn cached(freshness: &Arc<Freshness>, row: &Arc<Row>) -> Arc<Cached<u64>> {
    let row = Arc::clone(row);
    Cached::keyed(Arc::clone(freshness), [Table::Apps; 2], move |_| {
        let row = Arc::clone(&row);
        async move {
            let read = row.value.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            if row.stalls.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            if row.fails.load(Ordering::SeqCst) {
                return Err(Unavailable::new("down"));
            }
            Ok(read)
        }
    })
}

async fn ask(cached: &Arc<Cached<u64>>, freshness: &Freshness) -> Result<u64, Unavailable> {
    cached.get("key", freshness.now()).await.map(|entry| entry.value)
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_at_once_are_one_load() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    let asking = (0..10_000).map(|_| ask(&cached, &freshness));
    let answers = futures_util::future::join_all(asking).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(cached.counts().loads, 1);
}

#[test]
fn what_is_kept_is_bounded() {
    let kept = bounded(1000);
    (0..10_000).for_each(|key| kept.insert(key, ()));
    kept.run_pending_tasks();
    assert!((900..=1000).contains(&kept.entry_count()), "{}", kept.entry_count());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_load_running() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    freshness.verify(freshness.now());
    let impatient = tokio::time::timeout(Duration::from_millis(1), ask(&cached, &freshness));
    assert!(impatient.await.is_err());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(ask(&cached, &freshness).await.is_ok());
    assert_eq!(cached.counts().loads, 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_load_is_never_lost() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    freshness.verify(freshness.now());
    let change = async {
        // By now the load has read the row and is waiting.
        tokio::time::sleep(Duration::from_millis(5)).await;
        row.value.store(7, Ordering::SeqCst);
        freshness.invalidate(Table::Apps, "key");
    };
    let (answer, ()) = tokio::join!(ask(&cached, &freshness), change);
    assert_eq!(answer.expect("loaded"), 7);
    assert_eq!(ask(&cached, &freshness).await.expect("kept"), 7);
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_serves_what_is_kept_up_to_max_stale_and_then_nothing() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    tokio::time::advance(Duration::from_secs(1)).await;
    freshness.verify(freshness.now());
    ask(&cached, &freshness).await.expect("loaded");
    row.fails.store(true, Ordering::SeqCst);
    freshness.degrade();
    for _ in 0..59 {
        assert!(ask(&cached, &freshness).await.is_ok());
        tokio::time::sleep(Duration::from_millis(980)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(ask(&cached, &freshness).await.is_err());
    row.fails.store(false, Ordering::SeqCst);
    tokio::time::sleep(2 * FAILURE_TTL).await;
    assert!(ask(&cached, &freshness).await.is_ok(), "recovers by itself");
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_serves_nothing_that_is_known_to_have_changed() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    freshness.verify(freshness.now());
    ask(&cached, &freshness).await.expect("loaded");
    row.fails.store(true, Ordering::SeqCst);
    freshness.invalidate(Table::Apps, "key");
    assert!(ask(&cached, &freshness).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_store_delays_nobody_for_long_while_something_is_kept() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    tokio::time::advance(Duration::from_secs(1)).await;
    freshness.verify(freshness.now());
    ask(&cached, &freshness).await.expect("loaded");
    row.stalls.store(true, Ordering::SeqCst);
    freshness.degrade();
    tokio::time::advance(Duration::from_secs(2)).await;
    let began = Instant::now();
    ask(&cached, &freshness).await.expect("the cached entry is served");
    assert!(began.elapsed() <= Duration::from_millis(1010), "{:?}", began.elapsed());
    let began = Instant::now();
    ask(&cached, &freshness).await.expect("the cached entry is served");
    assert!(began.elapsed() <= Duration::from_millis(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_kept_waiting_until_max_stale_is_over_and_then_served() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    tokio::time::advance(Duration::from_secs(1)).await;
    freshness.verify(freshness.now());
    let entry = cached.get("key", freshness.now()).await.expect("loaded");
    row.stalls.store(true, Ordering::SeqCst);
    freshness.degrade();
    tokio::time::advance(Duration::from_millis(59_500)).await;
    assert!(entry.is_usable(&freshness, freshness.now()));
    row.fails.store(true, Ordering::SeqCst);
    assert!(ask(&cached, &freshness).await.is_err());
    assert!(!entry.is_usable(&freshness, freshness.now()));
}

#[tokio::test(start_paused = true)]
async fn a_loader_of_another_cache_is_given_nothing_stale() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    tokio::time::advance(Duration::from_secs(1)).await;
    freshness.verify(freshness.now());
    ask(&cached, &freshness).await.expect("loaded");
    row.fails.store(true, Ordering::SeqCst);
    assert!(cached.get_fresh("key", freshness.now()).await.is_ok());
    freshness.degrade();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(ask(&cached, &freshness).await.is_ok());
    assert!(cached.get_fresh("key", freshness.now()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_loader_of_another_cache_is_given_nothing_young_but_stale() {
    let (freshness, row) = (freshness(), Arc::new(Row::default()));
    let cached = cached(&freshness, &row);
    tokio::time::advance(Duration::from_secs(1)).await;
    freshness.verify(freshness.now());
    ask(&cached, &freshness).await.expect("loaded");
    row.fails.store(true, Ordering::SeqCst);
    freshness.reset();
    assert!(ask(&cached, &freshness).await.is_ok(), "younger than degraded_ttl");
    assert!(cached.get_fresh("key", freshness.now()).await.is_err());
}

/// Forces the race, 40,000 times under `tests/run --soak`: every load reads the row, then the row
/// changes and the notification is processed, and only then does the load end.
/// Meanwhile readers on other threads check that they never get a value
/// older than the last change that was announced before they called.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn forced_races_leave_no_stale_entry() {
    let races = u64::from(soak::CACHE_RACES.count());
    let freshness = freshness();
    let (truth, announced) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (has_read, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let armed = Arc::new(AtomicBool::new(false));
    let cached = {
        let (truth, armed) = (Arc::clone(&truth), Arc::clone(&armed));
        let (has_read, may_end) = (Arc::clone(&has_read), Arc::clone(&may_end));
        Cached::keyed(Arc::clone(&freshness), [Table::Apps; 2], move |_| {
            let (truth, armed) = (Arc::clone(&truth), Arc::clone(&armed));
            let (has_read, may_end) = (Arc::clone(&has_read), Arc::clone(&may_end));
            async move {
                let read = truth.load(Ordering::SeqCst);
                if armed.swap(false, Ordering::SeqCst) {
                    has_read.notify_one();
                    may_end.notified().await;
                }
                Ok::<_, Unavailable>(read)
            }
        })
    };
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (cached, freshness) = (Arc::clone(&cached), Arc::clone(&freshness));
        let announced = Arc::clone(&announced);
        readers.spawn(async move {
            while announced.load(Ordering::SeqCst) < races {
                let floor = announced.load(Ordering::SeqCst);
                let entry = cached.get("key", freshness.now()).await.expect("loads");
                assert!(entry.value >= floor, "{} after {floor}", entry.value);
                tokio::task::yield_now().await;
            }
        });
    }
    for race in 1..=races {
        freshness.verify(freshness.now());
        armed.store(true, Ordering::SeqCst);
        freshness.invalidate(Table::Apps, "key");
        let change = async {
            has_read.notified().await;
            truth.store(race, Ordering::SeqCst);
            freshness.invalidate(Table::Apps, "key");
            announced.store(race, Ordering::SeqCst);
            may_end.notify_one();
        };
        let (_, ()) = tokio::join!(cached.get("key", freshness.now()), change);
        let entry = cached.get("key", freshness.now()).await.expect("loads");
        assert_eq!(entry.value, race);
    }
    while let Some(reader) = readers.join_next().await {
        reader.expect("no reader saw a stale value");
    }
    let counts = cached.counts();
    assert!(counts.memo_hits > 0, "the memo was used: {counts:?}");
}
