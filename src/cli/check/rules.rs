//! Finds path rules that never apply, or apply to more paths than it seems.

use crate::domain::app::{Access, PathRule};
use crate::domain::policy::{PathMatching, governing_rule, rule_of_reading};
use crate::domain::request::Readings;

/// A warning about one rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RuleWarning {
    pub prefix: String,
    pub problem: String,
    pub hint: String,
}

/// Returns the warnings about an app's rules; `paths` is ordered longest first.
pub(super) fn rule_warnings(paths: &[PathRule], matching: PathMatching) -> Vec<RuleWarning> {
    let rules = Rules { paths, matching };
    (0..paths.len()).filter_map(|rule| rules.warning(rule)).collect()
}

struct Rules<'a> {
    paths: &'a [PathRule],
    matching: PathMatching,
}

impl Rules<'_> {
    /// Returns the first warning about a rule: one that never applies needs no second.
    fn warning(&self, rule: usize) -> Option<RuleWarning> {
        let (problem, hint) = self
            .unreachable(rule)
            .or_else(|| self.many_readings(rule))
            .or_else(|| self.open_end(rule))
            .or_else(|| self.folder_without_slash(rule))?;
        Some(RuleWarning { prefix: self.paths[rule].prefix.clone(), problem, hint })
    }

    fn governing(&self, path: &[u8]) -> Option<&PathRule> {
        governing_rule(self.paths, path, self.matching).map(|rule| &self.paths[rule])
    }

    /// Returns the rule that would govern a path if this rule did not exist.
    fn governing_without(&self, rule: usize, path: &[u8]) -> Option<&PathRule> {
        let (before, after) = (&self.paths[..rule], &self.paths[rule + 1..]);
        [before, after]
            .into_iter()
            .find_map(|paths| governing_rule(paths, path, self.matching).map(|found| &paths[found]))
    }

    fn unreachable(&self, rule: usize) -> Option<(String, String)> {
        let prefix = &self.paths[rule].prefix;
        if prefix.is_empty() {
            let shadow = self.governing(b"/").filter(|governing| !governing.prefix.is_empty())?;
            let problem = format!("never applies: {} governs every path", describe(shadow));
            return Some((problem, "keep one of the two".into()));
        }
        if !prefix.starts_with('/') {
            let problem = "never applies: every path begins with `/`".into();
            return Some((problem, format!("write `/{prefix}`")));
        }
        if prefix.contains(['?', '#']) {
            let problem = "never applies: query and fragment are not part of a path".into();
            return Some((problem, "end the key before the `?` or `#`".into()));
        }
        None
    }

    /// Warns about a key that can be read as another path: the strictest reading wins, so
    /// that path's rule governs it too.
    fn many_readings(&self, rule: usize) -> Option<(String, String)> {
        let PathRule { prefix, access, headers: _ } = &self.paths[rule];
        if prefix.is_empty() {
            return None;
        }
        let hint = "write the path plainly: decoded, without dot segments and repeated slashes";
        let Ok(others) = Readings::new(prefix).and_then(|readings| readings.others()) else {
            return Some(("can be read in too many ways".into(), hint.into()));
        };
        let rule_of = |reading: &[u8]| rule_of_reading(self.paths, reading, self.matching);
        let others =
            others.iter().map(|reading| (reading, rule_of(reading).map(|rule| &self.paths[rule])));
        // The longest reading is the most informative one.
        let (reading, governing) = others
            .filter(|(_, governing)| governing.is_none_or(|rule| rule.access != *access))
            .max_by_key(|(reading, _)| (reading.len(), *reading))?;
        let rule = governing.map_or_else(|| "no rule".to_owned(), describe);
        let reading = String::from_utf8_lossy(reading);
        Some((format!("can be read as `{reading}` too, which {rule} governs"), hint.into()))
    }

    /// Warns about a prefix that ends inside a segment and so includes siblings.
    fn open_end(&self, rule: usize) -> Option<(String, String)> {
        let PathRule { prefix, access, headers: _ } = &self.paths[rule];
        if self.matching == PathMatching::Segment || prefix.is_empty() || prefix.ends_with('/') {
            return None;
        }
        // No other key continues with this byte.
        let sibling = [prefix.as_bytes(), b"\x01"].concat();
        let outer = self.governing_without(rule, &sibling);
        if !looser(*access, outer.map(|outer| outer.access)) {
            return None;
        }
        let outer = outer.map_or_else(|| "no rule".to_owned(), describe);
        let problem = format!(
            "is {} and ends inside a segment: `{prefix}x` and `{prefix}-y/z` are too, \
             where {outer} would govern",
            access_name(*access),
        );
        let hint = format!(
            "write `{prefix}/` if a folder is meant, or set `gate.path_matching = \"segment\"`"
        );
        Some((problem, hint))
    }

    /// Warns about a key such as `/admin/`, which does not govern `/admin`: most apps answer
    /// both in the same way.
    fn folder_without_slash(&self, rule: usize) -> Option<(String, String)> {
        let PathRule { prefix, access, headers: _ } = &self.paths[rule];
        let folder = prefix.strip_suffix('/').filter(|folder| !folder.is_empty())?;
        let outer = self.governing(folder.as_bytes())?;
        if outer.access != Access::Public || *access == Access::Public {
            return None;
        }
        let problem = format!(
            "is {} and leaves out `{folder}` itself, which {} governs",
            access_name(*access),
            describe(outer)
        );
        Some((problem, format!("write `{folder}`, or add it as a key of its own")))
    }
}

