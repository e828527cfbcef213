//! Caches that never serve an entry known to be outdated.
//!
//! A plain cache with "load on miss, drop on change" keeps a stale value when
//! the change arrives during the load. Here a load notes its [`Origin`] first,
//! queries second, and stores both; an entry is a hit only while [`Freshness`]
//! finds its origin valid. So a load that a notification overtakes may store its value:
//! the entry is invalid and is never used. (moka's own `try_get_with` does not know
//! generations and ends with the caller that began it: 5,705 of 40,000 forced races were
//! stale with it.)
//!
//! Entries live in moka. Each thread has a [`Memo`] of the entries it used last in
//! front of it, since a hit in moka costs 124 to 344 ns and a request needs four.
//!
//! Loads are single-flight (one query for any number of concurrent callers) and detached
//! (a load goes on if the caller that began it is dropped).

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use moka::policy::EvictionPolicy;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::freshness::{Freshness, Moment, Origin, Validity};
use super::memo::Memo;
use super::{Table, Unavailable};
use crate::telemetry::in_same_request;

/// For how long a failed load answers the callers that follow, so
/// that a burst of requests makes one attempt at a dead database and not thousands.
const FAILURE_TTL: Duration = Duration::from_millis(100);

/// Entries of one cache in each thread's memo: enough for what a busy box uses at the same
/// time, in a few tens of KiB.
const MEMO_ENTRIES: usize = 256;

/// A loaded value with the origin by which it is checked.
#[derive(Debug)]
pub struct Entry<V> {
    /// Unique in the process; values derived from this entry refer to it.
    pub id: EntryId,
    pub value: V,
    origin: Origin,
}

/// Identifies one load of one key, so that derived values (verified tokens, rendered
/// headers) can be checked for whether they were derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

impl EntryId {
    /// Means "not derived from a loaded entry"; no entry has this id.
    pub const NONE: Self = Self(0);

    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl<V> Entry<V> {
    /// Returns whether the entry may still be used: no notification processed so far has
    /// invalidated it, and it was known to be good within `max_stale`.
    #[must_use]
    pub fn is_usable(&self, freshness: &Freshness, now: Moment) -> bool {
        freshness.validity(&self.origin, now) != Validity::Invalid
    }
}

/// An entry as a thread holds it. The outer reference count belongs to this thread, so
/// that threads that use the same entry do not write to the same count.
#[derive(Debug)]
pub struct Handle<V>(Arc<Shared<V>>);

/// The entry that all threads share.
#[derive(Debug)]
struct Shared<V>(Arc<Entry<V>>);

impl<V> Handle<V> {
    fn new(entry: Arc<Entry<V>>) -> Self {
        Self(Arc::new(Shared(entry)))
    }
}

impl<V> Clone for Handle<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> Deref for Handle<V> {
    type Target = Entry<V>;

    fn deref(&self) -> &Entry<V> {
        &self.0.0
    }
}

type Loaded<V> = Result<Arc<Entry<V>>, Unavailable>;
type Loader<V> = dyn Fn(Arc<str>) -> BoxFuture<'static, Result<V, Unavailable>> + Send + Sync;

/// A map that all threads share and that evicts the least recently used entry when it is
/// full. (moka's other policy may refuse a new entry in favour of old ones, and the next
/// caller would load it again.)
pub(crate) type Bounded<K, V> = moka::sync::Cache<K, V, RandomState>;

pub(crate) fn bounded<K, V>(capacity: u64) -> Bounded<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    moka::sync::Cache::builder()
        .max_capacity(capacity)
        .eviction_policy(EvictionPolicy::lru())
        .build_with_hasher(RandomState::default())
}

/// As [`bounded`], but the capacity is the sum of what the entries weigh.
pub(crate) fn weighted<K, V>(
    capacity: u64,
    weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static,
) -> Bounded<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    moka::sync::Cache::builder()
        .max_capacity(capacity)
        .weigher(weigh)
        .eviction_policy(EvictionPolicy::lru())
        .build_with_hasher(RandomState::default())
}

/// An in-flight load, or one that failed less than [`FAILURE_TTL`] ago.
struct InFlight<V> {
    id: EntryId,
    origin: Origin,
    began: Instant,
    loaded: watch::Receiver<Option<Loaded<V>>>,
}

/// What a caller without a fresh entry gets: a load to wait for, or a newer entry.
enum Joined<V> {
    InFlight { began: Instant, loaded: watch::Receiver<Option<Loaded<V>>> },
    Loaded(Arc<Entry<V>>),
}

