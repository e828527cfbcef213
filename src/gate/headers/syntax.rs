//! The part of Jinja2 that header templates may use: the part that means the
//! same to `minijinja`, cannot make it panic and cannot grow without bound.
//!
//! ```text
//! tag        = "{{" expr "}}" | "{%" ("if" expr | "elif" expr | "else" | "endif") "%}"
//! expr       = or ["if" or ["else" expr]]
//! or         = and {"or" and}
//! and        = not {"and" not}
//! not        = "not" not | "(" expr ")" | comparison
//! comparison = concat [("==" | "!=") concat | "is" ["not"] ("defined" | "undefined")]
//! concat     = operand {"~" operand}
//! operand    = (string | integer | variable) {filter}
//! variable   = ("auth" | "portal") ("." name | "[" string "]") ["[" subscript "]"] | name
//! subscript  = integer | [integer] ":" [integer]
//! filter     = "|" name ["(" string ["," (string | "true")] ")"]
//! ```
//!
//! What is left out, and why: methods and attributes of strings exist in Python
//! only; loops, assignments and arithmetic need bounds and differ in their
//! corners, as `in` does; truth values, floats and containers are other text
//! in Python.

use super::TemplateProblem;

type Checked<T = ()> = Result<T, TemplateProblem>;

/// Filters, with the most arguments each may have.
const FILTERS: [(&str, usize); 9] = [
    ("d", 2),
    ("default", 2),
    ("first", 0),
    ("last", 0),
    ("length", 0),
    ("lower", 0),
    ("replace", 2),
    ("trim", 0),
    ("upper", 0),
];

/// Names that are something in Jinja2 without being a variable.
const RESERVED: [&str; 31] = [
    "True",
    "False",
    "None",
    "true",
    "false",
    "none",
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "elif",
    "else",
    "for",
    "auth",
    "portal",
    "self",
    "super",
    "loop",
    "caller",
    "varargs",
    "kwargs",
    "range",
    "dict",
    "lipsum",
    "cycler",
    "joiner",
    "namespace",
    "context",
    "environment",
];

/// The attributes of `auth` and of `portal`.
const CLIENT: [&str; 3] = ["client_type", "client_id", "client_name"];
const BOX: [&str; 4] = ["domain", "id", "short_id", "public_key_pem"];

/// How deep expressions may nest.
const MAX_DEPTH: u8 = 16;

/// Whether a template keeps to the part that is supported.
pub(super) fn check(source: &str) -> Checked {
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let tag = &rest[start..];
        rest = if let Some(comment) = tag.strip_prefix("{#") {
            let end = comment.find("#}").ok_or(unsupported("a comment has no end"))?;
            &comment[end + 2..]
        } else if let Some(code) = tag.strip_prefix("{{") {
            let mut parser = Parser::new(code.strip_prefix('-').unwrap_or(code));
            parser.expression()?;
            parser.close("}}")?
        } else if let Some(code) = tag.strip_prefix("{%") {
            let mut parser = Parser::new(code.strip_prefix(['-', '+']).unwrap_or(code));
            parser.statement()?;
            parser.close("%}")?
        } else {
            &tag[1..]
        };
    }
    Ok(())
}

fn unsupported(what: &'static str) -> TemplateProblem {
    TemplateProblem::Unsupported(what)
}

struct Parser<'a> {
    rest: &'a str,
    depth: u8,
}

impl<'a> Parser<'a> {
    fn new(code: &'a str) -> Self {
        Self { rest: code, depth: 0 }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n']);
    }

    /// Takes punctuation, if it is next.
    fn takes(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let after = self.rest.strip_prefix(symbol);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    /// The word that is next, which may be empty.
    fn peek_word(&mut self) -> &'a str {
        self.skip_space();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let end = self.rest.bytes().position(|byte| !fits(byte)).unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is_next = self.peek_word() == word;
        if is_next {
            self.rest = &self.rest[word.len()..];
        }
        is_next
    }