/// Returns whether `one` admits a client that `other` denies.
fn looser(one: Access, other: Option<Access>) -> bool {
    match other {
        Some(Access::Public) => false,
        Some(other) => one != other,
        None => one == Access::Public,
    }
}

fn describe(rule: &PathRule) -> String {
    format!("`{}` ({})", rule.prefix, access_name(rule.access))
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Public => "public",
        Access::Private => "private",
        Access::Peer => "peer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(rules: &[(&str, Access)], matching: PathMatching) -> Vec<String> {
        let mut paths: Vec<_> = rules
            .iter()
            .map(|(prefix, access)| PathRule {
                prefix: (*prefix).into(),
                access: *access,
                headers: [].into(),
            })
            .collect();
        paths.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        let warnings = rule_warnings(&paths, matching).into_iter();
        warnings.map(|RuleWarning { prefix, problem, .. }| format!("{prefix}: {problem}")).collect()
    }

    use Access::{Peer, Private, Public};
    use PathMatching::{Prefix, Segment};

    #[test]
    fn plain_rules_are_beyond_doubt() {
        for rules in [
            &[("", Private)][..],
            &[("", Public)],
            &[("", Private), ("/pub/", Public), ("/peer/", Peer)],
            &[("", Public), ("/admin", Private)],
            &[("", Private), ("/api", Private)],
            &[("/", Private), ("/a/", Public), ("/a/b", Private)],
        ] {
            assert_eq!(problems(rules, Prefix), Vec::<String>::new(), "{rules:?}");
        }
    }

    #[test]
    fn a_prefix_that_takes_siblings_along_is_looser_than_it_looks() {
        for (rules, problem) in [
            (&[("", Private), ("/pub", Public)][..], "/pub: is public and ends inside a segment"),
            (&[("/pub", Public)], "where no rule would govern"),
            (&[("", Private), ("/sync", Peer)], "/sync: is peer and ends inside"),
            (&[("", Peer), ("/own", Private)], "where `` (peer) would govern"),
            (&[("", Private), ("/a", Public), ("/ab", Private)], "/a: is public and ends inside"),
        ] {
            let found = problems(rules, Prefix);
            assert!(found.len() == 1 && found[0].contains(problem), "{problem}: {found:?}");
            assert_eq!(problems(rules, Segment), Vec::<String>::new(), "{rules:?}");
        }
    }

    #[test]
    fn a_folder_whose_own_name_is_left_open_is_looser_than_it_looks() {
        let found = problems(&[("", Public), ("/admin/", Private)], Prefix);
        assert_eq!(
            found,
            ["/admin/: is private and leaves out `/admin` itself, which `` (public) governs"]
        );
        let both = [("", Public), ("/admin/", Private), ("/admin", Private)];
        assert_eq!(problems(&both, Prefix), Vec::<String>::new());
    }

    #[test]
    fn rules_that_never_apply_are_found() {
        for (rules, problem) in [
            (
                &[("", Private), ("/", Public)][..],
                ": never applies: `/` (public) governs every path",
            ),
            (&[("", Private), ("pub/", Public)], "pub/: never applies: every path begins with"),
            (&[("", Private), ("/pub?x=1", Public)], "query and fragment"),
        ] {
            for matching in [Prefix, Segment] {
                let found = problems(rules, matching);
                assert!(found.len() == 1 && found[0].contains(problem), "{problem}: {found:?}");
            }
        }
    }

    #[test]
    fn a_key_that_reads_as_another_path_is_found() {
        for (key, reading) in [
            ("/a%2Fb/", "`/a/b/`"),
            ("/x/../y/", "`/y/`"),
            ("//cdn/", "`/cdn/`"),
            ("/v;1/", "`/v/`"),
        ] {
            let found = problems(&[("", Private), (key, Public)], Prefix);
            let expected =
                format!("{key}: can be read as {reading} too, which `` (private) governs");
            assert!(found.contains(&expected), "{expected}: {found:?}");
        }
        assert_eq!(problems(&[("", Private), ("/a%2Fb/", Private)], Prefix), Vec::<String>::new());
        assert_eq!(
            problems(&[("", Private), ("/caf%C3%A9/", Public)], Prefix),
            Vec::<String>::new()
        );
    }
}
