//! What a request names: the app, by its host, and the path, in every way a
//! backend might read it.

use std::borrow::Cow;
use std::collections::HashSet;

use percent_encoding::percent_decode;

use super::reason::Reason;

/// Readings one path may have before it counts as ambiguous. Paths in honest
/// use have fewer than ten; each further one costs a copy of the path.
const MAX_READINGS: usize = 128;

/// Longest path, in bytes, that is read in more than one way.
const MAX_AMBIGUOUS_LEN: usize = 8 * 1024;

/// How often a path may be percent-decoded on its way to the code that acts on it.
const MAX_DECODES: u8 = 2;

/// The app a host names: its first label, lower-cased, where the port and one
/// trailing dot are removed and the rest is `domain` if that is given.
///
/// # Errors
/// [`Reason::MalformedRequest`] for text that is no host, [`Reason::UnknownApp`]
/// for a host that can name no app of this box.
pub fn app_label<'a>(host: &'a str, domain: Option<&str>) -> Result<Cow<'a, str>, Reason> {
    let name = canonical_host(host)?;
    let (label, rest) = name.split_once('.').unwrap_or((name, ""));
    if domain.is_some_and(|domain| !rest.eq_ignore_ascii_case(domain)) {
        return Err(Reason::UnknownApp);
    }
    if label.is_empty() {
        return Err(Reason::UnknownApp);
    }
    Ok(lower(label))
}

/// The host without port and without one trailing dot, in the case it came.
fn canonical_host(host: &str) -> Result<&str, Reason> {
    let name = match host.rsplit_once(':') {
        // A bracketed IPv6 literal keeps its colons; it names no app.
        Some(_) if host.starts_with('[') => return Err(Reason::UnknownApp),
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return Err(Reason::MalformedRequest),
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    // RFC 1123 labels and the underscore, which Docker's names have.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) || name.contains(':') {
        return Err(Reason::MalformedRequest);
    }
    Ok(name)
}

fn lower(label: &str) -> Cow<'_, str> {
    if label.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(label.to_ascii_lowercase())
    } else {
        Cow::Borrowed(label)
    }
}

/// A path in every way a backend might read it.
///
/// Backends differ in what they do to a path before they act on it: decode it,
/// once or (behind a proxy that decodes too) twice, IIS's `%u002e` included;
/// fold `.` and `..`; fold repeated slashes; take `\` for `/`; take overlong
/// UTF-8 for what it spells; cut matrix parameters; cut again at a `?`, `#` or
/// NUL that decoding revealed, or not cut at a `#`; take `//x` for the name of a
/// host. The readings are all results of any sequence of these steps, so that a
/// rule can be asked of each of them. Letter case is the policy's matter.
#[derive(Debug)]
pub struct Readings<'a> {
    raw: &'a [u8],
    others: Vec<Vec<u8>>,
}

impl<'a> Readings<'a> {
    /// Reads the path of a request target; query and fragment are not part of it.
    ///
    /// # Errors
    /// [`Reason::MalformedRequest`] where the target is not a path (RFC 9112
    /// section 3.2.1), [`Reason::AmbiguousPath`] where there are too many readings.
    pub fn of(target: &'a str) -> Result<Self, Reason> {
        // No request target has them; two values that a proxy joined would.
        if target.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            return Err(Reason::MalformedRequest);
        }
        let path = target.split('?').next().unwrap_or_default().as_bytes();
        let end = path.iter().position(|byte| *byte == b'#').unwrap_or(path.len());
        let raw = &path[..end];
        if raw.first() != Some(&b'/') {
            return Err(Reason::MalformedRequest);
        }
        let others = if is_plain(path) { Vec::new() } else { explore(path, raw)? };
        Ok(Self { raw, others })
    }

    /// The path as it came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        self.raw
    }

    /// The readings that differ from the raw one.
    pub fn others(&self) -> impl Iterator<Item = &[u8]> {
        self.others.iter().map(Vec::as_slice)
    }
}

