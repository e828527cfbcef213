//! The headers that an app's rule adds to a granted request, as Jinja2 templates.
//!
//! The templates are written for Python's Jinja2. What is rendered here is the
//! same text; a template that might come out differently is refused when the
//! app is loaded: it must keep to the part of the language that [`syntax`]
//! knows, and is rendered once for each kind of client.
//!
//! Some header names are refused, for what they would do to others than the app:
//! - hop-by-hop and framing headers (RFC 9110 section 7.6.1) and `Content-*`
//!   would be read as part of the gate's own answer;
//! - `Set-Cookie` and challenges speak to the browser, which the gate's answer
//!   may reach, and are not the app's to send from here;
//! - `Forwarded`, `X-Forwarded-*`, `X-Real-Ip` and `Host` would take the place
//!   of what the proxy says of the request.

mod syntax;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::LazyLock;

use http::{HeaderName, HeaderValue};
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, context};

use super::verdict::Headers;
use crate::config::HeaderEncoding;
use crate::domain::client::{Client, Known};
use crate::domain::identity::Identity;

/// Instructions a template may take; the real ones take fewer than ten.
const FUEL: u64 = 10_000;

/// Longest template and longest value, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// Names that no app may set; a trailing `*` stands for any rest.
const RESERVED: [&str; 18] = [
    "connection",
    "content-*",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-*",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-forwarded",
    "x-forwarded-*",
    "x-original-*",
    "x-real-ip",
];

/// The headers of one rule, ready to render.
#[derive(Debug, Clone, Default)]
pub struct HeaderTemplates {
    headers: Vec<(HeaderName, Template)>,
}

#[derive(Debug, Clone)]
enum Template {
    /// No Jinja in it.
    Literal(String),
    Jinja(String),
}

/// A header of a rule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header:?}: {problem}")]
pub struct TemplateError {
    pub header: String,
    pub problem: TemplateProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    #[error("this is not a header name")]
    Name,
    #[error("an app may not set this header")]
    Reserved,
    #[error("the name is there twice, in different case")]
    Twice,
    #[error("the template is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("the template cannot be used: {0}")]
    Template(String),
}

/// A template failed for one client, although it was fine for the samples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header:?}: {reason}")]
pub struct RenderError {
    pub header: HeaderName,
    pub reason: String,
}

impl HeaderTemplates {
    /// # Errors
    /// The first header that cannot be used.
    pub fn compile(headers: &BTreeMap<String, String>) -> Result<Self, TemplateError> {
        let mut names = HashSet::new();
        let compile = |(name, source): (&String, &String)| {
            let fail = |problem| TemplateError { header: name.clone(), problem };
            let lower =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| fail(TemplateProblem::Name))?;
            if is_reserved(lower.as_str()) {
                return Err(fail(TemplateProblem::Reserved));
            }
            if !names.insert(lower.clone()) {
                return Err(fail(TemplateProblem::Twice));
            }
            Ok((lower, Template::compile(source).map_err(fail)?))
        };
        let headers = headers.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { headers })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Renders all headers for a client. Without an identity, what is said of
    /// the box is empty.
    ///
    /// # Errors
    /// The first header whose template fails; it names no value.
    pub fn render(
        &self,
        client: &Client,
        identity: Option<&Identity>,
        encoding: HeaderEncoding,
    ) -> Result<Headers, RenderError> {
        let variables = variables(client, identity);
        self.headers
            .iter()
            .map(|(name, template)| {
                let fail = |reason: String| RenderError { header: name.clone(), reason };
                let text = template.render(&variables).map_err(|error| fail(reason(&error)))?;
                let value = encode(&text, encoding)
                    .ok_or_else(|| fail(format!("the value is longer than {MAX_LEN} bytes")))?;
                Ok((name.clone(), value))
            })
            .collect()
    }
}

fn is_reserved(name: &str) -> bool {
    // An application server reads `-` and `_` as the same.
    let name = name.replace('_', "-");
    RESERVED.iter().any(|reserved| match reserved.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *reserved,
    })
}

impl Template {
    fn compile(source: &str) -> Result<Self, TemplateProblem> {
        if source.len() > MAX_LEN {
            return Err(TemplateProblem::TooLong);
        }
        // Jinja2 reads all line ends as `\n`, and drops one at the end.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        if !source.contains('{') {
            return Ok(Self::Literal(source.strip_suffix('\n').unwrap_or(&source).to_owned()));
        }
        syntax::check(&source)?;
        let template = Self::Jinja(source);
        for variables in SAMPLES.iter() {
            template
                .render(variables)
                .map_err(|error| TemplateProblem::Template(reason(&error)))?;
        }
        Ok(template)
    }

    fn render(&self, variables: &Value) -> Result<String, Error> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::Jinja(source) => ENVIRONMENT.render_str(source, variables),
        }
    }
}

