//! All readings of a path, that is, every path that a backend might take it for.
//!
//! Backends differ in what they do to a path before they act on it: decode it, once or
//! (behind a proxy that decodes too) twice, IIS's `%u002e` included; fold `.` and `..`;
//! fold repeated slashes; take `\` for `/`; decode overlong UTF-8; cut matrix parameters;
//! cut again at a `?`, `#` or NUL that decoding revealed, or not cut at a `#`; remove tabs and
//! line breaks that decoding revealed; take `//x` for the name of a host. The readings are the results of all sequences of these steps,
//! so that a rule can be found for each. Letter case is left to the policy.
//!
//! Anyone may send any path, so the work for one is bounded: in readings, and in bytes
//! that are read or copied. A path that needs more is refused.

mod steps;

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::ops::ControlFlow;

use self::steps::{PossibleSteps, Step};
use crate::domain::reason::Reason;

/// Maximum number of readings of a path; with more it counts as ambiguous. Legitimate
/// paths have fewer than ten.
const MAX_READINGS: usize = 128;

/// Maximum number of bytes that may be read or copied for the readings of one path. At
/// about two nanoseconds each this costs ten times what a plain request does.
const MAX_WORK: usize = 96 * 1024;

/// Longest path, in bytes, that is read in more than one way.
const MAX_AMBIGUOUS_LEN: usize = MAX_WORK / 3;

/// Fixed cost of a step for any length of the path, in bytes.
const STEP_COST: usize = 32;

/// How often a path may be percent-decoded on its way to the code that acts on it.
const MAX_DECODES: u8 = 2;

/// The path of a request target, from which all readings are derived.
#[derive(Debug, Clone, Copy)]
pub struct Readings<'a> {
    raw: &'a [u8],
    /// Including what follows a `#`.
    whole: &'a [u8],
}

impl<'a> Readings<'a> {
    /// Takes the path of a request target; query and fragment are not part of it.
    ///
    /// # Errors
    /// [`Reason::MalformedRequest`] if the target is not a path (RFC 9112 section 3.2.1).
    pub fn new(target: &'a str) -> Result<Self, Reason> {
        // A request target contains none of these bytes, but two values that a proxy has
        // joined would. Without an early exit, the compiler vectorizes the loop.
        let is_forbidden = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
        if target.as_bytes().iter().fold(false, |found, byte| found | is_forbidden(byte)) {
            return Err(Reason::MalformedRequest);
        }
        let whole = target.split('?').next().unwrap_or_default().as_bytes();
        // The standard library's search is fast, so it comes first.
        let raw = if whole.contains(&b'#') {
            whole.split(|byte| *byte == b'#').next().unwrap_or_default()
        } else {
            whole
        };
        if raw.first() != Some(&b'/') {
            return Err(Reason::MalformedRequest);
        }
        Ok(Self { raw, whole })
    }

