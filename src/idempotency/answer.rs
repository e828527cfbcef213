//! Stored answers. They are sealed: a reader of the database learns nothing from them.
//!
//! An answer may hold what is shown only once, such as the text of a new token. It is encrypted
//! (AES-256-GCM) under a key that is derived (HKDF-SHA256, RFC 5869) from what the caller sends
//! with every repetition: its token and its idempotency key. The database knows hashes of both,
//! and this process forgets them with the request, so only the same caller can have the answer
//! opened.
//!
//! A caller without a token (on a listener that needs none) has its idempotency key alone. Such
//! an answer is as secret as that key is hard to guess: a random UUID is, `"1"` is not. Leaving
//! secrets out of it would be no better, since a repetition would get another answer.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::fingerprint::{Payload, Scope};
use super::key::Key;

/// Tells what is derived here from what is derived elsewhere of the same token.
const PURPOSE: &[u8] = b"nightporter idempotency answer v1";
const NAME_PURPOSE: &[u8] = b"nightporter idempotency key v1\n";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// As JSON, a list of names and values.
    pub headers: String,
    pub body: Vec<u8>,
}

/// An answer as it is stored. Its body is encrypted; its status and headers (its form: content
/// type and caching) can be read, and not be altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub status: u16,
    pub headers: String,
    /// The nonce, the ciphertext and the tag.
    pub body: Vec<u8>,
}

/// By what a key is found in the table: its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyName(String);

/// Seals the answer to one request, and opens it again for its caller.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealer([u8; 32]);

/// The answer was sealed for another token, or altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored answer cannot be opened: it was stored for another token, or altered")]
pub struct Unreadable;

impl KeyName {
    #[must_use]
    pub fn new(scope: &Scope, key: &Key) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [NAME_PURPOSE, scope.as_str().as_bytes(), b"\n", key.as_str().as_bytes()] {
            context.update(part);
        }
        Self(URL_SAFE_NO_PAD.encode(context.finish()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyName(***)")
    }
}

impl Sealer {
    /// `token` is the text of the caller's token, if it has one.
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub fn derive(token: Option<&[u8]>, scope: &Scope, key: &Key) -> Result<Self, Unspecified> {
        let token = token.unwrap_or_default();
        // Its length first, so that no other token and key make the same text.
        let length = (token.len() as u64).to_be_bytes();
        let secret = [length.as_slice(), token, key.as_str().as_bytes()].concat();
        let salt = Salt::new(HKDF_SHA256, PURPOSE);
        let mut derived = [0; 32];
        let info = [scope.as_str().as_bytes()];
        salt.extract(&secret).expand(&info, HKDF_SHA256)?.fill(&mut derived)?;
        Ok(Self(derived))
    }

    /// # Errors
    /// The cryptographic library fails, or the system provides no random numbers.
    pub fn seal(&self, payload: &Payload, answer: Answer) -> Result<Sealed, Unspecified> {
        let Answer { status, headers, mut body } = answer;
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &self.0)?;
        let bound = bound(payload, status, &headers);
        let nonce = cipher.seal_in_place_append_tag(Aad::from(bound), &mut body)?;
        body.splice(..0, nonce.as_ref().iter().copied());
        Ok(Sealed { status, headers, body })
    }

    /// # Errors
    /// It is not an answer that this caller got to this request.
    pub fn open(&self, payload: &Payload, sealed: Sealed) -> Result<Answer, Unreadable> {
        let Sealed { status, headers, mut body } = sealed;
        let (nonce, content) = body.split_at_mut_checked(NONCE_LEN).ok_or(Unreadable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unreadable)?;
        let bound = bound(payload, status, &headers);
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &self.0).map_err(|_| Unreadable)?;
        let opened = cipher.open_in_place(nonce, Aad::from(bound), content);
        let body = opened.map_err(|_| Unreadable)?.to_vec();
        Ok(Answer { status, headers, body })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

/// Returns what of an answer is not encrypted, and cannot be altered all the same.
fn bound(payload: &Payload, status: u16, headers: &str) -> Vec<u8> {
    [&payload.0[..], &status.to_be_bytes(), headers.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::idempotency::key::IDEMPOTENCY_KEY;

    fn key(text: &str) -> Key {
        let value = HeaderValue::try_from(format!("\"{text}\"")).expect("a value");
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]);
        Key::from_headers(&headers).expect("valid").expect("there")
    }