/// Whether no step changes the path, so that it has one reading.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for (at, byte) in path.iter().enumerate() {
        match byte {
            b'%' | b'\\' | b';' | b'#' => return false,
            b'/' if previous == b'/' => return false,
            b'.' if previous == b'/' && dots_only(&path[at..]) => return false,
            _ => {}
        }
        previous = *byte;
    }
    true
}

/// Whether the text begins with a whole segment `.` or `..`.
fn dots_only(segment: &[u8]) -> bool {
    matches!(segment, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// The steps of a reading that a backend takes so often and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Spent {
    decodes: u8,
    /// Whether a URL was made of the path.
    is_cut: bool,
}

/// All results of any sequence of steps, but `raw`.
fn explore(path: &[u8], raw: &[u8]) -> Result<Vec<Vec<u8>>, Reason> {
    if path.len() > MAX_AMBIGUOUS_LEN {
        return Err(Reason::AmbiguousPath);
    }
    // A path counts once for each way to have spent the steps that are bounded:
    // fewer leave more to come.
    let mut seen: HashSet<(Spent, Vec<u8>)> = HashSet::from([(Spent::default(), path.to_vec())]);
    let mut queue = vec![(Spent::default(), path.to_vec())];
    while let Some((spent, path)) = queue.pop() {
        let decoded = (spent.decodes < MAX_DECODES).then(|| percent_decode(&path).collect());
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
            let Some(next) = next.filter(|next| *next != path) else {
                continue;
            };
            if seen.insert((spent, next.clone())) {
                if seen.len() > MAX_READINGS {
                    return Err(Reason::AmbiguousPath);
                }
                queue.push((spent, next));
            }
        }
    }
    let distinct: HashSet<Vec<u8>> = seen.into_iter().map(|(_, path)| path).collect();
    Ok(distinct.into_iter().filter(|path| path != raw).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(target: &str) -> Vec<String> {
        let readings = Readings::of(target).expect("readable");
        let mut all: Vec<_> =
            readings.others().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_host_names_an_app_however_it_is_written() {
        for host in [
            "notes.box.example",
            "NOTES.Box.example",
            "notes.box.example.:8443",
            "notes.BOX.example:",
        ] {
            assert_eq!(app_label(host, Some("box.example")).as_deref(), Ok("notes"), "{host}");
        }
        assert_eq!(app_label("notes", None).as_deref(), Ok("notes"));
    }

    #[test]
    fn hosts_that_name_no_app_are_told_from_text_that_is_no_host() {
        for host in
            ["notes.other.example", "notes", "notes.box.example..", ".box.example", "[::1]:80"]
        {
            assert_eq!(app_label(host, Some("box.example")), Err(Reason::UnknownApp), "{host}");
        }
        for host in ["", ".", ":80", "a b", "a/b", "notes:x", "a,b", "ü.example", "a:1:2", "a\0"] {
            assert_eq!(app_label(host, None), Err(Reason::MalformedRequest), "{host:?}");
        }
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for target in ["/", "/a/b.c", "/.well-known/x", "/a..b/...", "/a?x=/../%2f", "/a?x#/.."] {
            assert_eq!(readings(target), Vec::<String>::new(), "{target}");
        }
        assert_eq!(Readings::of("/a?b").expect("readable").raw(), b"/a");
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
            assert_eq!(Readings::of(target).expect_err(target), Reason::MalformedRequest);
        }
    }

    #[test]
    fn a_path_with_endless_readings_is_refused() {
        let long = format!("/{}", "%61".repeat(3000));
        assert_eq!(Readings::of(&long).expect_err("long"), Reason::AmbiguousPath);
        let many = "/a%252f..%2f\\..%5c;x%3by/%252e%252e;%253b//".repeat(40);
        match Readings::of(&many) {
            Ok(readings) => assert!(readings.others().count() < MAX_READINGS),
            Err(reason) => assert_eq!(reason, Reason::AmbiguousPath),
        }
    }
}