/// The counts of a cache, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Loads begun since the start.
    pub loads: u64,
    /// Fresh entries found in a thread's memo since the start.
    pub memo_hits: u64,
    /// Fresh entries found in moka since the start, past the memo.
    pub cache_hits: u64,
    /// Entries held.
    pub entries: u64,
}

/// A cache of one kind of value.
pub struct Cached<V: Send + Sync + 'static> {
    tables: [Table; 2],
    memo: Memo<Arc<str>, Handle<V>>,
    /// Of type `Entry<V>`; one type of map for all caches keeps the program small.
    entries: Bounded<Arc<str>, Arc<dyn Any + Send + Sync>>,
    in_flight: Mutex<HashMap<Arc<str>, InFlight<V>>>,
    loader: Box<Loader<V>>,
    freshness: Arc<Freshness>,
    /// The runtime that loads run on, whichever thread begins them.
    runtime: Runtime,
    loads: AtomicU64,
    cache_hits: AtomicU64,
}

impl<V: Send + Sync + 'static> fmt::Debug for Cached<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl<V: Send + Sync + 'static> Cached<V> {
    /// Creates a cache of values by key. `tables` are the tables that the values are read
    /// from; a single table is given twice.
    pub fn keyed<F, Fut>(freshness: Arc<Freshness>, tables: [Table; 2], load: F) -> Arc<Self>
    where
        F: Fn(Arc<str>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        let capacity = freshness.times().capacity;
        Self::new(freshness, tables, (capacity, MEMO_ENTRIES), load)
    }

