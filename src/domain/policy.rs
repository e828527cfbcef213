//! The decision: may this client use this path of this app?

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

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

/// A key as a backend has it that decodes, where that leaves its structure as it is: of
/// bytes that mean nothing in a path, such as those of `/caf%C3%A9`. It governs what is
/// sent in its own spelling, so it governs the reading of that, too.
#[must_use]
pub fn decoded_key(prefix: &str) -> Option<Vec<u8>> {
    let decoded: Vec<u8> = percent_decode(prefix.as_bytes()).collect();
    let special = |text: &[u8]| text.iter().filter(|byte| b"/\\.;%?#\0".contains(byte)).count();
    let escapes = prefix.bytes().filter(|byte| *byte == b'%').count();
    let is_plain = escapes > 0
        && special(&decoded) + escapes == special(prefix.as_bytes())
        && std::str::from_utf8(&decoded).is_ok();
    is_plain.then_some(decoded)
}

/// The index of the rule that governs one reading of a path: the longest
/// matching key. `paths` is ordered longest first.
#[must_use]
pub fn governing_rule(paths: &[PathRule], path: &[u8], matching: PathMatching) -> Option<usize> {
    paths.iter().position(|rule| matching.matches(rule.prefix.as_bytes(), path))
}

/// As [`governing_rule`], for a reading that is not the raw one: keys count as they are
/// decoded, too.
#[must_use]
pub fn rule_of_reading(paths: &[PathRule], path: &[u8], matching: PathMatching) -> Option<usize> {
    let matches = |key: &[u8]| matching.matches(key, path).then_some(key.len());
    let longest = paths.iter().enumerate().filter_map(|(rule, PathRule { prefix, .. })| {
        let decoded = decoded_key(prefix).and_then(|key| matches(&key));
        let length = matches(prefix.as_bytes()).max(decoded)?;
        Some((length, std::cmp::Reverse(rule)))
    });
    longest.max().map(|(_, std::cmp::Reverse(rule))| rule)
}

/// What an app's rules say, prepared for deciding: made once when the app is loaded.
#[derive(Debug)]
pub struct Rules {
    matching: PathMatching,
    /// As they are written: the index of each rule.
    keys: Prefixes<usize>,
    /// As they are written and as they are decoded, for readings that are not the raw one.
    read: Prefixes<Asked>,
    /// What each rule asks.
    accesses: Box<[Asked]>,
    /// In one spelling; keys that differ in spelling alone count together.
    alike: Prefixes<Asked>,
    /// Everything that any rule asks.
    most: Asked,
    /// Whether some rule governs whatever no other does.
    covers_all: bool,
    /// Whether they say the same of every path.
    is_uniform: bool,
}

/// What is asked of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Asked {
    terminal: bool,
    peer: bool,
}

impl Asked {
    fn by(access: Access) -> Self {
        Self { terminal: access == Access::Private, peer: access == Access::Peer }
    }

    fn and(self, other: Self) -> Self {
        Self { terminal: self.terminal | other.terminal, peer: self.peer | other.peer }
    }
}

impl Rules {
    /// Prepares `paths`, which may be in any order.
    #[must_use]
    pub fn new(paths: &[PathRule], matching: PathMatching) -> Self {
        let keys = paths.iter().map(|rule| rule.prefix.as_bytes().to_vec()).zip(0..);
        let mut alike: BTreeMap<Vec<u8>, Asked> = BTreeMap::new();
        let mut read: BTreeMap<Vec<u8>, Asked> = BTreeMap::new();
        for PathRule { prefix, access, .. } in paths {
            let add = |keys: &mut BTreeMap<Vec<u8>, Asked>, key: Vec<u8>| {
                let asked = keys.entry(key).or_default();
                *asked = asked.and(Asked::by(*access));
            };
            add(&mut alike, spelled_alike(prefix.as_bytes()).into_owned());
            add(&mut read, prefix.as_bytes().to_vec());
            if let Some(decoded) = decoded_key(prefix) {
                add(&mut read, decoded);
            }
        }
        let covers_all = paths.iter().any(|rule| matches!(&*rule.prefix, "" | "/"));
        let first = paths.first().map(|rule| rule.access);
        let all_the_same = paths.iter().all(|rule| Some(rule.access) == first);
        Self {
            matching,
            most: alike.values().copied().fold(Asked::default(), Asked::and),
            keys: Prefixes::new(keys),
            read: Prefixes::new(read.into_iter()),
            accesses: paths.iter().map(|rule| Asked::by(rule.access)).collect(),
            alike: Prefixes::new(alike.into_iter()),
            covers_all,
            is_uniform: covers_all && all_the_same,
        }
    }

