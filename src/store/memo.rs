//! A memo of each thread's most recently used entries, in front of a cache that all
//! threads share.
//!
//! An entry is checked by its generation wherever it is kept (see [`super::freshness`]),
//! so a thread may keep the entries it used last: the caller checks an entry from the memo
//! just as it checks one from the shared cache. A hit writes to nothing that another
//! thread reads, not even a reference count, if the value is the thread's own copy.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use thread_local::ThreadLocal;

/// Slots for keys of the same set, so that two keys in use at the same time do not evict
/// each other.
const WAYS: usize = 2;

/// Sets of [`WAYS`] slots each.
type Slots<K, V> = Box<[Option<(K, V)>]>;

/// A bounded memo for each thread that uses it.
pub(crate) struct Memo<K: Send, V: Send> {
    sets: usize,
    hasher: RandomState,
    threads: ThreadLocal<RefCell<Slots<K, V>>>,
    /// Hits of each thread, written by that thread alone.
    hits: ThreadLocal<AtomicU64>,
}

impl<K: Send, V: Send> fmt::Debug for Memo<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("sets", &self.sets).finish_non_exhaustive()
    }
}

impl<K: Send, V: Send> Memo<K, V> {
    /// Creates a memo of up to `entries` per thread, rounded up to whole sets.
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            sets: entries.div_ceil(WAYS).max(1),
            hasher: RandomState::default(),
            threads: ThreadLocal::new(),
            hits: ThreadLocal::new(),
        }
    }

    /// Returns the number of hits of all threads since the start.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.iter().map(|hits| hits.load(Ordering::Relaxed)).sum()
    }
}

impl<K, V> Memo<K, V>
where
    K: Hash + Eq + Send,
    V: Clone + Send,
{
    /// Returns the value this thread has of a key, if it is valid.
    pub(crate) fn get<Q>(&self, key: &Q, is_valid: impl FnOnce(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut slots = self.threads.get()?.try_borrow_mut().ok()?;
        let set = self.set(&mut slots, key);
        let way = set.iter().position(|slot| matches!(slot, Some((k, _)) if k.borrow() == key))?;
        // The most recently used entry comes first and is evicted last.
        set.swap(0, way);
        let (_, value) = set[0].as_ref()?;
        if !is_valid(value) {
            return None;
        }
        let found = value.clone();
        let hits = self.hits.get_or_default();
        hits.store(hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(found)
    }

    /// Stores a value for this thread, in place of the least recently used entry of the set.
    pub(crate) fn insert(&self, key: K, value: V) {
        let slots = self.threads.get_or(|| {
            RefCell::new(std::iter::repeat_with(|| None).take(self.sets * WAYS).collect())
        });
        let Ok(mut slots) = slots.try_borrow_mut() else {
            return;
        };
        let set = self.set(&mut slots, &key);
        let way = set.iter().position(|slot| matches!(slot, Some((k, _)) if *k == key));
        set[..=way.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = Some((key, value));
    }

    fn set<'a, Q>(&self, slots: &'a mut [Option<(K, V)>], key: &Q) -> &'a mut [Option<(K, V)>]
    where
        Q: Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let set = usize::try_from(hash % self.sets as u64).unwrap_or(0);
        &mut slots[set * WAYS..(set + 1) * WAYS]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_was_used_last_is_kept_and_no_more_than_fits() {
        let memo = Memo::new(8);
        for key in 0..1_000_u32 {
            memo.insert(key, key);
            assert_eq!(memo.get(&key, |_| true), Some(key));
        }
        let held: HashSet<_> =
            (0..1_000_u32).filter(|key| memo.get(key, |_| true).is_some()).collect();
        assert!((4..=8).contains(&held.len()), "{held:?}");
    }

    #[test]
    fn of_two_keys_the_one_used_less_recently_makes_room() {
        let memo = Memo::new(1);
        memo.insert("a", 1);
        memo.insert("b", 2);
        assert_eq!(memo.get("a", |_| true), Some(1));
        memo.insert("c", 3);
        assert_eq!(
            (memo.get("a", |_| true), memo.get("b", |_| true), memo.get("c", |_| true)),
            (Some(1), None, Some(3))
        );
        memo.insert("a", 4);
        assert_eq!(
            (memo.get("a", |_| true), memo.get("c", |_| true)),
            (Some(4), Some(3)),
            "no key is held twice"
        );
        assert_eq!(memo.hits(), 5);
    }

    #[test]
    fn a_thread_sees_nothing_of_another() {
        let memo = Arc::new(Memo::new(4));
        memo.insert("key", 1);
        let elsewhere = Arc::clone(&memo);
        let seen = std::thread::spawn(move || {
            let seen = elsewhere.get("key", |_| true);
            elsewhere.insert("key", 2);
            (seen, elsewhere.get("key", |_| true))
        });
        assert_eq!(seen.join().expect("the thread ends"), (None, Some(2)));
        assert_eq!(memo.get("key", |_| true), Some(1));
    }
}
