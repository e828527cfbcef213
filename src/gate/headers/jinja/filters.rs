//! Jinja2's filters, as far as they are known to behave the same here.

use std::fmt::Write;

use super::methods::{capitalized, centered, replaced, stripped};
use super::value::Value;
use super::{JinjaResult, MAX_TEXT, is_space, unsupported};

/// The names of the supported filters.
pub(super) const FILTERS: [&str; 26] = [
    "abs",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "e",
    "escape",
    "first",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "replace",
    "reverse",
    "round",
    "safe",
    "string",
    "title",
    "tojson",
    "trim",
    "truncate",
    "upper",
    "urlencode",
];

/// The arguments of a filter: positional or named.
struct Arguments<'a> {
    names: &'static [&'static str],
    positional: &'a [Value],
    named: &'a [(&'a str, Value)],
}

impl<'a> Arguments<'a> {
    fn new(
        names: &'static [&'static str],
        positional: &'a [Value],
        named: &'a [(&'a str, Value)],
    ) -> JinjaResult<Self> {
        let is_known = |(at, (name, _)): (usize, &(&str, Value))| {
            let position = names.iter().position(|known| known == name);
            let is_twice = named[..at].iter().any(|(other, _)| other == name);
            position.is_some_and(|position| position >= positional.len()) && !is_twice
        };
        if positional.len() > names.len() || !named.iter().enumerate().all(is_known) {
            return Err(unsupported("these arguments do not match the filter"));
        }
        Ok(Self { names, positional, named })
    }

    fn get(&self, position: usize) -> Option<&'a Value> {
        let named = || self.named.iter().find(|(name, _)| *name == self.names[position]);
        self.positional.get(position).or_else(|| named().map(|(_, value)| value))
    }

    fn text(&self, position: usize) -> JinjaResult<Option<&'a str>> {
        match self.get(position) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(unsupported("this argument must be a text")),
        }
    }

    fn integer(&self, position: usize) -> JinjaResult<Option<i64>> {
        match self.get(position) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number)),
            Some(_) => Err(unsupported("this argument must be a whole number")),
        }
    }

    fn flag(&self, position: usize) -> bool {
        self.get(position).is_some_and(Value::is_true)
    }
}

pub(super) fn filter(
    of: &Value,
    name: &str,
    positional: &[Value],
    named: &[(&str, Value)],
) -> JinjaResult<Value> {
    let names: &[&str] = match name {
        "d" | "default" => &["default_value", "boolean"],
        "trim" => &["chars"],
        "replace" => &["old", "new", "count"],
        "join" => &["d"],
        "int" => &["default"],
        "round" => &["precision"],
        "center" => &["width"],
        "truncate" => &["length", "killwords", "end", "leeway"],
        _ => &[],
    };
    let arguments = Arguments::new(names, positional, named)?;
    match name {
        "d" | "default" => {
            let is_missing = matches!(of, Value::Undefined) || (arguments.flag(1) && !of.is_true());
            let other = arguments.get(0).cloned().unwrap_or(Value::Text(String::new()));
            Ok(if is_missing { other } else { of.clone() })
        }
        "upper" => Value::text(of.print()?.to_uppercase()),
        "lower" => Value::text(of.print()?.to_lowercase()),
        "capitalize" => Value::text(capitalized(&of.print()?)?),
        "title" => Value::text(titled(&of.print()?)),
        "trim" => stripped(&of.print()?, arguments.text(0)?, [true, true]),
        "string" => Value::text(of.print()?),
        "length" | "count" => Ok(Value::Integer(of.length()?)),
        "first" => Ok(of.members()?.into_iter().next().unwrap_or(Value::Undefined)),
        "last" if *of != Value::Undefined => Ok(of.members()?.pop().unwrap_or(Value::Undefined)),
        "list" => Ok(Value::List(of.members()?)),
        "reverse" => match of {
            Value::Text(text) => Ok(Value::Text(text.chars().rev().collect())),
            _ => Err(unsupported("only texts can be reversed")),
        },
        "replace" => {
            let (Some(old), Some(new)) = (arguments.get(0), arguments.get(1)) else {
                return Err(unsupported("these arguments do not match the filter"));
            };
            let count = arguments.integer(2)?;
            replaced(&of.print()?, &old.print()?, &new.print()?, count)
        }
        "join" => {
            let separator = arguments.get(0).map_or(Ok(String::new()), Value::print)?;
            let mut joined = String::new();
            for (at, member) in of.members()?.iter().enumerate() {
                joined.push_str(if at > 0 { &separator } else { "" });
                joined.push_str(&member.print()?);
                if joined.len() > MAX_TEXT {
                    return Err(unsupported("a text grows too long"));
                }
            }
            Value::text(joined)
        }
        "int" => integer(of, arguments.get(0)),
        "abs" => match of {
            Value::Float(number) => Ok(Value::Float(number.abs())),
            other => {
                let number = other.integer().and_then(i64::checked_abs).map(Value::Integer);
                number.ok_or(unsupported("only numbers have an absolute value"))
            }
        },
        "round" => rounded(of, arguments.integer(0)?.unwrap_or(0)),
        "center" => Value::text(centered(&of.print()?, arguments.integer(0)?.unwrap_or(80))?),
        "truncate" => match of {
            Value::Text(text) => truncated(text, &arguments),
            _ => Err(unsupported("only texts can be truncated")),
        },
        "urlencode" => match of {
            Value::Text(_) | Value::Integer(_) => Value::text(url_encoded(&of.print()?)),
            _ => Err(unsupported("only texts can be encoded")),
        },
        "e" | "escape" => markup(escaped(&of.print()?)),
        "safe" => markup(of.print()?),
        "tojson" => markup(json(of)?),
        _ => Err(unsupported("this filter is not supported")),
    }
}

