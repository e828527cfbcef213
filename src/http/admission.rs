//! Who may connect, and how many at a time.
//!
//! Decided before a byte is read: a peer that may not ask costs one accept and one
//! close, and leaves nothing behind in this process or, since the close is a reset,
//! in the kernel.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

/// Most connections of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) total: usize,
    /// From one address; all peers of a socket file count as one.
    pub(crate) per_address: usize,
}

impl Bounds {
    /// No address gets them all: with three quarters taken, another one's proxy, or
    /// the operator's tool, still gets in.
    pub(crate) fn within(total: usize, per_address: usize) -> Self {
        Self { total, per_address: per_address.min(total - total / 4).max(1) }
    }
}

/// Places for large heads under way at one time, of 80 KiB each: 40 MiB of them.
pub(super) const MAX_LARGE_HEADS: usize = 512;

/// Why a connection is closed as soon as it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Untrusted,
    TooMany,
    TooManyOfAddress,
}

impl Refusal {
    pub(super) const ALL: [Self; 3] = [Self::Untrusted, Self::TooMany, Self::TooManyOfAddress];

    /// As a metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::TooMany => "limit",
            Self::TooManyOfAddress => "address_limit",
        }
    }

    /// For the log.
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::Untrusted => {
                "closed a connection from outside gate.trusted_proxies, unread; if it was a \
                 proxy's, add its network"
            }
            Self::TooMany => "closed a new connection: as many as may be are open",
            Self::TooManyOfAddress => {
                "closed a new connection: its address has as many as one address may have"
            }
        }
    }
}

/// What a listener's connections are admitted by.
#[derive(Debug)]
pub(super) struct Admission {
    /// Networks that may connect; `None` lets in everyone.
    trusted: Option<Vec<IpNet>>,
    bounds: Bounds,
    open: AtomicUsize,
    /// Places taken by heads under way that are larger than most.
    large_heads: AtomicUsize,
    by_address: Mutex<HashMap<Option<IpAddr>, usize>>,
}

impl Admission {
    pub(super) fn new(trusted: Option<Vec<IpNet>>, bounds: Bounds) -> Self {
        let (open, large_heads) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { trusted, bounds, open, large_heads, by_address: Mutex::default() }
    }

    /// A place for a peer at this address, or for one of a socket file: who may open
    /// that is for its owner to say.
    pub(super) fn admit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<Place, Refusal> {
        let ip = ip.map(|ip| ip.to_canonical());
        if !ip.is_none_or(|ip| self.trusts(ip)) {
            return Err(Refusal::Untrusted);
        }
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.load(Ordering::Relaxed) >= self.bounds.total {
            return Err(Refusal::TooMany);
        }
        let of_address = by_address.entry(ip).or_default();
        if *of_address >= self.bounds.per_address {
            return Err(Refusal::TooManyOfAddress);
        }
        *of_address += 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Place { admission: Arc::clone(self), ip })
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.as_ref().is_none_or(|networks| networks.iter().any(|net| net.contains(&ip)))
    }

    /// Whether one more head may be large before it is complete: what heads take that
    /// never end is bounded.
    pub(super) fn begin_large_head(&self, places: usize) -> bool {
        let before = self.large_heads.fetch_add(places, Ordering::Relaxed);
        let begun = before + places <= MAX_LARGE_HEADS;
        if !begun {
            self.end_large_head(places);
        }
        begun
    }

    pub(super) fn end_large_head(&self, places: usize) {
        self.large_heads.fetch_sub(places, Ordering::Relaxed);
    }

    /// Whether so many are open that those that do nothing should go: one address alone
    /// can bring it so far.
    pub(super) fn is_crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.bounds.total / 2
    }
}

/// A connection's place among those that may be open, as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    ip: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { admission, ip } = self;
        let mut by_address = admission.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        admission.open.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut of_address) = by_address.entry(*ip) {
            *of_address.get_mut() -= 1;
            if *of_address.get() == 0 {
                of_address.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_trusted_networks_and_socket_files_are_let_in() {
        let trusted = ["127.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network"));
        let bounds = Bounds { total: 10, per_address: 10 };
        let admission = Arc::new(Admission::new(Some(trusted.into()), bounds));
        for inside in
            [None, Some(ip("127.0.0.1")), Some(ip("::ffff:127.0.0.1")), Some(ip("fd00::1"))]
        {
            assert!(admission.admit(inside).is_ok(), "{inside:?}");
        }
        for outside in [Some(ip("192.0.2.1")), Some(ip("::1")), Some(ip("::ffff:192.0.2.1"))] {
            assert_eq!(admission.admit(outside).err(), Some(Refusal::Untrusted), "{outside:?}");
        }
    }

    #[test]
    fn places_are_bounded_in_all_and_by_address_and_come_back() {
        let admission = Arc::new(Admission::new(None, Bounds::within(8, 100)));
        let (one, other) = (Some(ip("192.0.2.1")), Some(ip("192.0.2.2")));
        let mut places: Vec<_> = (0..4).map(|_| admission.admit(one).expect("room")).collect();
        assert!(!admission.is_crowded());
        places.extend((0..2).map(|_| admission.admit(one).expect("room")));
        assert!(admission.is_crowded());
        assert_eq!(admission.admit(one).err(), Some(Refusal::TooManyOfAddress));
        places.extend((0..2).map(|_| admission.admit(other).expect("room")));
        assert_eq!(admission.admit(None).err(), Some(Refusal::TooMany));
        drop(places);
        assert!(admission.by_address.lock().expect("no panic").is_empty());
        assert!(admission.admit(one).is_ok());
    }
}
