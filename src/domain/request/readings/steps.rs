//! The steps by which a backend may transform a path.

use percent_encoding::percent_decode;

/// A transformation that some backends apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Decode,
    CutAuthority,
    DecodePercentU,
    FoldDots,
    FoldSlashes,
    ConvertBackslashes,
    DecodeOverlong,
    CutParameters,
    CutTail,
    RemoveLineBreaks,
}

impl Step {
    pub(super) const ALL: [Self; 10] = [
        Self::Decode,
        Self::CutAuthority,
        Self::DecodePercentU,
        Self::FoldDots,
        Self::FoldSlashes,
        Self::ConvertBackslashes,
        Self::DecodeOverlong,
        Self::CutParameters,
        Self::CutTail,
        Self::RemoveLineBreaks,
    ];

    /// Returns the path after this step.
    pub(super) fn apply(self, path: &[u8]) -> Vec<u8> {
        match self {
            Self::Decode => percent_decode(path).collect(),
            Self::CutAuthority => cut_authority(path),
            Self::DecodePercentU => decode_percent_u(path),
            Self::FoldDots => fold_dots(path),
            Self::FoldSlashes => fold_slashes(path),
            Self::ConvertBackslashes => convert_backslashes(path),
            Self::DecodeOverlong => decode_overlong(path),
            Self::CutParameters => cut_parameters(path),
            Self::CutTail => cut_tail(path),
            Self::RemoveLineBreaks => remove_line_breaks(path),
        }
    }
}

/// The set of steps that may change a path. Each is recognised by one or two bytes, so a
/// single pass rules out the others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PossibleSteps(u16);

impl PossibleSteps {
    pub(super) fn find(path: &[u8]) -> Self {
        let mut possible = Self::default();
        if path.starts_with(b"//") {
            possible.insert(Step::CutAuthority);
        }
        let mut previous = 0;
        for (at, byte) in path.iter().enumerate() {
            match byte {
                b'%' => possible.insert(Step::Decode),
                b'u' | b'U' if previous == b'%' => possible.insert(Step::DecodePercentU),
                b'/' if previous == b'/' => possible.insert(Step::FoldSlashes),
                b'.' if previous == b'/' && dots_only(&path[at..]) => {
                    possible.insert(Step::FoldDots);
                }
                b'\\' => possible.insert(Step::ConvertBackslashes),
                b';' => possible.insert(Step::CutParameters),
                b'?' | b'#' | 0 => possible.insert(Step::CutTail),
                b'\t' | b'\n' | b'\r' => possible.insert(Step::RemoveLineBreaks),
                0xc0 | 0xc1 | 0xe0 | 0xf0 => possible.insert(Step::DecodeOverlong),
                _ => {}
            }
            previous = *byte;
        }
        possible
    }

    fn insert(&mut self, step: Step) {
        self.0 |= 1 << step as u16;
    }

    pub(super) fn contains(self, step: Step) -> bool {
        self.0 & (1 << step as u16) != 0
    }

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }
}

/// Returns whether the text begins with a complete segment `.` or `..`.
fn dots_only(segment: &[u8]) -> bool {
    matches!(segment, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// WHATWG's URL Standard, "basic URL parser", step 3, and Python's `urlsplit`: what parses a
/// decoded path as a URL removes tabs and line breaks first.
fn remove_line_breaks(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r')).collect()
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

fn convert_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

/// Decodes ASCII encoded in two to four bytes, which RFC 3629 section 3 forbids and old
/// decoders accept.
fn decode_overlong(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
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
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// Decodes `%u002e`, which IIS reads as `.`; anything but ASCII stays as it is.
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

/// Returns the path after `//host`: a URL parser that is given only a path takes its
/// beginning for a host (Node's `new URL(path, base)`, PHP's `parse_url`, Python's
/// `urlsplit`).
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

/// Cuts off what a second parser takes for a query, a fragment or the end of a string.
fn cut_tail(path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#' | 0)).unwrap_or(path.len());
    path[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_step_that_is_not_called_for_changes_nothing(
            path in r"/(//|\|\.|\.\.|%|u|U|00|2e|2F|;|\?|#|a|/){0,10}",
            bytes in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let path = [path.as_bytes(), &bytes].concat();
            let possible = PossibleSteps::find(&path);
            for step in Step::ALL {
                let next = step.apply(&path);
                prop_assert!(next.first() == Some(&b'/'), "{step:?} of {path:?}");
                prop_assert!(possible.contains(step) || next == path, "{step:?} of {path:?}");
            }
        }
    }
}
