//! The headers that an app's rule adds to a granted request, as Jinja2 templates.
//!
//! The templates are written for Python's Jinja2 and are rendered to the same text
//! here. A template that might be rendered differently is refused when the app is
//! loaded: it may use only the part of the language that [`jinja`] supports, and it
//! is rendered once for each kind of client. If a template is refused, the paths of
//! its rule answer 503, and the other paths of the app still work.
//!
//! Some header names are refused because they would affect others than the app:
//! - hop-by-hop and framing headers (RFC 9110 section 7.6.1) and `Content-*`
//!   would be read as part of the gate's own answer;
//! - `Set-Cookie` and challenges address the browser, which the gate's answer
//!   may reach, and an app must not send them from here;
//! - `Forwarded`, `X-Forwarded-*`, `X-Real-Ip` and `Host` would replace what the
//!   proxy forwards about the request.

mod jinja;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use http::{HeaderName, HeaderValue};

use self::jinja::{Jinja, JinjaError, Variables};
use crate::config::HeaderEncoding;
use crate::domain::client::{Client, KnownClient};
use crate::domain::identity::Identity;

/// Longest template and longest value, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// Most headers of one rule, and most bytes that their values may have together: proxies and
/// apps refuse a request whose head is larger.
const MAX_HEADERS: usize = 64;
const MAX_RENDERED: usize = 64 * 1024;

/// Names that no app may set; a trailing `*` matches any suffix.
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
    /// Text without Jinja.
    Literal(String),
    Jinja(Arc<Jinja>),
}

/// A header of a rule that cannot be used, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header:?}: {problem}")]
pub struct TemplateError {
    pub header: String,
    pub problem: TemplateProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    #[error("invalid header name")]
    Name,
    #[error("an app may not set this header")]
    Reserved,
    #[error("the name occurs twice, in different case")]
    Twice,
    #[error("the rule sets more than {MAX_HEADERS} headers")]
    TooMany,
    #[error("the template is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error(transparent)]
    Template(#[from] JinjaError),
}

/// A header whose template failed for one client, although it rendered for the samples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header:?}: {reason}")]
pub struct RenderError {
    pub header: HeaderName,
    pub reason: String,
}

impl HeaderTemplates {
    /// Compiles the headers of one rule.
    ///
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
            if names.len() > MAX_HEADERS {
                return Err(fail(TemplateProblem::TooMany));
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

    /// Renders all headers for a client. Without an identity, the variables of
    /// the box are empty.
    ///
    /// # Errors
    /// The first header whose template fails; the error contains no value.
    pub fn render(
        &self,
        client: Client<'_>,
        identity: Option<&Identity>,
        encoding: HeaderEncoding,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, RenderError> {
        let variables = variables(client, identity);
        let mut bytes = 0;
        self.headers
            .iter()
            .map(|(name, template)| {
                let fail = |reason: String| RenderError { header: name.clone(), reason };
                let text =
                    template.render(&variables).map_err(|problem| fail(problem.to_string()))?;
                let value = encode(&text, encoding)
                    .ok_or_else(|| fail(format!("the value is longer than {MAX_LEN} bytes")))?;
                bytes += value.len();
                if bytes > MAX_RENDERED {
                    let limit = format!("the rule's headers take more than {MAX_RENDERED} bytes");
                    return Err(fail(limit));
                }
                Ok((name.clone(), value))
            })
            .collect()
    }
}

fn is_reserved(name: &str) -> bool {
    // Application servers treat `-` and `_` as the same.
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
        // Jinja2 reads all line ends as `\n` and drops the last one.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        if !source.contains('{') {
            return Ok(Self::Literal(source.strip_suffix('\n').unwrap_or(&source).to_owned()));
        }
        let template = Self::Jinja(Arc::new(Jinja::parse(&source)?));
        for (client, identity) in SAMPLES.iter() {
            template.render(&variables(*client, identity.as_ref()))?;
        }
        Ok(template)
    }

    fn render(&self, variables: &Variables<'_>) -> Result<String, JinjaError> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::Jinja(template) => template.render(variables),
        }
    }
}

fn variables<'a>(client: Client<'a>, identity: Option<&'a Identity>) -> Variables<'a> {
    let (client_id, client_name) =
        client.known().map_or(("", ""), |KnownClient { id, name }| (id.as_ref(), name.as_ref()));
    Variables {
        client_type: client.kind(),
        client_id,
        client_name,
        domain: identity.map_or("", |identity| &identity.domain),
        id: identity.map_or("", |identity| &identity.id),
        short_id: identity.map_or("", Identity::short_id),
        public_key_pem: identity.map_or("", |identity| &identity.public_key_pem),
    }
}

static SAMPLE: LazyLock<KnownClient> =
    LazyLock::new(|| KnownClient { id: "a1b2c3".into(), name: "Sample name".into() });

/// Every kind of client, on a typical box and on one without an identity.
static SAMPLES: LazyLock<Vec<(Client<'static>, Option<Identity>)>> = LazyLock::new(|| {
    let identity = Identity {
        id: "abcdefghjk".repeat(10),
        domain: "abcdef.box.example".to_owned(),
        public_key_pem: "-----BEGIN PUBLIC KEY-----\n".to_owned(),
    };
    let clients = [Client::Terminal(&SAMPLE), Client::Peer(&SAMPLE), Client::Anonymous];
    let with = clients.into_iter().map(|client| (client, Some(identity.clone())));
    let without = clients.into_iter().map(|client| (client, None));
    with.chain(without).collect()
});

/// Encodes text as a header value. Returns `None` if it is too long.
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
    // White space around a value is not part of it, and HTTP/2 forbids it (RFC 9113 section 8.2.1).
    HeaderValue::from_bytes(bytes.trim_ascii()).ok()
}

#[cfg(test)]
mod tests;
