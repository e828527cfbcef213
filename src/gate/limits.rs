//! Slows down guessing: counts credentials that were refused, by their origin, and says how long an
//! origin has to wait before another one is looked at.
//!
//! What counts is a guess: a token, a signature, a management secret or a pairing code that is
//! wrong. A request without a credential never counts, and neither does the same wrong credential
//! once more: a browser sends an outdated cookie with everything it asks for. A credential that
//! is right is accepted even if others have guessed from the same address.
//!
//! Memory is bounded: [`MAX_ORIGINS`] are remembered. If there are more, those that guess most
//! stay (`TinyLFU`), and all of them together have one budget for codes, which are the only
//! credentials that are short enough to be guessed at all.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::domain::origin::Origin;

/// How many origins are remembered, at some 300 bytes each.
pub const MAX_ORIGINS: u64 = 16 * 1024;

/// From how many guesses on each of them has to be waited for, and how long.
const LADDER: [(u32, Duration); 4] = [
    (25, Duration::from_hours(24)),
    (20, Duration::from_hours(1)),
    (10, Duration::from_mins(10)),
    (7, Duration::from_mins(1)),
];

/// An origin is forgotten this long after its last guess: a day after the longest wait.
const REMEMBERED_FOR: Duration = Duration::from_hours(48);

/// How many of the last wrong credentials of an origin are told from new ones.
const TOLD_APART: usize = 8;

/// Wrong codes that all origins together may try at once, and how long until one more may be.
const CODES: u32 = 100;
const CODE_EVERY: Duration = Duration::from_secs(3);

/// Counts guesses by origin.
#[derive(Debug)]
pub struct Limits {
    origins: Cache<Origin, Guesses>,
    /// Of fingerprints: nobody can choose two credentials with the same one.
    hasher: RandomState,
    codes: Mutex<Budget>,
}

/// The guesses of one origin.
#[derive(Debug, Clone, Copy)]
struct Guesses {
    count: u32,
    last: Instant,
    /// How long the origin has to wait after the last one.
    wait: Duration,
    /// Fingerprints of the last wrong credentials.
    recent: [u64; TOLD_APART],
}

/// An origin that has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub origin: Origin,
    pub guesses: u32,
    /// For how long from now.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let origins =
            Cache::builder().max_capacity(MAX_ORIGINS).time_to_live(REMEMBERED_FOR).build();
        Self { origins, hasher: RandomState::new(), codes: Mutex::default() }
    }
}

impl Guesses {
    fn wait_from(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.last);
        self.wait.checked_sub(waited).filter(|wait| !wait.is_zero())
    }

    /// Counts a guess, unless it is one of the last once more.
    fn add(&mut self, fingerprint: u64, now: Instant) {
        if self.recent[..self.known()].contains(&fingerprint) {
            return;
        }
        self.recent[self.count as usize % TOLD_APART] = fingerprint;
        self.count = self.count.saturating_add(1);
        self.last = now;
        let step = LADDER.iter().find(|(least, _)| self.count >= *least);
        self.wait = step.map_or(Duration::ZERO, |(_, wait)| *wait);
    }

    /// How many of `recent` are in use.
    fn known(&self) -> usize {
        TOLD_APART.min(self.count as usize)
    }
}

impl Limits {
    /// Returns how long an origin has to wait, if it has to.
    #[must_use]
    pub fn wait(&self, origin: Origin, now: Instant) -> Option<Duration> {
        self.origins.get(&origin)?.wait_from(now)
    }

    /// Counts a credential that was refused, unless its origin has to wait: then it was not
    /// looked at. Returns how long the origin has to wait, before or from now on.
    pub fn refuse(&self, origin: Origin, credential: &[u8], now: Instant) -> Option<Duration> {
        let fingerprint = self.hasher.hash_one(credential);
        let mut has_begun = false;
        let entry = self.origins.entry(origin).and_upsert_with(|known| {
            let none = Guesses { count: 0, last: now, wait: Duration::ZERO, recent: [0; 8] };
            let mut guesses = known.map_or(none, moka::Entry::into_value);
            if guesses.wait_from(now).is_none() {
                let before = guesses.count;
                guesses.add(fingerprint, now);
                has_begun = guesses.count > before && !guesses.wait.is_zero();
            }
            guesses
        });
        let guesses = entry.into_value();
        if has_begun {
            let seconds = guesses.wait.as_secs();
            tracing::warn!(
                guesses = guesses.count,
                seconds,
                "an address has tried too many wrong credentials; see `nightporter limits list`"
            );
        }
        guesses.wait_from(now)
    }

    /// Returns how long every origin has to wait before another code is looked at, because too
    /// many of them were wrong, wherever they came from.
    #[must_use]
    pub fn wait_for_codes(&self, now: Instant) -> Option<Duration> {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.refill(now);
        (codes.spent >= CODES).then_some(CODE_EVERY)
    }

