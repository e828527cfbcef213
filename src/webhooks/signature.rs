//! Signatures of messages, by the Standard Webhooks specification, version 1
//! (`spec/standard-webhooks.md` of `standard-webhooks/standard-webhooks`).

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::secret::Secret;

const PREFIX: &str = "whsec_";

/// Lengths of a secret, in bytes, that the specification allows.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// The length of a new secret, in bytes: that of the hash.
const NEW: usize = 32;

/// A secret that signs messages: `whsec_` and Base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningSecret(Secret);

/// Why a text is not a secret that signs messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is `whsec_` and the Base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

impl SigningSecret {
    /// # Errors
    /// If it has another form.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        bytes(text).map(|_| Self(Secret::new(text)))
    }

    /// Returns a new secret; `None` if the system provides no random numbers.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = [0; NEW];
        rand::fill(&mut bytes).ok()?;
        Some(Self(Secret::new(format!("{PREFIX}{}", BASE64.encode(bytes)))))
    }

    /// Returns the secret as it is given to the receiver.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Returns the signature of a message, as `webhook-signature` holds it.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // The text was checked when the secret was made.
        let key = Key::new(HMAC_SHA256, &bytes(self.0.expose()).unwrap_or_default());
        let mut signed = format!("{id}.{timestamp}.").into_bytes();
        signed.extend_from_slice(body);
        format!("v1,{}", BASE64.encode(sign(&key, &signed)))
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, InvalidSecret> {
    let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
    let bytes = BASE64.decode(encoded).map_err(|_| InvalidSecret)?;
    if LENGTHS.contains(&bytes.len()) { Ok(bytes) } else { Err(InvalidSecret) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_signed_as_in_the_specification_s_own_example() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("valid");
        let body = br#"{"test": 2432232314}"#;
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_have_one_form() {
        let secret = SigningSecret::random().expect("random numbers");
        assert_eq!(SigningSecret::parse(secret.expose()), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "SigningSecret(***)");
        let of = |length: usize| format!("whsec_{}", BASE64.encode(vec![7; length]));
        for (text, is_valid) in [
            (of(24), true),
            (of(64), true),
            (of(23), false),
            (of(65), false),
            (of(32).replace("whsec_", ""), false),
            (of(32).replace("whsec_", "whsec"), false),
            (format!("{} ", of(32)), false),
            (String::new(), false),
        ] {
            assert_eq!(SigningSecret::parse(&text).is_ok(), is_valid, "{text}");
        }
    }
}
