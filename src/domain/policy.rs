//! Decides whether a client may use a path of an app.

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

/// Returns the decoded form of a key, if decoding yields only bytes without a meaning in
/// a path, such as those of `/caf%C3%A9`. A key governs requests in its own spelling, so
/// it also governs the decoded reading of these.
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

/// Returns the index of the rule that governs one reading of a path: the longest matching
/// key. `paths` must be ordered longest first.
#[must_use]
pub fn governing_rule(paths: &[PathRule], path: &[u8], matching: PathMatching) -> Option<usize> {
    paths.iter().position(|rule| matching.matches(rule.prefix.as_bytes(), path))
}

/// Like [`governing_rule`], for a reading other than the raw one: decoded keys count,
/// too.
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

/// An app's rules, prepared for deciding; built once when the app is loaded.
#[derive(Debug)]
pub struct Rules {
    matching: PathMatching,
    /// Keys as written, with the index of each rule.
    keys: Prefixes<usize>,
    /// Keys as written and decoded, for readings other than the raw one.
    reading_keys: Prefixes<Requirement>,
    /// The requirement of each rule.
    requirements: Box<[Requirement]>,
    /// Normalized keys; the requirements of keys that differ only in spelling are
    /// combined.
    normalized: Prefixes<Requirement>,
    /// The combined requirements of all rules.
    strictest: Requirement,
    /// Whether a rule governs every path that no other rule does.
    covers_all: bool,
    /// Whether all paths have the same requirement.
    is_uniform: bool,
}

/// What a path requires of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Requirement {
    terminal: bool,
    peer: bool,
}

impl Requirement {
    fn new(access: Access) -> Self {
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
        let mut normalized: BTreeMap<Vec<u8>, Requirement> = BTreeMap::new();
        let mut reading_keys: BTreeMap<Vec<u8>, Requirement> = BTreeMap::new();
        for PathRule { prefix, access, .. } in paths {
            let add = |keys: &mut BTreeMap<Vec<u8>, Requirement>, key: Vec<u8>| {
                let required = keys.entry(key).or_default();
                *required = required.and(Requirement::new(*access));
            };
            add(&mut normalized, normalize(prefix.as_bytes()).into_owned());
            add(&mut reading_keys, prefix.as_bytes().to_vec());
            if let Some(decoded) = decoded_key(prefix) {
                add(&mut reading_keys, decoded);
            }
        }
        let covers_all = paths.iter().any(|rule| matches!(&*rule.prefix, "" | "/"));
        let first = paths.first().map(|rule| rule.access);
        let have_same_access = paths.iter().all(|rule| Some(rule.access) == first);
        Self {
            matching,
            strictest: normalized.values().copied().fold(Requirement::default(), Requirement::and),
            keys: Prefixes::new(keys),
            reading_keys: Prefixes::new(reading_keys.into_iter()),
            requirements: paths.iter().map(|rule| Requirement::new(rule.access)).collect(),
            normalized: Prefixes::new(normalized.into_iter()),
            covers_all,
            is_uniform: covers_all && have_same_access,
        }
    }

    /// Returns the rule of the raw reading, and its requirement.
    fn rule_of_raw(&self, path: &[u8]) -> Result<(usize, Requirement), Reason> {
        let rule = self.keys.longest(path, self.matching).copied();
        let required = rule.and_then(|rule| Some((rule, *self.requirements.get(rule)?)));
        required.ok_or(Reason::NoMatchingRule)
    }

    /// Returns the requirement of the rule of another reading.
    fn requirement_of(&self, path: &[u8]) -> Result<Requirement, Reason> {
        self.reading_keys.longest(path, self.matching).copied().ok_or(Reason::NoMatchingRule)
    }

    /// Returns the requirement of the longest normalized key that is a prefix of the
    /// normalized path.
    fn normalized_requirement(&self, path: &[u8]) -> Requirement {
        // Three bytes decode to one, and at most the longest key and the byte after it
        // are compared; an escape that is cut off comes after these.
        let end = (3 * (self.normalized.longest_key + 1) + 2).min(path.len());
        let path = normalize(&path[..end]);
        self.normalized.longest(&path, self.matching).copied().unwrap_or_default()
    }

    /// Returns whether all paths have the same requirement, so that no reading matters.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        self.is_uniform
    }
}

/// A set of keys for finding the longest one that is a prefix of a text.
#[derive(Debug)]
struct Prefixes<T> {
    /// Sorted by their bytes.
    keys: Vec<Key<T>>,
    longest_key: usize,
}

#[derive(Debug)]
struct Key<T> {
    text: Box<[u8]>,
    /// Index of the longest other key that is a prefix of this one.
    outer: Option<usize>,
    value: T,
}

