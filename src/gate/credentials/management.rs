//! The management secret, sent raw in the `Authorization` header.

use http::HeaderValue;
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// Shortest accepted secret, in bytes: a box with a shorter one has no management.
const SHORTEST: usize = 8;

/// Returns whether the header equals the secret. The time this takes reveals at most the
/// secret's length.
#[must_use]
pub fn matches(header: Option<&HeaderValue>, secret: &Secret) -> bool {
    let Some(header) = header.map(HeaderValue::as_bytes) else {
        return false;
    };
    header.len() >= SHORTEST && bool::from(header.ct_eq(secret.expose().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_matches() {
        let secret = Secret::new("management-secret-ü");
        let matches_secret =
            |bytes: &[u8]| matches(HeaderValue::from_bytes(bytes).ok().as_ref(), &secret);
        assert!(matches_secret("management-secret-ü".as_bytes()));
        for wrong in
            ["", "management-secret-", "management-secret-u", "management-secret-üx", "Bearer x"]
        {
            assert!(!matches_secret(wrong.as_bytes()), "{wrong}");
        }
        assert!(!matches_secret("Bearer management-secret-ü".as_bytes()));
        assert!(!matches_secret(b"management-secret-\xff"));
        assert!(!matches(None, &secret));
    }

    #[test]
    fn a_short_secret_matches_nothing() {
        for short in ["", "1234567"] {
            let header = HeaderValue::from_static(short);
            assert!(!matches(Some(&header), &Secret::new(short)), "{short}");
        }
        let header = HeaderValue::from_static("12345678");
        assert!(matches(Some(&header), &Secret::new("12345678")));
    }
}
