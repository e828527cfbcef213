//! A value as the file or a variable gives it, before it is read as any key's type.

use toml::de::DeValue;

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    Text(String),
    Integer(String),
    Boolean(bool),
    List(Vec<Raw>),
    /// A variable's text, which may mean any of the above.
    Variable(String),
    /// A value of a type that no key accepts, by the name of its type.
    Other(&'static str),
}

impl Raw {
    pub(super) fn from_value(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(integer) if integer.radix() == 10 => {
                Self::Integer(integer.as_str().to_owned())
            }
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Array(array) => {
                Self::List(array.iter().map(|item| Self::from_value(item.get_ref())).collect())
            }
            other => Self::Other(other.type_str()),
        }
    }

    /// Returns the items of a variable's text; commas separate them.
    pub(super) fn items(variable: &str) -> Vec<String> {
        let items = variable.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    }

    /// Returns the name of the value's type, for findings.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Variable(_) => "text",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }
}