    /// The end of the tag; what follows it.
    fn close(mut self, end: &str) -> Checked<&'a str> {
        self.skip_space();
        let signs: &[char] = if end == "%}" { &['-', '+'] } else { &['-'] };
        let rest = self.rest.strip_prefix(signs).unwrap_or(self.rest);
        rest.strip_prefix(end).ok_or(unsupported(
            "only variables, strings, conditions, `~` and a few filters are supported",
        ))
    }

    fn statement(&mut self) -> Checked {
        if self.takes_word("if") || self.takes_word("elif") {
            self.expression()
        } else if self.takes_word("else") || self.takes_word("endif") {
            Ok(())
        } else {
            Err(unsupported("only if, elif, else and endif are supported as statements"))
        }
    }

    fn expression(&mut self) -> Checked {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unsupported("the expression is nested too deeply"));
        }
        self.disjunction()?;
        if self.takes_word("if") {
            self.disjunction()?;
            if self.takes_word("else") {
                self.expression()?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn disjunction(&mut self) -> Checked {
        self.negation()?;
        while self.takes_word("or") || self.takes_word("and") {
            self.negation()?;
        }
        Ok(())
    }

    fn negation(&mut self) -> Checked {
        while self.takes_word("not") {}
        if self.takes("(") {
            self.expression()?;
            return if self.takes(")") { Ok(()) } else { Err(unsupported("a `)` is missing")) };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Checked {
        self.concatenation()?;
        if self.takes_word("is") {
            self.takes_word("not");
            return if self.takes_word("defined") || self.takes_word("undefined") {
                Ok(())
            } else {
                Err(unsupported("only `defined` and `undefined` are supported as tests"))
            };
        }
        if self.takes("==") || self.takes("!=") { self.concatenation() } else { Ok(()) }
    }

    fn concatenation(&mut self) -> Checked {
        self.operand()?;
        while self.takes("~") {
            self.operand()?;
        }
        Ok(())
    }

    fn operand(&mut self) -> Checked {
        self.skip_space();
        match self.rest.bytes().next() {
            Some(b'"' | b'\'') => drop(self.string()?),
            Some(b'0'..=b'9') => self.integer()?,
            _ => self.variable()?,
        }
        while self.takes("|") {
            self.filter()?;
        }
        Ok(())
    }

    /// Without escapes, and without a second string next to it, which would be joined.
    fn string(&mut self) -> Checked<&'a str> {
        self.skip_space();
        let quote = self.rest.chars().next().filter(|first| matches!(first, '"' | '\''));
        let quote = quote.ok_or(unsupported("a string is expected"))?;
        let inner = &self.rest[1..];
        let end = inner.find(quote).ok_or(unsupported("a string has no end"))?;
        if inner[..end].contains('\\') {
            return Err(unsupported("strings with a backslash are not supported"));
        }
        self.rest = &inner[end + 1..];
        Ok(&inner[..end])
    }

    fn integer(&mut self) -> Checked {
        let digits = self.peek_word();
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit())
            && (1..=9).contains(&digits.len())
            && (digits == "0" || !digits.starts_with('0'));
        self.rest = &self.rest[digits.len()..];
        if is_plain && !self.rest.starts_with('.') {
            Ok(())
        } else {
            Err(unsupported("only whole numbers of up to nine digits are supported"))
        }
    }

    fn variable(&mut self) -> Checked {
        if self.takes_word("auth") {
            return self.attribute(&CLIENT);
        }
        if self.takes_word("portal") {
            return self.attribute(&BOX);
        }
        let name = self.name()?;
        if RESERVED.contains(&name) {
            return Err(unsupported("only the variables of `auth` and `portal` are supported"));
        }
        Ok(())
    }

    fn attribute(&mut self, known: &[&str]) -> Checked {
        let name = if self.takes(".") {
            self.name()?
        } else if self.takes("[") {
            let name = self.string()?;
            self.takes_closing_bracket()?;
            name
        } else {
            return Err(unsupported("`auth` and `portal` need an attribute"));
        };
        if !self.takes("[") {
            return Ok(());
        }
        // A slice of what is undefined is an error in Jinja2, and `[]` in minijinja.
        if !known.contains(&name) {
            return Err(unsupported("only variables that exist have characters"));
        }
        self.subscript()?;
        self.takes_closing_bracket()
    }

    fn name(&mut self) -> Checked<&'a str> {
        let name = self.peek_word();
        self.rest = &self.rest[name.len()..];
        if name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            Ok(name)
        } else {
            Err(unsupported("a variable is expected"))
        }
    }

    fn takes_closing_bracket(&mut self) -> Checked {
        if self.takes("]") {
            Ok(())
        } else {
            Err(unsupported("only `[n]` and `[n:m]` are supported as subscripts"))
        }
    }

    fn subscript(&mut self) -> Checked {
        let begins = self.takes_bound()?;
        let is_slice = self.takes(":");
        if is_slice {
            self.takes_bound()?;
        }
        if begins || is_slice { Ok(()) } else { Err(unsupported("a subscript is empty")) }
    }

    fn takes_bound(&mut self) -> Checked<bool> {
        let is_negative = self.takes("-");
        let is_there = is_negative || self.rest.starts_with(|c: char| c.is_ascii_digit());
        if is_there {
            self.integer()?;
        }
        Ok(is_there)
    }

    fn filter(&mut self) -> Checked {
        let name = self.name()?;
        let most = FILTERS.iter().find(|(known, _)| *known == name).map(|(_, most)| *most);
        let most = most.ok_or(unsupported("this filter is not supported"))?;
        let mut arguments = 0;
        if self.takes("(") {
            loop {
                // `default(x, true)` replaces what is empty, too.
                let is_flag = most == 2 && arguments == 1 && name.starts_with('d');
                let is_flag = is_flag && (self.takes_word("true") || self.takes_word("True"));
                if !is_flag {
                    self.string()?;
                }
                arguments += 1;
                if !self.takes(",") {
                    break;
                }
            }
            if !self.takes(")") {
                return Err(unsupported("arguments of filters must be plain strings"));
            }
        }
        if arguments <= most && (name != "replace" || arguments == 2) {
            Ok(())
        } else {
            Err(unsupported("this filter has other arguments"))
        }
    }
}
