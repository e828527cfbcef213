//! A property: deciding with bounded effort is never looser than reading a path in
//! every way there is, however long that takes.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use nightporter::domain::app::{Access, PathRule};
use nightporter::domain::client::{Client, KnownClient};
use nightporter::domain::policy::{PathMatching, Rules, decoded_key, governing_rule, match_rules};
use nightporter::domain::request::Readings;
use percent_encoding::percent_decode;
use proptest::prelude::*;

/// Far more than the gate reads.
const READINGS: usize = 20_000;

/// What a backend takes so often and no more: decodings, and one URL made of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Spent {
    decodes: u8,
    is_cut: bool,
}

/// All results of any sequence of steps, the path itself among them; `None` where there
/// are too many even for this.
fn all_readings(path: &[u8]) -> Option<HashSet<Vec<u8>>> {
    let mut seen: HashSet<(Spent, Vec<u8>)> = HashSet::from([(Spent::default(), path.to_vec())]);
    let mut queue = vec![(Spent::default(), path.to_vec())];
    while let Some((spent, path)) = queue.pop() {
        let decoded = (spent.decodes < 2).then(|| percent_decode(&path).collect());
        let cut = (!spent.is_cut).then(|| cut_authority(&path));
        let steps = [
            (Spent { decodes: spent.decodes + 1, ..spent }, decoded),
            (Spent { is_cut: true, ..spent }, cut),
            (spent, Some(decode_percent_u(&path))),
            (spent, Some(fold_dots(&path))),
            (spent, Some(fold_slashes(&path))),
            (spent, Some(turn_backslashes(&path))),
            (spent, Some(shorten_overlong(&path))),
            (spent, Some(cut_parameters(&path))),
            (spent, Some(cut_tail(&path))),
        ];
        for (spent, next) in steps {
            let Some(next) = next.filter(|next| *next != path) else { continue };
            if seen.insert((spent, next.clone())) {
                if seen.len() > READINGS {
                    return None;
                }
                queue.push((spent, next));
            }
        }
    }
    Some(seen.into_iter().map(|(_, path)| path).collect())
}

/// RFC 3986 section 5.2.4, with empty segments kept.
fn fold_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." if is_last => kept.push(b""),
            b"." => {}
            b".." => {
                kept.pop();
                if is_last {
                    kept.push(b"");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut folded = Vec::with_capacity(path.len());
    for segment in kept {
        folded.push(b'/');
        folded.extend_from_slice(segment);
    }
    if folded.is_empty() {
        folded.push(b'/');
    }
    folded
}

fn fold_slashes(path: &[u8]) -> Vec<u8> {
    let mut folded = path.to_vec();
    folded.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    folded
}

fn turn_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

/// ASCII spelled in two to four bytes, which RFC 3629 section 3 forbids and old
/// decoders take.
fn shorten_overlong(path: &[u8]) -> Vec<u8> {
    let mut short = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [high @ (0xc0 | 0xc1), low @ 0x80..=0xbf, after @ ..]
            | [0xe0, high @ (0x80 | 0x81), low @ 0x80..=0xbf, after @ ..]
            | [0xf0, 0x80, high @ (0x80 | 0x81), low @ 0x80..=0xbf, after @ ..] => {
                ((high & 1) << 6 | (low & 0x3f), after)
            }
            _ => (*first, after),
        };
        short.push(byte);
        rest = after;
    }
    short
}

/// `%u002e`, which IIS takes for `.`; what is not ASCII stays as it is.
fn decode_percent_u(path: &[u8]) -> Vec<u8> {
    let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        decoded.push(match (first, after) {
            (b'%', [b'u' | b'U', b'0', b'0', high @ b'0'..=b'7', low, after @ ..]) => {
                match (hex(high), hex(low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        high << 4 | low
                    }
                    _ => *first,
                }
            }
            _ => *first,
        });
    }
    decoded
}

/// The path after `//host`: a parser of URLs that is given a path alone takes
/// its beginning for a host (Node's `new URL(path, base)`, PHP's `parse_url`,
/// Python's `urlsplit`).
fn cut_authority(path: &[u8]) -> Vec<u8> {
    let Some(after) = path.strip_prefix(b"//") else {
        return path.to_vec();
    };
    let host = after.iter().position(|byte| *byte != b'/').map_or(&[][..], |at| &after[at..]);
    match host.iter().position(|byte| *byte == b'/') {
        Some(end) => host[end..].to_vec(),
        None => b"/".to_vec(),
    }
}

/// Cuts `;…` from every segment (RFC 3986 section 3.3 calls them parameters).
fn cut_parameters(path: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(path.len());
    let mut cutting = false;
    for byte in path {
        cutting = match byte {
            b';' => true,
            b'/' => false,
            _ => cutting,
        };
        if !cutting {
            kept.push(*byte);
        }
    }
    kept
}

/// Cuts what a second parser takes for a query, a fragment or the end of a string.
fn cut_tail(path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#' | 0)).unwrap_or(path.len());
    path[..end].to_vec()
}

/// A path or a key in one spelling.
fn spelled_alike(text: &[u8]) -> Vec<u8> {
    percent_decode(text).map(|byte| byte.to_ascii_lowercase()).collect()
}

