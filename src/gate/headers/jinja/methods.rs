//! Methods of Python's `str`, as far as they are known to behave the same here.

use super::value::Value;
use super::{JinjaResult, MAX_TEXT, is_space, unsupported};

pub(super) fn method(of: &Value, name: &str, arguments: &[Value]) -> JinjaResult<Value> {
    let Value::Text(text) = of else {
        return Err(unsupported("only texts have methods"));
    };
    match (name, arguments) {
        ("upper", []) => Value::text(text.to_uppercase()),
        ("lower", []) => Value::text(text.to_lowercase()),
        ("capitalize", []) => Value::text(capitalized(text)?),
        ("title", []) => Value::text(titled(text)?),
        ("strip", []) => stripped(text, None, [true, true]),
        ("lstrip", []) => stripped(text, None, [true, false]),
        ("rstrip", []) => stripped(text, None, [false, true]),
        ("strip", [Value::Text(chars)]) => stripped(text, Some(chars), [true, true]),
        ("lstrip", [Value::Text(chars)]) => stripped(text, Some(chars), [true, false]),
        ("rstrip", [Value::Text(chars)]) => stripped(text, Some(chars), [false, true]),
        ("startswith", [Value::Text(part)]) => Ok(Value::Bool(text.starts_with(part.as_str()))),
        ("endswith", [Value::Text(part)]) => Ok(Value::Bool(text.ends_with(part.as_str()))),
        ("removeprefix", [Value::Text(part)]) => {
            Value::text(text.strip_prefix(part.as_str()).unwrap_or(text))
        }
        ("removesuffix", [Value::Text(part)]) => {
            Value::text(text.strip_suffix(part.as_str()).unwrap_or(text))
        }
        ("replace", [Value::Text(old), Value::Text(new)]) => replaced(text, old, new, None),
        ("replace", [Value::Text(old), Value::Text(new), Value::Integer(count)]) => {
            replaced(text, old, new, Some(*count))
        }
        ("split" | "rsplit", []) => {
            let words = text.split(is_space).filter(|word| !word.is_empty());
            Ok(Value::List(words.map(|word| Value::Text(word.to_owned())).collect()))
        }
        ("split" | "rsplit", [Value::Text(separator)]) => {
            split(text, separator, -1, name == "rsplit")
        }
        ("split" | "rsplit", [Value::Text(separator), Value::Integer(max_splits)]) => {
            split(text, separator, *max_splits, name == "rsplit")
        }
        ("join", [members]) => joined(text, members),
        ("find", [Value::Text(part)]) => Ok(char_index(text, text.find(part.as_str()))),
        ("rfind", [Value::Text(part)]) => Ok(char_index(text, text.rfind(part.as_str()))),
        ("count", [Value::Text(part)]) if !part.is_empty() => {
            let count = text.matches(part.as_str()).count();
            Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
        }
        ("center", [Value::Integer(width)]) => Value::text(centered(text, *width)?),
        ("ljust" | "rjust" | "zfill", [Value::Integer(width)]) => justified(text, name, *width),
        ("isdigit" | "isalpha" | "isalnum" | "isupper" | "islower" | "isspace", []) => {
            has_kind(text, name).map(Value::Bool)
        }
        _ => Err(unsupported("this method is not supported")),
    }
}

/// Longest set of characters to strip, in bytes: it is searched for each character of a text.
const MAX_STRIPPED: usize = 256;

/// Returns the text without white space, or without these characters, at its beginning and
/// its end.
pub(super) fn stripped(
    text: &str,
    chars: Option<&str>,
    [begin, end]: [bool; 2],
) -> JinjaResult<Value> {
    if chars.is_some_and(|chars| chars.len() > MAX_STRIPPED) {
        return Err(unsupported("too many characters to strip"));
    }
    let is_stripped =
        |character: char| chars.map_or(is_space(character), |chars| chars.contains(character));
    let text = if begin { text.trim_start_matches(is_stripped) } else { text };
    let text = if end { text.trim_end_matches(is_stripped) } else { text };
    Value::text(text)
}

/// Replaces parts of a text. Each replacement may multiply a text by thousands, and they can
/// be chained, so the length is checked before the new text is created.
pub(super) fn replaced(text: &str, old: &str, new: &str, count: Option<i64>) -> JinjaResult<Value> {
    let longer = text.matches(old).count().saturating_mul(new.len().saturating_sub(old.len()));
    if text.len().saturating_add(longer) > MAX_TEXT {
        return Err(unsupported("a text grows too long"));
    }
    match count.map(usize::try_from) {
        Some(Ok(count)) => Value::text(text.replacen(old, new, count)),
        // A negative count replaces all.
        None | Some(Err(_)) => Value::text(text.replace(old, new)),
    }
}

