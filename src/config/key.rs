//! What the table of keys is made of: a key, its fallback, the shape of its value, and the
//! macro that turns the table into structs; and what can be looked up in it.

use serde_json::{Value as Json, json};

use super::findings::Origin;
use super::raw::Raw;

/// One key of the file.
#[derive(Debug)]
pub(super) struct Key {
    /// With its section: `gate.tls.names`.
    pub(super) name: &'static str,
    /// The name of the key for a file that holds the value; only secrets have one.
    pub(super) file_name: &'static str,
    /// The lines of its documentation; each begins with a space.
    pub(super) doc: &'static [&'static str],
    pub(super) shape: Shape,
    pub(super) fallback: Fallback,
    /// Whether a reload of the running process applies a change.
    pub(super) is_reloaded: bool,
}

/// A section of the file, or a part of one, in the order of the documented file.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// All keys. It is passed to whatever looks keys up, so that only the table itself names them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) sections: &'static [Section],
    /// The section that may be given several times.
    pub(super) list: &'static str,
}

impl Table {
    /// Returns every key.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static Key> {
        self.sections.iter().flat_map(|section| section.keys)
    }

    /// Returns whether a section may be given several times, as `[[section]]`.
    pub(super) fn is_list(self, section: &str) -> bool {
        section == self.list
    }

    /// Returns whether a key belongs to such a section.
    pub(super) fn is_listed(self, key: &str) -> bool {
        key.rsplit_once('.').is_some_and(|(section, _)| self.is_list(section))
    }

    /// Returns the keys of such a section.
    pub(super) fn listed(self) -> impl Iterator<Item = &'static Key> {
        self.keys().filter(move |key| self.is_listed(key.name))
    }

    /// Returns every name that the file accepts, including those of files that hold secrets.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        self.keys().flat_map(Key::names)
    }

    /// Returns the key of this name.
    pub(super) fn find(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// What a default may depend on.
pub(super) trait GivenValues {
    /// Returns whether a key is given.
    fn has(&self, key: &str) -> bool;

    /// Returns the value that counts: the given one, else the default.
    fn effective_value(&self, key: &str) -> Option<(Origin, Raw)>;

    /// Returns another program's variable, unless it is empty.
    fn variable(&self, name: &str) -> Option<&str>;
}

/// What counts if a key is not given.
#[derive(Debug)]
pub(super) enum Fallback {
    /// The default.
    Value(Literal),
    /// A default that depends on other keys or on the environment; the literal is an example.
    Computed(Literal, fn(&dyn GivenValues) -> Option<(Origin, Raw)>),
    /// Nothing; the literal is an example.
    Unset(Literal),
    /// Nothing, and the value is a secret; examples of it and of a file that holds it.
    Secret(&'static str, &'static str),
}

/// A value as it is written in the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Literal {
    Text(&'static str),
    Integer(u64),
    Boolean(bool),
    List(&'static [&'static str]),
}

/// Which values a key accepts, as far as a schema can say it. Patterns are regular
/// expressions that match somewhere in the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Boolean,
    /// With both ends of its range.
    Integer(u64, u64),
    Text,
    Pattern(&'static str),
    Words(fn() -> Vec<&'static str>),
    /// Text, or a number of bytes.
    Bytes,
    List,
    ListOf(&'static str),
    /// Text, or a list.
    Program,
}

impl Key {
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.fallback, Fallback::Secret(..))
    }

    /// Returns the names under which the file accepts it.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.is_secret().then_some(self.file_name))
    }
}

impl Literal {
    pub(super) fn raw(self) -> Raw {
        match self {
            Self::Text(text) => Raw::Text(text.into()),
            Self::Integer(number) => Raw::Integer(number.to_string()),
            Self::Boolean(value) => Raw::Boolean(value),
            Self::List(items) => {
                Raw::List(items.iter().map(|item| Raw::Text((*item).into())).collect())
            }
        }
    }

    pub(super) fn json(self) -> Json {
        match self {
            Self::Text(text) => text.into(),
            Self::Integer(number) => number.into(),
            Self::Boolean(value) => value.into(),
            Self::List(items) => items.into(),
        }
    }
}