/// Whether every one of these readings lets the client in, asked one by one of each rule.
fn admits(
    raw: &[u8],
    readings: &HashSet<Vec<u8>>,
    rules: &[PathRule],
    client: Client<'_>,
    matching: PathMatching,
) -> bool {
    let lets_in = |access: Access| {
        matches!(
            (access, client),
            (Access::Public, _)
                | (Access::Private, Client::Terminal(_))
                | (Access::Peer, Client::Peer(_))
        )
    };
    let matches = |key: &[u8], path: &[u8]| {
        let Some(rest) = path.strip_prefix(key) else { return false };
        let ends = rest.first().is_none_or(|byte| *byte == b'/');
        matching == PathMatching::Prefix || ends || key.is_empty() || key.ends_with(b"/")
    };
    let decoded = rules.iter().filter_map(|rule| {
        let prefix = String::from_utf8(decoded_key(&rule.prefix)?).ok()?;
        Some(PathRule { prefix, ..rule.clone() })
    });
    let mut read: Vec<_> = rules.iter().cloned().chain(decoded).collect();
    read.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
    readings.iter().all(|reading| {
        let rules = if *reading == raw { rules } else { &read };
        let Some(rule) = governing_rule(rules, reading, matching) else { return false };
        let alike = spelled_alike(reading);
        let keys = rules.iter().map(|rule| (spelled_alike(rule.prefix.as_bytes()), rule.access));
        let keys: Vec<_> = keys.filter(|(key, _)| matches(key, &alike)).collect();
        let longest = keys.iter().map(|(key, _)| key.len()).max();
        let mut longest = keys.iter().filter(|(key, _)| Some(key.len()) == longest);
        lets_in(rules[rule].access) && longest.all(|(_, access)| lets_in(*access))
    })
}

fn clients() -> [Client<'static>; 3] {
    static KNOWN: LazyLock<KnownClient> =
        LazyLock::new(|| KnownClient { id: Arc::from("id"), name: Arc::from("name") });
    [Client::Anonymous, Client::Terminal(&KNOWN), Client::Peer(&KNOWN)]
}

fn rules() -> impl Strategy<Value = Vec<PathRule>> {
    let keys = vec![
        "",
        "/",
        "/pub",
        "/pub/",
        "/pub/closed",
        "/Private",
        "/private",
        "/private/open",
        "/peer",
        "/caf%C3%A9",
        "/CAF%c3%a9",
        "/p",
        "/pub%2Fx",
        "/a;b",
    ];
    let access = prop::sample::select(vec![Access::Public, Access::Private, Access::Peer]);
    prop::collection::btree_map(prop::sample::select(keys), access, 1..5).prop_map(|rules| {
        let mut rules: Vec<_> = rules
            .into_iter()
            .map(|(prefix, access)| PathRule {
                prefix: prefix.into(),
                access,
                headers: BTreeMap::default(),
            })
            .collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        rules
    })
}

fn path() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "/",
        "//",
        "\\",
        ".",
        "..",
        "/../",
        "/./",
        "%2e",
        "%2F",
        "%5C",
        "%252e",
        "%252f",
        "%25",
        ";",
        ";x=1",
        "%3b",
        "%00",
        "%3f",
        "%23",
        "?",
        "#",
        "pub",
        "PUB",
        "private",
        "pRivate",
        "peer",
        "open",
        "closed",
        "caf%C3%A9",
        "caf%c3%a9",
        "%63af%25C3%25A9",
        "%u002e",
        "%u002F",
        "%c0%ae",
        "%c0%af",
        "%e0%80%af",
        "host",
        "p",
        "%70",
        "%2570",
        "%",
        "%2",
        "x",
    ]);
    let start = prop::sample::select(vec!["/", "/pub", "/pub/", "/private/", "/peer/", "//host/"]);
    (start, prop::collection::vec(pieces, 0..8), 0..3_usize).prop_map(|(start, pieces, more)| {
        let pieces = pieces.concat();
        format!("{start}{}", pieces.repeat(if more == 0 { 20 } else { 1 }))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn no_path_is_decided_looser_than_by_every_reading(path in path(), rules in rules()) {
        let target = path.split('?').next().unwrap_or_default();
        let readings = all_readings(target.as_bytes());
        let raw = target.split('#').next().unwrap_or_default().as_bytes().to_vec();
        let raw_alone = HashSet::from([raw.clone()]);
        for matching in [PathMatching::Prefix, PathMatching::Segment] {
            let prepared = Rules::new(&rules, matching);
            let decided = Readings::new(&path).and_then(|readings| match_rules(&prepared, &readings));
            for client in clients() {
                let is_granted = decided.is_ok_and(|governed| governed.admit(client).is_ok());
                if let Some(readings) = &readings && is_granted {
                    prop_assert!(
                        admits(&raw, readings, &rules, client, matching),
                        "{path} is granted to {client:?} by {rules:?}, {matching:?}"
                    );
                }
                // What has one reading is decided, and as that reading says.
                if readings.as_ref().is_some_and(|readings| *readings == raw_alone) {
                    prop_assert_eq!(is_granted, admits(&raw, &raw_alone, &rules, client, matching));
                }
            }
        }
    }
}