fn markup(text: String) -> JinjaResult<Value> {
    match Value::text(text)? {
        Value::Text(text) => Ok(Value::Markup(text)),
        other => Ok(other),
    }
}

/// Capitalizes each word; a word begins after white space, a hyphen or an opening bracket.
fn titled(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut word = String::new();
    let finish = |word: &mut String, titled: &mut String| {
        let mut characters = word.chars();
        titled.extend(characters.next().into_iter().flat_map(char::to_uppercase));
        titled.push_str(&characters.as_str().to_lowercase());
        word.clear();
    };
    for character in text.chars() {
        if is_space(character) || "-({[<".contains(character) {
            finish(&mut word, &mut titled);
            titled.push(character);
        } else {
            word.push(character);
        }
    }
    finish(&mut word, &mut titled);
    titled
}

fn integer(of: &Value, default: Option<&Value>) -> JinjaResult<Value> {
    let default = || default.cloned().unwrap_or(Value::Integer(0));
    match of {
        Value::Bool(_) | Value::Integer(_) => Ok(of.integer().map_or_else(default, Value::Integer)),
        Value::Float(number) => whole(*number),
        Value::None | Value::List(_) => Ok(default()),
        Value::Text(text) if text.is_ascii() => {
            let text = text.trim_matches(is_space);
            if let Ok(number) = text.parse() {
                return Ok(Value::Integer(number));
            }
            let is_name = |byte: u8| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E');
            let is_digit = |byte: u8| byte.is_ascii_digit() || b"+-".contains(&byte);
            if text.contains('_') || (text.len() > 15 && text.bytes().all(is_digit)) {
                return Err(unsupported("this number format is not supported"));
            }
            match text.parse::<f64>() {
                // `nan`, `inf` and the like are not whole numbers, in either language.
                Ok(number) if !text.bytes().any(is_name) => whole(number),
                _ => Ok(default()),
            }
        }
        _ => Err(unsupported("this cannot be read as a number")),
    }
}

fn whole(number: f64) -> JinjaResult<Value> {
    if number.abs() < 1e15 {
        #[expect(clippy::cast_possible_truncation, reason = "towards zero, as Python does")]
        return Ok(Value::Integer(number as i64));
    }
    Err(unsupported("a number is too large"))
}

fn rounded(of: &Value, precision: i64) -> JinjaResult<Value> {
    match of {
        Value::Integer(number) if precision >= 0 => Ok(Value::Integer(*number)),
        Value::Float(number) => {
            let places = usize::try_from(precision).ok().filter(|places| *places <= 12);
            let places = places.ok_or(unsupported("this cannot be rounded"))?;
            let rounded = format!("{number:.places$}").parse().map(Value::Float);
            rounded.map_err(|_| unsupported("this cannot be rounded"))
        }
        _ => Err(unsupported("this cannot be rounded")),
    }
}

fn truncated(text: &str, arguments: &Arguments<'_>) -> JinjaResult<Value> {
    let characters = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let length = arguments.integer(0)?.unwrap_or(255);
    let end = arguments.text(2)?.unwrap_or("...");
    let leeway = arguments.integer(3)?.unwrap_or(5);
    let kept = length.checked_sub(i64::try_from(end.chars().count()).unwrap_or(i64::MAX));
    let kept = kept.and_then(|kept| usize::try_from(kept).ok());
    let (Some(kept), true) = (kept, leeway >= 0) else {
        return Err(unsupported("the length is too short for the end, or the leeway is negative"));
    };
    if characters <= length.saturating_add(leeway) {
        return Value::text(text);
    }
    let begin: String = text.chars().take(kept).collect();
    let begin = if arguments.flag(1) {
        begin.as_str()
    } else {
        begin.rsplit_once(' ').map_or(begin.as_str(), |(begin, _)| begin)
    };
    Value::text(format!("{begin}{end}"))
}

fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `json.dumps`, with the characters that have a meaning in HTML escaped.
fn json(of: &Value) -> JinjaResult<String> {
    Ok(match of {
        Value::None => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => json_text(text),
        Value::List(members) => {
            let members: Vec<String> = members.iter().map(json).collect::<JinjaResult<_>>()?;
            format!("[{}]", members.join(", "))
        }
        _ => return Err(unsupported("this value cannot be written as JSON")),
    })
}

fn json_text(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '<' | '>' | '&' | '\'' => {
                let _ = write!(json, "\\u{:04x}", u32::from(character));
            }
            ' '..='~' => json.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
    json.push('"');
    json
}
