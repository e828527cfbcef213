//! Caches of values derived from cache entries.
//!
//! Derived values need no generations of their own: the key or the value contains the
//! [`super::cache::EntryId`] of each entry it was derived from, and an entry that is
//! loaded again gets a new id.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cache::{Bounded, Counts, bounded, weighted};
use super::memo::Memo;

/// Values of one cache in each thread's memo.
const MEMO_ENTRIES: usize = 256;

/// A value that a thread keeps ready to use, and that all threads share in a smaller form.
pub(crate) trait Packed: Sized {
    /// The form that all threads share.
    type Packed: Clone + Send + Sync + 'static;

    /// Makes a copy that shares no reference count with the original.
    fn pack(&self) -> Self::Packed;

    /// Does the reverse. `None` counts as a missing value.
    fn unpack(packed: &Self::Packed) -> Option<Self>;
}

/// A bounded cache of derived values, with a memo for each thread in front of it.
pub(crate) struct Derived<K: Send, V: Packed + Send> {
    memo: Memo<K, V>,
    values: Bounded<K, V::Packed>,
    cache_hits: AtomicU64,
}

impl<K: Send, V: Packed + Send> fmt::Debug for Derived<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").finish_non_exhaustive()
    }
}

impl<K, V> Derived<K, V>
where
    K: Clone + Hash + Eq + Send + Sync + 'static,
    V: Clone + Packed + Send,
{
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            memo: Memo::new(MEMO_ENTRIES),
            values: bounded(capacity),
            cache_hits: AtomicU64::new(0),
        }
    }

    /// Creates a cache that is bounded by bytes as well as by entries, both at most.
    pub(crate) fn weighted(
        capacity: u64,
        max_bytes: u64,
        bytes: impl Fn(&K, &V::Packed) -> usize + Send + Sync + 'static,
    ) -> Self {
        // An entry weighs at least its share of the bytes, so that no more than `capacity` fit.
        let share = max_bytes / capacity.max(1);
        let weigh = move |key: &K, value: &V::Packed| {
            let bytes = bytes(key, value) as u64;
            u32::try_from(bytes.max(share)).unwrap_or(u32::MAX)
        };
        Self {
            memo: Memo::new(MEMO_ENTRIES),
            values: weighted(max_bytes, weigh),
            cache_hits: AtomicU64::new(0),
        }
    }

    /// Returns the value of a key, if there is one and it is valid.
    pub(crate) fn get<Q>(&self, key: &Q, is_valid: impl Fn(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    {
        if let Some(value) = self.memo.get(key, &is_valid) {
            return Some(value);
        }
        let value = V::unpack(&self.values.get(key)?).filter(is_valid)?;
        self.cache_hits.fetch_add(1, Ordering::Relaxed);
        self.memo.insert(key.to_owned(), value.clone());
        Some(value)
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.values.insert(key.clone(), value.pack());
        self.memo.insert(key, value);
    }

    /// Returns the counts. `loads` is 0, since a missing value is derived and not loaded.
    pub(crate) fn counts(&self) -> Counts {
        self.values.run_pending_tasks();
        Counts {
            loads: 0,
            memo_hits: self.memo.hits(),
            cache_hits: self.cache_hits.load(Ordering::Relaxed),
            entries: self.values.entry_count(),
        }
    }
}