    /// Returns the path as it was sent.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Returns the readings that differ from the raw one, each once.
    ///
    /// # Errors
    /// [`Reason::AmbiguousPath`] if there are too many.
    pub fn others(&self) -> Result<Vec<Vec<u8>>, Reason> {
        let mut others = HashSet::new();
        self.for_each_other(|reading| {
            others.insert(reading.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(others.into_iter().collect())
    }

    /// Calls `each` with the readings that differ from the raw one, some of them twice,
    /// until there are no more or it returns `Break`.
    ///
    /// # Errors
    /// [`Reason::AmbiguousPath`] if there are too many.
    pub fn for_each_other(
        &self,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Reason> {
        if is_plain(self.whole) {
            return Ok(());
        }
        if self.whole.len() > MAX_AMBIGUOUS_LEN {
            return Err(Reason::AmbiguousPath);
        }
        let mut states = States::default();
        let first = (StepCounts::default(), self.whole.to_vec());
        let mut ended = self.add(&mut states, first, &mut each)?;
        let (mut at, mut work) = (0, 0);
        while let (ControlFlow::Continue(()), Some((counts, path))) =
            (ended, states.all.get(at).cloned())
        {
            work += path.len() + STEP_COST;
            let possible = PossibleSteps::find(&path);
            for step in Step::ALL {
                if !possible.contains(step) || !counts.allows(step) {
                    continue;
                }
                work += path.len() + STEP_COST;
                if work > MAX_WORK {
                    return Err(Reason::AmbiguousPath);
                }
                let next = step.apply(&path);
                if next != path {
                    ended = self.add(&mut states, (counts.after(step), next), &mut each)?;
                }
                if ended.is_break() {
                    break;
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Adds a state, and calls `each` if its reading is new.
    fn add(
        &self,
        states: &mut States,
        state: (StepCounts, Vec<u8>),
        each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Reason> {
        let Some(path) = states.insert(state)? else {
            return Ok(ControlFlow::Continue(()));
        };
        Ok(if path == self.raw { ControlFlow::Continue(()) } else { each(path) })
    }
}

/// Returns whether no step changes the path, so that it has a single reading.
fn is_plain(path: &[u8]) -> bool {
    let is_special = |byte: &u8| matches!(byte, b'%' | b'\\' | b';' | b'#');
    let may_fold = |(one, next): (&u8, &u8)| *one == b'/' && matches!(next, b'/' | b'.');
    // No early exit, as above.
    if path.iter().fold(false, |found, byte| found | is_special(byte)) {
        return false;
    }
    let pairs = path.iter().zip(path.iter().skip(1));
    !pairs.fold(false, |found, pair| found | may_fold(pair)) || !PossibleSteps::find(path).any()
}

/// How often a reading has taken the steps that a backend takes only a limited number of
/// times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct StepCounts {
    decodes: u8,
    /// Whether the path was parsed as a URL.
    is_parsed: bool,
}

impl StepCounts {
    fn allows(self, step: Step) -> bool {
        match step {
            Step::Decode => self.decodes < MAX_DECODES,
            Step::CutAuthority => !self.is_parsed,
            _ => true,
        }
    }

    fn after(self, step: Step) -> Self {
        match step {
            Step::Decode => Self { decodes: self.decodes + 1, ..self },
            Step::CutAuthority => Self { is_parsed: true, ..self },
            _ => self,
        }
    }
}

/// The states found so far. A path is kept once for each count of limited steps, because
/// fewer steps taken leave more to come.
#[derive(Default)]
struct States {
    hasher: foldhash::fast::RandomState,
    hashes: Vec<u64>,
    all: Vec<(StepCounts, Vec<u8>)>,
}

impl States {
    /// Adds a state. Returns its path if the state is new.
    fn insert(&mut self, state: (StepCounts, Vec<u8>)) -> Result<Option<&[u8]>, Reason> {
        let hash = self.hasher.hash_one(&state);
        let mut seen = self.hashes.iter().enumerate().filter(|(_, other)| **other == hash);
        if seen.any(|(at, _)| self.all[at] == state) {
            return Ok(None);
        }
        if self.all.len() >= MAX_READINGS {
            return Err(Reason::AmbiguousPath);
        }
        self.hashes.push(hash);
        self.all.push(state);
        Ok(self.all.last().map(|(_, path)| path.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(target: &str) -> Vec<String> {
        let readings = Readings::new(target).and_then(|readings| readings.others());
        let others = readings.expect("readable").into_iter();
        let mut all: Vec<_> =
            others.map(|path| String::from_utf8_lossy(&path).into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for target in ["/", "/a/b.c", "/.well-known/x", "/a..b/...", "/a?x=/../%2f", "/a?x#/.."] {
            assert_eq!(readings(target), Vec::<String>::new(), "{target}");
        }
        assert_eq!(Readings::new("/a?b").expect("readable").raw(), b"/a");
    }

    #[test]
    fn every_way_of_reading_is_found() {
        for (target, reading) in [
            ("/pub/../private", "/private"),
            ("/pub/%2e%2e/private", "/private"),
            ("/pub/..%2fprivate", "/private"),
            ("/pub/%252e%252e%252fprivate", "/private"),
            ("/pub//../private", "/private"),
            ("/pub/..;x=1/private", "/private"),
            ("/pub/..%3bx/private", "/private"),
            ("/pub\\..\\private", "/private"),
            ("/pub/..%5cprivate", "/private"),
            ("//private", "/private"),
            ("/%70rivate", "/private"),
            ("/%2570rivate", "/private"),
            ("/x%2fy/../%70rivate", "/private"),
            ("/pub/..%2fprivate%3f/../../pub/x", "/private"),
            ("/pub/..%2fprivate%00/../../pub/x", "/private"),
            ("/pub/%c0%ae%c0%ae%c0%afprivate", "/private"),
            ("/pub/%e0%80%ae%f0%80%80%ae%e0%80%afprivate", "/private"),
            ("/pub/%u002e%U002E/private", "/private"),
            ("/pub/.%09./private", "/private"),
            ("/pub/%2e%0a%2e/private", "/private"),
            ("/pub/.%0d.%2fprivate", "/private"),
            ("/pub/..%2509/private", "/private"),
            ("//host/private", "/private"),
            ("///user@host:1/private", "/private"),
            ("/\\host/private", "/private"),
            ("/%2fhost/private", "/private"),
            ("//host", "/"),
            ("/pub#/../private", "/private"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/../..", "/"),
        ] {
            assert!(
                readings(target).iter().any(|r| r == reading),
                "{target}: {:?}",
                readings(target)
            );
        }
    }

    #[test]
    fn targets_that_are_no_path_are_refused() {
        for target in ["", "?", "*", "http://x/", "a/b", "\\a", "/a, /b", "/a\tb", "/a?b c"] {
            assert_eq!(Readings::new(target).expect_err(target), Reason::MalformedRequest);
        }
    }

    #[test]
    fn a_path_with_endless_readings_is_refused() {
        let many = "/a%252f..%2f\\..%5c;x%3by/%252e%252e;%253b//".repeat(40);
        let readings = Readings::new(&many).expect("a path");
        assert_eq!(readings.others(), Err(Reason::AmbiguousPath));
        let mut calls = 0;
        let ended = readings.for_each_other(|_| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((ended, calls), (Ok(()), 3), "no reading follows a break");
    }

    #[test]
    fn a_long_path_with_few_readings_is_read() {
        for (unit, decoded) in [("%20", " "), ("%2520", " "), ("/.", ""), ("%C3%A9", "é")] {
            let long = format!("/{}", unit.repeat(10 * 1024 / unit.len()));
            let shortest = readings(&long).into_iter().min_by_key(String::len);
            let count = if decoded.is_empty() { 0 } else { 10 * 1024 / unit.len() };
            assert_eq!(shortest, Some(format!("/{}", decoded.repeat(count))), "{unit}");
        }
    }

    #[test]
    fn what_a_path_may_cost_is_bounded() {
        for unit in ["//\\;/./%2541", "%", "%25", "/..", "\u{e9}", "%c0%ae", "%u002e", "//", ";a/"]
        {
            let long = format!("/{}", unit.repeat(79 * 1024 / unit.len()));
            let readings = Readings::new(&long).expect("a path");
            let mut bytes = 0;
            let outcome = readings.for_each_other(|reading| {
                bytes += reading.len();
                ControlFlow::Continue(())
            });
            assert!(bytes <= MAX_WORK, "{unit}: {bytes}");
            assert!(matches!(outcome, Ok(()) | Err(Reason::AmbiguousPath)));
        }
    }
}
