//! Splits a template into text and the tokens of its tags, as Jinja2's lexer does.

use super::{JinjaResult, is_space, unsupported};

/// A piece of a template.
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
    /// As written, because floats have no equality.
    Float(String),
    Symbol(&'static str),
}

/// Longest first, so that `//` is not read as two `/`.
const SYMBOLS: [&str; 23] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", ">", "<",
    "=", ".", ":", "|", ",",
];

/// Splits a template whose line ends are `\n`, without the last one, into its pieces.
pub(super) fn pieces(source: &str) -> JinjaResult<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = source;
    while let Some((start, opening)) = opening(rest) {
        text.push_str(&rest[..start]);
        let tag = &rest[start + opening.len()..];
        let (trims_before, tag) = match tag.as_bytes().first() {
            Some(b'-') => (true, &tag[1..]),
            Some(b'+') => (false, &tag[1..]),
            _ => (false, tag),
        };
        if trims_before {
            text.truncate(text.trim_end_matches(is_space).len());
        }
        // White space is trimmed up to the next tag, including comments and `endraw`.
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        if opening == "{#" {
            let end = tag.find("#}").ok_or(unsupported("a comment has no end"))?;
            let is_trimmed = tag[..end].ends_with('-');
            rest = after(&tag[end + 2..], is_trimmed);
            continue;
        }
        let (tokens, is_trimmed, remaining) = tokens(tag, closing(opening))?;
        rest = after(remaining, is_trimmed);
        if opening == "{{" {
            pieces.push(Piece::Print(tokens));
        } else if tokens == [Token::Name("raw".into())] {
            let (raw, remaining) = raw(rest)?;
            pieces.push(Piece::Text(raw.to_owned()));
            rest = remaining;
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

/// Returns the text up to `{% endraw %}`, and the text after it.
fn raw(text: &str) -> JinjaResult<(&str, &str)> {
    for (at, _) in text.match_indices("{%") {
        let tag = &text[at + 2..];
        let is_trimmed = tag.starts_with('-');
        let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start_matches(is_space);
        let Some(tag) = tag.strip_prefix("endraw") else { continue };
        let tag = tag.trim_start_matches(is_space);
        let closed = tag.strip_prefix("-%}").map(|remaining| after(remaining, true));
        let closed = closed.or_else(|| tag.strip_prefix("+%}").or_else(|| tag.strip_prefix("%}")));
        if let Some(remaining) = closed {
            let raw = &text[..at];
            return Ok((if is_trimmed { raw.trim_end_matches(is_space) } else { raw }, remaining));
        }
    }
    Err(unsupported("a raw block has no end"))
}

/// Returns the tokens of a tag, whether white space after it is trimmed, and the text after
/// it.
fn tokens<'a>(tag: &'a str, closing: &str) -> JinjaResult<(Vec<Token>, bool, &'a str)> {
    let mut tokens = Vec::new();
    let mut rest = tag;
    loop {
        rest = rest.trim_start_matches(is_space);
        if let Some(remaining) = rest.strip_prefix(closing) {
            return Ok((tokens, false, remaining));
        }
        if let Some(remaining) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(closing))
        {
            return Ok((tokens, true, remaining));
        }
        if closing == "%}"
            && let Some(remaining) = rest.strip_prefix("+%}")
        {
            return Ok((tokens, false, remaining));
        }
        let (token, remaining) = token(rest)?;
        tokens.push(token);
        rest = remaining;
    }
}

fn token(rest: &str) -> JinjaResult<(Token, &str)> {
    match rest.bytes().next() {
        None => Err(unsupported("a tag has no end")),
        Some(b'"' | b'\'') => text(rest),
        Some(b'0'..=b'9') => number(rest),
        Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
            let (name, remaining) =
                split(rest, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if remaining.starts_with(|next: char| !next.is_ascii() && next.is_alphanumeric()) {
                return Err(unsupported("names must be ASCII"));
            }
            Ok((Token::Name(name.to_owned()), remaining))
        }
        Some(_) => {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or(unsupported("unexpected character"))?;
            Ok((Token::Symbol(symbol), &rest[symbol.len()..]))
        }
    }
}

fn split(text: &str, fits: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !fits(byte)).unwrap_or(text.len()))
}

fn text(rest: &str) -> JinjaResult<(Token, &str)> {
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
                Some(literal @ ('\\' | '\'' | '"')) => literal,
                _ => return Err(unsupported("this escape in a string is not supported")),
            }),
            plain => content.push(plain),
        }
    }
    Err(unsupported("a string has no end"))
}

/// Reads a number; only decimal numbers without an exponent are supported.
fn number(rest: &str) -> JinjaResult<(Token, &str)> {
    let error = unsupported("only plain numbers of up to nine digits are supported");
    let (digits, mut remaining) = split(rest, |byte| byte.is_ascii_digit());
    let is_plain = digits.len() <= 9 && (digits == "0" || !digits.starts_with('0'));
    let mut token = digits.parse().ok().filter(|_| is_plain).map(Token::Integer);
    if let Some((decimals, after)) =
        remaining.strip_prefix('.').map(|rest| split(rest, |byte| byte.is_ascii_digit()))
    {
        if !is_plain || decimals.is_empty() || decimals.len() > 9 {
            return Err(error);
        }
        token = Some(Token::Float(format!("{digits}.{decimals}")));
        remaining = after;
    }
    if remaining.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == '.') {
        return Err(error);
    }
    token.map(|token| (token, remaining)).ok_or(error)
}
