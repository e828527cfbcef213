//! Whether a cache entry may be used.
//!
//! An entry is *fresh*, *stale* or *invalid*. A *notification* says that a key has
//! changed: it bumps the key's generation, and an entry that carries an older generation
//! is invalid for good. A *reset* says that a change may have been missed: it begins a new
//! epoch, and an entry of an older epoch is stale: it is read again, but may be served for
//! up to `max_stale` if the store cannot answer.
//!
//! While the link that carries the store's notifications is *live*, an entry that no
//! notification has invalidated is as good as a query. The link is live if a heartbeat
//! has made the round trip through the store within the last two periods. A process that
//! was stopped for longer finds the link degraded before it answers anything.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use tokio::time::Instant;

use super::Table;
use crate::config;

/// Generations per table. Keys share them by hash, so that a change of one
/// app invalidates one entry in 256 and not all of them.
const STRIPES: usize = 256;

/// How many ended epochs are remembered. The age of an entry of an older epoch counts
/// from when it was loaded.
const REMEMBERED_EPOCHS: usize = 64;

/// A moment on this process's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Returns the time since an earlier moment; zero if it was not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The generation of one key at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    slot: usize,
    generation: u64,
}

/// What a cached value carries so that it can be checked; noted *before* the value was
/// loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    stamps: [Stamp; 2],
    epoch: u64,
    pub loaded: Moment,
}

/// Whether a cached value may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// As good as a query.
    Fresh,
    /// Must be read again, but may be served if the store cannot answer.
    Stale,
    /// Must not be used.
    Invalid,
}

/// The generations, the epochs and the state of the link.
#[derive(Debug)]
pub struct Freshness {
    generations: Box<[AtomicU64]>,
    epoch: AtomicU64,
    live: AtomicBool,
    /// When the latest heartbeat that came back was sent.
    verified: AtomicU64,
    /// The epochs that have ended, each with the moment it was last verified.
    ended: Mutex<VecDeque<(u64, Moment)>>,
    started: Instant,
    hasher: FixedState,
    times: config::Cache,
}

impl Freshness {
    #[must_use]
    pub fn new(times: config::Cache) -> Self {
        let slots = Table::ALL.len() * STRIPES;
        Self {
            generations: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            epoch: AtomicU64::new(0),
            live: AtomicBool::new(false),
            verified: AtomicU64::new(0),
            ended: Mutex::new(VecDeque::new()),
            started: Instant::now(),
            hasher: FixedState::default(),
            times,
        }
    }

    #[must_use]
    pub fn times(&self) -> &config::Cache {
        &self.times
    }

