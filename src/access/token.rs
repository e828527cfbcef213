//! Tokens of the operator's API: what is kept of one, and how its text is made and read.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use super::{Principal, Rights, Scope};
use crate::domain::identity::encode_id;
use crate::ledger::record::Micros;

/// Begins the text of every token, so that a leaked one is recognized.
const PREFIX: &str = "np_";

/// Random bytes of a token, and of its id, which is not a secret: sixteen characters.
const SECRET_BYTES: usize = 32;
const ID_BYTES: usize = 10;

/// The longest name of a token, in bytes.
pub const MAX_NAME: usize = 100;

/// The longest id of a box that a token may be for, in bytes: it is part of a key, which
/// Postgres stores up to 2,704 bytes of.
pub const MAX_TENANT: usize = 512;

/// The text of a token. It is shown once, and kept nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// # Errors
    /// The system provides no random numbers.
    fn random() -> Result<Self, NoRandomNumbers> {
        let mut bytes = [0; SECRET_BYTES];
        rand::fill(&mut bytes).map_err(|_| NoRandomNumbers)?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Returns the text, for its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The system provides no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system provides no random numbers")]
pub struct NoRandomNumbers;

/// The SHA-256 of a token. A token has 256 random bits, so its hash needs no salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Returns the hash of a credential; `None` if it cannot be a token, so that whatever
    /// strangers send costs no look-up.
    #[must_use]
    pub fn from_credential(credential: &[u8]) -> Option<Self> {
        let encoded = credential.strip_prefix(PREFIX.as_bytes())?;
        let mut bytes = [0; SECRET_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
        (length == SECRET_BYTES).then(|| Self::of_text(credential))
    }

    fn of_text(text: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, text).as_ref());
        Self(hash)
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

/// A row: everything that is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: Arc<str>,
    pub hash: TokenHash,
    /// Given by the operator, to recognize the token by.
    pub name: String,
    pub scope: Scope,
    pub rights: Rights,
    pub created: Micros,
    /// `None` if the token is valid until it is removed.
    pub expires: Option<Micros>,
    /// Roughly: it is written at most once an hour.
    pub last_use: Option<Micros>,
}

/// A token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub name: String,
    pub scope: Scope,
    pub rights: Rights,
    pub expires: Option<Micros>,
}

/// Why a token is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("invalid name: expected 1 to {MAX_NAME} bytes without control characters")]
    Name,
    #[error(
        "invalid tenant: expected the id of a box, of {MAX_TENANT} bytes at most, or `*`; a box \
         without an identity has no tokens of its own"
    )]
    Tenant,
    #[error("a token needs one right at least: read, pii or operate")]
    NoRight,
    #[error("invalid expiry: it is in the past")]
    Expired,
    #[error("the token that creates another one must itself have its tenant, rights and expiry")]
    Beyond,
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
}

impl NewToken {
    /// Makes the row and the text of a token.
    ///
    /// # Errors
    /// What is wrong with the request, or that `creator` may not make such a token.
    pub fn make(self, creator: &Principal, now: Micros) -> Result<(Token, Secret), Invalid> {
        let Self { name, scope, rights, expires } = self;
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            return Err(Invalid::Name);
        }
        let tenant = scope.as_str();
        if !(1..=MAX_TENANT).contains(&tenant.len()) || tenant.contains(char::is_control) {
            return Err(Invalid::Tenant);
        }
        if rights.is_empty() {
            return Err(Invalid::NoRight);
        }
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Invalid::Expired);
        }
        let outlives = match (creator.expires, expires) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(expires)) => expires > own,
        };
        if outlives || !rights.is_within(creator.rights) || !creator.scope.includes(&scope) {
            return Err(Invalid::Beyond);
        }
        let mut id = [0; ID_BYTES];
        rand::fill(&mut id).map_err(|_| NoRandomNumbers)?;
        let secret = Secret::random()?;
        let token = Token {
            id: encode_id(&id).into(),
            hash: TokenHash::of_text(secret.0.as_bytes()),
            name,
            scope,
            rights,
            created: now,
            expires,
            last_use: None,
        };
        Ok((token, secret))
    }
}

