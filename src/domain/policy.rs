//! The decision: may this client use this path of this app?

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

/// Finds the rule of every reading; the strictest reading wins.
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
}
