//! What of a personal value is shown, and to whom.
//!
//! A value that identifies a person becomes text for an answer only through a [`Viewer`]:
//! [`Private`] can be neither serialized nor formatted. A viewer without the right to such
//! values writes a mask, with which one can still tell clients of one day apart, and networks.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ledger::record::Micros;

/// What stands for text of which nothing is shown.
pub const HIDDEN: &str = "…";

/// The microseconds of a UTC day, which has no leap seconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// The bytes of a masked id: of 10,000 clients of a day, two look alike once in 5 million days.
const ID_BYTES: usize = 9;

/// The longest word that is shown as it is.
const MAX_WORD: usize = 64;

/// A value that identifies a person, or may.
#[derive(Clone, Copy)]
pub enum Private<'a> {
    ClientId(&'a str),
    ClientName(&'a str),
    /// An IP address as text.
    Address(&'a str),
    UserAgent(&'a str),
    /// A path, and the key of `paths` whose rule governs it.
    Path {
        path: &'a str,
        rule: Option<&'a str>,
    },
    /// Any other text, such as an error message that may quote one of the above.
    Text(&'a str),
}

impl fmt::Debug for Private<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::ClientId(_) => "ClientId",
            Self::ClientName(_) => "ClientName",
            Self::Address(_) => "Address",
            Self::UserAgent(_) => "UserAgent",
            Self::Path { .. } => "Path",
            Self::Text(_) => "Text",
        };
        write!(f, "{name}({HIDDEN})")
    }
}

/// The secret from which the masks of ids are made. It is not in the database. (Its HMAC key has
/// more than a kilobyte.)
#[derive(Clone)]
pub struct MaskKey(Arc<hmac::Key>);

impl MaskKey {
    /// Derives the key from another secret.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&secret, b"nightporter mask v1");
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())))
    }

    /// Returns the key of one tenant, so that masks of two boxes cannot be compared.
    fn of_tenant(&self, tenant: &str) -> Arc<hmac::Key> {
        let derived = hmac::sign(&self.0, tenant.as_bytes());
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(***)")
    }
}

/// Who an answer is written for.
#[derive(Debug, Clone)]
pub struct Viewer(MaskMode);

#[derive(Clone)]
enum MaskMode {
    Clear,
    /// Without a key, ids are not even told apart.
    Masked(Option<Arc<hmac::Key>>),
}

impl fmt::Debug for MaskMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clear => "Clear",
            Self::Masked(_) => "Masked",
        })
    }
}

impl Viewer {
    /// Someone who may see everything: the right `pii`, or the owner of the files themselves.
    #[must_use]
    pub fn clear() -> Self {
        Self(MaskMode::Clear)
    }

    /// Someone who may not, and reads the values of a tenant.
    #[must_use]
    pub fn masked(key: Option<&MaskKey>, tenant: &str) -> Self {
        Self(MaskMode::Masked(key.map(|key| key.of_tenant(tenant))))
    }

    #[must_use]
    pub fn is_masked(&self) -> bool {
        matches!(self.0, MaskMode::Masked(_))
    }

    /// Returns the text of a value of this time.
    #[must_use]
    pub fn show(&self, value: Private<'_>, at: Micros) -> String {
        let MaskMode::Masked(key) = &self.0 else {
            let (Private::ClientId(text)
            | Private::ClientName(text)
            | Private::Address(text)
            | Private::UserAgent(text)
            | Private::Path { path: text, .. }
            | Private::Text(text)) = value;
            return text.to_owned();
        };
        match value {
            Private::ClientId(id) => match key {
                Some(key) => masked_id(key, id, at),
                None => HIDDEN.to_owned(),
            },
            Private::Address(address) => masked_address(address),
            Private::Path { path: _, rule } => {
                let rule = rule.filter(|rule| !rule.is_empty()).unwrap_or("/");
                format!("{rule}{HIDDEN}")
            }
            Private::ClientName(_) | Private::UserAgent(_) | Private::Text(_) => HIDDEN.to_owned(),
        }
    }

    /// Returns a word that this program chooses from a fixed set. A row that was altered may
    /// hold anything, so what does not look like such a word is masked.
    #[must_use]
    pub fn word<'a>(&self, word: &'a str) -> Cow<'a, str> {
        let is_letter = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b' ')
        };
        if self.is_masked() && !(word.len() <= MAX_WORD && word.bytes().all(is_letter)) {
            return HIDDEN.into();
        }
        word.into()
    }
}

