//! Caches that cannot lie.
//!
//! A plain cache with "load on miss, drop on change" keeps a stale value when
//! the change arrives during the load. Here a load notes its [`Origin`] first,
//! queries second, and stores both; a hit counts only while [`Freshness`]
//! finds the origin valid. So an overtaken load may store what it likes: nobody
//! will use it. (moka's own `try_get_with` knows no generations and ends with the
//! caller that began it: 5,705 of 40,000 forced races were stale with it.)
//!
//! Entries live in moka. Each thread keeps what it used last in a [`Memo`] of its own in
//! front of it, since a hit in moka costs 124 to 344 ns and a request needs four.
//!
//! Loads are single-flight (one query however many ask) and detached (a caller
//! that goes away does not take the load with it).

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

/// For how long the answer "unavailable" is shared by those who ask next, so
/// that a burst at a dead database is one attempt and not thousands.
const FAILURE_SHARED: Duration = Duration::from_millis(100);

/// Entries of one cache that each thread keeps for itself: what a busy box uses at a
/// time, in a few tens of KiB.
const MEMO_ENTRIES: usize = 256;

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
        freshness.validity(&self.origin, now) != Validity::Invalid
    }
}

/// An entry as a thread holds it: the outer count is of those on this thread, so that
/// threads that use one entry do not write to one count.
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

/// A map that all threads share and that forgets what was used least recently when it is
/// full. (moka's other policy may refuse a new entry in favour of old ones, and whoever
/// asks next would load it again.)
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

/// A load under way, or one that failed a moment ago.
struct InFlight<V> {
    id: EntryId,
    origin: Origin,
    began: Instant,
    loaded: watch::Receiver<Option<Loaded<V>>>,
}

/// What a caller without a fresh entry gets.
enum Joined<V> {
    InFlight { began: Instant, loaded: watch::Receiver<Option<Loaded<V>>> },
    Loaded(Arc<Entry<V>>),
}

/// What a cache did and holds, for metrics.
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
    entries: Bounded<Arc<str>, Arc<Entry<V>>>,
    in_flight: Mutex<HashMap<Arc<str>, InFlight<V>>>,
    loader: Box<Loader<V>>,
    freshness: Arc<Freshness>,
    /// Where loads run, whichever thread asks for them.
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
    /// A cache of values by key. `tables` are what the values are read from;
    /// the same one twice where it is one.
    pub fn keyed<F, Fut>(freshness: Arc<Freshness>, tables: [Table; 2], load: F) -> Arc<Self>
    where
        F: Fn(Arc<str>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        let capacity = freshness.times().capacity;
        Self::new(freshness, tables, (capacity, MEMO_ENTRIES), load)
    }

    /// A cache of the one value its table has; its key is the empty text.
    pub fn single<F, Fut>(freshness: Arc<Freshness>, table: Table, load: F) -> Arc<Self>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        Self::new(freshness, [table; 2], (1, 1), move |_| load())
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

    /// The value of a key, from memory if it is fresh there, else loaded.
    ///
    /// # Errors
    /// [`Unavailable`] if the store cannot answer and nothing kept may serve.
    pub async fn get(self: &Arc<Self>, key: &str, now: Moment) -> Result<Handle<V>, Unavailable> {
        let is_fresh =
            |entry: &Entry<V>| self.freshness.validity(&entry.origin, now) == Validity::Fresh;
        if let Some(handle) = self.memo.get(key).filter(|handle| is_fresh(handle)) {
            return Ok(handle);
        }
        let kept = self.entries.get(key);
        let entry = match kept {
            Some(entry) if is_fresh(&entry) => {
                self.cache_hits.fetch_add(1, Ordering::Relaxed);
                entry
            }
            kept => {
                let seen = kept.as_ref().map(|entry| entry.id);
                self.load(key, seen, kept).await?
            }
        };
        let handle = Handle::new(entry);
        self.memo.keep(key.into(), handle.clone());
        Ok(handle)
    }

    /// As [`Self::get`], but nothing stale, however young: for the loader of
    /// another cache, which would take what it is given for fresh.
    ///
    /// # Errors
    /// [`Unavailable`] if the store cannot answer.
    pub async fn get_fresh(
        self: &Arc<Self>,
        key: &str,
        now: Moment,
    ) -> Result<Handle<V>, Unavailable> {
        let entry = match self.entries.get(key) {
            Some(entry) if self.freshness.is_fresh(&entry.origin, now) => entry,
            stale => self.load(key, stale.map(|entry| entry.id), None).await?,
        };
        Ok(Handle::new(entry))
    }

    /// Joins or begins a load until one ends that nothing outdated meanwhile.
    ///
    /// With a stale value at hand nobody waits longer than `degraded_ttl`
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
            let stale = kept.as_ref().filter(|entry| is_usable(entry));
            let (began, mut loaded) = match self.join(key, seen) {
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
                // The loader's task ended without a word: it panicked.
                Some(Err(_)) => Some(Err(Unavailable::new("a load was cut short"))),
                None => None,
            };
            match (loaded, stale) {
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

    /// The load to wait for: one whose origin is still the latest, or a new
    /// one; or the entry of one that ended since the caller looked.
    fn join(self: &Arc<Self>, key: &str, seen: Option<EntryId>) -> Joined<V> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(InFlight { origin, began, loaded, .. }) = in_flight.get(key)
            && self.freshness.is_latest(origin)
        {
            return Joined::InFlight { began: *began, loaded: loaded.clone() };
        }
        // A load keeps its entry before it is taken out of `in_flight`.
        if let Some(entry) = self.entries.get(key)
            && Some(entry.id) != seen
            && self.freshness.is_latest(&entry.origin)
        {
            return Joined::Loaded(entry);
        }
        let key: Arc<str> = key.into();
        let (tell, loaded) = watch::channel(None);
        let load = InFlight {
            id: EntryId::next(),
            origin: self.freshness.origin(self.tables, &key),
            began: Instant::now(),
            loaded: loaded.clone(),
        };
        let (id, began, origin) = (load.id, load.began, load.origin);
        in_flight.insert(Arc::clone(&key), load);
        drop(in_flight);
        self.runtime.spawn(Arc::clone(self).run_load(key, id, origin, tell));
        Joined::InFlight { began, loaded }
    }

    async fn run_load(
        self: Arc<Self>,
        key: Arc<str>,
        id: EntryId,
        origin: Origin,
        tell: watch::Sender<Option<Loaded<V>>>,
    ) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let _removed_even_by_a_panic = RemoveOnDrop { cached: &self, key: &key, id };
        let loaded = match (self.loader)(Arc::clone(&key)).await {
            Ok(value) => {
                let entry = Arc::new(Entry { id, value, origin });
                self.entries.insert(Arc::clone(&key), Arc::clone(&entry));
                Ok(entry)
            }
            Err(error) => Err(error),
        };
        let failed = loaded.is_err();
        tell.send_replace(Some(loaded));
        if failed {
            tokio::time::sleep(FAILURE_SHARED).await;
        }
    }
}

/// Takes a load out of `in_flight` when its task ends, however it ends.
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
