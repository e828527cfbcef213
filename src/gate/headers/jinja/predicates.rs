//! Jinja2's tests, as far as they are known to behave the same here.

use super::methods::has_kind;
use super::value::Value;
use super::{JinjaResult, unsupported};

/// The names of the supported tests.
pub(super) const TESTS: [&str; 25] = [
    "boolean",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "le",
    "lessthan",
    "lower",
    "lt",
    "ne",
    "none",
    "number",
    "odd",
    "string",
    "true",
    "undefined",
    "upper",
];

pub(super) fn test(of: &Value, name: &str, arguments: &[Value]) -> JinjaResult<bool> {
    match (name, arguments) {
        ("defined", []) => Ok(!matches!(of, Value::Undefined)),
        ("undefined", []) => Ok(matches!(of, Value::Undefined)),
        ("none", []) => Ok(matches!(of, Value::None)),
        ("string", []) => Ok(matches!(of, Value::Text(_) | Value::Markup(_))),
        ("number", []) => Ok(matches!(of, Value::Bool(_) | Value::Integer(_) | Value::Float(_))),
        ("integer", []) => Ok(matches!(of, Value::Integer(_))),
        ("float", []) => Ok(matches!(of, Value::Float(_))),
        ("boolean", []) => Ok(matches!(of, Value::Bool(_))),
        ("true", []) => Ok(matches!(of, Value::Bool(true))),
        ("false", []) => Ok(matches!(of, Value::Bool(false))),
        ("odd" | "even", []) => {
            let number = of.integer().ok_or(unsupported("only whole numbers are odd or even"))?;
            Ok((number.rem_euclid(2) == 1) == (name == "odd"))
        }
        ("divisibleby", [by]) => {
            let numbers = of.integer().zip(by.integer());
            let rest = numbers.and_then(|(number, by)| number.checked_rem(by));
            Ok(rest.ok_or(unsupported("only whole numbers can be divided"))? == 0)
        }
        ("eq" | "equalto", [other]) => of.equals(other),
        ("ne", [other]) => Ok(!of.equals(other)?),
        ("lt" | "lessthan", [other]) => Ok(of.order(other)?.is_lt()),
        ("le", [other]) => Ok(of.order(other)?.is_le()),
        ("gt" | "greaterthan", [other]) => Ok(of.order(other)?.is_gt()),
        ("ge", [other]) => Ok(of.order(other)?.is_ge()),
        ("lower", []) => has_kind(&of.print()?, "islower"),
        ("upper", []) => has_kind(&of.print()?, "isupper"),
        ("in", [among]) => among.contains(of),
        _ => Err(unsupported("this test is not supported")),
    }
}
