//! Reads what the proxy forwards about the original request.
//!
//! Names are compared exactly: a client's `X_Forwarded_Host` or
//! `X.Forwarded.Host`, which some servers treat as the real name, is never read.

use http::{HeaderMap, HeaderName};

use crate::domain::reason::Reason;

pub(super) const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

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
}

impl<'a> Forwarded<'a> {
    /// # Errors
    /// [`Reason::MalformedRequest`] if host or URI is missing, or if one of these headers
    /// is not UTF-8 or occurs twice, because the gate cannot know which of the two the app
    /// uses. Other headers, such as `X-Forwarded-For`, are lists: a proxy may add a line
    /// of its own to those it received.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, Reason> {
        if headers.len() != headers.keys_len() {
            refuse_repeated(headers)?;
        }
        Ok(Self {
            host: text(headers, &HOST)?.ok_or(Reason::MalformedRequest)?,
            uri: text(headers, &URI)?.ok_or(Reason::MalformedRequest)?,
            method: text(headers, &METHOD)?,
            proto: text(headers, &PROTO)?,
        })
    }
}

fn refuse_repeated(headers: &HeaderMap) -> Result<(), Reason> {
    for name in [&HOST, &URI, &METHOD, &PROTO] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Reason::MalformedRequest);
        }
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Reason> {
    let value = headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()));
    value.transpose().map_err(|_| Reason::MalformedRequest)
}