    /// The rule of the raw reading, and what it asks.
    fn of_raw(&self, path: &[u8]) -> Result<(usize, Asked), Reason> {
        let rule = self.keys.longest(path, self.matching).copied();
        let asked = rule.and_then(|rule| Some((rule, *self.accesses.get(rule)?)));
        asked.ok_or(Reason::NoMatchingRule)
    }

    /// What the rule of another reading asks.
    fn of_reading(&self, path: &[u8]) -> Result<Asked, Reason> {
        self.read.longest(path, self.matching).copied().ok_or(Reason::NoMatchingRule)
    }

    /// What the longest keys ask that are the path's beginning in some spelling.
    fn asked_alike(&self, path: &[u8]) -> Asked {
        // Three bytes decode to one, and no more is compared than the longest key and the
        // byte after it; an escape that is cut in two comes behind them.
        let end = (3 * (self.alike.longest_key + 1) + 2).min(path.len());
        let path = spelled_alike(&path[..end]);
        self.alike.longest(&path, self.matching).copied().unwrap_or_default()
    }

    /// Whether the rules say the same of every path, so that no reading matters.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        self.is_uniform
    }
}

/// Keys, for finding the longest one that a text begins with.
#[derive(Debug)]
struct Prefixes<T> {
    /// In the order of their bytes.
    keys: Vec<Key<T>>,
    longest_key: usize,
}

#[derive(Debug)]
struct Key<T> {
    text: Box<[u8]>,
    /// The longest other key that this one begins with.
    outer: Option<usize>,
    value: T,
}

impl<T> Prefixes<T> {
    fn new(keys: impl Iterator<Item = (Vec<u8>, T)>) -> Self {
        let mut sorted: Vec<_> = keys.collect();
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut keys: Vec<Key<T>> = Vec::with_capacity(sorted.len());
        let mut within: Vec<usize> = Vec::new();
        for (text, value) in sorted {
            while within.pop_if(|outer| !text.starts_with(&keys[*outer].text)).is_some() {}
            let outer = within.last().copied();
            within.push(keys.len());
            keys.push(Key { text: text.into(), outer, value });
        }
        let longest_key = keys.iter().map(|key| key.text.len()).max().unwrap_or(0);
        Self { keys, longest_key }
    }

    /// The value of the longest key that matches.
    ///
    /// Every key that the text begins with is the last one that is not greater than the
    /// text, or an outer one of that.
    fn longest(&self, text: &[u8], matching: PathMatching) -> Option<&T> {
        let mut at = self.keys.partition_point(|key| *key.text <= *text).checked_sub(1);
        while let Some(key) = at.and_then(|at| self.keys.get(at)) {
            if matching.matches(&key.text, text) {
                return Some(&key.value);
            }
            at = key.outer;
        }
        None
    }
}

