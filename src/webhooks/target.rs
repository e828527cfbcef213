//! The URL of an endpoint.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The longest URL, in bytes.
const LONGEST: usize = 2048;

/// An absolute URL with `http` or `https` and a host, as browsers read it: whatever the
/// spelling of an IPv4 address, the host is that address.
///
/// Paths may hold secrets (Discord's do, and who knows an ntfy topic reads it), so only
/// [`origin`](Self::origin) is shown and logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target(Url);

/// Why a URL is not sent to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("invalid URL: {0}")]
    Syntax(&'static str),
    #[error("invalid URL: {0}")]
    Parse(#[from] url::ParseError),
}

impl TryFrom<String> for Target {
    type Error = InvalidTarget;

    fn try_from(text: String) -> Result<Self, InvalidTarget> {
        Self::parse(&text)
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.0.into()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.origin())
    }
}

impl Target {
    /// # Errors
    /// What is wrong with it, worded for the operator.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        let refuse = |problem| Err(InvalidTarget::Syntax(problem));
        if text.len() > LONGEST {
            return refuse("it is longer than 2048 bytes");
        }
        // A parser would skip them.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return refuse("it contains white space, a control character or a backslash");
        }
        // Browsers add what is missing of the two slashes, and take what follows a third one
        // for the host.
        match text.split_once("://") {
            Some((_, rest)) if rest.starts_with('/') => return refuse("it has no host"),
            Some(_) => {}
            None => return refuse("expected `https://...` or `http://...`"),
        }
        let url = Url::parse(text)?;
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("expected `https://...` or `http://...`");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("a user name or password in it is not sent; use `token`");
        }
        if url.port() == Some(0) {
            return refuse("there is no port 0");
        }
        match url.host() {
            None => refuse("it has no host"),
            Some(Host::Domain(name)) if name.trim_end_matches('.').is_empty() => {
                refuse("it has no host")
            }
            _ => {
                let mut url = url;
                url.set_fragment(None);
                Ok(Self(url))
            }
        }
    }

    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns the host: a name in lower case without a dot at its end, or an address without
    /// brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Domain(name)) => name.trim_end_matches('.').to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        }
    }

    /// Returns the address if the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
        }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// Returns what `Host` says: the port is left out if it is the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.address() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host(),
        };
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Returns the path and the query.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }

    /// Returns the last segment of the path; empty if there is none.
    #[must_use]
    pub fn last_segment(&self) -> &str {
        self.0.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// Returns the path up to its last segment, with the slash.
    #[must_use]
    pub fn parent(&self) -> String {
        let path = self.0.path().trim_end_matches('/');
        path[..path.rfind('/').map_or(0, |at| at + 1)].to_owned()
    }

    /// Returns the path without a slash at its end.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    /// Returns the scheme and the authority: what may be shown.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", self.0.scheme(), self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_that_address() {
        for (url, address) in [
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f000001/", "127.0.0.1"),
            ("http://0x7f.1/", "127.0.0.1"),
            ("http://0177.0.0.1/", "127.0.0.1"),
            ("http://017700000001/", "127.0.0.1"),
            ("http://127.1/", "127.0.0.1"),
            ("http://127.0.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://%31%32%37.0.0.1/", "127.0.0.1"),
            ("http://１２７.０.０.１/", "127.0.0.1"),
            ("http://127。0。0。1/", "127.0.0.1"),
            ("http://①②⑦.0.0.1/", "127.0.0.1"),
            ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
            ("http://[::ffff:7f00:1]/", "::ffff:127.0.0.1"),
            ("http://[0:0:0:0:0:0:0:1]/", "::1"),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!(target.address(), Some(address.parse().expect("an address")), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_receiver_is_refused() {
        for url in [
            "",
            "ntfy.sh/topic",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://",
            "https:///path",
            "https:example.com",
            "https:/example.com",
            "https://user@example.com/",
            "https://user:password@example.com/",
            "https://example.com@127.0.0.1/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://[fe80::1%25eth0]/",
            "https://[fe80::1%eth0]/",
            "https://127.0.0.256/",
            "https://0x100000000/",
            "https://exa mple.com/",
            "https://example.com\t/",
            "https:\\\\example.com/",
            "https://./",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_the_origin_is_shown() {
        let target = Target::parse("https://Discord.com/api/webhooks/1/SECRET?q=SECRET#f").unwrap();
        assert_eq!(format!("{target:?}"), "Target(https://discord.com)");
        assert_eq!(target.path_and_query(), "/api/webhooks/1/SECRET?q=SECRET");
        let target = Target::parse("http://[fd00::1]:8080/ntfy/topic/").expect("a URL");
        assert_eq!(target.origin(), "http://[fd00::1]:8080");
        assert_eq!((target.last_segment(), &*target.parent()), ("topic", "/ntfy/"));
        assert_eq!((&*target.host(), target.port()), ("fd00::1", 8080));
        assert_eq!(Target::parse("https://a.example.").expect("a URL").host(), "a.example");
    }
}
