//! Which addresses messages may be sent to (server-side request forgery, CWE-918).
//!
//! An endpoint's URL may be chosen by somebody who can reach less than this process, so only
//! public addresses are sent to. The ranges are those of the IANA special-purpose registries
//! (RFC 6890 and its successors). An IPv6 address that carries an IPv4 address is judged by
//! that one as well. The operator may allow hosts and networks; the metadata services of
//! clouds, and addresses that name no single host, are refused all the same.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Host;

/// What the operator allows besides public addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allowed {
    /// A host as a URL names it: all its addresses.
    Host(String),
    /// A network or a single address.
    Network(IpNet),
}

/// A text that is neither a host nor a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid host or network `{0}`: expected a name such as `ntfy.lan`, or `192.168.1.0/24`")]
pub struct InvalidAllowed(String);

impl FromStr for Allowed {
    type Err = InvalidAllowed;

    fn from_str(text: &str) -> Result<Self, InvalidAllowed> {
        let invalid = || InvalidAllowed(text.chars().take(80).collect());
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        match Host::parse(text.trim_end_matches('.')) {
            Ok(Host::Domain(name)) if !name.is_empty() => Ok(Self::Host(name)),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Allowed {
    type Error = InvalidAllowed;

    fn try_from(text: String) -> Result<Self, InvalidAllowed> {
        text.parse()
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> Self {
        allowed.to_string()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl Allowed {
    fn covers(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Host(name) => name == host,
            Self::Network(network) => network.contains(&address),
        }
    }
}

/// Why an address is not sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub address: IpAddr,
    /// What kind of address it is.
    pub class: &'static str,
    /// Whether the operator may allow it.
    pub may_be_allowed: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, class, may_be_allowed: _ } = self;
        write!(f, "{address} is {class}")
    }
}

/// Returns whether the operator has named this host or a network of this address.
#[must_use]
pub fn is_allowed(host: &str, address: IpAddr, allowed: &[Allowed]) -> bool {
    allowed.iter().any(|allowed| allowed.covers(host, address))
}

/// Judges one address of a host.
///
/// # Errors
/// Why it is not sent to.
pub fn judge(host: &str, address: IpAddr, allowed: &[Allowed]) -> Result<(), Refusal> {
    match classify(address) {
        None => Ok(()),
        Some(Class { name, never }) if never || !is_allowed(host, address, allowed) => {
            Err(Refusal { address, class: name, may_be_allowed: !never })
        }
        // To allow a network of translators is not to allow whatever is behind them.
        Some(_) => match address {
            IpAddr::V4(_) => Ok(()),
            IpAddr::V6(address) => carried(address)
                .into_iter()
                .flatten()
                .try_for_each(|carried| judge(host, carried.into(), allowed)),
        },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    name: &'static str,
    /// Not even the operator may allow it.
    never: bool,
}

const METADATA: Class = Class { name: "the metadata service of a cloud", never: true };
const CARRIES_NEVER: Class =
    Class { name: "an address that contains one to which nothing is ever sent", never: true };

/// Returns what is special about an address; `None` if it is public.
fn classify(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

/// The metadata services that have addresses of their own: AWS, Azure, Google and others
/// (169.254.169.254 and its neighbours), AWS's containers, Scaleway, Tencent, Oracle, Alibaba,
/// and Azure's host.
const METADATA_V4: [([u8; 4], u32); 7] = [
    ([169, 254, 169, 0], 24),
    ([169, 254, 170, 0], 24),
    ([169, 254, 42, 42], 32),
    ([169, 254, 0, 23], 32),
    ([192, 0, 0, 192], 32),
    ([100, 100, 100, 200], 32),
    ([168, 63, 129, 16], 32),
];

/// The same of AWS (two), Google, Scaleway, `OpenStack` and Linode.
const METADATA_V6: [[u16; 8]; 6] = [
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23],
    [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
    [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42],
    [0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
    [0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1],
];

/// Network, length of its prefix, name, and whether it is never allowed.
const SPECIAL_V4: [([u8; 4], u32, &str, bool); 17] = [
    ([0, 0, 0, 0], 8, "an unspecified address", true),
    ([10, 0, 0, 0], 8, "a private address", false),
    ([100, 64, 0, 0], 10, "a shared address (CGNAT)", false),
    ([127, 0, 0, 0], 8, "a loopback address", false),
    ([169, 254, 0, 0], 16, "a link-local address", false),
    ([172, 16, 0, 0], 12, "a private address", false),
    ([192, 0, 0, 0], 24, "an address for protocols", false),
    ([192, 0, 2, 0], 24, "an address for documentation", false),
    ([192, 31, 196, 0], 24, "an address for AS112", false),
    ([192, 88, 99, 0], 24, "an address of 6to4 relays", false),
    ([192, 168, 0, 0], 16, "a private address", false),
    ([198, 18, 0, 0], 15, "an address for benchmarks", false),
    ([198, 51, 100, 0], 24, "an address for documentation", false),
    ([203, 0, 113, 0], 24, "an address for documentation", false),
    ([224, 0, 0, 0], 4, "a multicast address", true),
    ([255, 255, 255, 255], 32, "the broadcast address", true),
    ([240, 0, 0, 0], 4, "a reserved address", true),
];

fn is_in_v4(address: Ipv4Addr, network: [u8; 4], length: u32) -> bool {
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    (address.to_bits() ^ u32::from_be_bytes(network)) & mask == 0
}

fn is_metadata_v4(address: Ipv4Addr) -> bool {
    METADATA_V4.into_iter().any(|(network, length)| is_in_v4(address, network, length))
}

fn classify_v4(address: Ipv4Addr) -> Option<Class> {
    if is_metadata_v4(address) {
        return Some(METADATA);
    }
    SPECIAL_V4
        .into_iter()
        .find(|(network, length, ..)| is_in_v4(address, *network, *length))
        .map(|(.., name, never)| Class { name, never })
}

const SPECIAL_V6: [([u16; 8], u32, &str, bool); 20] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "an unspecified address", true),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "a loopback address", false),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "an IPv4-mapped address", false),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, "an IPv4-translated address", false),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "an IPv4-compatible address", false),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "a NAT64 address", false),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "a local NAT64 address", false),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 63, "an address whose packets are discarded", false),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "a Teredo address", false),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "an address for benchmarks", false),
    ([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "an ORCHID", false),
    ([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "an ORCHID", false),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "an address for documentation", false),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "an address for protocols", false),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "a 6to4 address", false),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "an address for documentation", false),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "a private address (ULA)", false),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "a link-local address", false),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "a site-local address", false),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "a multicast address", true),
];

