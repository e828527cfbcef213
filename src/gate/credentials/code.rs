//! A pairing code: what a person types or scans to pair a device.
//!
//! Twelve characters of Crockford's base32, which has no letters that look like digits. The
//! first four are the handle: they say which invitation is meant, so that wrong tries count
//! against that one alone and a stranger cannot use up another's. The other eight are the secret,
//! 40 bits.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;

use crate::config::Secret;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of a code, and of its handle.
const LENGTH: usize = 12;
const HANDLE: usize = 4;

/// Separates digests of codes from whatever else the box's secret signs.
const PURPOSE: &[u8] = b"nightporter pairing code v1:";

/// A code. It is not printed but by [`Code::spelled`].
#[derive(Clone, PartialEq, Eq)]
pub struct Code([u8; LENGTH]);

/// Text that is not a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid code: expected {LENGTH} letters and digits")]
pub struct InvalidCode;

impl Code {
    /// Makes a new one.
    ///
    /// # Errors
    /// If the system provides no random numbers.
    pub fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; LENGTH];
        aws_lc_rs::rand::fill(&mut bytes)?;
        // 256 is a multiple of 32: every character is as likely as every other.
        Ok(Self(bytes.map(|byte| ALPHABET[usize::from(byte % 32)])))
    }

    /// The part that says which invitation is meant. It is not a secret.
    #[must_use]
    pub fn handle(&self) -> &str {
        std::str::from_utf8(&self.0[..HANDLE]).unwrap_or_default()
    }

    /// Returns what is stored of the code: without the box's secret, nobody finds the code by it.
    #[must_use]
    pub fn digest(&self, secret: &Secret) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(PURPOSE);
        context.update(&self.0);
        let mut digest = String::new();
        for byte in context.sign().as_ref() {
            // Writing to a text cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        digest
    }

    /// Returns the code as it is shown, in groups of four.
    #[must_use]
    pub fn spelled(&self) -> String {
        let groups = self.0.chunks(4).map(|group| String::from_utf8_lossy(group));
        groups.collect::<Vec<_>>().join("-")
    }
}

/// Reads a code as people type it: in any letter case, with spaces and dashes anywhere.
impl FromStr for Code {
    type Err = InvalidCode;

    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let mut code = [0; LENGTH];
        let mut places = code.iter_mut();
        for character in text.chars() {
            let character = match character.to_ascii_uppercase() {
                ' ' | '-' | '\u{2010}'..='\u{2015}' | '\u{a0}' => continue,
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let byte = u8::try_from(character).map_err(|_| InvalidCode)?;
            if !ALPHABET.contains(&byte) {
                return Err(InvalidCode);
            }
            *places.next().ok_or(InvalidCode)? = byte;
        }
        if places.next().is_some() { Err(InvalidCode) } else { Ok(Self(code)) }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(***)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let code: Code = "01AB-CDEF-GHJK".parse().expect("a code");
        assert_eq!(code.handle(), "01AB");
        assert_eq!(code.spelled(), "01AB-CDEF-GHJK");
        for typed in [
            "01abcdefghjk",
            " 01AB CDEF GHJK ",
            "oiab-cdef-ghjk",
            "OLAB\u{2011}CDEF\u{2013}GHJK",
            "0-1-a-b-c-d-e-f-g-h-j-k",
        ] {
            assert_eq!(typed.parse(), Ok(code.clone()), "{typed}");
        }
        for wrong in
            ["", "-", "01AB-CDEF-GHJ", "01AB-CDEF-GHJKM", "01AB-CDEF-GHJU", "01AB-CDEF-GHJ\u{e4}"]
        {
            assert_eq!(wrong.parse::<Code>(), Err(InvalidCode), "{wrong}");
        }
    }

    #[test]
    fn codes_are_random_and_not_printed() {
        let codes = (0..1000).map(|_| Code::random().expect("random"));
        let spelled: HashSet<_> = codes.map(|code| code.spelled()).collect();
        assert_eq!(spelled.len(), 1000);
        for character in ALPHABET {
            let character = char::from(*character);
            assert!(spelled.iter().any(|code| code.contains(character)), "{character}");
        }
        let code: Code = "01AB-CDEF-GHJK".parse().expect("a code");
        assert_eq!(format!("{code:?}"), "Code(***)");
    }

    #[test]
    fn a_digest_needs_the_secret() {
        let code: Code = "01AB-CDEF-GHJK".parse().expect("a code");
        let (one, other) = (Secret::new("one"), Secret::new("other"));
        assert_eq!(code.digest(&one), code.digest(&one));
        assert_ne!(code.digest(&one), code.digest(&other));
        assert_eq!(code.digest(&one).len(), 64);
    }
}
