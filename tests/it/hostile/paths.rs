//! A property: no path is granted that one of its readings would deny.

use std::sync::{Arc, LazyLock};

use nightporter::domain::app::{Access, PathRule};
use nightporter::domain::client::{Client, KnownClient};
use nightporter::domain::policy::{PathMatching, Rules, match_rules};
use nightporter::domain::request::Readings;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

/// What a backend may do to a path before it acts on it, written here anew and
/// as simply as can be, so that no mistake is shared with what is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Decode,
    FoldDots,
    FoldSlashes,
    Backslashes,
    Parameters,
    Tail,
}

impl Step {
    fn of(self, path: &str) -> String {
        match self {
            Self::Decode => decode(path),
            Self::FoldDots => fold_dots(path),
            Self::FoldSlashes => {
                let mut path = path.to_owned();
                while path.contains("//") {
                    path = path.replace("//", "/");
                }
                path
            }
            Self::Backslashes => path.replace('\\', "/"),
            Self::Parameters => {
                let cut = |segment: &str| segment.split(';').next().unwrap_or("").to_owned();
                path.split('/').map(cut).collect::<Vec<_>>().join("/")
            }
            Self::Tail => path.split(['?', '#', '\0']).next().unwrap_or("").to_owned(),
        }
    }
}

/// Paths here are ASCII, encoded or not.
fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = path.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            decoded.push(char::from(byte));
            at += 3;
        } else {
            decoded.push(char::from(bytes[at]));
            at += 1;
        }
    }
    decoded
}

fn fold_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/').skip(1) {
        ends_in_folder = segment == "." || segment == "..";
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    if ends_in_folder {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// Rules as apps have them, and a hole: nothing governs what begins otherwise.
fn rules() -> Vec<PathRule> {
    let rule = |prefix: &str, access| PathRule {
        prefix: prefix.into(),
        access,
        headers: std::collections::BTreeMap::default(),
    };
    vec![
        rule("/private/open", Access::Public),
        rule("/pub/closed", Access::Private),
        rule("/private", Access::Private),
        rule("/peer", Access::Peer),
        rule("/pub", Access::Public),
    ]
}

fn clients() -> [Client<'static>; 3] {
    static KNOWN: LazyLock<KnownClient> =
        LazyLock::new(|| KnownClient { id: Arc::from("id"), name: Arc::from("name") });
    [Client::Anonymous, Client::Terminal(&KNOWN), Client::Peer(&KNOWN)]
}

/// Whether one reading alone would be granted, by the rule of the longest key.
fn admits(reading: &str, client: Client<'_>, matching: PathMatching) -> bool {
    let governs = |rule: &&PathRule| {
        let Some(rest) = reading.strip_prefix(&rule.prefix) else { return false };
        matching == PathMatching::Prefix || rest.is_empty() || rest.starts_with('/')
    };
    let rules = rules();
    let rule = rules.iter().filter(governs).max_by_key(|rule| rule.prefix.len());
    matches!(
        (rule.map(|rule| rule.access), client),
        (Some(Access::Public), _)
            | (Some(Access::Private), Client::Terminal(_))
            | (Some(Access::Peer), Client::Peer(_))
    )
}

fn is_granted(path: &str, client: Client<'_>, matching: PathMatching) -> bool {
    let Ok(readings) = Readings::new(path) else { return false };
    match_rules(&Rules::new(&rules(), matching), &readings)
        .is_ok_and(|governed| governed.admit(client).is_ok())
}

fn path() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "/", "/", "//", "\\", ".", "..", "/../", "/./", "%2e", "%2E", "%2f", "%5c", "%252e",
        "%252f", "%255c", "%25", ";", ";x=1", "%3b", "%253b", "%00", "%3f", "%23", "?", "#", "pub",
        "private", "peer", "open", "closed", "p", "%70", "%2570", "x", "%", "%2",
    ]);
    let start =
        prop::sample::select(vec!["/", "/pub", "/pub/", "/private/", "/private/open/", "/peer/"]);
    (start, prop::collection::vec(pieces, 0..8))
        .prop_map(|(start, pieces)| format!("{start}{}", pieces.concat()))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop::sample::select(vec![
        Step::Decode,
        Step::Decode,
        Step::FoldDots,
        Step::FoldSlashes,
        Step::Backslashes,
        Step::Parameters,
        Step::Tail,
    ]);
    // The design reads a path decoded twice at most.
    prop::collection::vec(step, 0..7).prop_filter("decoded twice at most", |steps| {
        steps.iter().filter(|step| **step == Step::Decode).count() <= 2
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_verdict_is_never_looser_than_a_reading(path in path(), steps in steps()) {
        // Query and fragment are no part of the path, for anyone.
        let path_alone = path.split(['?', '#']).next().unwrap_or("").to_owned();
        let reading = steps.iter().fold(path_alone, |path, step| step.of(&path));
        for client in clients() {
            for matching in [PathMatching::Prefix, PathMatching::Segment] {
                if is_granted(&path, client, matching) {
                    prop_assert!(
                        admits(&reading, client, matching),
                        "{path} is granted to {client:?} and read as {reading}"
                    );
                }
            }
        }
    }
}

/// The property must be able to fail: paths of both kinds have to occur.
#[test]
fn the_generated_paths_are_granted_and_denied() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut counts = [0; 2];
    for _ in 0..1000 {
        let path = path().new_tree(&mut runner).expect("generates").current();
        counts[usize::from(is_granted(&path, Client::Anonymous, PathMatching::Prefix))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}
