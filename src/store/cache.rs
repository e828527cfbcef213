//! Caches that cannot lie.
//!
//! A plain cache with "load on miss, drop on change" keeps a stale value when
//! the change arrives during the load. Here a load notes its [`Origin`] first,
//! queries second, and stores both; a hit counts only while [`Freshness`]
//! believes the origin. So an overtaken load may store what it likes: nobody
//! will believe it.
//!
//! Loads are single-flight (one query however many ask) and detached (a caller
//! that goes away does not take the load with it).

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use quick_cache::UnitWeighter;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::freshness::{Belief, Freshness, Moment, Origin};
use super::{Table, Unavailable};

/// For how long the answer "unavailable" is shared by those who ask next, so
/// that a burst at a dead database is one attempt and not thousands.
const FAILURE_SHARED: Duration = Duration::from_millis(100);

/// A loaded value that knows where it comes from.
#[derive(Debug)]
pub struct Entry<V> {
    /// Unique in the process: what is derived from this entry names it.
    pub id: EntryId,
    pub value: V,
    origin: Origin,
}

/// Names one load of one key, so that derived values (verified tokens, rendered
/// headers) can tell whether they were derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

impl EntryId {
    /// Stands for "derived from nothing loaded"; no entry has it.
    pub const NONE: Self = Self(0);

    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl<V> Entry<V> {
    /// Whether no notification processed so far has outdated the entry.
    #[must_use]
    pub fn is_current(&self, freshness: &Freshness) -> bool {
        freshness.is_current(&self.origin)
    }
}

type Loaded<V> = Result<Arc<Entry<V>>, Unavailable>;
type Loader<V> = dyn Fn(Arc<str>) -> BoxFuture<'static, Result<V, Unavailable>> + Send + Sync;

/// A map that forgets what is used least when it is full. A hit takes its shard's
/// lock for reading and notes nothing elsewhere: a tenth of the time of a cache that
/// logs its reads (20 against 200 ns on one thread, 40 against 300 on each of two).
pub(crate) type Bounded<K, V> =
    quick_cache::sync::Cache<K, V, UnitWeighter, foldhash::fast::RandomState>;

/// Entries that room is made for beforehand; it grows with what is kept.
const FIRST_ENTRIES: usize = 256;

pub(crate) fn bounded<K, V>(capacity: u64) -> Bounded<K, V>
where
    K: std::hash::Hash + Eq,
    V: Clone,
{
    let (hasher, nobody_told) = Default::default();
    Bounded::with(FIRST_ENTRIES, capacity, UnitWeighter, hasher, nobody_told)
}

/// Where entries are kept: many by key, or the only one of its kind.
enum Kept<V> {
    Keyed(Bounded<Arc<str>, Arc<Entry<V>>>),
    Single(ArcSwapOption<Entry<V>>),
}

/// A load under way, or one that failed a moment ago.
struct Flight<V> {
    id: EntryId,
    origin: Origin,
    began: Instant,
    landed: watch::Receiver<Option<Loaded<V>>>,
}

/// A cache of one kind of value.
pub struct Cached<V> {
    tables: [Table; 2],
    kept: Kept<V>,
    flights: Mutex<HashMap<Arc<str>, Flight<V>>>,
    loader: Box<Loader<V>>,
    freshness: Arc<Freshness>,
    loads: AtomicU64,
}

impl<V> fmt::Debug for Cached<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl<V: Send + Sync + 'static> Cached<V> {
    /// A cache of values by key. `tables` are what the values are read from;
    /// the same one twice where it is one.
    pub fn keyed<F, Fut>(freshness: Arc<Freshness>, tables: [Table; 2], load: F) -> Arc<Self>
    where
        F: Fn(Arc<str>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        let entries = bounded(freshness.times().capacity);
        Self::new(freshness, tables, Kept::Keyed(entries), load)
    }