/// What went wrong, without the values that the whole error would show.
fn reason(error: &Error) -> String {
    let mut reason = error.kind().to_string();
    if let Some(detail) = error.detail() {
        let _ = write!(reason, ": {detail}");
    }
    reason
}

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(print);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("first", minijinja::filters::first);
    environment.add_filter("last", minijinja::filters::last);
    environment.add_filter("length", minijinja::filters::length);
    environment.add_filter("lower", minijinja::filters::lower);
    environment.add_filter("replace", replace);
    environment.add_filter("trim", minijinja::filters::trim);
    environment.add_filter("upper", minijinja::filters::upper);
    environment.add_test("defined", minijinja::tests::is_defined);
    environment.add_test("undefined", minijinja::tests::is_undefined);
    environment
});

/// Prints a value as Python does, or not at all.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if !matches!(state.auto_escape(), AutoEscape::None) {
        return Err(Error::new(ErrorKind::InvalidOperation, "escaping is not supported"));
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.write_str("None")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" })?,
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default())?,
        ValueKind::Number if value.is_integer() => write!(out, "{value}")?,
        kind => {
            let problem = format!("a {kind} cannot be printed");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
    }
    Ok(())
}

/// `default(value, other="", boolean=false)`.
fn default(value: Value, other: Option<Value>, boolean: Option<bool>) -> Value {
    if value.is_undefined() || (boolean == Some(true) && !value.is_true()) {
        other.unwrap_or_else(|| Value::from(""))
    } else {
        value
    }
}

/// `replace(value, from, to)`. Each may multiply a text by thousands, and they
/// can be chained: what is too long for a header is not even made.
#[expect(clippy::needless_pass_by_value, reason = "a filter's arguments are its own")]
fn replace(value: Value, from: &str, to: &str) -> Result<String, Error> {
    let value = value.to_string();
    let longer = value.matches(from).count().saturating_mul(to.len().saturating_sub(from.len()));
    if value.len().saturating_add(longer) > MAX_LEN {
        let problem = format!("the text is longer than {MAX_LEN} bytes");
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    Ok(value.replace(from, to))
}

fn variables(client: &Client, identity: Option<&Identity>) -> Value {
    let (id, name) =
        client.known().map_or(("", ""), |Known { id, name }| (id.as_ref(), name.as_ref()));
    let of_box = |part: fn(&Identity) -> &str| identity.map_or("", part);
    context! {
        auth => context! { client_type => client.kind(), client_id => id, client_name => name },
        portal => context! {
            domain => of_box(|identity| &identity.domain),
            id => of_box(|identity| &identity.id),
            short_id => of_box(Identity::short_id),
            public_key_pem => of_box(|identity| &identity.public_key_pem),
        },
    }
}

/// Every kind of client on a usual box, and on one without an identity.
static SAMPLES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let known = || Known { id: "a1b2c3".into(), name: "Sample name".into() };
    let identity = Identity {
        id: "abcdefghjk".repeat(10),
        domain: "abcdef.box.example".to_owned(),
        public_key_pem: "-----BEGIN PUBLIC KEY-----\n".to_owned(),
    };
    let clients = [Client::Terminal(known()), Client::Peer(known()), Client::Anonymous];
    let with = clients.iter().map(|client| variables(client, Some(&identity)));
    let without = clients.iter().map(|client| variables(client, None));
    with.chain(without).collect()
});

/// Text as a header's value; `None` where it is too long.
pub(super) fn encode(text: &str, encoding: HeaderEncoding) -> Option<HeaderValue> {
    if text.len() > MAX_LEN {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match (encoding, u8::try_from(character)) {
            _ if character.is_control() => bytes.push(b' '),
            (HeaderEncoding::Latin1, Ok(byte)) => bytes.push(byte),
            (HeaderEncoding::Latin1, Err(_)) => bytes.push(b'?'),
            (HeaderEncoding::Utf8, _) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    // Space around a value is no part of it, and HTTP/2 forbids it (RFC 9113 section 8.2.1).
    HeaderValue::from_bytes(bytes.trim_ascii()).ok()
}

#[cfg(test)]
mod tests;
