//! The subset of Jinja2 that header templates use and that is known to render the same.
//!
//! An app must get the header that Python's Jinja2 gives it, byte for byte, or an error,
//! and no library guarantees that. Compared with Jinja2 3.1.6, minijinja 2.24 renders
//! different text without an error, with and without its Python methods: `{{ 7 // -2 }}`
//! is -3 (Jinja2: -4), `{{ 2.5|round }}` 3.0 (2.0), `{{ "o'neil"|title }}` `O'Neil`
//! (`O'neil`), `{{ ['a'] }}` `["a"]` (`['a']`), `{{ ['a', 1]|tojson }}` `["a",1]`
//! (`["a", 1]`), and `{{ 'a' < 1 }}` `False` (an error). So this module implements a subset
//! in which every construct is compared with the original, with the rows of
//! `tests/vectors/headers.json`, and everything else is refused.
//!
//! Templates are written for Python's Jinja2, so values have Python's meaning (`True` is
//! printed with a capital letter, `-7 // 2` is -4). Anything not known to render the same is
//! an error, and so is anything that gets too large or takes too long. A template with an
//! error is refused when its app is loaded, because it is rendered once for each kind of
//! client then.
//!
//! Supported: texts, numbers, lists, tuples after `in`; arithmetic, comparisons, `in`,
//! `~`, conditions; attributes of `auth` and `portal`, items and slices; the filters,
//! tests and methods of their modules; `if`, `for`, `set`, `raw`, comments and white space
//! control. Not supported: dictionaries, calls, macros, inheritance, autoescaping.

mod eval;
mod expressions;
mod filters;
mod lexer;
mod methods;
mod parser;
mod predicates;
mod value;

/// Maximum nesting depth of expressions and of statements.
const MAX_DEPTH: u8 = 32;

/// Maximum number of operators, filters and accesses in one tag: each is evaluated inside
/// the next.
const MAX_OPERATORS: u8 = 100;

/// Longest text that any value may have, in bytes.
const MAX_TEXT: usize = 8 * 1024;

/// The attributes of `auth` and `portal`.
const AUTH: [&str; 3] = ["client_type", "client_id", "client_name"];
const PORTAL: [&str; 4] = ["domain", "id", "short_id", "public_key_pem"];

/// Why a template is refused, or why it failed for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JinjaError(&'static str);

type JinjaResult<T> = Result<T, JinjaError>;

fn unsupported(what: &'static str) -> JinjaError {
    JinjaError(what)
}

/// The variables of templates, by the names of the contract.
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

/// A parsed template.
#[derive(Debug, Clone)]
pub(super) struct Jinja(Vec<parser::Node>);

impl Jinja {
    /// Parses a template whose line ends are `\n`.
    pub(super) fn parse(source: &str) -> JinjaResult<Self> {
        // Jinja2 drops the last line end.
        parser::parse(source.strip_suffix('\n').unwrap_or(source)).map(Self)
    }

    pub(super) fn render(&self, variables: &Variables<'_>) -> JinjaResult<String> {
        eval::render(&self.0, variables)
    }
}

/// Returns whether Python counts this as white space, which includes the separators of old
/// data formats.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}