    /// Counts a wrong code against the budget that all origins share.
    pub fn spend_code(&self, now: Instant) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.refill(now);
        codes.spent = codes.spent.saturating_add(1).min(CODES);
    }

    /// Returns the origins that have to wait, those that wait longest first.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<Limited> {
        let limited = self.origins.iter().filter_map(|(origin, guesses)| {
            let wait = guesses.wait_from(now)?;
            Some(Limited { origin: *origin, guesses: guesses.count, wait })
        });
        let mut limited: Vec<_> = limited.collect();
        limited.sort_by_key(|limited| (std::cmp::Reverse(limited.wait), limited.origin));
        limited
    }

    /// Forgets the guesses of an origin. Returns whether it had to wait.
    pub fn lift(&self, origin: Origin, now: Instant) -> bool {
        self.origins.remove(&origin).is_some_and(|guesses| guesses.wait_from(now).is_some())
    }
}

/// The budget that all origins share.
#[derive(Debug, Default)]
struct Budget {
    spent: u32,
    /// When it was last refilled.
    refilled: Option<Instant>,
}

impl Budget {
    fn refill(&mut self, now: Instant) {
        let since = *self.refilled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let regained = elapsed.as_secs() / CODE_EVERY.as_secs();
        let regained = u32::try_from(regained).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(regained);
        self.refilled = since.checked_add(CODE_EVERY.saturating_mul(regained)).or(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn origin(number: u32) -> Origin {
        Origin::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn who_guesses_climbs_the_ladder() {
        let (limits, mut now) = (Limits::default(), Instant::now());
        let steps = [(7, 60), (10, 600), (20, 3600), (25, 86_400)];
        for count in 1..=30_u32 {
            let expected = steps.iter().rev().find(|(least, _)| count >= *least);
            let expected = expected.map(|(_, seconds)| Duration::from_secs(*seconds));
            let guess = count.to_be_bytes();
            assert_eq!(limits.refuse(origin(1), &guess, now), expected, "guess {count}");
            assert_eq!(limits.wait(origin(1), now), expected);
            assert_eq!(limits.wait(origin(2), now), None, "others do not wait");
            if let Some(wait) = expected {
                // What comes before its time is not counted, and does not make it longer.
                let half = now + wait / 2;
                assert_eq!(limits.refuse(origin(1), b"more", half), Some(wait / 2));
                let listed = Limited { origin: origin(1), guesses: count, wait };
                assert_eq!(limits.list(now), [listed]);
                now += wait;
                assert_eq!(limits.wait(origin(1), now), None);
                assert_eq!(limits.list(now), []);
            }
        }
    }

    #[test]
    fn the_same_wrong_credential_is_one_guess() {
        let (limits, now) = (Limits::default(), Instant::now());
        for _ in 0..1000 {
            for outdated in [b"a", b"b", b"c", b"d", b"e", b"f"] {
                assert_eq!(limits.refuse(origin(1), outdated, now), None);
            }
        }
        assert!(limits.refuse(origin(1), b"g", now).is_some(), "the seventh");
    }

    #[test]
    fn a_limit_that_is_lifted_is_forgotten() {
        let (limits, now) = (Limits::default(), Instant::now());
        assert!(!limits.lift(origin(1), now));
        for guess in 0..7_u8 {
            limits.refuse(origin(1), &[guess], now);
        }
        assert!(limits.lift(origin(1), now));
        assert_eq!(limits.refuse(origin(1), b"one more", now), None);
    }

    #[test]
    fn codes_have_one_budget_that_comes_back() {
        let (limits, now) = (Limits::default(), Instant::now());
        for _ in 0..2 * CODES {
            limits.spend_code(now);
        }
        assert_eq!(limits.wait_for_codes(now), Some(CODE_EVERY));
        let later = now + CODE_EVERY;
        assert_eq!(limits.wait_for_codes(later), None);
        limits.spend_code(later);
        assert_eq!(limits.wait_for_codes(later), Some(CODE_EVERY));
        let much_later = later + CODE_EVERY * CODES * 2;
        for _ in 0..CODES {
            assert_eq!(limits.wait_for_codes(much_later), None);
            limits.spend_code(much_later);
        }
        assert!(limits.wait_for_codes(much_later).is_some());
    }

    /// Of ten million addresses no more are kept than of a hundred thousand: the bound is the
    /// number of entries, whose size is fixed.
    #[test]
    fn what_strangers_can_have_remembered_is_bounded() {
        let (limits, now) = (Limits::default(), Instant::now());
        for guess in 0..7_u8 {
            limits.refuse(origin(0), &[guess], now);
        }
        for number in 1..=100_000 {
            limits.refuse(origin(number), b"guess", now);
            if number % 100 == 0 {
                // An address that goes on guessing is not forgotten for it.
                assert!(limits.refuse(origin(0), b"more", now).is_some(), "after {number}");
            }
        }
        limits.origins.run_pending_tasks();
        assert!(limits.origins.entry_count() <= MAX_ORIGINS, "{}", limits.origins.entry_count());
        assert!(size_of::<Guesses>() + size_of::<Origin>() <= 128);
    }
}
