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
    /// Whether the entry may still be used: no notification processed so far has
    /// outdated it, and it was known to be good within `max_stale`.
    #[must_use]
    pub fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        freshness.belief(&self.origin, now) != Belief::Outdated
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

/// What a caller without a good entry gets.
enum Boarding<V> {
    Flight { began: Instant, landed: watch::Receiver<Option<Loaded<V>>> },
    Landed(Arc<Entry<V>>),
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
        let seen = kept.as_ref().map(|entry| entry.id);
        self.load(key, seen, kept).await
    }

    /// As [`Self::get`], but nothing doubtful, however young: for the loader of
    /// another cache, which would take what it is given for fresh.
    ///
    /// # Errors
    /// [`Unavailable`] where the store cannot answer.
    pub async fn get_undoubted(self: &Arc<Self>, key: &str, now: Moment) -> Loaded<V> {
        match self.lookup(key) {
            Some(entry) if self.freshness.vouches_for(&entry.origin, now) => Ok(entry),
            doubtful => self.load(key, doubtful.map(|entry| entry.id), None).await,
        }
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
    /// `seen` is the entry that was found wanting.
    #[cold]
    async fn load(
        self: &Arc<Self>,
        key: &str,
        seen: Option<EntryId>,
        kept: Option<Arc<Entry<V>>>,
    ) -> Loaded<V> {
        loop {
            let is_usable =
                |entry: &Entry<V>| entry.is_usable(&self.freshness, self.freshness.now());
            let doubtful = kept.as_ref().filter(|entry| is_usable(entry));
            let (began, mut landed) = match self.board(key, seen) {
                Boarding::Flight { began, landed } => (began, landed),
                Boarding::Landed(entry) => return Ok(entry),
            };
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
                // It grew older while the load was waited for.
                (Some(Err(_)) | None, Some(entry)) if is_usable(entry) => {
                    return Ok(Arc::clone(entry));
                }
                (Some(Err(error)), None) => return Err(error),
                // Outdated while it loaded: what came, or was kept, is no answer any more.
                _ => {}
            }
        }
    }

    /// The flight to wait for: one whose origin is still the latest, or a new
    /// one; or the entry of one that landed since the caller looked.
    fn board(self: &Arc<Self>, key: &str, seen: Option<EntryId>) -> Boarding<V> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Flight { origin, began, landed, .. }) = flights.get(key)
            && self.freshness.is_latest(origin)
        {
            return Boarding::Flight { began: *began, landed: landed.clone() };
        }
        // A flight keeps its entry before it leaves the board.
        if let Some(entry) = self.lookup(key)
            && Some(entry.id) != seen
            && self.freshness.is_latest(&entry.origin)
        {
            return Boarding::Landed(entry);
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
        Boarding::Flight { began, landed }
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
mod tests;
