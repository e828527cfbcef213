//! Jinja2, as far as it is known to render the same here: what header templates use.
//!
//! An app is to get the header that Python's Jinja2 gives it, byte for byte, or an error,
//! and no library does that. minijinja 2.24, put beside Jinja2 3.1.6, renders other text
//! without an error, with its Python methods and without: `{{ 7 // -2 }}` is -3 (Jinja2:
//! -4), `{{ 2.5|round }}` 3.0 (2.0), `{{ "o'neil"|title }}` `O'Neil` (`O'neil`),
//! `{{ ['a'] }}` `["a"]` (`['a']`), `{{ ['a', 1]|tojson }}` `["a",1]` (`["a", 1]`), and
//! `{{ 'a' < 1 }}` `False` (an error). So this is a part of the language in which every
//! construct is compared with the real one, over the rows of `tests/vectors/headers.json`,
//! and in which whatever else there is is refused.
//!
//! Templates are written for Python's Jinja2, so values have Python's meaning (`True` is
//! printed with a capital, `-7 // 2` is -4). What is not known to be the same is an
//! error, and so is what grows or takes too long: a template with an error is refused
//! when its app is loaded, since it is rendered once for each kind of client then.
//!
//! Supported: texts, numbers, lists, tuples behind `in`; arithmetic, comparisons, `in`,
//! `~`, conditions; attributes of `auth` and `portal`, items and slices; the filters,
//! tests and methods of their modules; `if`, `for`, `set`, `raw`, comments and the trim
//! signs. Left out: dictionaries, calls, macros, inheritance, autoescaping.

mod eval;
mod expressions;
mod filters;
mod lexer;
mod methods;
mod parser;
mod tests_of;
mod value;

/// How deep expressions and statements may nest.
const MAX_DEPTH: u8 = 32;

/// Most operators, filters and accesses of one tag: each is evaluated within the next.
const MAX_OPERATORS: u8 = 100;

/// Longest text that anything may come to, in bytes.
const MAX_TEXT: usize = 8 * 1024;

/// What `auth` and `portal` have.
const AUTH: [&str; 3] = ["client_type", "client_id", "client_name"];
const PORTAL: [&str; 4] = ["domain", "id", "short_id", "public_key_pem"];

/// Why a template is refused, or failed for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(&'static str);

type Checked<T> = Result<T, Problem>;

fn unsupported(what: &'static str) -> Problem {
    Problem(what)
}

/// What templates know, by the names of the contract.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Variables<'a> {
    pub(super) client_type: &'a str,
    pub(super) client_id: &'a str,
    pub(super) client_name: &'a str,
    pub(super) domain: &'a str,
    pub(super) id: &'a str,
    pub(super) short_id: &'a str,
    pub(super) public_key_pem: &'a str,
}

impl Variables<'_> {
    fn auth(&self, name: &str) -> &str {
        match name {
            "client_type" => self.client_type,
            "client_id" => self.client_id,
            "client_name" => self.client_name,
            _ => "",
        }
    }

    fn portal(&self, name: &str) -> &str {
        match name {
            "domain" => self.domain,
            "id" => self.id,
            "short_id" => self.short_id,
            "public_key_pem" => self.public_key_pem,
            _ => "",
        }
    }
}

/// A template, parsed.
#[derive(Debug, Clone)]
pub(super) struct Jinja(Vec<parser::Node>);

impl Jinja {
    /// Parses a template whose line ends are `\n`.
    pub(super) fn parse(source: &str) -> Checked<Self> {
        // Jinja2 drops one at the end.
        parser::parse(source.strip_suffix('\n').unwrap_or(source)).map(Self)
    }

    pub(super) fn render(&self, variables: &Variables<'_>) -> Checked<String> {
        eval::render(&self.0, variables)
    }
}

/// White space as Python has it: with the separators of old data formats.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}
