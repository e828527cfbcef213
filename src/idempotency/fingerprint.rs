//! Which requests are the same: their scope, and what they ask for.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};

/// Separates the parts of a scope (U+001E, "record separator").
const SEPARATOR: char = '\u{1e}';

/// Within which a key names one request: the tenant, the token and the route.
#[derive(Clone, PartialEq, Eq)]
pub struct Scope(String);

/// A part of a scope contains U+001E, so that another scope could have the same text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant, the token or the route contains U+001E")]
pub struct ScopeError;

impl Scope {
    /// # Errors
    /// If a part contains the separator.
    pub fn new(tenant: &str, token: &str, route: &str) -> Result<Self, ScopeError> {
        let parts = [tenant, token, route];
        if parts.iter().any(|part| part.contains(SEPARATOR)) {
            return Err(ScopeError);
        }
        Ok(Self(parts.join("\u{1e}")))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// All that logs may show: the first 12 hexadecimal digits of its SHA-256.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = digest(&SHA256, self.0.as_bytes());
        digest.as_ref().iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

/// The SHA-256 of what a request asks for: its method, its path with the query, and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload(pub [u8; 32]);

impl Payload {
    /// Neither a method nor a path contains a space or a line break.
    #[must_use]
    pub fn new(method: &str, path_and_query: &str, body: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [method.as_bytes(), b" ", path_and_query.as_bytes(), b"\n", body] {
            context.update(part);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_kept_apart_and_do_not_show_what_they_are() {
        let scope = Scope::new("box", "root", "POST /v1/x").expect("no separator");
        assert_eq!(scope.as_str(), "box\u{1e}root\u{1e}POST /v1/x");
        // printf 'box\x1eroot\x1ePOST /v1/x' | sha256sum
        assert_eq!(scope.to_string().len(), 12);
        assert!(!format!("{scope:?} {scope}").contains("root"));
        assert_ne!(Scope::new("a", "b", "c"), Scope::new("a", "bc", ""));
        for parts in [["a\u{1e}", "b", "c"], ["a", "\u{1e}b", "c"], ["a", "b", "c\u{1e}d"]] {
            assert_eq!(Scope::new(parts[0], parts[1], parts[2]), Err(ScopeError));
        }
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let payload = Payload::new("POST", "/v1/x?a=1", b"{}");
        assert_eq!(payload, Payload::new("POST", "/v1/x?a=1", b"{}"));
        for other in [
            Payload::new("PUT", "/v1/x?a=1", b"{}"),
            Payload::new("POST", "/v1/x?a=2", b"{}"),
            Payload::new("POST", "/v1/x", b"?a=1{}"),
            Payload::new("POST", "/v1/x?a=1", b"{ }"),
            Payload::new("POST", "/v1/x?a=1", b""),
        ] {
            assert_ne!(payload, other);
        }
    }
}