impl Token {
    /// Returns whether the token is still valid.
    #[must_use]
    pub fn is_valid(&self, now: Micros) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal {
            scope: self.scope.clone(),
            rights: self.rights,
            token: Arc::clone(&self.id),
            expires: self.expires,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Right;

    fn new(scope: &str, rights: &str, expires: Option<i64>) -> NewToken {
        NewToken {
            name: "phone".into(),
            scope: Scope::parse(scope),
            rights: rights.parse().expect("rights"),
            expires: expires.map(Micros),
        }
    }

    #[test]
    fn only_the_whole_text_of_a_token_has_its_hash() {
        let (token, secret) =
            new("*", "read", None).make(&Principal::root(), Micros(1)).expect("valid");
        let text = secret.expose();
        assert_eq!((text.len(), &text[..3]), (46, "np_"));
        assert!(
            TokenHash::from_credential(text.as_bytes())
                .is_some_and(|hash| hash.matches(&token.hash))
        );
        for other in [&text[..45], &text[3..], "np_", "", &text.replace("np_", "NP_")] {
            assert_eq!(TokenHash::from_credential(other.as_bytes()), None, "{other}");
        }
        let longer = format!("{text}A");
        assert_eq!(TokenHash::from_credential(longer.as_bytes()), None);
        let (other, _) = new("*", "read", None).make(&Principal::root(), Micros(1)).expect("valid");
        assert!(!other.hash.matches(&token.hash) && other.id != token.id);
        assert!(!format!("{token:?}{secret:?}").contains(&text[3..]));
    }

    #[test]
    fn a_token_gives_nothing_that_its_creator_lacks() {
        let creator = Principal {
            scope: Scope::parse("box"),
            rights: Rights::new(&[Right::Read, Right::Operate]),
            token: "t1".into(),
            expires: Some(Micros(100)),
        };
        for (scope, rights, expires, expected) in [
            ("box", "read", Some(100), Ok(())),
            ("box", "read,operate", Some(50), Ok(())),
            ("box", "read", None, Err(Invalid::Beyond)),
            ("box", "read", Some(101), Err(Invalid::Beyond)),
            ("box", "read,pii", Some(50), Err(Invalid::Beyond)),
            ("other", "read", Some(50), Err(Invalid::Beyond)),
            ("*", "read", Some(50), Err(Invalid::Beyond)),
            ("", "read", Some(50), Err(Invalid::Tenant)),
            (&"b".repeat(MAX_TENANT + 1), "read", Some(50), Err(Invalid::Tenant)),
            ("box", "read", Some(10), Err(Invalid::Expired)),
        ] {
            let made = new(scope, rights, expires).make(&creator, Micros(10)).map(drop);
            assert_eq!(made, expected, "{scope} {rights} {expires:?}");
        }
        for name in ["", "a\nb", &"x".repeat(101)] {
            let named = NewToken { name: name.into(), ..new("box", "read", Some(50)) };
            assert_eq!(named.make(&creator, Micros(10)).map(drop), Err(Invalid::Name));
        }
        let without = NewToken { rights: Rights::default(), ..new("*", "read", None) };
        assert_eq!(without.make(&Principal::root(), Micros(1)).map(drop), Err(Invalid::NoRight));
    }

    #[test]
    fn a_token_is_valid_until_it_expires() {
        let root = Principal::root();
        let (token, _) = new("*", "read", Some(9)).make(&root, Micros(1)).expect("valid");
        assert!(token.is_valid(Micros(8)) && !token.is_valid(Micros(9)));
        let (token, _) = new("*", "read", None).make(&root, Micros(1)).expect("valid");
        assert!(token.is_valid(Micros(i64::MAX)));
    }
}
