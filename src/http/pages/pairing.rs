//! The page on which a person pairs a device: a form, which needs no script. With one, the code
//! of a link is filled in.

use std::borrow::Cow;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, REFERRER_POLICY, USER_AGENT, VARY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::icon::favicon;
use super::template::{escaped, fill};
use super::words::{PairingWords, Words};
use super::{HTML, VARY_ANY};
use crate::http::{Response, answer};

/// The path of the page, to which its form is sent as well.
pub(crate) const PATH: &str = "/.nightporter/pair";

const TEMPLATE: &str = include_str!("pair.html");
const SCRIPT: &str = include_str!("pair.js");

/// No page of any site may show this one in a frame, and the form goes to its own host alone.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'; script-src 'sha256-{hash}'"
    )
});

/// The form as it is shown.
#[derive(Debug)]
pub(crate) struct Form<'a> {
    pub(crate) domain: &'a str,
    /// Where the visitor is sent afterwards.
    pub(crate) to: Cow<'a, str>,
    pub(crate) problem: Option<Problem>,
}

/// Why a form that was sent did not pair the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    WrongCode,
    TooMany,
    /// A page of another site has sent it.
    OtherSite,
    /// The browser shows the page over plain HTTP, where it does not keep the cookie.
    NeedsHttps,
    /// Others are being paired: the code is still good.
    Busy,
    Unavailable,
}

/// Renders the page.
pub(crate) fn page(status: StatusCode, form: &Form<'_>, headers: &HeaderMap) -> Response {
    let words = Words::for_client(headers);
    let html = render(form, words, device(headers, &words.pairing));
    let mut response = answer::typed(status, HTML, html.into());
    response.headers_mut().insert(CONTENT_LANGUAGE, HeaderValue::from_static(words.lang));
    protect(&mut response);
    response
}

/// Adds what keeps other sites, referrers and caches away from a response of this page.
pub(crate) fn protect(response: &mut Response) {
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(&POLICY);
    headers.insert(
        CONTENT_SECURITY_POLICY,
        policy.unwrap_or(HeaderValue::from_static("default-src 'none'")),
    );
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert(VARY, VARY_ANY);
}

fn render(form: &Form<'_>, words: &Words, device: &str) -> String {
    let Form { domain, to, problem } = form;
    let PairingWords { title, detail, code, code_hint, name, name_hint, button, .. } =
        &words.pairing;
    fill(TEMPLATE, |hole| match hole {
        "lang" => words.lang.into(),
        "domain" => escaped(domain),
        "favicon" => favicon(domain),
        "title" => escaped(title),
        "detail" => escaped(&fill(detail, |_| (*domain).to_owned())),
        "problem" => problem.map_or_else(String::new, |problem| {
            format!(r#"<p role="alert">{}</p>"#, escaped(problem.text(&words.pairing)))
        }),
        "action" => PATH.into(),
        "code" => escaped(code),
        "code_hint" => escaped(code_hint),
        "name" => escaped(name),
        "name_hint" => escaped(name_hint),
        "device" => escaped(device),
        "to" => escaped(to),
        "button" => escaped(button),
        "script" => SCRIPT.into(),
        _ => String::new(),
    })
}

impl Problem {
    fn text(self, words: &PairingWords) -> &'static str {
        match self {
            Self::WrongCode => words.wrong_code,
            Self::TooMany => words.too_many,
            Self::OtherSite => words.other_site,
            Self::NeedsHttps => words.needs_https,
            Self::Busy => words.busy,
            Self::Unavailable => words.unavailable,
        }
    }
}

/// Returns what the device seems to be, as a name to begin with; empty if that is not known.
fn device(headers: &HeaderMap, words: &PairingWords) -> &'static str {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let known = [
        ("iPhone", words.phone),
        ("iPad", words.tablet),
        ("Mobile", words.phone),
        ("Android", words.tablet),
        ("Mozilla", words.computer),
    ];
    known.into_iter().find(|(sign, _)| agent.contains(sign)).map_or("", |(_, name)| name)
}
