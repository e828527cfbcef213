//! Parses values as pydantic does outside of strict mode: what the core accepts as a
//! number or a flag is accepted here too, and what it refuses is refused.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// Parses a port.
pub(super) fn port<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let value = Value::deserialize(from)?;
    let number = integer(&value).and_then(|number| u16::try_from(number).ok());
    number.ok_or_else(|| D::Error::custom(format_args!("invalid port {value}")))
}

/// Parses seconds, or null. A negative number is kept, and refused later with a reason.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let value = Value::deserialize(from)?;
    if value.is_null() {
        return Ok(None);
    }
    let number = integer(&value).map(Some);
    number.ok_or_else(|| D::Error::custom(format_args!("invalid number of seconds {value}")))
}

pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(from)?;
    to_bool(&value).ok_or_else(|| D::Error::custom(format_args!("invalid flag {value}")))
}

/// Parses one of an enumeration's words: serde alone would also accept a map of one key.
pub(super) fn word<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: DeserializeOwned,
    D: Deserializer<'de>,
{
    match Value::deserialize(from)? {
        word @ Value::String(_) => serde_json::from_value(word).map_err(D::Error::custom),
        other => Err(D::Error::custom(format_args!("invalid value {other}: expected a string"))),
    }
}

/// A value that must be an object: serde alone would also accept an array for a struct.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            object @ Value::Object(_) => {
                serde_json::from_value(object).map(Self).map_err(D::Error::custom)
            }
            other => {
                Err(D::Error::custom(format_args!("invalid value {other}: expected an object")))
            }
        }
    }
}

/// Converts a value to an integer; one beyond 64 bits becomes the largest or smallest of
/// those.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Number(number) => to_integer(number),
        Value::String(text) => parse_integer(text),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn to_integer(number: &Number) -> Option<i64> {
    if let Some(integer) = number.as_i64() {
        return Some(integer);
    }
    if number.is_u64() {
        return Some(i64::MAX);
    }
    let is_whole = |float: &f64| float.fract() == 0.0 && float.abs() < 9e18;
    #[expect(clippy::cast_possible_truncation, reason = "it is in range")]
    number.as_f64().filter(is_whole).map(|float| float as i64)
}

/// Parses digits with `_` between them, an optional sign, optional zeros after a point,
/// and surrounding white space.
fn parse_integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (text, is_negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    let (digits, zeros) = text.split_once('.').unwrap_or((text, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits.split('_').all(are_digits) || !are_digits(zeros) || !zeros.bytes().all(|b| b == b'0')
    {
        return None;
    }
    let size = digits.bytes().filter(u8::is_ascii_digit).fold(0_i64, |number, digit| {
        number.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    Some(if is_negative { -size } else { size })
}

fn to_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "y" | "yes" | "on" => Some(true),
            "0" | "f" | "false" | "n" | "no" | "off" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns whether Python treats the value as true in a condition.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_pydantic_reads_them() {
        let made: Value =
            serde_json::from_str(include_str!("../../../tests/vectors/values.json")).expect("json");
        let mut read = 0;
        for row in made["rows"].as_array().expect("rows") {
            let given = &row["given"];
            let ours = match row["kind"].as_str() {
                // A number outside the range of ports is refused here, but not by the
                // core.
                Some("port") => integer(given).map(Value::from),
                Some("seconds") => seconds(given).ok().map(Value::from),
                Some("flag") => flag(given).ok().map(Value::from),
                _ => String::deserialize(given).ok().map(Value::from),
            };
            assert_eq!(ours.is_none(), row["refused"] == true, "{row}");
            // JSON numbers are limited to 64 bits here.
            let is_beyond = row["read"].as_f64().is_some_and(|number| number.abs() > 9e18);
            if let Some(ours) = ours
                && !is_beyond
            {
                assert_eq!(ours, row["read"], "{row}");
                read += 1;
            }
        }
        assert!(read > 100, "{read}");
        assert!(port(&Value::from(70_000)).is_err() && port(&Value::from("-1")).is_err());
    }
}
