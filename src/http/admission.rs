//! Decides which peers may connect, and how many at a time.
//!
//! The decision is made before a byte is read: a refused peer costs one accept and one
//! close, and leaves no state behind in this process or, since the close is a reset,
//! in the kernel.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

/// The maximum numbers of a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) total: usize,
    /// From one address; all peers of a socket file count as one address.
    pub(crate) per_address: usize,
}

impl Bounds {
    /// Limits one address to three quarters of all connections, so that a proxy at another
    /// address, or the operator's tool, can still connect.
    pub(crate) fn within(total: usize, per_address: usize) -> Self {
        Self { total, per_address: per_address.min(total - total / 4).max(1) }
    }
}

/// How many incomplete request heads may be large at a time: at 80 KiB each, 40 MiB.
pub(super) const MAX_LARGE_HEADS: usize = 512;

/// How much memory the bodies that handlers have read may occupy at a time, in bytes.
pub(super) const MAX_BODIES: usize = 16 * 1024 * 1024;

/// The reason why a connection is closed as soon as it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Untrusted,
    TooMany,
    TooManyOfAddress,
}

impl Refusal {
    pub(super) const ALL: [Self; 3] = [Self::Untrusted, Self::TooMany, Self::TooManyOfAddress];

    /// The value of the metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::TooMany => "limit",
            Self::TooManyOfAddress => "address_limit",
        }
    }

    /// The message for the log.
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::Untrusted => {
                "closed a connection from outside gate.trusted_proxies without reading it; if it \
                 came from a proxy, add the proxy's network"
            }
            Self::TooMany => "closed a new connection: as many as are allowed are open",
            Self::TooManyOfAddress => {
                "closed a new connection: its address has as many as one address may have"
            }
        }
    }
}

/// Admits a listener's connections.
#[derive(Debug)]
pub(super) struct Admission {
    /// Networks that may connect; `None` admits all.
    trusted: Option<Vec<IpNet>>,
    bounds: Bounds,
    open: AtomicUsize,
    /// Slots that incomplete large heads occupy.
    large_heads: AtomicUsize,
    /// Bytes of bodies that handlers have read.
    bodies: AtomicUsize,
    by_address: Mutex<HashMap<Option<IpAddr>, usize>>,
}

impl Admission {
    pub(super) fn new(trusted: Option<Vec<IpNet>>, bounds: Bounds) -> Self {
        Self {
            trusted,
            bounds,
            open: AtomicUsize::new(0),
            large_heads: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            by_address: Mutex::default(),
        }
    }

    /// Admits a peer at this address. Peers of a socket file have none and are always
    /// trusted: the file's mode says who may open it.
    pub(super) fn admit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<Permit, Refusal> {
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
        Ok(Permit { admission: Arc::clone(self), ip })
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.as_ref().is_none_or(|networks| networks.iter().any(|net| net.contains(&ip)))
    }

    /// Reserves slots for one more incomplete large head. Returns whether they were free:
    /// the memory of heads that never end is bounded.
    pub(super) fn begin_large_head(&self, slots: usize) -> bool {
        let before = self.large_heads.fetch_add(slots, Ordering::Relaxed);
        let reserved = before + slots <= MAX_LARGE_HEADS;
        if !reserved {
            self.end_large_head(slots);
        }
        reserved
    }

    pub(super) fn end_large_head(&self, slots: usize) {
        self.large_heads.fetch_sub(slots, Ordering::Relaxed);
    }

    /// Reserves memory for more bytes of a body. Returns whether there was room.
    pub(super) fn reserve_body(&self, bytes: usize) -> bool {
        let before = self.bodies.fetch_add(bytes, Ordering::Relaxed);
        let reserved = before + bytes <= MAX_BODIES;
        if !reserved {
            self.release_body(bytes);
        }
        reserved
    }

    pub(super) fn release_body(&self, bytes: usize) {
        self.bodies.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so many connections are open that idle ones should be closed. One address
    /// alone can open that many.
    pub(super) fn is_crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.bounds.total / 2
    }
}

/// Counts a connection against the bounds until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    ip: Option<IpAddr>,
}

impl Drop for Permit {
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
    fn the_memory_of_bodies_is_bounded_and_comes_back() {
        let admission = Admission::new(None, Bounds { total: 1, per_address: 1 });
        assert!(admission.reserve_body(MAX_BODIES - 1));
        assert!(!admission.reserve_body(2));
        assert!(admission.reserve_body(1));
        assert!(!admission.reserve_body(1));
        admission.release_body(MAX_BODIES);
        assert!(admission.reserve_body(MAX_BODIES));
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