fn is_in_v6(address: Ipv6Addr, network: [u16; 8], length: u32) -> bool {
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    (address.to_bits() ^ Ipv6Addr::from(network).to_bits()) & mask == 0
}

fn classify_v6(address: Ipv6Addr) -> Option<Class> {
    if METADATA_V6.into_iter().any(|service| Ipv6Addr::from(service) == address) {
        return Some(METADATA);
    }
    let carried: Vec<_> = carried(address).into_iter().flatten().filter_map(classify_v4).collect();
    if carried.contains(&METADATA) {
        return Some(METADATA);
    }
    if carried.iter().any(|class| class.never) {
        return Some(CARRIES_NEVER);
    }
    let own = SPECIAL_V6
        .into_iter()
        .find(|(network, length, ..)| is_in_v6(address, *network, *length))
        .map(|(.., name, never)| Class { name, never });
    // All public addresses begin with 001 (RFC 4291 section 2.4).
    let other = Class { name: "an address outside the public ones", never: false };
    let is_global = is_in_v6(address, [0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
    own.or_else(|| (!is_global).then_some(other)).or_else(|| carried.first().copied())
}

/// Returns the IPv4 addresses that an IPv6 address carries: RFC 4291 section 2.5.5 (mapped,
/// compatible), RFC 2765 (translated), RFC 6052 and 8215 (NAT64), RFC 4380 (Teredo: the server
/// and the client, inverted), RFC 3056 (6to4) and RFC 5214 (ISATAP).
fn carried(address: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let segments = address.segments();
    let of = |high: u16, low: u16| {
        let bits = (u32::from(high) << 16) | u32::from(low);
        Some(Ipv4Addr::from_bits(bits))
    };
    let last = of(segments[6], segments[7]);
    match segments {
        [0, 0, 0, 0, 0, 0, ..] if address.to_bits() <= 1 => [None; 4],
        // The local prefix may be used with any of these lengths (RFC 6052 section 2.2): /96,
        // /64, /56 and /48; the octet in the middle is skipped. Of the last three, what is most
        // likely something else matters only if it is the worst.
        [0x64, 0xff9b, 1, ..] => {
            let octets = address.octets();
            let at = |places: [usize; 4]| {
                let address = Ipv4Addr::from(places.map(|place| octets[place]));
                is_metadata_v4(address).then_some(address)
            };
            [last, at([9, 10, 11, 12]), at([7, 9, 10, 11]), at([6, 7, 9, 10])]
        }
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [last, None, None, None],
        [0x2001, 0, server, rest, _, _, high, low] => {
            [of(server, rest), of(!high, !low), None, None]
        }
        [0x2002, high, low, ..] => [of(high, low), None, None, None],
        _ => [None; 4],
    }
}

#[cfg(test)]
mod tests;
