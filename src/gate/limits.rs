//! Who has guessed: counts credentials that were refused, by where they came from, and says who
//! has to wait.
//!
//! What counts is a guess: a token, a signature, a management secret or a pairing code that is
//! wrong. A request without a credential never counts, and neither does the same wrong credential
//! once more: a browser sends an outdated cookie with everything it asks for.
//!
//! Pairing codes are short, so who has to wait for them is refused even a right one. They are
//! therefore counted apart: whoever sends wrong tokens from behind an address keeps nobody there
//! from pairing. All other credentials are too long to be guessed. They are always looked at, and
//! one that is right is accepted whoever else has guessed from the same address; who has to wait is
//! told so if it is wrong.
//!
//! Memory is bounded: [`MAX_ORIGINS`] are remembered. If there are more, those that guess most
//! stay (`TinyLFU`), and all of them together have one budget for codes, which are the only
//! credentials that are short enough to be guessed at all. A wrong code is paid for from it only if
//! an invitation has its handle, so that strangers without one cannot spend it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::domain::origin::Origin;
use crate::throttle::Throttle;

/// How many origins are remembered, at some 400 bytes each; one that has guessed codes and other
/// credentials counts as two.
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

/// How many of the last wrong credentials of an origin are told from new ones: the outdated
/// cookies of all devices of a household come again and again.
const TOLD_APART: usize = 32;

/// Wrong codes for invitations that all origins together may try at once, and how long until one
/// more may be.
const CODES: u32 = 100;
const CODE_EVERY: Duration = Duration::from_secs(3);

/// How often the log may tell of an origin that has to wait: one caller may have many addresses.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Counts guesses by origin.
#[derive(Debug)]
pub struct Limits {
    origins: Cache<(Origin, Kind), Guesses>,
    /// Of fingerprints: nobody can choose two credentials with the same one.
    hasher: RandomState,
    codes: Mutex<Budget>,
    warnings: Throttle,
}

/// The credentials that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A pairing code: none is looked at while its origin has to wait.
    Code,
    Other,
}

/// The guesses of one kind from one origin.
#[derive(Debug, Clone, Copy)]
struct Guesses {
    count: u32,
    last: Instant,
    /// How long the origin has to wait after the last one.
    wait: Duration,
    /// Fingerprints of the last wrong credentials.
    recent: [u32; TOLD_APART],
}

/// An origin that has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub origin: Origin,
    /// Of all kinds for which it has to wait.
    pub guesses: u32,
    /// For how long from now, at most.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let origins =
            Cache::builder().max_capacity(MAX_ORIGINS).time_to_live(REMEMBERED_FOR).build();
        Self {
            origins,
            hasher: RandomState::new(),
            codes: Mutex::default(),
            warnings: Throttle::default(),
        }
    }
}

