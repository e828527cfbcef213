//! The management secret, sent raw in the `Authorization` header.

use http::HeaderValue;
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// Shortest secret that counts, in bytes: a box with a shorter one has no management.
const SHORTEST: usize = 8;

/// Whether the header is the secret. The time taken tells its length at most.
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
        let ask = |bytes: &[u8]| matches(HeaderValue::from_bytes(bytes).ok().as_ref(), &secret);
        assert!(ask("management-secret-ü".as_bytes()));
        for wrong in
            ["", "management-secret-", "management-secret-u", "management-secret-üx", "Bearer x"]
        {
            assert!(!ask(wrong.as_bytes()), "{wrong}");
        }
        assert!(!ask("Bearer management-secret-ü".as_bytes()));
        assert!(!ask(b"management-secret-\xff"));
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
