//! Which signatures have been used already.
//!
//! Memory is bounded without forgetting anything that counts: when it is full,
//! the oldest signatures of the peer that has most are forgotten, and from then
//! on that peer's signatures made no later than those are refused as if they
//! had been seen. An honest sender signs anew for each request and notices
//! nothing.
//!
//! The memory is this process's own, and a restart empties it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

use super::peer::{MAX_AGE, Verified, unix_seconds};

/// Signatures remembered in all; each takes about 50 bytes.
const CAPACITY: usize = 65_536;

/// The signatures used while they were valid.
pub struct Replays {
    seen: Mutex<Seen>,
    capacity: usize,
}

#[derive(Default)]
struct Seen {
    /// By the peer's id.
    windows: HashMap<Arc<str>, Window>,
    /// Entries of all windows.
    entries: usize,
}

/// The used signatures of one peer.
#[derive(Default)]
struct Window {
    /// When signed, in seconds since 1970, and what it is known by.
    used: BTreeSet<(i64, Fingerprint)>,
    /// What was signed then or earlier is no longer told apart: all of it counts as used.
    floor: Option<i64>,
}

/// What a signature is known by: a digest, cut to 128 bits.
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
    /// Room for at least one entry.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { seen: Mutex::default(), capacity: capacity.max(1) }
    }

    /// Marks the signature as used: `true` for the first caller, and for no
    /// other as long as the signature is valid, however many ask at once.
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

    /// Signatures remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).entries
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Seen {
    /// Drops the windows in which nothing is valid any more, of peers that
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
    /// Forgets what is too old to be valid; returns how many those were.
    fn prune(&mut self, oldest_valid: i64) -> usize {
        let before = self.used.len();
        while self.used.first().is_some_and(|(created, _)| *created < oldest_valid) {
            self.used.pop_first();
        }
        before - self.used.len()
    }

    /// Forgets the older quarter, and all of the same second; returns how many those were.
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

/// By its nonce, where it has one: the sender promises not to use that twice,
/// and a second signature over the same nonce is a replay too.
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
    use crate::domain::client::Known;

    const CREATED: i64 = 1_795_251_867;

    fn at(seconds: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    fn now() -> SystemTime {
        at(CREATED + 1)
    }

    fn used(id: &str, created: i64, nonce: Option<&str>, fingerprint: u8) -> Verified {
        Verified {
            peer: Known { id: id.into(), name: "Peer".into() },
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

        // Signed anew, the same request has another signature.
        assert!(replays.admit(&used("a", CREATED, None, 2), now()));

        // A nonce counts whatever the signature over it, but for one peer only.
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
        assert!(!replays.admit(&quiet, now()), "one peer does not push out another");
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
