//! The header `Idempotency-Key`: a string as in structured fields (RFC 9651 section 3.3.3).

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Item, Parser};

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, in bytes.
pub const MAX_LENGTH: usize = 255;

/// What a client calls one request, and every repetition of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

/// Why the header is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is given more than once")]
    Repeated,
    /// Many clients send a bare token or a UUID.
    #[error(
        "expected a string in double quotes (RFC 9651), such as \
         `Idempotency-Key: \"8e03978e-40d5-43e8-bc93-6894a57f9324\"`"
    )]
    NotAString,
    #[error("expected 1 to {MAX_LENGTH} bytes")]
    Length,
}

impl Key {
    /// Returns the key of a request; `None` if it has none.
    ///
    /// # Errors
    /// The header is there, but is not a key.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, KeyError> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(KeyError::Repeated);
        }
        // Parameters are ignored, as by every structured field that defines none.
        let item = Parser::new(value.as_bytes()).parse::<Item>();
        let Ok(Item { bare_item: BareItem::String(text), .. }) = item else {
            return Err(KeyError::NotAString);
        };
        let text = String::from(text);
        if (1..=MAX_LENGTH).contains(&text.len()) {
            Ok(Some(Self(text)))
        } else {
            Err(KeyError::Length)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn key(values: &[&str]) -> Result<Option<String>, KeyError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(value).expect("a value"));
        }
        Key::from_headers(&headers).map(|key| key.map(|Key(text)| text))
    }

    #[test]
    fn a_key_is_a_quoted_string() {
        assert_eq!(key(&[]), Ok(None));
        let longest = "x".repeat(255);
        for (value, text) in [
            (r#""a""#, "a"),
            (r#"  "a"  "#, "a"),
            (r#""a b""#, "a b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#""a";version=1"#, "a"),
            (r#""'; DROP TABLE x""#, "'; DROP TABLE x"),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(key(&[value]), Ok(Some(text.to_owned())), "{value}");
        }
    }

    #[test]
    fn what_is_not_one_key_is_refused() {
        for value in [
            "",
            "abc",
            "8e03978e-40d5-43e8-bc93-6894a57f9324",
            "12",
            "?1",
            ":YWJj:",
            "'a'",
            r#""a"#,
            r#"a""#,
            r#""a", "b""#,
            r#""a" b"#,
            r#"("a")"#,
            r#""a\x""#,
            "\"a\tb\"",
        ] {
            assert_eq!(key(&[value]), Err(KeyError::NotAString), "{value}");
        }
        assert_eq!(key(&[r#""""#]), Err(KeyError::Length));
        assert_eq!(key(&[&format!("\"{}\"", "x".repeat(256))]), Err(KeyError::Length));
        assert_eq!(key(&[r#""a""#, r#""a""#]), Err(KeyError::Repeated));
        let mut headers = HeaderMap::new();
        let latin = HeaderValue::from_bytes(b"\"\xe9\"").expect("a value");
        headers.insert(IDEMPOTENCY_KEY, latin);
        assert_eq!(Key::from_headers(&headers), Err(KeyError::NotAString));
    }
}