    /// A cache of the one value its table has; its key is the empty text.
    pub fn single<F, Fut>(freshness: Arc<Freshness>, table: Table, load: F) -> Arc<Self>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        let kept = Kept::Single(ArcSwapOption::empty());
        Self::new(freshness, [table; 2], kept, move |_| load())
    }

    fn new<F, Fut>(
        freshness: Arc<Freshness>,
        tables: [Table; 2],
        kept: Kept<V>,
        load: F,
    ) -> Arc<Self>
    where
        F: Fn(Arc<str>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        Arc::new(Self {
            tables,
            kept,
            flights: Mutex::default(),
            loader: Box::new(move |key| Box::pin(load(key))),
            freshness,
            loads: AtomicU64::new(0),
        })
    }

    /// Loads begun since the start.
    #[must_use]
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// Entries held, about.
    #[must_use]
    pub fn entries(&self) -> u64 {
        match &self.kept {
            Kept::Keyed(entries) => entries.len() as u64,
            Kept::Single(entry) => u64::from(entry.load().is_some()),
        }
    }

    /// The value of a key, from memory where that is believed, else loaded.
    ///
    /// # Errors
    /// [`Unavailable`] where the store cannot answer and nothing kept may serve.
    pub async fn get(self: &Arc<Self>, key: &str, now: Moment) -> Loaded<V> {
        let kept = self.lookup(key);
        if let Some(entry) = &kept
            && self.freshness.belief(&entry.origin, now) == Belief::Good
        {
            return Ok(Arc::clone(entry));
        }
        self.load(key, kept).await
    }

    fn lookup(&self, key: &str) -> Option<Arc<Entry<V>>> {
        match &self.kept {
            Kept::Keyed(entries) => entries.get(key),
            Kept::Single(entry) => entry.load_full(),
        }
    }

    fn keep(&self, key: Arc<str>, entry: Arc<Entry<V>>) {
        match &self.kept {
            Kept::Keyed(entries) => entries.insert(key, entry),
            Kept::Single(kept) => kept.store(Some(entry)),
        }
    }

    /// Joins or begins a load until one lands that nothing outdated meanwhile.
    ///
    /// With a doubtful value at hand nobody waits longer than `degraded_ttl`
    /// after the load began: a stalled database slows nothing down for long.
    #[cold]
    async fn load(self: &Arc<Self>, key: &str, kept: Option<Arc<Entry<V>>>) -> Loaded<V> {
        loop {
            let doubtful = kept.as_ref().filter(|entry| {
                self.freshness.belief(&entry.origin, self.freshness.now()) != Belief::Outdated
            });
            let (began, mut landed) = self.board(key);
            let landing = landed.wait_for(Option::is_some);
            let landing = if doubtful.is_some() {
                timeout_at(began + self.freshness.times().degraded_ttl, landing).await.ok()
            } else {
                Some(landing.await)
            };
            let loaded = match landing {
                Some(Ok(value)) => value.clone(),
                // The loader's task ended without a word: it panicked.
                Some(Err(_)) => Some(Err(Unavailable::new("a load was cut short"))),
                None => None,
            };
            match (loaded, doubtful) {
                (Some(Ok(entry)), _) if self.freshness.is_current(&entry.origin) => {
                    return Ok(entry);
                }
                (Some(Err(_)) | None, Some(entry)) => return Ok(Arc::clone(entry)),
                (Some(Err(error)), None) => return Err(error),
                // Outdated while it loaded: what came is no answer any more.
                (Some(Ok(_)) | None, _) => {}
            }
        }
    }

    /// The flight to wait for: one whose origin is still the latest, or a new one.
    fn board(self: &Arc<Self>, key: &str) -> (Instant, watch::Receiver<Option<Loaded<V>>>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key)
            && self.freshness.is_latest(&flight.origin)
        {
            return (flight.began, flight.landed.clone());
        }
        let key: Arc<str> = key.into();
        let (land, landed) = watch::channel(None);
        let flight = Flight {
            id: EntryId::next(),
            origin: self.freshness.origin(self.tables, &key),
            began: Instant::now(),
            landed: landed.clone(),
        };
        let (id, began, origin) = (flight.id, flight.began, flight.origin);
        flights.insert(Arc::clone(&key), flight);
        drop(flights);
        tokio::spawn(Arc::clone(self).fly(key, id, origin, land));
        (began, landed)
    }

    async fn fly(
        self: Arc<Self>,
        key: Arc<str>,
        id: EntryId,
        origin: Origin,
        land: watch::Sender<Option<Loaded<V>>>,
    ) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let _taken_off_even_by_a_panic = Departure { cached: &self, key: &key, id };
        let loaded = match (self.loader)(Arc::clone(&key)).await {
            Ok(value) => {
                let entry = Arc::new(Entry { id, value, origin });
                self.keep(Arc::clone(&key), Arc::clone(&entry));
                Ok(entry)
            }
            Err(error) => Err(error),
        };
        let failed = loaded.is_err();
        land.send_replace(Some(loaded));
        if failed {
            tokio::time::sleep(FAILURE_SHARED).await;
        }
    }
}

