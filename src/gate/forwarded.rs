//! Reads what the proxy forwards about the original request.
//!
//! Names are compared exactly: a client's `X_Forwarded_Host` or
//! `X.Forwarded.Host`, which some servers treat as the real name, is never read.

use http::{HeaderMap, HeaderValue};

use crate::domain::reason::Reason;

pub(super) const HOST: &str = "x-forwarded-host";
const URI: &str = "x-forwarded-uri";
const METHOD: &str = "x-forwarded-method";
const PROTO: &str = "x-forwarded-proto";

/// The `X-Forwarded-*` headers that the gate reads.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded<'a> {
    pub host: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// Needed only for signed requests.
    pub method: Option<&'a str>,
    /// Needed only for signed requests.
    pub proto: Option<&'a str>,
    pub present: PresentHeaders,
}

/// Which of the headers are present that the gate reads besides. Most requests have none of
/// them, and one pass over the headers costs less than a lookup of each (measured: a lookup
/// takes 100 to 250 instructions).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PresentHeaders {
    pub cookie: bool,
    pub signature: bool,
    /// The mark of a waiting page's status poll.
    pub poll: bool,
    /// A header by which browsers mark a prefetch.
    pub purpose: bool,
}

impl<'a> Forwarded<'a> {
    /// # Errors
    /// [`Reason::MalformedRequest`] if host or URI is missing, or if one of these headers
    /// is not UTF-8 or occurs twice, because the gate cannot know which of the two the app
    /// uses. Other headers, such as `X-Forwarded-For`, are lists: a proxy may add a line
    /// of its own to those it received.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, Reason> {
        let (mut host, mut uri, mut method, mut proto) = (None, None, None, None);
        let mut present = PresentHeaders::default();
        for (name, value) in headers {
            match name.as_str() {
                HOST => set(&mut host, value)?,
                URI => set(&mut uri, value)?,
                METHOD => set(&mut method, value)?,
                PROTO => set(&mut proto, value)?,
                "cookie" => present.cookie = true,
                // RFC 9421 section 4.2.
                "signature" => present.signature = true,
                "x-nightporter-poll" => present.poll = true,
                "sec-purpose" | "purpose" | "x-purpose" | "x-moz" => present.purpose = true,
                _ => {}
            }
        }
        let missing = Reason::MalformedRequest;
        Ok(Self { host: host.ok_or(missing)?, uri: uri.ok_or(missing)?, method, proto, present })
    }
}

/// Sets a header that may occur only once.
fn set<'a>(header: &mut Option<&'a str>, value: &'a HeaderValue) -> Result<(), Reason> {
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Reason::MalformedRequest)?;
    match header.replace(text) {
        None => Ok(()),
        Some(_) => Err(Reason::MalformedRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::super::request_kind::{POLL, PREFETCH_HEADERS};
    use super::*;

    #[test]
    fn each_header_that_is_looked_for_is_seen() {
        let present = |name: &http::HeaderName| {
            let mut headers = HeaderMap::new();
            for name in [HOST, URI, "accept", "x-forwarded-for"] {
                headers.insert(http::HeaderName::from_static(name), HeaderValue::from_static("/"));
            }
            headers.insert(name, HeaderValue::from_static("1"));
            Forwarded::read(&headers).expect("valid").present
        };
        let none = PresentHeaders::default();
        assert_eq!(present(&http::header::ACCEPT), none);
        assert_eq!(present(&http::header::COOKIE), PresentHeaders { cookie: true, ..none });
        assert_eq!(
            present(&http::HeaderName::from_static("signature")),
            PresentHeaders { signature: true, ..none }
        );
        assert_eq!(present(&POLL), PresentHeaders { poll: true, ..none });
        for name in PREFETCH_HEADERS {
            assert_eq!(present(&name), PresentHeaders { purpose: true, ..none }, "{name}");
        }
    }
}
