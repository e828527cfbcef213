//! Values derived from entries, and kept under what they were derived from.
//!
//! They need no generations of their own: their keys, or they themselves, name the
//! entries they come from by [`super::cache::EntryId`], and an entry that was loaded
//! again has another.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cache::{Bounded, Counts, bounded};
use super::memo::Memo;

/// Values of one cache that each thread keeps for itself.
const MEMO_ENTRIES: usize = 256;

/// A copy that shares no reference count with what it was made from.
pub(crate) trait OwnCopy {
    fn own_copy(&self) -> Self;
}

/// A bounded cache of derived values, with a memo for each thread in front.
pub(crate) struct Derived<K: Send, V: Send> {
    memo: Memo<K, V>,
    values: Bounded<K, V>,
    cache_hits: AtomicU64,
}

impl<K: Send, V: Send> fmt::Debug for Derived<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").finish_non_exhaustive()
    }
}

impl<K, V> Derived<K, V>
where
    K: Clone + Hash + Eq + Send + Sync + 'static,
    V: Clone + OwnCopy + Send + Sync + 'static,
{
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            memo: Memo::new(MEMO_ENTRIES),
            values: bounded(capacity),
            cache_hits: AtomicU64::new(0),
        }
    }

    /// The value of a key, if there is one that is valid.
    pub(crate) fn get<Q>(&self, key: &Q, is_valid: impl Fn(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    {
        if let Some(value) = self.memo.get(key).filter(&is_valid) {
            return Some(value);
        }
        let value = self.values.get(key).filter(is_valid)?.own_copy();
        self.cache_hits.fetch_add(1, Ordering::Relaxed);
        self.memo.keep(key.to_owned(), value.clone());
        Some(value)
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.memo.keep(key.clone(), value.own_copy());
        self.values.insert(key, value);
    }

    /// What it did and holds; what is not there is derived, so nothing is loaded.
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