    fn scope(route: &str) -> Scope {
        Scope::new("box", "t1", route).expect("no separator")
    }

    fn sealer(token: Option<&str>, route: &str, name: &str) -> Sealer {
        let token = token.map(str::as_bytes);
        Sealer::derive(token, &scope(route), &key(name)).expect("derives")
    }

    const PAYLOAD: Payload = Payload([1; 32]);

    fn answer() -> Answer {
        Answer { status: 201, headers: r#"[["a","b"]]"#.into(), body: b"np_secret".to_vec() }
    }

    #[test]
    fn an_answer_is_opened_for_the_same_caller_and_request_only() {
        let own = sealer(Some("np_a"), "POST /v1/x", "k");
        let sealed = own.seal(&PAYLOAD, answer()).expect("seals");
        assert!(!sealed.body.windows(4).any(|part| b"np_secret".windows(4).any(|of| of == part)));
        assert_eq!(own.open(&PAYLOAD, sealed.clone()), Ok(answer()));
        for (other, what) in [
            (sealer(Some("np_b"), "POST /v1/x", "k"), "token"),
            (sealer(None, "POST /v1/x", "k"), "no token"),
            (sealer(Some("np_a"), "POST /v1/y", "k"), "route"),
            (sealer(Some("np_a"), "POST /v1/x", "K"), "key"),
            (sealer(Some("np_"), "POST /v1/x", "ak"), "other bounds"),
            (sealer(None, "POST /v1/x", "np_ak"), "all in the key"),
        ] {
            assert_eq!(other.open(&PAYLOAD, sealed.clone()), Err(Unreadable), "{what}");
        }
        let other = Payload([2; 32]);
        assert_eq!(own.open(&other, sealed), Err(Unreadable), "payload");
    }

    #[test]
    fn an_altered_answer_is_not_opened() {
        let own = sealer(None, "POST /v1/x", "k");
        let sealed = own.seal(&PAYLOAD, answer()).expect("seals");
        for at in 0..sealed.body.len() {
            let mut altered = sealed.clone();
            altered.body[at] ^= 1;
            assert_eq!(own.open(&PAYLOAD, altered), Err(Unreadable), "byte {at}");
            let cut = Sealed { body: sealed.body[..at].to_vec(), ..sealed.clone() };
            assert_eq!(own.open(&PAYLOAD, cut), Err(Unreadable), "{at} bytes");
        }
        for altered in [
            Sealed { status: 200, ..sealed.clone() },
            Sealed { headers: "[]".into(), ..sealed.clone() },
            Sealed { body: answer().body, ..sealed.clone() },
        ] {
            assert_eq!(own.open(&PAYLOAD, altered.clone()), Err(Unreadable), "{altered:?}");
        }
        let again = own.seal(&PAYLOAD, answer()).expect("seals");
        assert_ne!(again.body, sealed.body, "no two are sealed alike");
        let empty = Answer { body: Vec::new(), ..answer() };
        let sealed = own.seal(&PAYLOAD, empty.clone()).expect("seals");
        assert_eq!(own.open(&PAYLOAD, sealed), Ok(empty));
    }

    #[test]
    fn the_name_of_a_key_does_not_show_it() {
        let name = KeyName::new(&scope("POST /v1/x"), &key("a"));
        assert_eq!(
            (name.as_str().len(), &name),
            (43, &KeyName::new(&scope("POST /v1/x"), &key("a")))
        );
        assert_ne!(name, KeyName::new(&scope("POST /v1/x"), &key("b")));
        assert_ne!(name, KeyName::new(&scope("POST /v1/y"), &key("a")));
        let debug = format!("{name:?} {:?}", sealer(Some("np_a"), "POST /v1/x", "k"));
        assert_eq!(debug, "KeyName(***) Sealer(***)");
    }
}