impl<T> Prefixes<T> {
    fn new(keys: impl Iterator<Item = (Vec<u8>, T)>) -> Self {
        let mut sorted: Vec<_> = keys.collect();
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut keys: Vec<Key<T>> = Vec::with_capacity(sorted.len());
        let mut enclosing: Vec<usize> = Vec::new();
        for (text, value) in sorted {
            while enclosing.pop_if(|outer| !text.starts_with(&keys[*outer].text)).is_some() {}
            let outer = enclosing.last().copied();
            enclosing.push(keys.len());
            keys.push(Key { text: text.into(), outer, value });
        }
        let longest_key = keys.iter().map(|key| key.text.len()).max().unwrap_or(0);
        Self { keys, longest_key }
    }

    /// Returns the value of the longest key that matches.
    ///
    /// Every key that is a prefix of the text is the last key not greater than the text,
    /// or one of that key's outer keys.
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

/// The rule of a path, and the combined requirements of all its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleMatch {
    /// Index of the rule that governs the raw reading; a grant carries its headers.
    pub rule: usize,
    required: Requirement,
}

/// Normalizes a key or a path as a backend does that ignores letter case (Express,
/// Windows) and decodes.
fn normalize(text: &[u8]) -> Cow<'_, [u8]> {
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
/// Each reading is matched twice: as it is, and normalized against normalized keys. So
/// `/ADMIN` does not bypass a private `/admin`, nor `/caf%c3%a9` a private `/caf%C3%A9`.
/// The second match can only add requirements.
///
/// A path is read only as far as needed: not at all if all paths have the same
/// requirement, and otherwise until the combined requirement of all rules is reached.
///
/// # Errors
/// [`Reason::NoMatchingRule`] if a reading has no rule, [`Reason::AmbiguousPath`] if
/// there are too many readings.
pub fn match_rules(rules: &Rules, readings: &Readings<'_>) -> Result<RuleMatch, Reason> {
    let (rule, mut required) = rules.rule_of_raw(readings.raw())?;
    if rules.is_uniform {
        return Ok(RuleMatch { rule, required });
    }
    required = required.and(rules.normalized_requirement(readings.raw()));
    let is_strictest = |required: Requirement| rules.covers_all && required == rules.strictest;
    if is_strictest(required) {
        return Ok(RuleMatch { rule, required });
    }
    let mut is_governed = Ok(());
    readings.for_each_other(|reading| {
        match rules.requirement_of(reading) {
            Ok(more) => required = required.and(more),
            Err(reason) => {
                is_governed = Err(reason);
                return ControlFlow::Break(());
            }
        }
        required = required.and(rules.normalized_requirement(reading));
        if is_strictest(required) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    is_governed.map(|()| RuleMatch { rule, required })
}

impl RuleMatch {
    /// Checks that every reading admits this client.
    ///
    /// # Errors
    /// The credential that the client lacks.
    pub fn admit(&self, client: Client<'_>) -> Result<(), Reason> {
        if self.required.terminal && !matches!(client, Client::Terminal(_)) {
            return Err(Reason::TerminalRequired);
        }
        if self.required.peer && !matches!(client, Client::Peer(_)) {
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
    use crate::domain::client::KnownClient;

    fn paths() -> Vec<PathRule> {
        [("/private", Access::Private), ("/peer", Access::Peer), ("/pub", Access::Public)]
            .map(|(prefix, access)| PathRule { prefix: prefix.into(), access, headers: [].into() })
            .into()
    }

    fn decide(path: &str, client: Client<'_>, matching: PathMatching) -> Result<usize, Reason> {
        let readings = Readings::new(path).expect("readable");
        let governed = match_rules(&Rules::new(&paths(), matching), &readings)?;
        governed.admit(client).map(|()| governed.rule)
    }

    fn known() -> KnownClient {
        KnownClient { id: Arc::from("id"), name: Arc::from("name") }
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
            let readings = Readings::new(path).expect("readable");
            match_rules(&Rules::new(&rules, PathMatching::Prefix), &readings)
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
            let governed = match_rules(&rules, &Readings::new(path).expect("a path"));
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
            // Bytes with a meaning in a path make it a different path.
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
            let governed = match_rules(&rules, &Readings::new(path).expect("a path"))?;
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
            assert_eq!(
                decide(&mixed, path),
                Err(Reason::TerminalRequired),
                "it is the strictest already"
            );
        }
        let mixed = [rule("", Access::Public), rule("/admin", Access::Private)];
        assert_eq!(decide(&mixed, &endless), Err(Reason::AmbiguousPath));
        assert_eq!(decide(&mixed, &spaces), Ok(()));
        // A single rule that does not cover all paths is not uniform.
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
                let found = Rules::new(&rules, matching).rule_of_raw(path.as_bytes()).ok();
                let path = path.as_bytes();
                let matches = |rule: &&PathRule| matching.matches(rule.prefix.as_bytes(), path);
                let expected = rules.iter().filter(matches).max_by_key(|rule| rule.prefix.len());
                let found = found.map(|(index, _)| &rules[index].prefix);
                prop_assert_eq!(found, expected.map(|rule| &rule.prefix));
            }
        }
    }
}
