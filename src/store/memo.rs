//! What a thread used last, in front of a cache that all threads share.
//!
//! An entry vouches for itself by its generation wherever it is kept (see
//! [`super::freshness`]), so a thread may keep what it used last for itself: whoever
//! takes an entry from here asks it the same as one from the cache behind. A hit
//! writes to nothing that another thread reads, not even a reference count, if what is
//! kept is the thread's own copy.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use thread_local::ThreadLocal;

/// Places for keys of the same set: two that are in use at once do not drive each other
/// out.
const WAYS: usize = 2;

/// Sets of [`WAYS`] places each.
type Places<K, V> = Box<[Option<(K, V)>]>;

/// A bounded memo for each thread that asks.
pub(crate) struct Memo<K: Send, V: Send> {
    sets: usize,
    hasher: RandomState,
    threads: ThreadLocal<RefCell<Places<K, V>>>,
    /// Hits of each thread, written by that thread alone.
    hits: ThreadLocal<AtomicU64>,
}

impl<K: Send, V: Send> fmt::Debug for Memo<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("sets", &self.sets).finish_non_exhaustive()
    }
}

impl<K: Send, V: Send> Memo<K, V> {
    /// Keeps up to `entries` of each thread, rounded up to whole sets.
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            sets: entries.div_ceil(WAYS).max(1),
            hasher: RandomState::default(),
            threads: ThreadLocal::new(),
            hits: ThreadLocal::new(),
        }
    }

    /// Times that something was found, of all threads since the start.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.iter().map(|hits| hits.load(Ordering::Relaxed)).sum()
    }
}

impl<K, V> Memo<K, V>
where
    K: Hash + Eq + Send,
    V: Clone + Send,
{
    /// What this thread kept of a key.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut places = self.threads.get()?.try_borrow_mut().ok()?;
        let set = self.set(&mut places, key);
        let way = set.iter().position(|kept| matches!(kept, Some((k, _)) if k.borrow() == key))?;
        // The one that was used last comes first and stays longest.
        set.swap(0, way);
        let found = set[0].as_ref().map(|(_, value)| value.clone());
        let hits = self.hits.get_or_default();
        hits.store(hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        found
    }

    /// Keeps a value for this thread, in place of what the set used least recently.
    pub(crate) fn keep(&self, key: K, value: V) {
        let places = self.threads.get_or(|| {
            RefCell::new(std::iter::repeat_with(|| None).take(self.sets * WAYS).collect())
        });
        let Ok(mut places) = places.try_borrow_mut() else {
            return;
        };
        let set = self.set(&mut places, &key);
        let way = set.iter().position(|kept| matches!(kept, Some((k, _)) if *k == key));
        set[..=way.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = Some((key, value));
    }

    fn set<'a, Q>(&self, places: &'a mut [Option<(K, V)>], key: &Q) -> &'a mut [Option<(K, V)>]
    where
        Q: Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let set = usize::try_from(hash % self.sets as u64).unwrap_or(0);
        &mut places[set * WAYS..(set + 1) * WAYS]
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
            memo.keep(key, key);
            assert_eq!(memo.get(&key), Some(key));
        }
        let kept: HashSet<_> = (0..1_000_u32).filter(|key| memo.get(key).is_some()).collect();
        assert!((4..=8).contains(&kept.len()), "{kept:?}");
    }

    #[test]
    fn of_two_keys_the_one_used_less_recently_makes_room() {
        let memo = Memo::new(1);
        memo.keep("a", 1);
        memo.keep("b", 2);
        assert_eq!(memo.get("a"), Some(1));
        memo.keep("c", 3);
        assert_eq!((memo.get("a"), memo.get("b"), memo.get("c")), (Some(1), None, Some(3)));
        memo.keep("a", 4);
        assert_eq!((memo.get("a"), memo.get("c")), (Some(4), Some(3)), "no key is kept twice");
        assert_eq!(memo.hits(), 5);
    }

    #[test]
    fn a_thread_sees_nothing_of_another() {
        let memo = Arc::new(Memo::new(4));
        memo.keep("key", 1);
        let elsewhere = Arc::clone(&memo);
        let seen = std::thread::spawn(move || {
            let seen = elsewhere.get("key");
            elsewhere.keep("key", 2);
            (seen, elsewhere.get("key"))
        });
        assert_eq!(seen.join().expect("it ends"), (None, Some(2)));
        assert_eq!(memo.get("key"), Some(1));
    }
}
