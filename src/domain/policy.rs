//! The decision: may this client use this path of this app?

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::app::{Access, PathRule};
use super::client::Client;
use super::reason::Reason;
use super::request::Readings;

/// How the keys of `paths` match a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathMatching {
    /// Plain prefix: `/pub` also governs `/public`.
    #[default]
    Prefix,
    /// Prefix that ends at a segment boundary: `/pub` governs `/pub` and `/pub/x`.
    Segment,
}

impl PathMatching {
    fn matches(self, prefix: &[u8], path: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(prefix) else {
            return false;
        };
        match self {
            Self::Prefix => true,
            Self::Segment => {
                rest.first().is_none_or(|byte| *byte == b'/')
                    || prefix.is_empty()
                    || prefix.ends_with(b"/")
            }
        }
    }
}

/// The index of the rule that governs one reading of a path: the longest
/// matching key. `paths` is ordered longest first.
#[must_use]
pub fn governing_rule(paths: &[PathRule], path: &[u8], matching: PathMatching) -> Option<usize> {
    paths.iter().position(|rule| matching.matches(rule.prefix.as_bytes(), path))
}

/// What all readings of one path ask of a client together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Governed {
    /// Index of the rule that governs the raw reading; its headers are the grant's.
    pub rule: usize,
    terminal: bool,
    peer: bool,
}

/// The text of a key or a path in one spelling, as a backend compares them that
/// does not care about letter case (Express, Windows) and decodes.
fn spelled_alike(text: &[u8]) -> Cow<'_, [u8]> {
    if text.contains(&b'%') {
        let decoded: Cow<'_, [u8]> = percent_decode(text).into();
        Cow::Owned(decoded.to_ascii_lowercase())
    } else if text.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Finds the rule of every reading; the strictest reading wins.
///
/// Each reading is asked twice: as it is written, and in one spelling with the
/// keys. So `/ADMIN` is no way around a private `/admin`, nor `/caf%c3%a9`
/// around `/caf%C3%A9`. The second question can only forbid.
///
/// # Errors
/// [`Reason::NoMatchingRule`] where a reading has no rule.
pub fn govern(
    paths: &[PathRule],
    readings: &Readings<'_>,
    matching: PathMatching,
) -> Result<Governed, Reason> {
    let rule = |path: &[u8]| governing_rule(paths, path, matching).ok_or(Reason::NoMatchingRule);
    let raw = rule(readings.raw())?;
    let mut governed = Governed { rule: raw, terminal: false, peer: false };
    governed.require(paths[raw].access);
    for reading in readings.others() {
        governed.require(paths[rule(reading)?].access);
    }
    for reading in std::iter::once(readings.raw()).chain(readings.others()) {
        governed.require_spelled_alike(paths, reading, matching);
    }
    Ok(governed)
}

impl Governed {
    fn require(&mut self, access: Access) {
        match access {
            Access::Public => {}
            Access::Private => self.terminal = true,
            Access::Peer => self.peer = true,
        }
    }

    /// Requires what the longest keys ask that are the path's beginning in some
    /// spelling; keys that differ in spelling alone count together.
    fn require_spelled_alike(
        &mut self,
        paths: &[PathRule],
        reading: &[u8],
        matching: PathMatching,
    ) {
        let path = spelled_alike(reading);
        let mut longest = 0;
        let mut asked = Self { rule: self.rule, terminal: false, peer: false };
        for rule in paths {
            let key = spelled_alike(rule.prefix.as_bytes());
            if key.len() < longest || !matching.matches(&key, &path) {
                continue;
            }
            if key.len() > longest {
                longest = key.len();
                asked = Self { terminal: false, peer: false, ..asked };
            }
            asked.require(rule.access);
        }
        self.terminal |= asked.terminal;
        self.peer |= asked.peer;
    }

    /// Whether every reading admits this client.
    ///
    /// # Errors
    /// What the client is missing.
    pub fn admit(&self, client: &Client) -> Result<(), Reason> {
        if self.terminal && !matches!(client, Client::Terminal(_)) {
            return Err(Reason::TerminalRequired);
        }
        if self.peer && !matches!(client, Client::Peer(_)) {
            return Err(Reason::PeerRequired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::client::Known;

    fn paths() -> Vec<PathRule> {
        [("/private", Access::Private), ("/peer", Access::Peer), ("/pub", Access::Public)]
            .map(|(prefix, access)| PathRule { prefix: prefix.into(), access, headers: [].into() })
            .into()
    }

    fn decide(path: &str, client: &Client, matching: PathMatching) -> Result<usize, Reason> {
        let readings = Readings::of(path).expect("readable");
        let governed = govern(&paths(), &readings, matching)?;
        governed.admit(client).map(|()| governed.rule)
    }

    fn known() -> Known {
        Known { id: Arc::from("id"), name: Arc::from("name") }
    }

    #[test]
    fn access_is_the_contracts() {
        use Reason::{NoMatchingRule, PeerRequired, TerminalRequired};
        let (terminal, peer) = (Client::Terminal(known()), Client::Peer(known()));
        for (path, client, expected) in [
            ("/pub", &Client::Anonymous, Ok(2)),
            ("/public", &Client::Anonymous, Ok(2)),
            ("/private/x", &Client::Anonymous, Err(TerminalRequired)),
            ("/private/x", &peer, Err(TerminalRequired)),
            ("/private/x", &terminal, Ok(0)),
            ("/peer", &terminal, Err(PeerRequired)),
            ("/peer", &peer, Ok(1)),
            ("/", &terminal, Err(NoMatchingRule)),
            ("/pub/../private", &Client::Anonymous, Err(TerminalRequired)),
            ("/pub/../private", &terminal, Ok(2)),
            ("/pub/..", &terminal, Err(NoMatchingRule)),
            ("/private/../peer", &terminal, Err(PeerRequired)),
            ("/private/../peer", &peer, Err(TerminalRequired)),
        ] {
            assert_eq!(decide(path, client, PathMatching::Prefix), expected, "{path}");
        }
    }

    #[test]
    fn segment_matching_ends_at_a_slash() {
        let decide = |path| decide(path, &Client::Anonymous, PathMatching::Segment);
        assert_eq!(decide("/pub"), Ok(2));
        assert_eq!(decide("/pub/x"), Ok(2));
        assert_eq!(decide("/public"), Err(Reason::NoMatchingRule));
    }

    #[test]
    fn another_spelling_of_a_key_is_no_way_around_it() {
        let rule = |prefix: &str, access| PathRule {
            prefix: prefix.into(),
            access,
            headers: std::collections::BTreeMap::new(),
        };
        let rules = [
            rule("/caf%C3%A9", Access::Private),
            rule("/admin/open", Access::Public),
            rule("/Admin", Access::Private),
            rule("/admin", Access::Private),
            rule("", Access::Public),
        ];
        let granted = |path| {
            let readings = Readings::of(path).expect("readable");
            govern(&rules, &readings, PathMatching::Prefix)
                .is_ok_and(|governed| governed.admit(&Client::Anonymous).is_ok())
        };
        for path in [
            "/admin",
            "/ADMIN",
            "/x/../aDmIn/x",
            "/%41DMIN",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/c%61f%C3%A9",
            "/CAF%c3%A9",
            "/caf%25C3%25A9",
            "//host/Admin",
        ] {
            assert!(!granted(path), "{path}");
        }
        for path in ["/", "/Other", "/admin/open", "/ADMIN/Open/x", "/cafe"] {
            assert!(granted(path), "{path}");
        }
    }
}
