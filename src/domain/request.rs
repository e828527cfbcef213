//! What a request names: the app, by its host, and the path, in all readings that a
//! backend might use.

mod readings;

use std::borrow::Cow;

pub use self::readings::Readings;

use super::reason::Reason;

/// The host of a request, without port and without one trailing dot, in its original case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host<'a>(&'a str);

impl<'a> Host<'a> {
    /// Checks the host that a client has sent.
    ///
    /// # Errors
    /// [`Reason::MalformedRequest`] for an invalid host, [`Reason::UnknownApp`] for an
    /// address that can name no app.
    pub fn parse(host: &'a str) -> Result<Self, Reason> {
        // RFC 1123 labels and the underscore, which occurs in Docker's names. Most hosts
        // consist of nothing else, and need one pass.
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name = match host.bytes().position(|byte| !is_allowed(byte)) {
            None => host,
            // A bracketed IPv6 literal names no app.
            Some(0) if host.starts_with('[') && host.contains(':') => {
                return Err(Reason::UnknownApp);
            }
            Some(at) => match host[at..].strip_prefix(':') {
                Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => &host[..at],
                Some(_) | None => return Err(Reason::MalformedRequest),
            },
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_valid = !name.is_empty() && name.len() <= 253;
        if is_valid { Ok(Self(name)) } else { Err(Reason::MalformedRequest) }
    }

    /// Returns the whole host in lower case.
    #[must_use]
    pub fn lower(self) -> Cow<'a, str> {
        lower(self.0)
    }

    /// Returns the first label in lower case; the rest must be `domain` if that is given.
    ///
    /// # Errors
    /// [`Reason::UnknownApp`] if the host cannot name an app of this box.
    pub fn label(self, domain: Option<&str>) -> Result<Cow<'a, str>, Reason> {
        let (label, rest) = self.0.split_once('.').unwrap_or((self.0, ""));
        if domain.is_some_and(|domain| !rest.eq_ignore_ascii_case(domain)) || label.is_empty() {
            return Err(Reason::UnknownApp);
        }
        Ok(lower(label))
    }
}

/// Returns the label by which a host names an app: its first one, lower-cased. The port and
/// one trailing dot are ignored, and the rest must be `domain` if that is given.
///
/// # Errors
/// [`Reason::MalformedRequest`] for an invalid host, [`Reason::UnknownApp`] for a host
/// that cannot name an app of this box.
pub fn app_label<'a>(host: &'a str, domain: Option<&str>) -> Result<Cow<'a, str>, Reason> {
    Host::parse(host)?.label(domain)
}

fn lower(label: &str) -> Cow<'_, str> {
    if label.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(label.to_ascii_lowercase())
    } else {
        Cow::Borrowed(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_an_app_however_it_is_written() {
        for host in [
            "notes.box.example",
            "NOTES.Box.example",
            "notes.box.example.:8443",
            "notes.BOX.example:",
        ] {
            assert_eq!(app_label(host, Some("box.example")).as_deref(), Ok("notes"), "{host}");
        }
        assert_eq!(app_label("notes", None).as_deref(), Ok("notes"));
    }

    #[test]
    fn hosts_that_name_no_app_are_told_from_text_that_is_no_host() {
        for host in
            ["notes.other.example", "notes", "notes.box.example..", ".box.example", "[::1]:80"]
        {
            assert_eq!(app_label(host, Some("box.example")), Err(Reason::UnknownApp), "{host}");
        }
        for host in ["", ".", ":80", "a b", "a/b", "notes:x", "a,b", "ü.example", "a:1:2", "a\0"] {
            assert_eq!(app_label(host, None), Err(Reason::MalformedRequest), "{host:?}");
        }
    }
}
