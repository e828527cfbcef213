//! Counts the keys that occur most often, in bounded memory.

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

/// Counts of keys (Misra and Gries, "Finding repeated elements", 1982).
///
/// If there is no room for a new key, all counts are lowered alike. So a count is never too
/// high, and too low by no more than the sum of all that was counted, divided by the number of
/// keys: what strangers can send with 10,000,000 addresses hides no single one among them that
/// sends a notable share. On average, counting takes constant time.
#[derive(Debug)]
pub(super) struct HeavyHitters<K> {
    most: usize,
    hash: foldhash::fast::RandomState,
    table: HashTable<(K, u64)>,
}

impl<K: Hash + Eq> HeavyHitters<K> {
    /// Counts `most` keys at most, which is not zero.
    pub(super) fn new(most: usize) -> Self {
        Self { most, hash: foldhash::fast::RandomState::default(), table: HashTable::new() }
    }

    /// Adds to the count of a key. It may be another type than those that are kept, if it has
    /// the same hash; `own` makes one of them of it.
    pub(super) fn add<Q: Hash>(&mut self, key: &Q, mut number: u64, own: impl FnOnce() -> K)
    where
        K: PartialEq<Q>,
    {
        let Self { most, hash, table } = self;
        let digest = hash.hash_one(key);
        if let Some((_, count)) = table.find_mut(digest, |(other, _)| other == key) {
            *count = count.saturating_add(number);
            return;
        }
        if table.len() >= *most {
            let least = table.iter().map(|(_, count)| *count).min().unwrap_or(0);
            let lower = least.min(number);
            table.retain(|(_, count)| {
                *count -= lower;
                *count > 0
            });
            number -= lower;
        }
        if number > 0 && table.len() < *most {
            table.insert_unique(digest, (own(), number), |(key, _)| hash.hash_one(key));
        }
    }

    pub(super) fn count(&self, key: &K) -> u64 {
        let digest = self.hash.hash_one(key);
        self.table.find(digest, |(other, _)| other == key).map_or(0, |(_, count)| *count)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, u64)> {
        self.table.iter()
    }

    /// Takes all counts.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (K, u64)> + use<K> {
        std::mem::take(&mut self.table).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_that_knocks_often_is_found_among_ten_million() {
        let mut counts = HeavyHitters::new(1024);
        for stranger in 0..10_000_000_u64 {
            counts.add(&(stranger + 1), 1, || stranger + 1);
            if stranger % 100 == 0 {
                counts.add(&0, 1, || 0);
            }
        }
        let found = counts.count(&0);
        assert!((90_000..=100_000).contains(&found), "{found}");
        assert!(counts.iter().count() <= 1024);
        assert!(counts.table.capacity() <= 4096, "{}", counts.table.capacity());
    }

    proptest! {
        #[test]
        fn a_count_is_never_too_high_and_too_low_by_a_share_only(
            keys in vec((0_u8..40, 1_u64..20), 0..500), most in 1_usize..20,
        ) {
            let mut counts = HeavyHitters::new(most);
            let mut exact = [0; 40];
            for (key, number) in &keys {
                counts.add(key, *number, || *key);
                exact[usize::from(*key)] += number;
            }
            let sum: u64 = exact.iter().sum();
            for (key, exact) in (0_u8..).zip(exact) {
                let count = counts.count(&key);
                prop_assert!(count <= exact);
                prop_assert!(exact - count <= sum / (most as u64 + 1));
            }
            prop_assert!(counts.iter().count() <= most);
        }
    }
}