/// Takes a flight off the board when its task ends, however it ends.
struct Departure<'a, V> {
    cached: &'a Cached<V>,
    key: &'a str,
    id: EntryId,
}

impl<V> Drop for Departure<'_, V> {
    fn drop(&mut self) {
        let mut flights = self.cached.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(self.key).is_some_and(|flight| flight.id == self.id) {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::sync::Notify;

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
        assert_eq!(cached.loads(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = bounded(1000);
        (0..10_000).for_each(|key| kept.insert(key, ()));
        assert!((900..=1000).contains(&kept.len()), "{}", kept.len());
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
        assert_eq!(cached.loads(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_a_load_is_never_lost() {
        let (freshness, row) = (freshness(), Arc::new(Row::default()));
        let cached = cached(&freshness, &row);
        freshness.verify(freshness.now());
        let change = async {
            // The load has read the row by now and waits.
            tokio::time::sleep(Duration::from_millis(5)).await;
            row.value.store(7, Ordering::SeqCst);
            freshness.outdate(Table::Apps, "key");
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
        tokio::time::sleep(2 * FAILURE_SHARED).await;
        assert!(ask(&cached, &freshness).await.is_ok(), "recovers by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_store_serves_nothing_that_is_known_to_have_changed() {
        let (freshness, row) = (freshness(), Arc::new(Row::default()));
        let cached = cached(&freshness, &row);
        freshness.verify(freshness.now());
        ask(&cached, &freshness).await.expect("loaded");
        row.fails.store(true, Ordering::SeqCst);
        freshness.outdate(Table::Apps, "key");
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
        ask(&cached, &freshness).await.expect("what is kept serves");
        assert!(began.elapsed() <= Duration::from_millis(1010), "{:?}", began.elapsed());
        let began = Instant::now();
        ask(&cached, &freshness).await.expect("what is kept serves");
        assert!(began.elapsed() <= Duration::from_millis(10), "{:?}", began.elapsed());
    }

    /// Forces the race 40,000 times: every load reads the row, then the row
    /// changes and the notification is processed, and only then the load ends.
    /// Readers on other threads meanwhile check that nobody ever sees a value
    /// older than the last change that was announced before it asked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn forty_thousand_races_leave_no_stale_entry() {
        const RACES: u64 = 40_000;
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
        let reader = {
            let (cached, freshness) = (Arc::clone(&cached), Arc::clone(&freshness));
            let announced = Arc::clone(&announced);
            tokio::spawn(async move {
                while announced.load(Ordering::SeqCst) < RACES {
                    let floor = announced.load(Ordering::SeqCst);
                    let entry = cached.get("key", freshness.now()).await.expect("loads");
                    assert!(entry.value >= floor, "{} after {floor}", entry.value);
                    tokio::task::yield_now().await;
                }
            })
        };
        for race in 1..=RACES {
            freshness.verify(freshness.now());
            armed.store(true, Ordering::SeqCst);
            freshness.outdate(Table::Apps, "key");
            let change = async {
                has_read.notified().await;
                truth.store(race, Ordering::SeqCst);
                freshness.outdate(Table::Apps, "key");
                announced.store(race, Ordering::SeqCst);
                may_end.notify_one();
            };
            let (_, ()) = tokio::join!(cached.get("key", freshness.now()), change);
            let entry = cached.get("key", freshness.now()).await.expect("loads");
            assert_eq!(entry.value, race);
        }
        reader.await.expect("no reader saw a stale value");
    }
}