    #[must_use]
    pub fn now(&self) -> Moment {
        // 584 years of nanoseconds fit into 64 bits.
        Moment(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn slot(&self, table: Table, key: &str) -> usize {
        let stripe = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or(0);
        table as usize * STRIPES + stripe
    }

    fn stamp(&self, table: Table, key: &str) -> Stamp {
        let slot = self.slot(table, key);
        Stamp { slot, generation: self.generations[slot].load(Ordering::Acquire) }
    }

    /// Returns the origin of a load that begins now. Take it before the first query.
    #[must_use]
    pub fn origin(&self, tables: [Table; 2], key: &str) -> Origin {
        Origin {
            epoch: self.epoch.load(Ordering::Acquire),
            stamps: tables.map(|table| self.stamp(table, key)),
            loaded: self.now(),
        }
    }

    /// Invalidates the entries of a key that has changed.
    pub fn invalidate(&self, table: Table, key: &str) {
        self.generations[self.slot(table, key)].fetch_add(1, Ordering::AcqRel);
    }

    /// Invalidates all entries of a table.
    pub fn invalidate_table(&self, table: Table) {
        let first = table as usize * STRIPES;
        for generation in &self.generations[first..first + STRIPES] {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Begins a new epoch, because a change may have been missed.
    pub fn reset(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let verified = Moment(self.verified.load(Ordering::Acquire));
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel);
        ended.push_back((epoch, verified));
        if ended.len() > REMEMBERED_EPOCHS {
            ended.pop_front();
        }
    }

    /// Notes that a heartbeat sent at `sent` has come back, so that every change committed
    /// before it has been received.
    pub fn verify(&self, sent: Moment) {
        self.verified.fetch_max(sent.0, Ordering::AcqRel);
        self.live.store(true, Ordering::Release);
    }

    /// Notes that the link is lost or no longer trusted. Which changes were missed since
    /// the last heartbeat is unknown, hence the reset.
    pub fn degrade(&self) {
        if self.live.swap(false, Ordering::AcqRel) {
            self.reset();
        }
    }

    /// Returns whether notifications are known to arrive.
    #[must_use]
    pub fn is_live(&self, now: Moment) -> bool {
        let verified = Moment(self.verified.load(Ordering::Acquire));
        self.live.load(Ordering::Acquire) && now.since(verified) <= self.times.heartbeat * 2
    }

    /// Returns whether a heartbeat has ever come back.
    #[must_use]
    pub fn was_verified(&self) -> bool {
        self.verified.load(Ordering::Acquire) > 0
    }

    /// Returns the time since the latest heartbeat that came back was sent.
    #[must_use]
    pub fn verified_ago(&self, now: Moment) -> Duration {
        now.since(Moment(self.verified.load(Ordering::Acquire)))
    }

    /// Returns whether no notification has invalidated the value since its load began.
    #[must_use]
    pub fn is_current(&self, origin: &Origin) -> bool {
        origin
            .stamps
            .iter()
            .all(|stamp| self.generations[stamp.slot].load(Ordering::Acquire) == stamp.generation)
    }

    /// Returns whether a load that began at `origin` may still be joined.
    #[must_use]
    pub fn is_latest(&self, origin: &Origin) -> bool {
        self.is_current(origin) && origin.epoch == self.epoch.load(Ordering::Acquire)
    }

    /// Returns whether the value is as good as one that is loaded now.
    #[must_use]
    pub fn is_fresh(&self, origin: &Origin, now: Moment) -> bool {
        self.is_latest(origin) && now.since(origin.loaded) < self.times.ttl && self.is_live(now)
    }

    #[must_use]
    pub fn validity(&self, origin: &Origin, now: Moment) -> Validity {
        if self.is_fresh(origin, now) {
            return Validity::Fresh;
        }
        if !self.is_current(origin) {
            return Validity::Invalid;
        }
        if now.since(origin.loaded) < self.times.degraded_ttl {
            return Validity::Fresh;
        }
        let same_epoch = origin.epoch == self.epoch.load(Ordering::Acquire);
        let verified = if same_epoch {
            Moment(self.verified.load(Ordering::Acquire))
        } else {
            self.last_verified_in(origin.epoch).unwrap_or(origin.loaded)
        };
        if now.since(verified.max(origin.loaded)) < self.times.max_stale {
            Validity::Stale
        } else {
            Validity::Invalid
        }
    }

    /// Returns when an ended epoch was last verified, if it is still remembered.
    fn last_verified_in(&self, epoch: u64) -> Option<Moment> {
        let ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ended.iter().find(|(e, _)| *e == epoch).map(|(_, verified)| *verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: [Table; 2] = [Table::Apps, Table::AppMeta];

    fn freshness() -> Freshness {
        Freshness::new(config::Cache {
            capacity: 100,
            ttl: Duration::from_secs(3600),
            degraded_ttl: Duration::from_secs(1),
            max_stale: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
        })
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    fn validity(freshness: &Freshness, origin: &Origin) -> Validity {
        freshness.validity(origin, freshness.now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_entry_is_fresh_until_it_is_outdated() {
        let freshness = freshness();
        freshness.reset();
        pass(1).await;
        let origin = freshness.origin(TABLES, "notes");
        for _ in 0..100 {
            pass(5).await;
            freshness.verify(freshness.now());
            assert_eq!(validity(&freshness, &origin), Validity::Fresh);
        }
        freshness.invalidate(Table::AppMeta, "notes");
        assert_eq!(validity(&freshness, &origin), Validity::Invalid);
    }

    #[tokio::test(start_paused = true)]
    async fn the_ttl_is_a_backstop() {
        let freshness = freshness();
        pass(1).await;
        let origin = freshness.origin(TABLES, "notes");
        pass(3600).await;
        freshness.verify(freshness.now());
        assert_eq!(validity(&freshness, &origin), Validity::Stale);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_makes_stale_after_two_heartbeats_without_anybodys_help() {
        let freshness = freshness();
        pass(1).await;
        let origin = freshness.origin(TABLES, "notes");
        freshness.verify(freshness.now());
        pass(10).await;
        assert_eq!(validity(&freshness, &origin), Validity::Fresh);
        pass(1).await;
        assert_eq!(validity(&freshness, &origin), Validity::Stale);
        assert!(!freshness.is_live(freshness.now()));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_serves_longer_than_max_stale_after_it_was_last_verified() {
        let freshness = freshness();
        pass(1).await;
        let origin = freshness.origin(TABLES, "notes");
        pass(100).await;
        freshness.verify(freshness.now());
        pass(3).await;
        freshness.degrade();
        // A link that is lost and restored must not make the entry younger.
        for _ in 0..11 {
            pass(5).await;
            freshness.reset();
            freshness.verify(freshness.now());
            assert_eq!(validity(&freshness, &origin), Validity::Stale);
            freshness.degrade();
        }
        pass(2).await;
        assert_eq!(validity(&freshness, &origin), Validity::Invalid);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_began_before_a_change_is_not_joined() {
        let freshness = freshness();
        let origin = freshness.origin(TABLES, "notes");
        assert!(freshness.is_latest(&origin));
        freshness.invalidate_table(Table::Terminals);
        assert!(freshness.is_latest(&origin));
        freshness.invalidate_table(Table::Apps);
        assert!(!freshness.is_latest(&origin));
        let origin = freshness.origin(TABLES, "notes");
        freshness.reset();
        assert!(freshness.is_current(&origin) && !freshness.is_latest(&origin));
    }
}