    /// Creates a cache of the single value of a table; its key is the empty string.
    pub fn single<F, Fut>(freshness: Arc<Freshness>, table: Table, load: F) -> Arc<Self>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        Self::new(freshness, [table; 2], (1, 1), move |_| load())
    }

    /// Creates a cache of a single value that is made of two tables; its key is the empty
    /// string.
    pub fn single_of<F, Fut>(freshness: Arc<Freshness>, tables: [Table; 2], load: F) -> Arc<Self>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        Self::new(freshness, tables, (1, 1), move |_| load())
    }

    fn new<F, Fut>(
        freshness: Arc<Freshness>,
        tables: [Table; 2],
        (capacity, memo_entries): (u64, usize),
        load: F,
    ) -> Arc<Self>
    where
        F: Fn(Arc<str>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        Arc::new(Self {
            tables,
            memo: Memo::new(memo_entries),
            entries: bounded(capacity),
            in_flight: Mutex::default(),
            loader: Box::new(move |key| Box::pin(load(key))),
            freshness,
            runtime: Runtime::current(),
            loads: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
        })
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.entries.run_pending_tasks();
        Counts {
            loads: self.loads.load(Ordering::Relaxed),
            memo_hits: self.memo.hits(),
            cache_hits: self.cache_hits.load(Ordering::Relaxed),
            entries: self.entries.entry_count(),
        }
    }

    /// Returns the entry of a key, from memory if it is fresh there, otherwise loaded.
    ///
    /// # Errors
    /// [`Unavailable`] if the store cannot answer and no cached entry may be served.
    pub async fn get(self: &Arc<Self>, key: &str, now: Moment) -> Result<Handle<V>, Unavailable> {
        let is_fresh =
            |entry: &Entry<V>| self.freshness.validity(&entry.origin, now) == Validity::Fresh;
        if let Some(handle) = self.memo.get(key, |handle| is_fresh(handle)) {
            return Ok(handle);
        }
        let cached = self.entry(key);
        let entry = match cached {
            Some(entry) if is_fresh(&entry) => {
                self.cache_hits.fetch_add(1, Ordering::Relaxed);
                entry
            }
            cached => {
                let rejected = cached.as_ref().map(|entry| entry.id);
                self.load(key, rejected, cached).await?
            }
        };
        let handle = Handle::new(entry);
        self.memo.insert(key.into(), handle.clone());
        Ok(handle)
    }

    /// Like [`Self::get`], but never returns a stale entry, however young: for the loader
    /// of another cache, which would treat the value as fresh.
    ///
    /// # Errors
    /// [`Unavailable`] if the store cannot answer.
    pub async fn get_fresh(
        self: &Arc<Self>,
        key: &str,
        now: Moment,
    ) -> Result<Handle<V>, Unavailable> {
        let entry = match self.entry(key) {
            Some(entry) if self.freshness.is_fresh(&entry.origin, now) => entry,
            stale => self.load(key, stale.map(|entry| entry.id), None).await?,
        };
        Ok(Handle::new(entry))
    }

    fn entry(&self, key: &str) -> Option<Arc<Entry<V>>> {
        self.entries.get(key)?.downcast().ok()
    }

    /// Joins or begins loads until one ends whose entry was not invalidated meanwhile.
    ///
    /// A caller with a usable stale entry waits no longer than `degraded_ttl`
    /// after the load began, so a stalled database delays it only briefly.
    /// `rejected` is the entry that the caller found but could not use.
    #[cold]
    async fn load(
        self: &Arc<Self>,
        key: &str,
        rejected: Option<EntryId>,
        cached: Option<Arc<Entry<V>>>,
    ) -> Loaded<V> {
        loop {
            let is_usable =
                |entry: &Entry<V>| entry.is_usable(&self.freshness, self.freshness.now());
            let stale = cached.as_ref().filter(|entry| is_usable(entry));
            let (began, mut loaded) = match self.join(key, rejected) {
                Joined::InFlight { began, loaded } => (began, loaded),
                Joined::Loaded(entry) => return Ok(entry),
            };
            let ended = loaded.wait_for(Option::is_some);
            let ended = if stale.is_some() {
                timeout_at(began + self.freshness.times().degraded_ttl, ended).await.ok()
            } else {
                Some(ended.await)
            };
            let loaded = match ended {
                Some(Ok(value)) => value.clone(),
                // The load's task ended without a result: it panicked.
                Some(Err(_)) => Some(Err(Unavailable::new("a cache load was aborted"))),
                None => None,
            };
            match (loaded, stale) {
                (Some(Ok(entry)), _) if self.freshness.is_current(&entry.origin) => {
                    return Ok(entry);
                }
                // The entry has aged during the wait, so it is checked again.
                (Some(Err(_)) | None, Some(entry)) if is_usable(entry) => {
                    return Ok(Arc::clone(entry));
                }
                (Some(Err(error)), None) => return Err(error),
                // The loaded entry or the stale one was invalidated meanwhile: load again.
                _ => {}
            }
        }
    }

    /// Returns the load to wait for: an in-flight load whose origin is still the latest, or
    /// a new one. Returns an entry instead if a load has ended since the caller looked.
    fn join(self: &Arc<Self>, key: &str, rejected: Option<EntryId>) -> Joined<V> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(InFlight { origin, began, loaded, .. }) = in_flight.get(key)
            && self.freshness.is_latest(origin)
        {
            return Joined::InFlight { began: *began, loaded: loaded.clone() };
        }
        // A load stores its entry before it is removed from `in_flight`.
        if let Some(entry) = self.entry(key)
            && Some(entry.id) != rejected
            && self.freshness.is_latest(&entry.origin)
        {
            return Joined::Loaded(entry);
        }
        let key: Arc<str> = key.into();
        let (sender, loaded) = watch::channel(None);
        let load = InFlight {
            id: EntryId::next(),
            origin: self.freshness.origin(self.tables, &key),
            began: Instant::now(),
            loaded: loaded.clone(),
        };
        let (id, began, origin) = (load.id, load.began, load.origin);
        in_flight.insert(Arc::clone(&key), load);
        drop(in_flight);
        self.runtime.spawn(in_same_request(Arc::clone(self).run_load(key, id, origin, sender)));
        Joined::InFlight { began, loaded }
    }

    async fn run_load(
        self: Arc<Self>,
        key: Arc<str>,
        id: EntryId,
        origin: Origin,
        sender: watch::Sender<Option<Loaded<V>>>,
    ) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let _removed_even_by_a_panic = RemoveOnDrop { cached: &self, key: &key, id };
        let loaded = match (self.loader)(Arc::clone(&key)).await {
            Ok(value) => {
                let entry = Arc::new(Entry { id, value, origin });
                let shared: Arc<Entry<V>> = Arc::clone(&entry);
                self.entries.insert(Arc::clone(&key), shared);
                Ok(entry)
            }
            Err(error) => Err(error),
        };
        let failed = loaded.is_err();
        sender.send_replace(Some(loaded));
        if failed {
            tokio::time::sleep(FAILURE_TTL).await;
        }
    }
}

/// Removes a load from `in_flight` when its task ends, even if it panics.
struct RemoveOnDrop<'a, V: Send + Sync + 'static> {
    cached: &'a Cached<V>,
    key: &'a str,
    id: EntryId,
}

impl<V: Send + Sync + 'static> Drop for RemoveOnDrop<'_, V> {
    fn drop(&mut self) {
        let mut in_flight = self.cached.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if in_flight.get(self.key).is_some_and(|load| load.id == self.id) {
            in_flight.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests;
