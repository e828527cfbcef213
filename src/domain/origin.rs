//! Where a request comes from: its client's address as the proxy saw it, and the network that
//! one caller is taken for.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use http::HeaderMap;

/// The longest text of an address: an IPv6 address that ends like an IPv4 address, in brackets
/// and with a port.
const MAX_ADDRESS: usize = 53;

/// The network that one caller is taken for: an IPv4 address, or the /64 of an IPv6 address,
/// of which a host has all addresses (RFC 4291 section 2.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or_default())
            }
        }
    }
}

impl Origin {
    /// Returns the origin of a request; `None` if the proxy does not forward an address.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        address(headers).map(Self::from)
    }

    /// Returns its first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        match self {
            Self::V4(address) => address.into(),
            Self::V6(prefix) => Ipv6Addr::from_bits(u128::from(prefix) << 64).into(),
        }
    }
}

/// Parses an origin as it is displayed, or any address of it.
impl FromStr for Origin {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_suffix("/64") {
            Some(prefix) => prefix.parse().map(IpAddr::V6).map(Self::from),
            None => text.parse::<IpAddr>().map(Self::from),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(_) => write!(f, "{}/64", self.address()),
        }
    }
}

/// Returns the address that the proxy itself saw: it appends it to what the client sent. If the
/// proxy has appended what is no address, such as `unix:`, there is none: `X-Real-Ip` may come from
/// the client then, who could choose whose address counts.
#[must_use]
pub fn address(headers: &HeaderMap) -> Option<IpAddr> {
    let Some(last) = headers.get_all("x-forwarded-for").iter().next_back() else {
        return parse_address(headers.get("x-real-ip")?.as_bytes());
    };
    let line = last.as_bytes();
    let begins = line.iter().rposition(|byte| *byte == b',').map_or(0, |at| at + 1);
    parse_address(&line[begins..])
}

fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_ADDRESS)?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_origin_is_parsed_as_it_is_displayed() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ] {
            let origin: Origin = text.parse().expect(text);
            assert_eq!(origin.to_string(), shown);
            assert_eq!(shown.parse(), Ok(origin));
            assert_eq!(Origin::from(origin.address()), origin);
        }
        for text in ["", "x", "192.0.2.7/64", "192.0.2.0/24", "2001:db8::/48"] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).expect("a header's value");
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
    }

    #[test]
    fn the_address_is_the_one_that_the_proxy_saw() {
        for (value, expected) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("10.0.0.1, 192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:4711", Some("192.0.2.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]:4711", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7, unknown", None),
            ("192.0.2.7,", None),
            ("", None),
        ] {
            let found = address(&with("x-forwarded-for", value)).map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{value}");
        }
        let mut two = with("x-forwarded-for", "10.0.0.1");
        two.append("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        assert_eq!(address(&two), "192.0.2.7".parse().ok());
        assert_eq!(address(&with("x-real-ip", "192.0.2.7")), "192.0.2.7".parse().ok());
    }

    #[test]
    fn a_client_cannot_choose_an_address_that_the_proxy_does_not_know() {
        for unknown in ["unix:", "@", "unknown", "", "10.0.0.1, unix:", "10.0.0.1,"] {
            let mut headers = with("x-real-ip", "192.0.2.7");
            headers.append("x-forwarded-for", HeaderValue::from_str(unknown).expect("a value"));
            assert_eq!(address(&headers), None, "{unknown}");
        }
    }
}
