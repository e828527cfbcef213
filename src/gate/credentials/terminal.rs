//! A terminal's token: a JWT in the `authorization` cookie.
//!
//! The rules for claims are those of `PyJWT`, which signs and verifies the same
//! tokens elsewhere, except that anything ambiguous is refused: `jsonwebtoken`
//! verifies the signature, and the claims are checked here, against the caller's clock.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HeaderMap};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde::de::{DeserializeOwned, Error, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::config::Secret;

/// The cookie's name; case-sensitive (RFC 6265 section 5.3).
pub(crate) const COOKIE_NAME: &[u8] = b"authorization";

/// Longest accepted token, in bytes. A real one has about 250.
const MAX_LEN: usize = 8 * 1024;

/// How long a browser keeps the cookie: 3,560 days, as at pairing.
const COOKIE_LIFETIME: Duration = Duration::from_hours(3560 * 24);

/// The token's header, as `PyJWT` writes it.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The key that the tokens of terminals are signed with.
#[derive(Clone)]
pub struct TokenKey(DecodingKey);

impl TokenKey {
    /// Creates the key from the secret's UTF-8 bytes as they are, not decoded.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        Self(DecodingKey::from_secret(secret.expose().as_bytes()))
    }

    /// Returns whether the key has no bytes, with which anyone could sign.
    fn is_empty(&self) -> bool {
        self.0.try_get_as_bytes().map_or(true, <[u8]>::is_empty)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(***)")
    }
}

/// The claims of a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The terminal's id.
    pub sub: Arc<str>,
    /// `exp`, in whole seconds since 1970; most tokens have none.
    pub expires: Option<i64>,
}

impl Claims {
    /// Returns whether the token has not expired; a cached token is checked each time.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| expires > seconds(now))
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("the token is not three base64url parts, the first two of them JSON objects")]
    Malformed,
    #[error("the token's algorithm is not HS256")]
    Algorithm,
    #[error("the token's `kid` is not a string")]
    KeyId,
    #[error("the token's header has critical extensions that are not supported")]
    Critical,
    #[error("the box has no key to verify tokens with")]
    NoKey,
    #[error("the token's signature does not match")]
    Signature,
    #[error("a claim has the wrong type or occurs twice")]
    Claims,
    #[error("the token does not name a terminal")]
    Subject,
    #[error("the token has an audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Immature,
}

impl TokenError {
    /// Returns whether the maker of the token does not know the key. Otherwise the token was
    /// valid, is not yet, or cannot be checked.
    #[must_use]
    pub fn is_guess(self) -> bool {
        match self {
            Self::TooLong
            | Self::Malformed
            | Self::Algorithm
            | Self::KeyId
            | Self::Critical
            | Self::Signature => true,
            Self::NoKey
            | Self::Claims
            | Self::Subject
            | Self::Audience
            | Self::Expired
            | Self::Immature => false,
        }
    }
}

/// Returns the token of a request: the last `authorization` cookie of all
/// `Cookie` headers, without quotes and without one leading `Bearer `.
///
/// Cookies may contain any bytes; a token that is not UTF-8 is returned mangled,
/// so it fails verification.
#[must_use]
pub fn token(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let cookie = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            (name.trim_ascii() == COOKIE_NAME).then(|| value.trim_ascii())
        })
        .next_back()?;
    let value = match cookie {
        [b'"', quoted @ .., b'"'] => quoted,
        plain => plain,
    };
    let value = value.strip_prefix(b"Bearer ").unwrap_or(value);
    Some(String::from_utf8_lossy(value))
}