/// What all readings of one path ask of a client together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Governed {
    /// Index of the rule that governs the raw reading; its headers are the grant's.
    pub rule: usize,
    asked: Asked,
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
/// A path is read no further than it matters: not at all where the rules say the same
/// of every path, and only until as much is asked as any rule asks.
///
/// # Errors
/// [`Reason::NoMatchingRule`] where a reading has no rule, [`Reason::AmbiguousPath`]
/// where there are too many of them.
pub fn govern(rules: &Rules, readings: &Readings<'_>) -> Result<Governed, Reason> {
    let (rule, mut asked) = rules.of_raw(readings.raw())?;
    if rules.is_uniform {
        return Ok(Governed { rule, asked });
    }
    asked = asked.and(rules.asked_alike(readings.raw()));
    let is_most = |asked: Asked| rules.covers_all && asked == rules.most;
    if is_most(asked) {
        return Ok(Governed { rule, asked });
    }
    let mut is_governed = Ok(());
    readings.each_other(|reading| {
        match rules.of_reading(reading) {
            Ok(more) => asked = asked.and(more),
            Err(reason) => {
                is_governed = Err(reason);
                return ControlFlow::Break(());
            }
        }
        asked = asked.and(rules.asked_alike(reading));
        if is_most(asked) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    is_governed.map(|()| Governed { rule, asked })
}

impl Governed {
    /// Whether every reading admits this client.
    ///
    /// # Errors
    /// What the client is missing.
    pub fn admit(&self, client: Client<'_>) -> Result<(), Reason> {
        if self.asked.terminal && !matches!(client, Client::Terminal(_)) {
            return Err(Reason::TerminalRequired);
        }
        if self.asked.peer && !matches!(client, Client::Peer(_)) {
            return Err(Reason::PeerRequired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::client::Known;

    fn paths() -> Vec<PathRule> {
        [("/private", Access::Private), ("/peer", Access::Peer), ("/pub", Access::Public)]
            .map(|(prefix, access)| PathRule { prefix: prefix.into(), access, headers: [].into() })
            .into()
    }

    fn decide(path: &str, client: Client<'_>, matching: PathMatching) -> Result<usize, Reason> {
        let readings = Readings::of(path).expect("readable");
        let governed = govern(&Rules::new(&paths(), matching), &readings)?;
        governed.admit(client).map(|()| governed.rule)
    }

    fn known() -> Known {
        Known { id: Arc::from("id"), name: Arc::from("name") }
    }

    #[test]
    fn access_is_the_contracts() {
        use Reason::{NoMatchingRule, PeerRequired, TerminalRequired};
        let known = known();
        let (terminal, peer) = (Client::Terminal(&known), Client::Peer(&known));
        for (path, client, expected) in [
            ("/pub", Client::Anonymous, Ok(2)),
            ("/public", Client::Anonymous, Ok(2)),
            ("/private/x", Client::Anonymous, Err(TerminalRequired)),
            ("/private/x", peer, Err(TerminalRequired)),
            ("/private/x", terminal, Ok(0)),
            ("/peer", terminal, Err(PeerRequired)),
            ("/peer", peer, Ok(1)),
            ("/", terminal, Err(NoMatchingRule)),
            ("/pub/../private", Client::Anonymous, Err(TerminalRequired)),
            ("/pub/../private", terminal, Ok(2)),
            ("/pub/..", terminal, Err(NoMatchingRule)),
            ("/private/../peer", terminal, Err(PeerRequired)),
            ("/private/../peer", peer, Err(TerminalRequired)),
        ] {
            assert_eq!(decide(path, client, PathMatching::Prefix), expected, "{path}");
        }
    }

    #[test]
    fn segment_matching_ends_at_a_slash() {
        let decide = |path| decide(path, Client::Anonymous, PathMatching::Segment);
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
            govern(&Rules::new(&rules, PathMatching::Prefix), &readings)
                .is_ok_and(|governed| governed.admit(Client::Anonymous).is_ok())
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

    #[test]
    fn a_key_governs_what_is_sent_in_its_spelling() {
        let rule = |prefix: &str, access| PathRule {
            prefix: prefix.into(),
            access,
            headers: BTreeMap::new(),
        };
        let decide = |key: &str, path: &str| {
            let rules = [rule(key, Access::Public), rule("", Access::Private)];
            let rules = Rules::new(&rules, PathMatching::Prefix);
            let governed = govern(&rules, &Readings::of(path).expect("a path"));
            governed.and_then(|governed| governed.admit(Client::Anonymous)).is_ok()
        };
        for (key, path, granted) in [
            ("/caf%C3%A9", "/caf%C3%A9", true),
            ("/caf%C3%A9", "/caf%C3%A9/x?y", true),
            ("/caf%C3%A9", "/caf%c3%a9", false),
            ("/caf%C3%A9", "/café", false),
            ("/caf%C3%A9", "/caf%C3%A9/../x", false),
            ("/caf%C3%A9", "/caf%25C3%25A9", false),
            ("/a%20b", "/a%20b/c", true),
            ("/a%20b", "/a%20b/%2e%2e/c", false),
            // What a backend may take for more than a letter is another path.
            ("/a%2Fb", "/a%2Fb", false),
            ("/a%2e%2e/", "/a%2e%2e/", false),
            ("/a%3Bb", "/a%3Bb", false),
            ("/a%2541", "/a%2541", false),
            ("/a%5Cb", "/a%5Cb", false),
            ("/a%C0%AF", "/a%C0%AF", false),
        ] {
            assert_eq!(decide(key, path), granted, "{key} {path}");
        }
    }

    #[test]
    fn where_all_rules_say_the_same_no_path_is_ambiguous() {
        let endless = "/a%252f..%2f\\..%5c;x%3by/%252e%252e;%253b//".repeat(40);
        let spaces = format!("/{}", "%20".repeat(3500));
        let rule = |prefix: &str, access| PathRule {
            prefix: prefix.into(),
            access,
            headers: BTreeMap::new(),
        };
        let decide = |rules: &[PathRule], path: &str| {
            let rules = Rules::new(rules, PathMatching::Prefix);
            let governed = govern(&rules, &Readings::of(path).expect("a path"))?;
            governed.admit(Client::Anonymous)
        };
        for path in [&endless, &spaces] {
            assert_eq!(decide(&[rule("", Access::Public)], path), Ok(()));
            assert_eq!(
                decide(&[rule("/", Access::Public), rule("/a", Access::Public)], path),
                Ok(())
            );
            let private = [rule("", Access::Private), rule("/a", Access::Private)];
            assert_eq!(decide(&private, path), Err(Reason::TerminalRequired));
            let mixed = [rule("", Access::Private), rule("/pub", Access::Public)];
            assert_eq!(decide(&mixed, path), Err(Reason::TerminalRequired), "no more can be asked");
        }
        let mixed = [rule("", Access::Public), rule("/admin", Access::Private)];
        assert_eq!(decide(&mixed, &endless), Err(Reason::AmbiguousPath));
        assert_eq!(decide(&mixed, &spaces), Ok(()));
        // One rule that leaves paths out says two things.
        assert_eq!(decide(&[rule("/a", Access::Public)], "/a/../b"), Err(Reason::NoMatchingRule));
    }

    proptest! {
        #[test]
        fn the_longest_key_is_found(
            keys in prop::collection::btree_set("[/ab]{0,4}", 0..12),
            path in "/[/ab]{0,6}",
        ) {
            let rules: Vec<_> = keys.iter().map(|key| PathRule {
                prefix: key.clone(), access: Access::Public, headers: BTreeMap::new(),
            }).collect();
            for matching in [PathMatching::Prefix, PathMatching::Segment] {
                let found = Rules::new(&rules, matching).of_raw(path.as_bytes()).ok();
                let matches = |rule: &&PathRule| matching.matches(rule.prefix.as_bytes(), path.as_bytes());
                let expected = rules.iter().filter(matches).max_by_key(|rule| rule.prefix.len());
                let found = found.map(|(index, _)| &rules[index].prefix);
                prop_assert_eq!(found, expected.map(|rule| &rule.prefix));
            }
        }
    }
}
