//! What a backend may do to a path, one step at a time.

use percent_encoding::percent_decode;

/// One thing that some backend does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Decode,
    CutAuthority,
    DecodePercentU,
    FoldDots,
    FoldSlashes,
    TurnBackslashes,
    ShortenOverlong,
    CutParameters,
    CutTail,
}

impl Step {
    pub(super) const ALL: [Self; 9] = [
        Self::Decode,
        Self::CutAuthority,
        Self::DecodePercentU,
        Self::FoldDots,
        Self::FoldSlashes,
        Self::TurnBackslashes,
        Self::ShortenOverlong,
        Self::CutParameters,
        Self::CutTail,
    ];

    /// What the path is after it.
    pub(super) fn of(self, path: &[u8]) -> Vec<u8> {
        match self {
            Self::Decode => percent_decode(path).collect(),
            Self::CutAuthority => cut_authority(path),
            Self::DecodePercentU => decode_percent_u(path),
            Self::FoldDots => fold_dots(path),
            Self::FoldSlashes => fold_slashes(path),
            Self::TurnBackslashes => turn_backslashes(path),
            Self::ShortenOverlong => shorten_overlong(path),
            Self::CutParameters => cut_parameters(path),
            Self::CutTail => cut_tail(path),
        }
    }
}

/// The steps that may change a path: each is told by a byte or two, so one look finds
/// those that need not be taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs(u16);

impl Signs {
    pub(super) fn of(path: &[u8]) -> Self {
        let mut signs = Self::default();
        if path.starts_with(b"//") {
            signs.call(Step::CutAuthority);
        }
        let mut previous = 0;
        for (at, byte) in path.iter().enumerate() {
            match byte {
                b'%' => signs.call(Step::Decode),
                b'u' | b'U' if previous == b'%' => signs.call(Step::DecodePercentU),
                b'/' if previous == b'/' => signs.call(Step::FoldSlashes),
                b'.' if previous == b'/' && dots_only(&path[at..]) => signs.call(Step::FoldDots),
                b'\\' => signs.call(Step::TurnBackslashes),
                b';' => signs.call(Step::CutParameters),
                b'?' | b'#' | 0 => signs.call(Step::CutTail),
                0xc0 | 0xc1 | 0xe0 | 0xf0 => signs.call(Step::ShortenOverlong),
                _ => {}
            }
            previous = *byte;
        }
        signs
    }

    fn call(&mut self, step: Step) {
        self.0 |= 1 << step as u16;
    }

    pub(super) fn call_for(self, step: Step) -> bool {
        self.0 & (1 << step as u16) != 0
    }

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }
}

/// Whether the text begins with a whole segment `.` or `..`.
fn dots_only(segment: &[u8]) -> bool {
    matches!(segment, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_step_that_is_not_called_for_changes_nothing(
            path in r"/(//|\|\.|\.\.|%|u|U|00|2e|2F|;|\?|#|a|/){0,10}",
            bytes in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let path = [path.as_bytes(), &bytes].concat();
            let signs = Signs::of(&path);
            for step in Step::ALL {
                let next = step.of(&path);
                prop_assert!(next.first() == Some(&b'/'), "{step:?} of {path:?}");
                prop_assert!(signs.call_for(step) || next == path, "{step:?} of {path:?}");
            }
        }
    }
}
