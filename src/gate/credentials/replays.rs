//! Remembers which signatures have been used already.
//!
//! The memory is bounded without admitting a replay: when it is full, the oldest
//! signatures of the peer that has the most are dropped, and from then on all
//! signatures of that peer that are not newer than those are refused as if they
//! had been used. An honest sender signs each request anew and is not affected.
//!
//! The memory belongs to this process, and a restart empties it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

use super::peer::{MAX_AGE, Verified, unix_seconds};

/// Largest number of remembered signatures; each takes about 50 bytes.
const CAPACITY: usize = 65_536;

/// The used signatures that are still valid.
pub struct Replays {
    seen: Mutex<UsedSignatures>,
    capacity: usize,
}

#[derive(Default)]
struct UsedSignatures {
    /// By the peer's id.
    windows: HashMap<Arc<str>, Window>,
    /// Number of entries in all windows.
    entries: usize,
}

/// The used signatures of one peer.
#[derive(Default)]
struct Window {
    /// When each was signed, in seconds since 1970, and its fingerprint.
    used: BTreeSet<(i64, Fingerprint)>,
    /// Every signature made at this time or earlier counts as used.
    floor: Option<i64>,
}

/// Identifies a signature: a digest, truncated to 128 bits.
type Fingerprint = [u8; 16];

impl Default for Replays {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl fmt::Debug for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replays").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Replays {
    /// Creates a memory for `capacity` signatures, but for at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { seen: Mutex::default(), capacity: capacity.max(1) }
    }

    /// Marks the signature as used. Returns `true` to the first caller and `false` to every
    /// other while the signature is valid, also if many call at once.
    #[must_use]
    pub fn admit(&self, verified: &Verified, now: SystemTime) -> bool {
        let fingerprint = fingerprint(verified);
        let oldest_valid = unix_seconds(now).saturating_sub(MAX_AGE);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.windows.contains_key(&verified.peer.id) {
            seen.drop_idle(oldest_valid);
        }
        let window = seen.windows.entry(Arc::clone(&verified.peer.id)).or_default();
        let pruned = window.prune(oldest_valid);
        let admitted = window.floor.is_none_or(|floor| verified.times.created > floor)
            && window.used.insert((verified.times.created, fingerprint));
        seen.entries = seen.entries - pruned + usize::from(admitted);
        if seen.entries > self.capacity {
            seen.shrink_largest();
        }
        admitted
    }

    /// Returns the number of remembered signatures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).entries
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl UsedSignatures {
    /// Drops the windows that contain no valid signature any more, of peers that
    /// have been removed or are silent.
    fn drop_idle(&mut self, oldest_valid: i64) {
        let entries = &mut self.entries;
        self.windows.retain(|_, window| {
            *entries -= window.prune(oldest_valid);
            !window.used.is_empty() || window.floor.is_some_and(|floor| floor >= oldest_valid)
        });
    }

    fn shrink_largest(&mut self) {
        if let Some(window) = self.windows.values_mut().max_by_key(|window| window.used.len()) {
            self.entries -= window.shrink();
        }
    }
}

impl Window {
    /// Drops the signatures that are too old to be valid and returns their number.
    fn prune(&mut self, oldest_valid: i64) -> usize {
        let before = self.used.len();
        while self.used.first().is_some_and(|(created, _)| *created < oldest_valid) {
            self.used.pop_first();
        }
        before - self.used.len()
    }

    /// Drops the oldest quarter, and all others of the same second, and returns their number.
    fn shrink(&mut self) -> usize {
        let before = self.used.len();
        let Some((floor, _)) = self.used.iter().nth(before / 4).copied() else {
            return 0;
        };
        self.used = self.used.split_off(&(floor.saturating_add(1), [0; 16]));
        self.floor = self.floor.max(Some(floor));
        before - self.used.len()
    }
}

/// Returns the digest of the nonce if there is one, else of the signature: the sender
/// promises not to use a nonce twice, so a second signature over the same nonce is a
/// replay too.
fn fingerprint(verified: &Verified) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    if let Some(nonce) = &verified.nonce {
        context.update(b"nonce");
        context.update(nonce.as_bytes());
    } else {
        context.update(b"signature");
        context.update(&verified.fingerprint);
    }
    let mut fingerprint = Fingerprint::default();
    for (to, from) in fingerprint.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    fingerprint
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::peer::Times;
    use super::*;
    use crate::domain::client::KnownClient;

    const CREATED: i64 = 1_795_251_867;

    fn at(seconds: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    fn now() -> SystemTime {
        at(CREATED + 1)
    }

    fn used(id: &str, created: i64, nonce: Option<&str>, fingerprint: u8) -> Verified {
        Verified {
            peer: KnownClient { id: id.into(), name: "Peer".into() },
            nonce: nonce.map(Into::into),
            fingerprint: [fingerprint; 32],
            times: Times { created, expires: None },
        }
    }

    #[test]
    fn a_signature_is_admitted_once() {
        let replays = Replays::default();
        assert!(replays.admit(&used("a", CREATED, None, 1), now()));
        assert!(!replays.admit(&used("a", CREATED, None, 1), now()));
        assert!(!replays.admit(&used("a", CREATED, None, 1), at(CREATED + MAX_AGE)));

        // If the same request is signed again, it has another signature.
        assert!(replays.admit(&used("a", CREATED, None, 2), now()));

        // A nonce is used up by any signature over it, but for one peer only.
        assert!(replays.admit(&used("a", CREATED, Some("n"), 1), now()));
        assert!(!replays.admit(&used("a", CREATED, Some("n"), 2), now()));
        assert!(replays.admit(&used("a", CREATED, Some("m"), 1), now()));
        assert!(replays.admit(&used("b", CREATED, Some("n"), 1), now()));
        assert_eq!(replays.len(), 5);
    }

    #[test]
    fn the_memory_of_signatures_ends_with_their_validity() {
        let replays = Replays::default();
        assert!(replays.admit(&used("a", CREATED, None, 1), now()));
        assert!(replays.admit(&used("b", CREATED, None, 1), now()));
        let later = CREATED + MAX_AGE + 1;
        assert!(replays.admit(&used("c", later, None, 1), at(later)));
        assert_eq!(replays.len(), 1);
    }

    #[test]
    fn full_memory_refuses_old_signatures_rather_than_forget_them() {
        let replays = Replays::with_capacity(100);
        let quiet = used("quiet", CREATED, None, 1);
        assert!(replays.admit(&quiet, now()));
        let loud: Vec<_> = (0..1000).map(|n| used("loud", CREATED + n, None, 1)).collect();
        for verified in &loud {
            assert!(replays.admit(verified, now()), "a fresh signature is always admitted");
            assert!(replays.len() <= 100);
        }
        for verified in &loud {
            assert!(!replays.admit(verified, now()), "none is admitted twice");
        }
        assert!(!replays.admit(&quiet, now()), "one peer does not displace another");
        assert!(replays.len() <= 100);
    }

    #[test]
    fn one_of_many_racing_replays_wins() {
        let replays = Replays::default();
        for round in 0..200u8 {
            let verified = used("a", CREATED, None, round);
            let (barrier, wins) = (Barrier::new(8), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        barrier.wait();
                        if replays.admit(&verified, now()) {
                            wins.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(wins.load(Ordering::Relaxed), 1, "round {round}");
        }
    }
}