/// Returns the text with its first character in title case and the rest in lower case.
pub(super) fn capitalized(text: &str) -> JinjaResult<String> {
    let mut characters = text.chars();
    let first = characters.next().map(title_case).transpose()?;
    let rest = lower(characters.as_str())?;
    Ok(first.into_iter().chain(rest.chars()).collect())
}

/// Returns the text with every run of letters capitalized.
fn titled(text: &str) -> JinjaResult<String> {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        if in_word {
            titled.push_str(&lower(character.encode_utf8(&mut [0; 4]))?);
        } else {
            titled.push(title_case(character)?);
        }
        in_word = character.is_lowercase() || character.is_uppercase();
    }
    Ok(titled)
}

/// Returns the title case of a letter; for most letters it is the upper case.
fn title_case(character: char) -> JinjaResult<char> {
    let mut upper = character.to_uppercase();
    let is_plain = match u32::from(character) {
        // Digraphs, and letters whose title case differs from their upper case.
        0x1c4..=0x1cc | 0x1f1..=0x1f3 | 0x10d0..=0x10ff | 0x1c90..=0x1cbf => false,
        _ => upper.len() == 1,
    };
    upper
        .next()
        .filter(|_| is_plain)
        .ok_or(unsupported("letters with a special title case are not supported"))
}

/// Returns the text in lower case. The lower case of a sigma depends on its position.
fn lower(text: &str) -> JinjaResult<String> {
    if text.contains('Σ') {
        return Err(unsupported("the lower case of a sigma is not supported"));
    }
    Ok(text.to_lowercase())
}

pub(super) fn centered(text: &str, width: i64) -> JinjaResult<String> {
    let padding = padding(text, width)?;
    let length = text.chars().count();
    let left = padding / 2 + (padding & (length + padding) & 1);
    Ok(format!("{}{text}{}", " ".repeat(left), " ".repeat(padding - left)))
}

fn padding(text: &str, width: i64) -> JinjaResult<usize> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    if width > MAX_TEXT {
        return Err(unsupported("a text grows too long"));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

fn justified(text: &str, name: &str, width: i64) -> JinjaResult<Value> {
    let padding = padding(text, width)?;
    let sign = text.chars().next().filter(|first| matches!(first, '+' | '-'));
    Value::text(match (name, sign) {
        ("ljust", _) => format!("{text}{}", " ".repeat(padding)),
        ("rjust", _) => format!("{}{text}", " ".repeat(padding)),
        (_, Some(sign)) => format!("{sign}{}{}", "0".repeat(padding), &text[1..]),
        (_, None) => format!("{}{text}", "0".repeat(padding)),
    })
}

fn split(text: &str, separator: &str, max_splits: i64, from_end: bool) -> JinjaResult<Value> {
    if separator.is_empty() {
        return Err(unsupported("the separator must not be empty"));
    }
    let max_splits = usize::try_from(max_splits).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = if from_end {
        text.rsplitn(max_splits + 1, separator).collect()
    } else {
        text.splitn(max_splits + 1, separator).collect()
    };
    if from_end {
        parts.reverse();
    }
    Ok(Value::List(parts.into_iter().map(|part| Value::Text(part.to_owned())).collect()))
}

fn joined(separator: &str, members: &Value) -> JinjaResult<Value> {
    let mut joined = String::new();
    for (at, member) in members.members()?.iter().enumerate() {
        let Value::Text(member) = member else {
            return Err(unsupported("only texts can be joined"));
        };
        joined.push_str(if at > 0 { separator } else { "" });
        joined.push_str(member);
        if joined.len() > MAX_TEXT {
            return Err(unsupported("a text grows too long"));
        }
    }
    Value::text(joined)
}

/// Converts an index in bytes to one in characters; -1 if there is none.
fn char_index(text: &str, at: Option<usize>) -> Value {
    let at = at.map(|at| text[..at].chars().count());
    Value::Integer(at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

pub(super) fn has_kind(text: &str, name: &str) -> JinjaResult<bool> {
    if !text.is_ascii() {
        return Err(unsupported("this is supported only for ASCII texts"));
    }
    let mut bytes = text.bytes();
    let any = |is: fn(&u8) -> bool| text.as_bytes().iter().any(is);
    let holds = match name {
        "isdigit" => bytes.all(|byte| byte.is_ascii_digit()),
        "isalpha" => bytes.all(|byte| byte.is_ascii_alphabetic()),
        "isalnum" => bytes.all(|byte| byte.is_ascii_alphanumeric()),
        "isupper" => any(u8::is_ascii_uppercase) && !any(u8::is_ascii_lowercase),
        "islower" => any(u8::is_ascii_lowercase) && !any(u8::is_ascii_uppercase),
        _ => bytes.all(|byte| is_space(char::from(byte))),
    };
    Ok(holds && !text.is_empty())
}
