//! Counts of requests that are not recorded one by one.
//!
//! Each thread counts in a table of its own, which it shares only with the one who collects
//! the counts: a request that is counted before writes to nothing that other threads touch,
//! and allocates nothing. What has been collected is never added to again, so that a delta is
//! a record like any other.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use thread_local::ThreadLocal;

use super::record::{Entry, Kind, Micros};
use crate::domain::client::Client;
use crate::domain::endpoint::VerdictKind;

/// How many requests of the same key were counted by one thread; beyond these, requests are
/// counted by app only.
const MAX_KEYS: usize = 2048;

/// Further keys, of an app only; beyond these, requests are counted by verdict only.
const MAX_APPS: usize = 1024;

/// Further minutes in which requests are counted by verdict only; beyond these, they are
/// added to an earlier minute. Reached only if nothing is collected for long.
const MAX_MINUTES: usize = 64;

const MINUTE: i64 = 60_000_000;

/// Counts by app, client, rule, verdict and minute.
#[derive(Debug, Default)]
pub struct Rollup {
    threads: ThreadLocal<Mutex<Counts>>,
}

/// What a request is counted by.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    pub verdict: VerdictKind,
    pub at: Micros,
    pub app: Option<&'a str>,
    pub rule: Option<&'a str>,
    /// `None` if it is not counted by its client.
    pub client: Option<Client<'a>>,
}

/// The counts of one thread since they were last collected.
#[derive(Debug, Default)]
struct Counts {
    hash: foldhash::fast::RandomState,
    table: HashTable<Count>,
    /// What fits into no table, by verdict and minute.
    rest: Vec<(VerdictKind, i64, i64)>,
}

#[derive(Debug)]
struct Count {
    key: Key,
    client_name: Option<Arc<str>>,
    number: i64,
}

#[derive(Debug)]
struct Key {
    verdict: VerdictKind,
    minute: i64,
    app: Option<Arc<str>>,
    rule: Option<Arc<str>>,
    client: Option<&'static str>,
    client_id: Option<Arc<str>>,
}

/// A [`Key`] by reference, so that looking one up allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct KeyRef<'a> {
    verdict: VerdictKind,
    minute: i64,
    app: Option<&'a str>,
    rule: Option<&'a str>,
    client: Option<&'static str>,
    client_id: Option<&'a str>,
}

impl Rollup {
    /// Counts one request.
    pub fn count(&self, counted: Counted<'_>) {
        lock(self.threads.get_or_default()).count(counted);
    }

    /// Takes the counts of all threads, those that have ended included, as entries.
    pub fn take(&self) -> Vec<Entry> {
        let mut sums = Counts::default();
        for thread in &self.threads {
            let Counts { hash: _, table, rest } = std::mem::take(&mut *lock(thread));
            for count in table {
                sums.add_up(count);
            }
            for (verdict, minute, number) in rest {
                sums.add_rest(verdict, minute, number, usize::MAX);
            }
        }
        let rest = sums.rest.into_iter().map(|(verdict, minute, number)| Count {
            key: KeyRef::of_verdict(verdict, minute).owned(None),
            client_name: None,
            number,
        });
        sums.table.into_iter().chain(rest).map(Count::into_entry).collect()
    }
}

impl Counts {
    fn count(&mut self, counted: Counted<'_>) {
        let Counted { verdict, at, app, rule, client } = counted;
        let known = client.and_then(Client::known);
        let minute = at.0.div_euclid(MINUTE) * MINUTE;
        let key = KeyRef {
            verdict,
            minute,
            app,
            rule,
            client: client.map(Client::kind),
            client_id: known.map(|known| &*known.id),
        };
        let of_app = KeyRef { app, ..KeyRef::of_verdict(verdict, minute) };
        let added = self.add(key, MAX_KEYS, || Count {
            key: key.owned(known.map(|known| &known.id)),
            client_name: known.map(|known| Arc::clone(&known.name)),
            number: 1,
        }) || self.add(of_app, MAX_KEYS + MAX_APPS, || Count {
            key: of_app.owned(None),
            client_name: None,
            number: 1,
        });
        if !added {
            self.add_rest(verdict, minute, 1, MAX_MINUTES);
        }
    }

    /// Adds one to a key's count. A new key is created unless there are `max` keys; returns
    /// whether the request was counted.
    fn add(&mut self, key: KeyRef<'_>, max: usize, create: impl FnOnce() -> Count) -> bool {
        let Self { hash, table, .. } = self;
        let digest = hash.hash_one(key);
        if let Some(count) = table.find_mut(digest, |count| count.key.borrowed() == key) {
            count.number += 1;
            return true;
        }
        if table.len() >= max {
            return false;
        }
        table.insert_unique(digest, create(), |count| hash.hash_one(count.key.borrowed()));
        true
    }

    /// Adds the count of another thread.
    fn add_up(&mut self, count: Count) {
        let Self { hash, table, .. } = self;
        let digest = hash.hash_one(count.key.borrowed());
        let is_same = |other: &Count| other.key.borrowed() == count.key.borrowed();
        match table.find_mut(digest, is_same) {
            Some(sum) => sum.number += count.number,
            None => {
                table.insert_unique(digest, count, |count| hash.hash_one(count.key.borrowed()));
            }
        }
    }

    fn add_rest(&mut self, verdict: VerdictKind, minute: i64, number: i64, max: usize) {
        let is_full = self.rest.len() >= max;
        let same =
            self.rest.iter_mut().find(|(of, at, _)| *of == verdict && (*at == minute || is_full));
        match same {
            Some((_, _, sum)) => *sum += number,
            None => self.rest.push((verdict, minute, number)),
        }
    }
}

impl Key {
    fn borrowed(&self) -> KeyRef<'_> {
        let Self { verdict, minute, app, rule, client, client_id } = self;
        KeyRef {
            verdict: *verdict,
            minute: *minute,
            app: app.as_deref(),
            rule: rule.as_deref(),
            client: *client,
            client_id: client_id.as_deref(),
        }
    }
}

impl KeyRef<'_> {
    fn of_verdict(verdict: VerdictKind, minute: i64) -> Self {
        Self { verdict, minute, app: None, rule: None, client: None, client_id: None }
    }

    fn owned(self, client_id: Option<&Arc<str>>) -> Key {
        Key {
            verdict: self.verdict,
            minute: self.minute,
            app: self.app.map(Arc::from),
            rule: self.rule.map(Arc::from),
            client: self.client,
            client_id: client_id.cloned(),
        }
    }
}

impl Count {
    fn into_entry(self) -> Entry {
        let Self { key, client_name, number } = self;
        let (kind, verdict, reason) = match key.verdict {
            VerdictKind::Deny(reason) => (Kind::Denials, "deny", Some(reason.as_str())),
            granted => (Kind::Grants, granted.as_str(), None),
        };
        Entry {
            app: key.app,
            rule: key.rule,
            client: key.client.map(Into::into),
            client_id: key.client_id,
            client_name,
            verdict: Some(verdict.into()),
            reason: reason.map(Into::into),
            count: number,
            ..Entry::new(kind, Micros(key.minute))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
