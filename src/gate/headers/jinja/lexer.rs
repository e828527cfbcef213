//! A template's text and the tokens of its tags, as Jinja2's lexer finds them.

use super::{Checked, is_space, unsupported};

/// What a template consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// `{{ … }}`
    Print(Vec<Token>),
    /// `{% … %}`
    Statement(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Integer(i64),
    /// As it is written, since floats have no equality.
    Float(String),
    Symbol(&'static str),
}

/// Longest first, so that `//` is not two of `/`.
const SYMBOLS: [&str; 23] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", ">", "<",
    "=", ".", ":", "|", ",",
];

/// Parts a template, whose line ends are `\n` and whose last one is gone.
pub(super) fn pieces(source: &str) -> Checked<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = source;
    while let Some((start, opening)) = opening(rest) {
        text.push_str(&rest[..start]);
        let tag = &rest[start + opening.len()..];
        let (sign, tag) = match tag.as_bytes().first() {
            Some(b'-') => (true, &tag[1..]),
            Some(b'+') => (false, &tag[1..]),
            _ => (false, tag),
        };
        if sign {
            text.truncate(text.trim_end_matches(is_space).len());
        }
        // White space is trimmed up to the next tag, a comment's and `endraw` among them.
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        if opening == "{#" {
            let end = tag.find("#}").ok_or(unsupported("a comment has no end"))?;
            let is_trimmed = tag[..end].ends_with('-');
            rest = after(&tag[end + 2..], is_trimmed);
            continue;
        }
        let (tokens, is_trimmed, behind) = tokens(tag, closing(opening))?;
        rest = after(behind, is_trimmed);
        if opening == "{{" {
            pieces.push(Piece::Print(tokens));
        } else if tokens == [Token::Name("raw".into())] {
            let (raw, behind) = raw(rest)?;
            pieces.push(Piece::Text(raw.to_owned()));
            rest = behind;
        } else {
            pieces.push(Piece::Statement(tokens));
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn opening(text: &str) -> Option<(usize, &'static str)> {
    text.match_indices('{').find_map(|(at, _)| {
        let found = ["{{", "{%", "{#"].into_iter().find(|opening| text[at..].starts_with(opening));
        found.map(|opening| (at, opening))
    })
}

fn closing(opening: &str) -> &'static str {
    if opening == "{{" { "}}" } else { "%}" }
}

fn after(text: &str, is_trimmed: bool) -> &str {
    if is_trimmed { text.trim_start_matches(is_space) } else { text }
}

/// Text up to `{% endraw %}`, and what is behind that.
fn raw(text: &str) -> Checked<(&str, &str)> {
    for (at, _) in text.match_indices("{%") {
        let tag = &text[at + 2..];
        let is_trimmed = tag.starts_with('-');
        let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start_matches(is_space);
        let Some(tag) = tag.strip_prefix("endraw") else { continue };
        let tag = tag.trim_start_matches(is_space);
        let closed = tag.strip_prefix("-%}").map(|behind| after(behind, true));
        let closed = closed.or_else(|| tag.strip_prefix("+%}").or_else(|| tag.strip_prefix("%}")));
        if let Some(behind) = closed {
            let raw = &text[..at];
            return Ok((if is_trimmed { raw.trim_end_matches(is_space) } else { raw }, behind));
        }
    }
    Err(unsupported("a raw block has no end"))
}

/// The tokens of a tag, whether white space behind it goes, and what is behind it.
fn tokens<'a>(tag: &'a str, closing: &str) -> Checked<(Vec<Token>, bool, &'a str)> {
    let mut tokens = Vec::new();
    let mut rest = tag;
    loop {
        rest = rest.trim_start_matches(is_space);
        if let Some(behind) = rest.strip_prefix(closing) {
            return Ok((tokens, false, behind));
        }
        if let Some(behind) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(closing)) {
            return Ok((tokens, true, behind));
        }
        if closing == "%}"
            && let Some(behind) = rest.strip_prefix("+%}")
        {
            return Ok((tokens, false, behind));
        }
        let (token, behind) = token(rest)?;
        tokens.push(token);
        rest = behind;
    }
}

fn token(rest: &str) -> Checked<(Token, &str)> {
    match rest.bytes().next() {
        None => Err(unsupported("a tag has no end")),
        Some(b'"' | b'\'') => text(rest),
        Some(b'0'..=b'9') => number(rest),
        Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
            let (name, behind) = split(rest, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if behind.starts_with(|next: char| !next.is_ascii() && next.is_alphanumeric()) {
                return Err(unsupported("names are ASCII only"));
            }
            Ok((Token::Name(name.to_owned()), behind))
        }
        Some(_) => {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or(unsupported("a character means nothing here"))?;
            Ok((Token::Symbol(symbol), &rest[symbol.len()..]))
        }
    }
}

fn split(text: &str, fits: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !fits(byte)).unwrap_or(text.len()))
}

fn text(rest: &str) -> Checked<(Token, &str)> {
    let mut characters = rest.char_indices();
    let quote = characters.next().map(|(_, quote)| quote);
    let mut content = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if Some(character) == quote => {
                return Ok((Token::Text(content), &rest[at + 1..]));
            }
            '\\' => content.push(match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(same @ ('\\' | '\'' | '"')) => same,
                _ => return Err(unsupported("this escape in a string is not supported")),
            }),
            plain => content.push(plain),
        }
    }
    Err(unsupported("a string has no end"))
}

/// Decimal numbers only, without an exponent.
fn number(rest: &str) -> Checked<(Token, &str)> {
    let error = unsupported("only plain numbers of up to nine digits are supported");
    let (digits, mut behind) = split(rest, |byte| byte.is_ascii_digit());
    let is_plain = digits.len() <= 9 && (digits == "0" || !digits.starts_with('0'));
    let mut token = digits.parse().ok().filter(|_| is_plain).map(Token::Integer);
    if let Some((decimals, after)) =
        behind.strip_prefix('.').map(|rest| split(rest, |byte| byte.is_ascii_digit()))
    {
        if !is_plain || decimals.is_empty() || decimals.len() > 9 {
            return Err(error);
        }
        token = Some(Token::Float(format!("{digits}.{decimals}")));
        behind = after;
    }
    if behind.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == '.') {
        return Err(error);
    }
    token.map(|token| (token, behind)).ok_or(error)
}