/// Verifies a token.
///
/// # Errors
/// The first rule that the token breaks.
pub fn verify(token: &str, key: &TokenKey, now: SystemTime) -> Result<Claims, TokenError> {
    if token.len() > MAX_LEN {
        return Err(TokenError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let header: RawHeader = decode(header)?.map_err(|_| TokenError::Malformed)?;
    header.check()?;
    if key.is_empty() {
        return Err(TokenError::NoKey);
    }
    match crypto::verify(signature, message.as_bytes(), &key.0, Algorithm::HS256) {
        Ok(true) => {}
        _ => return Err(TokenError::Signature),
    }
    let claims: RawClaims = decode(payload)?.map_err(|_| TokenError::Claims)?;
    claims.check(seconds(now))
}

/// Decodes one part of a token. The outer error is one of the encoding, the inner one of
/// the JSON members.
fn decode<T: DeserializeOwned>(part: &str) -> Result<serde_json::Result<T>, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    // serde does not validate what it skips.
    if std::str::from_utf8(&json).is_err() {
        return Err(TokenError::Malformed);
    }
    // serde would accept an array for a struct.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(TokenError::Malformed);
    }
    Ok(serde_json::from_slice(&json))
}

/// Whole seconds since 1970, rounded down.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[derive(Deserialize)]
struct RawHeader {
    #[serde(default, deserialize_with = "present")]
    alg: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    kid: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
    /// RFC 7797: the payload might not be base64.
    #[serde(default, deserialize_with = "present")]
    b64: Option<IgnoredAny>,
}

impl RawHeader {
    fn check(&self) -> Result<(), TokenError> {
        let Self { alg, kid, crit, b64 } = self;
        if alg.as_ref().and_then(Value::as_str) != Some("HS256") {
            return Err(TokenError::Algorithm);
        }
        if kid.as_ref().is_some_and(|kid| !kid.is_string()) {
            return Err(TokenError::KeyId);
        }
        if crit.is_some() || b64.is_some() {
            return Err(TokenError::Critical);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct RawClaims {
    #[serde(default, deserialize_with = "present")]
    sub: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    jti: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    exp: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    iat: Option<NumericDate>,
}

impl RawClaims {
    /// Checks the claims without leeway, as `PyJWT` does.
    fn check(self, now: i64) -> Result<Claims, TokenError> {
        let Self { sub, jti, aud, exp, nbf, iat } = self;
        if [iat, nbf].into_iter().flatten().any(|NumericDate(from)| from > now) {
            return Err(TokenError::Immature);
        }
        if exp.is_some_and(|NumericDate(until)| until <= now) {
            return Err(TokenError::Expired);
        }
        if aud.is_some() {
            return Err(TokenError::Audience);
        }
        if jti.is_some_and(|jti| !jti.is_string()) {
            return Err(TokenError::Claims);
        }
        match sub {
            Some(Value::String(sub)) if !sub.is_empty() => {
                Ok(Claims { sub: sub.into(), expires: exp.map(|NumericDate(until)| until) })
            }
            _ => Err(TokenError::Subject),
        }
    }
}

/// Distinguishes `null` from an absent claim: a claim that is present must have its type.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Seconds since 1970, with a fraction cut off (RFC 7519 section 2; `int()` in `PyJWT`).
#[derive(Clone, Copy)]
struct NumericDate(i64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<NumericDate, E> {
                Ok(NumericDate(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(i64::try_from(value).unwrap_or(i64::MAX)))
            }

            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            fn visit_f64<E: Error>(self, value: f64) -> Result<NumericDate, E> {
                Ok(NumericDate(value as i64))
            }
        }

        from.deserialize_any(Number)
    }
}

/// Issues a new token for a terminal; it does not expire.
///
/// # Errors
/// [`TokenError::NoKey`] if the secret is empty.
pub fn issue(secret: &Secret, terminal_id: &str, now: SystemTime) -> Result<String, TokenError> {
    if secret.expose().is_empty() {
        return Err(TokenError::NoKey);
    }
    let claims = json!({ "sub": terminal_id, "iat": seconds(now) }).to_string();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256)
        .map_err(|_| TokenError::Signature)?;
    Ok(format!("{message}.{signature}"))
}

/// Returns the value of `Set-Cookie` that pairs a browser.
#[must_use]
pub fn cookie(token: &str, domain: &str, now: SystemTime) -> String {
    let expires = httpdate::fmt_http_date(now + COOKIE_LIFETIME);
    format!(
        "authorization={token}; Domain={domain}; expires={expires}; \
         HttpOnly; Path=/; SameSite=lax; Secure"
    )
}

#[cfg(test)]
mod tests;