impl Shape {
    /// Returns the JSON Schema of such a value.
    pub(super) fn schema(self) -> Json {
        match self {
            Self::Boolean => json!({"type": "boolean"}),
            Self::Integer(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Self::Text => json!({"type": "string", "minLength": 1}),
            Self::Pattern(pattern) => json!({"type": "string", "pattern": pattern}),
            Self::Words(words) => json!({"enum": words()}),
            Self::Bytes => json!({
                "type": ["string", "integer"],
                "minimum": 0,
                "pattern": "^[0-9]+ *([KMG]i)?B?$",
            }),
            Self::List => list(&Self::Text.schema()),
            Self::ListOf(pattern) => list(&Self::Pattern(pattern).schema()),
            Self::Program => json!({
                "type": ["string", "array"],
                "minLength": 1,
                "minItems": 1,
                "items": Self::Text.schema(),
            }),
        }
    }

    /// Returns a value that fits as JSON; a variable's text means what the shape says.
    pub(super) fn json(self, raw: &Raw) -> Json {
        let number = |text: &String| text.parse::<u64>().map_or_else(|_| json!(text), Json::from);
        match (raw, self) {
            (Raw::Boolean(value), _) => json!(value),
            (Raw::Integer(text), _) | (Raw::Variable(text), Self::Integer(..)) => number(text),
            (Raw::List(items), _) => items.iter().map(|item| self.json(item)).collect(),
            (Raw::Variable(text), Self::Boolean) => json!(text == "true"),
            (Raw::Variable(text), Self::List | Self::ListOf(_)) => json!(Raw::items(text)),
            (Raw::Text(text) | Raw::Variable(text), _) => json!(text),
            (Raw::Other(_), _) => Json::Null,
        }
    }
}

fn list(item: &Json) -> Json {
    json!({"type": "array", "minItems": 1, "items": item})
}

/// Returns a value as TOML; texts, numbers and lists of texts are written as in JSON.
pub(super) fn toml(value: &Json) -> String {
    match value {
        Json::Array(items) => {
            let items: Vec<_> = items.iter().map(Json::to_string).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Declares sections with their keys. For each section there are a struct with one field for
/// each key and each derived value, `read`, which takes the derived values, and `compare`;
/// all keys together are `SECTIONS`.
///
/// `KEY: TYPE as SETTING = FALLBACK;`, where the [`Setting`](super::setting::Setting) is the
/// type itself if it is left out. `, reloaded` after the fallback says that a reload applies
/// the key.
macro_rules! sections {
    ($(
        $(#[doc = $about:literal])*
        [$section:literal] $visible:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty $(as $setting:ty)? = $fallback:expr $(, $reloaded:ident)?;
            )*
        } $(with { $($derived:ident: $derived_type:ty,)* })?
    )*) => {
        /// Every key, by section.
        pub(super) const SECTIONS: &[Section] = &[$(
            Section { name: $section, about: &[$($about),*], keys: $name::KEYS },
        )*];

        $(
            $(#[doc = $about])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            $visible struct $name {
                $($(#[doc = $doc])* pub $key: $type,)*
                $($(pub $derived: $derived_type,)*)?
            }

            impl $name {
                const KEYS: &'static [Key] = &[$(
                    Key {
                        name: concat!($section, ".", stringify!($key)),
                        file_name: concat!($section, ".", stringify!($key), "_file"),
                        doc: &[$($doc),*],
                        shape: <sections!(@setting $type $(, $setting)?) as Setting>::SHAPE,
                        fallback: $fallback,
                        is_reloaded: sections!(@is $($reloaded)?),
                    },
                )*];

                /// Reads every key; a value that does not fit is a finding, and the default
                /// replaces it, so that the rest is still checked. Returns `None` if there is
                /// no default either.
                pub(super) fn read(
                    reader: &mut Reader,
                    $($($derived: $derived_type,)*)?
                ) -> Option<Self> {
                    $(
                        let $key = reader.read::<sections!(@setting $type $(, $setting)?)>(
                            concat!($section, ".", stringify!($key)),
                        );
                    )*
                    Some(Self { $($key: $key?,)* $($($derived,)*)? })
                }

                /// Visits every key, and whether its values differ.
                pub(super) fn compare(
                    &self,
                    other: &Self,
                    visit: &mut dyn FnMut(&'static str, bool),
                ) {
                    $(visit(concat!($section, ".", stringify!($key)), self.$key != other.$key);)*
                }
            }
        )*
    };
    (@setting $type:ty) => { $type };
    (@setting $type:ty, $setting:ty) => { $setting };
    (@is) => { false };
    (@is reloaded) => { true };
}

pub(super) use sections;