/// The day is part of it, so that a client cannot be followed from one day to the next.
fn masked_id(key: &hmac::Key, id: &str, at: Micros) -> String {
    let mut message = at.0.div_euclid(DAY).to_be_bytes().to_vec();
    message.extend_from_slice(id.as_bytes());
    let code = hmac::sign(key, &message);
    format!("~{}", URL_SAFE_NO_PAD.encode(&code.as_ref()[..ID_BYTES]))
}

/// Returns the network of an address: /24 of IPv4, /56 of IPv6.
fn masked_address(text: &str) -> String {
    match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        Ok(IpAddr::V6(address)) => {
            let network = address.to_bits() & (u128::MAX << (128 - 56));
            format!("{}/56", Ipv6Addr::from_bits(network))
        }
        Err(_) => HIDDEN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Micros = Micros(20_000 * DAY + DAY / 2);

    fn masked(tenant: &str) -> Viewer {
        Viewer::masked(Some(&MaskKey::derive(b"secret")), tenant)
    }

    #[test]
    fn an_id_is_the_same_within_a_day_and_a_tenant_only() {
        let id = |viewer: &Viewer, id, at| viewer.show(Private::ClientId(id), at);
        let viewer = masked("box");
        let first = id(&viewer, "phone1", NOON);
        assert_eq!(first.len(), 13, "{first}");
        assert!(!first.contains("phone1"));
        assert_eq!(id(&masked("box"), "phone1", Micros(20_000 * DAY)), first);
        assert_eq!(id(&viewer, "phone1", Micros(20_001 * DAY - 1)), first);
        let others = [
            id(&viewer, "phone1", Micros(20_001 * DAY)),
            id(&viewer, "phone1", Micros(20_000 * DAY - 1)),
            id(&viewer, "phone2", NOON),
            id(&masked("other"), "phone1", NOON),
            id(&Viewer::masked(Some(&MaskKey::derive(b"other")), "box"), "phone1", NOON),
        ];
        assert!(!others.contains(&first), "{others:?}");
        assert_eq!(id(&Viewer::masked(None, "box"), "phone1", NOON), HIDDEN);
    }

    #[test]
    fn of_an_address_its_network_is_left_and_of_a_path_its_rule() {
        let viewer = masked("box");
        for (value, shown) in [
            (Private::Address("192.0.2.77"), "192.0.2.0/24"),
            (Private::Address("::ffff:192.0.2.77"), "192.0.2.0/24"),
            (Private::Address("2001:db8:1:2ff::77"), "2001:db8:1:200::/56"),
            (Private::Address("::1"), "::/56"),
            (Private::Address("phone1"), HIDDEN),
            (Private::ClientName("Paul's phone"), HIDDEN),
            (Private::UserAgent("Firefox"), HIDDEN),
            (Private::Text("no such file: /home/paul"), HIDDEN),
            (Private::Path { path: "/pub/paul", rule: Some("/pub/") }, "/pub/…"),
            (Private::Path { path: "/paul", rule: Some("") }, "/…"),
            (Private::Path { path: "/paul", rule: None }, "/…"),
        ] {
            assert_eq!(viewer.show(value, NOON), shown, "{value:?}");
        }
        let clear = Viewer::clear();
        assert_eq!(clear.show(Private::Address("192.0.2.77"), NOON), "192.0.2.77");
        let path = Private::Path { path: "/pub/paul", rule: Some("/pub/") };
        assert_eq!(clear.show(path, NOON), "/pub/paul");
        assert!(!clear.is_masked() && viewer.is_masked());
    }

    #[test]
    fn a_word_is_shown_if_it_can_be_one() {
        for word in ["terminal_required", "ok", "failed", "dead letters", ""] {
            assert_eq!(masked("box").word(word), word);
        }
        for text in ["Paul", "/home/paul", "a\nb", &"a".repeat(65), "müller"] {
            assert_eq!(masked("box").word(text), HIDDEN);
            assert_eq!(Viewer::clear().word(text), text);
        }
    }

    #[test]
    fn a_private_value_does_not_show_in_debug() {
        let text = format!("{:?}", [Private::ClientId("phone1"), Private::Text("phone1")]);
        assert!(!text.contains("phone1"), "{text}");
    }
}
