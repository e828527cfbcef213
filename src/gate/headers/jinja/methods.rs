//! Methods of Python's texts, as far as they are known to be the same here.

use super::value::Value;
use super::{Checked, MAX_TEXT, is_space, unsupported};

pub(super) fn method(of: &Value, name: &str, arguments: &[Value]) -> Checked<Value> {
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
        ("strip", [Value::Text(which)]) => stripped(text, Some(which), [true, true]),
        ("lstrip", [Value::Text(which)]) => stripped(text, Some(which), [true, false]),
        ("rstrip", [Value::Text(which)]) => stripped(text, Some(which), [false, true]),
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
        ("split" | "rsplit", [Value::Text(by)]) => parted(text, by, -1, name == "rsplit"),
        ("split" | "rsplit", [Value::Text(by), Value::Integer(most)]) => {
            parted(text, by, *most, name == "rsplit")
        }
        ("join", [members]) => joined(text, members),
        ("find", [Value::Text(part)]) => Ok(place(text, text.find(part.as_str()))),
        ("rfind", [Value::Text(part)]) => Ok(place(text, text.rfind(part.as_str()))),
        ("count", [Value::Text(part)]) if !part.is_empty() => {
            let count = text.matches(part.as_str()).count();
            Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
        }
        ("center", [Value::Integer(width)]) => Value::text(centered(text, *width)?),
        ("ljust" | "rjust" | "zfill", [Value::Integer(width)]) => justified(text, name, *width),
        ("isdigit" | "isalpha" | "isalnum" | "isupper" | "islower" | "isspace", []) => {
            is_of_kind(text, name).map(Value::Bool)
        }
        _ => Err(unsupported("this method is not supported")),
    }
}

/// Most characters to strip, in bytes: each of a text is looked for among them.
const MAX_STRIPPED: usize = 256;

/// Without white space, or without these characters, at its beginning and its end.
pub(super) fn stripped(text: &str, which: Option<&str>, [begin, end]: [bool; 2]) -> Checked<Value> {
    if which.is_some_and(|which| which.len() > MAX_STRIPPED) {
        return Err(unsupported("so many characters cannot be stripped"));
    }
    let goes =
        |character: char| which.map_or(is_space(character), |which| which.contains(character));
    let text = if begin { text.trim_start_matches(goes) } else { text };
    let text = if end { text.trim_end_matches(goes) } else { text };
    Value::text(text)
}

/// Each replacement may multiply a text by thousands, and they can be chained: what is
/// too long for a header is not even made.
pub(super) fn replaced(text: &str, old: &str, new: &str, count: Option<i64>) -> Checked<Value> {
    let longer = text.matches(old).count().saturating_mul(new.len().saturating_sub(old.len()));
    if text.len().saturating_add(longer) > MAX_TEXT {
        return Err(unsupported("a text grows too long"));
    }
    match count.map(usize::try_from) {
        Some(Ok(count)) => Value::text(text.replacen(old, new, count)),
        // Below zero is all.
        None | Some(Err(_)) => Value::text(text.replace(old, new)),
    }
}

/// The first character as a word begins, the rest in lower case.
pub(super) fn capitalized(text: &str) -> Checked<String> {
    let mut characters = text.chars();
    let first = characters.next().map(title_case).transpose()?;
    let rest = lower(characters.as_str())?;
    Ok(first.into_iter().chain(rest.chars()).collect())
}

/// Every run of letters as a word is written.
fn titled(text: &str) -> Checked<String> {
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

/// The form of a letter that begins a word; for most it is the upper case.
fn title_case(character: char) -> Checked<char> {
    let mut upper = character.to_uppercase();
    let is_plain = match u32::from(character) {
        // Letters that are two, and those whose title case is their own.
        0x1c4..=0x1cc | 0x1f1..=0x1f3 | 0x10d0..=0x10ff | 0x1c90..=0x1cbf => false,
        _ => upper.len() == 1,
    };
    upper.next().filter(|_| is_plain).ok_or(unsupported("a letter has a title case of its own"))
}

/// A sigma is written by what follows it.
fn lower(text: &str) -> Checked<String> {
    if text.contains('Σ') {
        return Err(unsupported("a sigma has two lower cases"));
    }
    Ok(text.to_lowercase())
}

pub(super) fn centered(text: &str, width: i64) -> Checked<String> {
    let missing = missing(text, width)?;
    let length = text.chars().count();
    let left = missing / 2 + (missing & (length + missing) & 1);
    Ok(format!("{}{text}{}", " ".repeat(left), " ".repeat(missing - left)))
}

fn missing(text: &str, width: i64) -> Checked<usize> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    if width > MAX_TEXT {
        return Err(unsupported("a text grows too long"));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

fn justified(text: &str, name: &str, width: i64) -> Checked<Value> {
    let missing = missing(text, width)?;
    let sign = text.chars().next().filter(|first| matches!(first, '+' | '-'));
    Value::text(match (name, sign) {
        ("ljust", _) => format!("{text}{}", " ".repeat(missing)),
        ("rjust", _) => format!("{}{text}", " ".repeat(missing)),
        (_, Some(sign)) => format!("{sign}{}{}", "0".repeat(missing), &text[1..]),
        (_, None) => format!("{}{text}", "0".repeat(missing)),
    })
}

fn parted(text: &str, by: &str, most: i64, from_end: bool) -> Checked<Value> {
    if by.is_empty() {
        return Err(unsupported("nothing cannot part a text"));
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = if from_end {
        text.rsplitn(most + 1, by).collect()
    } else {
        text.splitn(most + 1, by).collect()
    };
    if from_end {
        parts.reverse();
    }
    Ok(Value::List(parts.into_iter().map(|part| Value::Text(part.to_owned())).collect()))
}

fn joined(between: &str, members: &Value) -> Checked<Value> {
    let mut joined = String::new();
    for (at, member) in members.members()?.iter().enumerate() {
        let Value::Text(member) = member else {
            return Err(unsupported("only texts can be joined"));
        };
        joined.push_str(if at > 0 { between } else { "" });
        joined.push_str(member);
        if joined.len() > MAX_TEXT {
            return Err(unsupported("a text grows too long"));
        }
    }
    Value::text(joined)
}

/// A place in bytes as one in characters; -1 where there is none.
fn place(text: &str, at: Option<usize>) -> Value {
    let at = at.map(|at| text[..at].chars().count());
    Value::Integer(at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

pub(super) fn is_of_kind(text: &str, name: &str) -> Checked<bool> {
    if !text.is_ascii() {
        return Err(unsupported("only for ASCII"));
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
