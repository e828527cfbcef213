//! The values of templates, with the semantics of Python.

use std::cmp::Ordering;
use std::fmt::Write;

use super::{JinjaResult, MAX_TEXT, unsupported};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Undefined,
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// Text that is already escaped: any operation with it would also escape the other operand.
    Markup(String),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Record(Record),
    Loop(Loop),
}

/// `auth` or `portal`: the names of its attributes.
pub(super) type Record = &'static [&'static str];

/// The position of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) index: i64,
    pub(super) length: i64,
}

/// Largest integer that converts to a float without loss.
const EXACT: i64 = 1 << 53;

impl Value {
    pub(super) fn text(text: impl Into<String>) -> JinjaResult<Self> {
        let text = text.into();
        if text.len() > MAX_TEXT {
            return Err(unsupported("a text grows too long"));
        }
        Ok(Self::Text(text))
    }

    /// `bool(value)`
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined | Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Integer(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(members) | Self::Tuple(members) => !members.is_empty(),
            Self::Record(_) | Self::Loop(_) => true,
        }
    }

    /// `str(value)`
    pub(super) fn print(&self) -> JinjaResult<String> {
        match self {
            Self::Undefined => Ok(String::new()),
            Self::Text(text) => Ok(text.clone()),
            Self::Markup(_) => Err(unsupported("escaped text can only be printed")),
            other => other.represent(),
        }
    }

    /// `repr(value)`
    fn represent(&self) -> JinjaResult<String> {
        match self {
            Self::None => Ok("None".into()),
            Self::Bool(true) => Ok("True".into()),
            Self::Bool(false) => Ok("False".into()),
            Self::Integer(number) => Ok(number.to_string()),
            Self::Float(number) => represent_float(*number),
            Self::Text(text) => represent_text(text),
            Self::List(members) => {
                let mut list = String::from("[");
                for (at, member) in members.iter().enumerate() {
                    list.push_str(if at > 0 { ", " } else { "" });
                    list.push_str(&member.represent()?);
                    if list.len() > MAX_TEXT {
                        return Err(unsupported("a text grows too long"));
                    }
                }
                list.push(']');
                Ok(list)
            }
            Self::Undefined => Ok("Undefined".into()),
            Self::Tuple(_) | Self::Markup(_) | Self::Record(_) | Self::Loop(_) => {
                Err(unsupported("this value cannot be printed"))
            }
        }
    }

    /// Returns the value as an integer; a flag counts as 0 or 1.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Bool(flag) => Some(i64::from(*flag)),
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "within the exact range")]
    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            other => other.integer().filter(|n| (-EXACT..EXACT).contains(n)).map(|n| n as f64),
        }
    }

    /// `self == other`
    pub(super) fn equals(&self, other: &Self) -> JinjaResult<bool> {
        Ok(match (self, other) {
            (Self::Record(_) | Self::Loop(_) | Self::Markup(_), _)
            | (_, Self::Record(_) | Self::Loop(_) | Self::Markup(_)) => {
                return Err(unsupported("this value cannot be compared"));
            }
            (Self::Undefined, Self::Undefined) | (Self::None, Self::None) => true,
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::List(one), Self::List(two)) | (Self::Tuple(one), Self::Tuple(two)) => {
                if one.len() != two.len() {
                    return Ok(false);
                }
                for (one, two) in one.iter().zip(two) {
                    if !one.equals(two)? {
                        return Ok(false);
                    }
                }
                true
            }
            (one, two) => match (one.integer(), two.integer()) {
                (Some(one), Some(two)) => one == two,
                #[expect(clippy::float_cmp, reason = "as Python does")]
                _ => matches!((one.float(), two.float()), (Some(one), Some(two)) if one == two),
            },
        })
    }

    /// Compares two values for `<`, `<=`, `>` and `>=`.
    pub(super) fn order(&self, other: &Self) -> JinjaResult<Ordering> {
        let order = match (self, other) {
            (Self::Text(one), Self::Text(two)) => Some(one.cmp(two)),
            (one, two) => match (one.integer(), two.integer()) {
                (Some(one), Some(two)) => Some(one.cmp(&two)),
                _ => one.float().zip(two.float()).and_then(|(one, two)| one.partial_cmp(&two)),
            },
        };
        order.ok_or(unsupported("these values cannot be ordered"))
    }

    /// `member in self`
    pub(super) fn contains(&self, member: &Self) -> JinjaResult<bool> {
        match (self, member) {
            (Self::Text(text), Self::Text(part)) => Ok(text.contains(part.as_str())),
            (Self::List(members) | Self::Tuple(members), member) => {
                for other in members {
                    if other.equals(member)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Self::Undefined, _) => Ok(false),
            _ => Err(unsupported("this value cannot contain other values")),
        }
    }

    /// Returns the members that a loop iterates over.
    pub(super) fn members(&self) -> JinjaResult<Vec<Self>> {
        match self {
            Self::Undefined => Ok(Vec::new()),
            Self::Text(text) => Ok(text.chars().map(|c| Self::Text(c.to_string())).collect()),
            Self::List(members) | Self::Tuple(members) => Ok(members.clone()),
            _ => Err(unsupported("this value has no members")),
        }
    }

    /// Returns the approximate size in bytes.
    pub(super) fn size(&self) -> usize {
        let own = size_of::<Self>();
        match self {
            Self::Text(text) | Self::Markup(text) => own + text.len(),
            Self::List(members) | Self::Tuple(members) => {
                own + members.iter().map(Self::size).sum::<usize>()
            }
            _ => own,
        }
    }

    pub(super) fn length(&self) -> JinjaResult<i64> {
        let length = match self {
            Self::Undefined => 0,
            Self::Text(text) => text.chars().count(),
            Self::List(members) | Self::Tuple(members) => members.len(),
            _ => return Err(unsupported("this value has no length")),
        };
        Ok(i64::try_from(length).unwrap_or(i64::MAX))
    }
}

/// Outside of this range, Python writes an exponent and Rust does not.
fn represent_float(number: f64) -> JinjaResult<String> {
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        Ok(format!("{number:?}"))
    } else {
        Err(unsupported("a number is too large or too small"))
    }
}

/// Refuses characters outside ASCII: which of them Python escapes depends on its version.
fn represent_text(text: &str) -> JinjaResult<String> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut represented = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => represented.push_str("\\\\"),
            '\n' => represented.push_str("\\n"),
            '\r' => represented.push_str("\\r"),
            '\t' => represented.push_str("\\t"),
            _ if character == quote => {
                represented.push('\\');
                represented.push(quote);
            }
            ' '..='~' => represented.push(character),
            '\0'..='\x1f' | '\x7f' => {
                // Writing to a string does not fail.
                let _ = write!(represented, "\\x{:02x}", u32::from(character));
            }
            _ => return Err(unsupported("a list with non-ASCII characters cannot be printed")),
        }
    }
    represented.push(quote);
    Ok(represented)
}
