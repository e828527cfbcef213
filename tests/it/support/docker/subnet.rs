//! Networks that no other engine or test on this machine uses.

use std::fs::{self, File};
use std::net::Ipv4Addr;

/// A /24 that only this value has among all processes that allocate one here.
#[derive(Debug)]
pub struct Subnet {
    start: Ipv4Addr,
    /// Held for as long as the network is used.
    _lock: File,
}

impl Subnet {
    pub fn take() -> Self {
        let locks = std::env::temp_dir().join("nightporter-test-subnets");
        fs::create_dir_all(&locks).expect("writable");
        let routed = routed();
        (216..224)
            .flat_map(|second| (0..=255).map(move |third| Ipv4Addr::new(10, second, third, 0)))
            .filter(|start| !routed.contains(start))
            .find_map(|start| {
                let lock = File::create(locks.join(start.to_string())).expect("writable");
                lock.try_lock().is_ok().then_some(Self { start, _lock: lock })
            })
            .expect("a free network")
    }

    pub fn cidr(&self) -> String {
        format!("{}/24", self.start)
    }

    /// Returns an address in it; 1 is the gateway's.
    pub fn address(&self, n: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.start.octets();
        Ipv4Addr::new(a, b, c, n)
    }
}

/// The first addresses of networks to which this machine has routes; some may be left over.
fn routed() -> Vec<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/route").expect("Linux");
    let destinations = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    destinations
        .filter_map(|hex| u32::from_str_radix(hex, 16).ok())
        .map(|word| Ipv4Addr::from(word.to_le_bytes()))
        .collect()
}