impl Guesses {
    fn wait_from(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.last);
        self.wait.checked_sub(waited).filter(|wait| !wait.is_zero())
    }

    /// Counts a guess, unless it is one of the last once more.
    fn add(&mut self, fingerprint: u32, now: Instant) {
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
    /// Returns how long an origin has to wait before a code from there is looked at, if it has to.
    #[must_use]
    pub fn wait_for_code(&self, origin: Origin, now: Instant) -> Option<Duration> {
        self.origins.get(&(origin, Kind::Code))?.wait_from(now)
    }

    /// Counts a wrong code, unless its origin has to wait: then it was not looked at. Returns how
    /// long the origin has to wait, before or from now on.
    pub fn refuse_code(&self, origin: Origin, code: &[u8], now: Instant) -> Option<Duration> {
        self.count(origin, Kind::Code, code, now)
    }

    /// The same for a credential of any other kind, which was refused because it is wrong.
    pub fn refuse(&self, origin: Origin, credential: &[u8], now: Instant) -> Option<Duration> {
        self.count(origin, Kind::Other, credential, now)
    }

    fn count(
        &self,
        origin: Origin,
        kind: Kind,
        credential: &[u8],
        now: Instant,
    ) -> Option<Duration> {
        let [.., a, b, c, d] = self.hasher.hash_one(credential).to_be_bytes();
        let fingerprint = u32::from_be_bytes([a, b, c, d]);
        let mut has_begun = false;
        let entry = self.origins.entry((origin, kind)).and_upsert_with(|known| {
            let recent = [0; TOLD_APART];
            let none = Guesses { count: 0, last: now, wait: Duration::ZERO, recent };
            let mut guesses = known.map_or(none, moka::Entry::into_value);
            if guesses.wait_from(now).is_none() {
                let before = guesses.count;
                guesses.add(fingerprint, now);
                has_begun = guesses.count > before && !guesses.wait.is_zero();
            }
            guesses
        });
        let guesses = entry.into_value();
        if has_begun && let Some(others) = self.warnings.admit(now, WARN_EVERY) {
            let seconds = guesses.wait.as_secs();
            tracing::warn!(
                guesses = guesses.count,
                seconds,
                others,
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
        let mut limited: HashMap<Origin, Limited> = HashMap::new();
        for (key, guesses) in &self.origins {
            let (origin, _) = *key;
            let Some(wait) = guesses.wait_from(now) else { continue };
            let none = Limited { origin, guesses: 0, wait };
            let known = limited.entry(origin).or_insert(none);
            known.guesses = known.guesses.saturating_add(guesses.count);
            known.wait = known.wait.max(wait);
        }
        let mut limited: Vec<_> = limited.into_values().collect();
        limited.sort_by_key(|limited| (std::cmp::Reverse(limited.wait), limited.origin));
        limited
    }

    /// Forgets the guesses of an origin. Returns whether it had to wait.
    pub fn lift(&self, origin: Origin, now: Instant) -> bool {
        let lifted = [Kind::Code, Kind::Other].map(|kind| {
            let guesses = self.origins.remove(&(origin, kind));
            guesses.is_some_and(|guesses| guesses.wait_from(now).is_some())
        });
        lifted.contains(&true)
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
            assert_eq!(limits.refuse_code(origin(1), &guess, now), expected, "guess {count}");
            assert_eq!(limits.wait_for_code(origin(1), now), expected);
            assert_eq!(limits.wait_for_code(origin(2), now), None, "others do not wait");
            if let Some(wait) = expected {
                // What comes before its time is not counted, and does not make it longer.
                let half = now + wait / 2;
                assert_eq!(limits.refuse_code(origin(1), b"more", half), Some(wait / 2));
                let listed = Limited { origin: origin(1), guesses: count, wait };
                assert_eq!(limits.list(now), [listed]);
                now += wait;
                assert_eq!(limits.wait_for_code(origin(1), now), None);
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
    fn outdated_cookies_of_many_devices_do_not_climb() {
        let (limits, mut now) = (Limits::default(), Instant::now());
        let mut longest = Duration::ZERO;
        for _ in 0..1000 {
            for device in 0..9_u8 {
                longest = longest.max(limits.refuse(origin(1), &[device], now).unwrap_or_default());
                now += Duration::from_secs(20);
            }
        }
        assert_eq!(longest, Duration::from_mins(1));
        assert_eq!(limits.list(now), []);
    }

    #[test]
    fn codes_and_other_credentials_count_apart() {
        let (limits, now) = (Limits::default(), Instant::now());
        for guess in 0..30_u8 {
            limits.refuse(origin(1), &[guess], now);
        }
        assert_eq!(limits.wait_for_code(origin(1), now), None);
        for guess in 0..6_u8 {
            assert_eq!(limits.refuse_code(origin(1), &[guess], now), None);
        }
        let minute = Duration::from_mins(1);
        assert_eq!(limits.list(now), [Limited { origin: origin(1), guesses: 7, wait: minute }]);
        assert_eq!(limits.refuse_code(origin(1), b"one more", now), Some(minute));
        assert_eq!(limits.list(now), [Limited { origin: origin(1), guesses: 14, wait: minute }]);
        assert!(limits.lift(origin(1), now));
        assert_eq!((limits.list(now), limits.wait_for_code(origin(1), now)), (vec![], None));
        assert!(!limits.lift(origin(1), now));
    }

    /// Counts the lines of the log.
    #[derive(Debug, Default)]
    struct Lines(std::sync::atomic::AtomicUsize);

    impl tracing::Subscriber for &'static Lines {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let is_own = event.metadata().target() == "nightporter::gate::limits";
            self.0.fetch_add(is_own.into(), std::sync::atomic::Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn one_caller_with_many_addresses_does_not_fill_the_log() {
        let lines: &'static Lines = Box::leak(Box::default());
        tracing::subscriber::with_default(lines, || {
            let (limits, now) = (Limits::default(), Instant::now());
            for number in 0..1000 {
                for guess in 0..7_u8 {
                    limits.refuse(origin(number), &[guess], now);
                }
            }
            for guess in 0..7_u8 {
                limits.refuse(origin(1000), &[guess], now + WARN_EVERY);
            }
        });
        assert_eq!(lines.0.load(std::sync::atomic::Ordering::Relaxed), 2);
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
        assert!(size_of::<Guesses>() + size_of::<(Origin, Kind)>() <= 208);
    }
}
