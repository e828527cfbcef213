//! `/.nightporter/pair`, on every host of the box: the page on which a person pairs a device.
//!
//! A proxy's subrequest is a GET without a body, and a GET must not change anything. So the
//! proxy routes `/.nightporter/` of every host to the gate, past the app and past the subrequest:
//! one rule for all apps, and no app's own routes are in the way of it. GET shows a form and
//! POST pairs.
//!
//! What protects a visitor: the cookie is set only for a POST that a page of the same host has
//! sent; no other page can show this one in a frame; the code is in no address but behind its
//! `#`, which browsers do not send; and afterwards the visitor is sent to a path of the same host
//! only ([`destination`]).

mod destination;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CONTENT_TYPE, HOST, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;
use tracing::{error, warn};

use super::body::{Body, ReadError};
use super::forms::Forms;
use super::pages::pairing::{Form, PATH, Problem, page};
use super::{Response, answer};
use crate::domain::origin::Origin;
use crate::gate::Gate;
use crate::pairing::{Paired, Pairing, PairingError};
use destination::destination;
pub(crate) use destination::link;

/// What the proxy routes to the gate.
pub(crate) const PREFIX: &str = "/.nightporter/";

/// Seconds until it is worth trying again if the store cannot answer, or has much to do.
const SOON: u64 = 5;

/// Serves the page.
#[derive(Debug)]
pub(crate) struct PairingRoutes {
    gate: Arc<Gate>,
    pairing: Arc<Pairing>,
    forms: Forms,
}

/// What the form has sent.
#[derive(Debug, Default)]
struct Sent {
    code: String,
    name: String,
    to: String,
}

impl PairingRoutes {
    pub(crate) fn new(gate: Arc<Gate>, pairing: Pairing) -> Self {
        Self { gate, pairing: Arc::new(pairing), forms: Forms::default() }
    }

    /// Answers a request whose path begins with [`PREFIX`]. It may be anybody's: no number of wrong
    /// ones ends the connection of the proxy that passes them on.
    pub(crate) async fn answer(&self, head: &Parts, body: Body) -> Response {
        if head.uri.path() != PATH {
            return answer::of_status(404);
        }
        let Some(host) = host(&head.headers) else { return answer::of_status(400) };
        let Some(domain) = self.gate.box_domain().await else {
            return answer::of_status(503);
        };
        // The cookie would not be sent to any app.
        if !is_within(host, &domain) {
            return answer::of_status(404);
        }
        let to = query(head, "to");
        match head.method {
            Method::GET | Method::HEAD => {
                let problem = is_plain_http(&head.headers).then_some(Problem::NeedsHttps);
                let form = Form { domain: &domain, to: destination(&to), problem };
                page(StatusCode::OK, &form, &head.headers)
            }
            Method::POST => self.post(head, body, host, &domain).await,
            _ => answer::method_not_allowed("GET, HEAD, POST"),
        }
    }

    async fn post(&self, head: &Parts, body: Body, host: &str, domain: &str) -> Response {
        let headers = &head.headers;
        let show = |status, to: &str, problem| {
            let form = Form { domain, to: destination(to), problem: Some(problem) };
            page(status, &form, headers)
        };
        if !is_own_page(headers, host) {
            let is_plain = is_plain_http(headers) && is_without_origin(headers);
            let problem = if is_plain { Problem::NeedsHttps } else { Problem::OtherSite };
            return show(StatusCode::FORBIDDEN, "", problem);
        }
        if !is_form(headers) {
            return answer::of_status(400);
        }
        let origin = Origin::from_headers(headers);
        let body = match self.forms.read(body, origin).await {
            Ok(body) => body,
            Err(ReadError::Busy) => return answer::of_status(503),
            Err(_) => return answer::of_status(400),
        };
        let Sent { code, name, to } = Sent::read(&body);
        drop(body);
        let (pairing, domain_name) = (Arc::clone(&self.pairing), domain.to_owned());
        // In a task of its own: a visitor who leaves while a code is redeemed must not be left
        // with half of a pairing.
        let paired = tokio::spawn(async move {
            pairing.pair(&code, &name, origin, &domain_name, wall_clock()).await
        });
        match paired.await {
            Ok(Ok(Paired { cookie })) => redirect(&destination(&to), &cookie),
            Ok(Err(PairingError::WrongCode)) => {
                show(StatusCode::FORBIDDEN, &to, Problem::WrongCode)
            }
            Ok(Err(PairingError::TooMany(wait))) => {
                let shown = show(StatusCode::TOO_MANY_REQUESTS, &to, Problem::TooMany);
                with_retry(shown, answer::whole_seconds(wait))
            }
            Ok(Err(PairingError::Busy)) => {
                with_retry(show(StatusCode::SERVICE_UNAVAILABLE, &to, Problem::Busy), SOON)
            }
            Ok(Err(PairingError::Unavailable(reason))) => {
                warn!(%reason, "a device cannot be paired");
                with_retry(show(StatusCode::SERVICE_UNAVAILABLE, &to, Problem::Unavailable), SOON)
            }
            Err(failed) => {
                error!(%failed, "the pairing of a device failed");
                answer::internal_error()
            }
        }
    }
}

impl Sent {
    /// Reads a form's fields; a repeated one counts once, where it comes first.
    fn read(body: &[u8]) -> Self {
        let mut sent = Self::default();
        for pair in body.split(|byte| *byte == b'&').rev() {
            let text = String::from_utf8_lossy(pair);
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            let field = match name {
                "code" => &mut sent.code,
                "name" => &mut sent.name,
                "to" => &mut sent.to,
                _ => continue,
            };
            *field = decoded(value);
        }
        sent
    }
}

/// Decodes a value of a form or a query (URL Standard, section 5.1).
fn decoded(value: &str) -> String {
    percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn query(head: &Parts, name: &str) -> String {
    let mut pairs = head.uri.query().unwrap_or_default().split('&');
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(decoded).unwrap_or_default()
}

/// Returns the host of a request, as the visitor's browser shows it: the proxy's word, or the
/// request's own. `None` if there is none or more than one.
pub(super) fn host(headers: &HeaderMap) -> Option<&str> {
    let name =
        if headers.contains_key("x-forwarded-host") { "x-forwarded-host" } else { HOST.as_str() };
    let mut values = headers.get_all(name).iter();
    let host = values.next()?.to_str().ok()?;
    let is_host =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_');
    (values.next().is_none() && host.bytes().all(is_host)).then_some(host)
}

/// Whether a host is the box's domain, or in it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let domain = domain.to_ascii_lowercase();
    name.strip_suffix(&*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns whether a page of the same host has sent this form.
///
/// Browsers say so by `Sec-Fetch-Site` (Fetch Metadata, section 2.3), those before 2023 by
/// `Origin`, which is `null` here wherever the other header is sent: the page sends no referrer
/// (Fetch, section 3.1). The scheme of the origin is left out of account, since something in front
/// of the proxy may end TLS.
fn is_own_page(headers: &HeaderMap, host: &str) -> bool {
    let origins: Vec<_> = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes).collect();
    let sites: Vec<_> =
        headers.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes).collect();
    let is_null_or_own = match origins[..] {
        [] | [b"null"] => None,
        [origin] => Some(is_origin_of(origin, host)),
        _ => Some(false),
    };
    matches!((&sites[..], is_null_or_own), ([b"same-origin"], None | Some(true)) | ([], Some(true)))
}

/// Whether a browser shows the page over plain HTTP: there it would not keep the cookie, and it
/// does not say which page has sent the form.
///
/// If something in front of the proxy ends TLS, the proxy may say `http` as well; then the
/// browser sends `Sec-Fetch-Site`, as it does to `localhost`, where it keeps the cookie.
fn is_plain_http(headers: &HeaderMap) -> bool {
    let scheme = headers.get("x-forwarded-proto").map(HeaderValue::as_bytes);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"))
        && !headers.contains_key("sec-fetch-site")
}

fn is_without_origin(headers: &HeaderMap) -> bool {
    headers.get(ORIGIN).is_none_or(|origin| origin == "null")
}

fn is_origin_of(origin: &[u8], host: &str) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let without_port = |text: &str| {
        let text = text.to_ascii_lowercase();
        let bare = text.strip_suffix(":443").or_else(|| text.strip_suffix(":80"));
        bare.unwrap_or(&text).to_owned()
    };
    authority.is_some_and(|authority| without_port(authority) == without_port(host))
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Sends the visitor back, with a GET and the cookie.
fn redirect(to: &str, cookie: &str) -> Response {
    let mut response = answer::fixed(StatusCode::SEE_OTHER, "null");
    let location = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, location);
    match HeaderValue::from_str(cookie) {
        Ok(mut cookie) => {
            cookie.set_sensitive(true);
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        Err(_) => return answer::internal_error(),
    }
    super::pages::pairing::protect(&mut response);
    response
}

fn with_retry(mut response: Response, seconds: u64) -> Response {
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

#[expect(clippy::disallowed_methods, reason = "read once for each form, then passed on")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn only_a_page_of_the_same_host_may_send_the_form() {
        let own = "https://notes.box.example";
        for (pairs, is_own) in [
            (&[("origin", own)][..], true),
            (&[("origin", "https://NOTES.box.example:443")], true),
            (&[("origin", "http://notes.box.example")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "null")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", own)], true),
            (&[], false),
            (&[("origin", "null")], false),
            (&[("origin", "")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "https://wiki.box.example")], false),
            (&[("origin", "https://box.example")], false),
            (&[("origin", "https://notes.box.example.evil.example")], false),
            (&[("origin", "https://notes.box.example:8443")], false),
            (&[("origin", "https://evil@notes.box.example")], false),
            (&[("origin", "file://notes.box.example")], false),
            (&[("origin", own), ("origin", "https://evil.example")], false),
            (&[("origin", own), ("origin", own)], false),
            (&[("sec-fetch-site", "same-site"), ("origin", own)], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", own)], false),
            (&[("sec-fetch-site", "none"), ("origin", own)], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "null")], false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
        ] {
            let headers = headers(pairs);
            assert_eq!(is_own_page(&headers, "notes.box.example"), is_own, "{pairs:?}");
        }
        let port = headers(&[("origin", "http://notes.box.example:8080")]);
        assert!(is_own_page(&port, "notes.box.example:8080"));
        assert!(!is_own_page(&port, "notes.box.example"));
    }

    #[test]
    fn the_host_is_one_of_the_box() {
        for (host, is_own) in [
            ("box.example", true),
            ("notes.box.example", true),
            ("a.notes.Box.Example:8443", true),
            ("notes.box.example.", true),
            ("evilbox.example", false),
            ("box.example.evil", false),
            ("example", false),
            ("", false),
        ] {
            assert_eq!(is_within(host, "box.example"), is_own, "{host}");
        }
        assert_eq!(host(&headers(&[("host", "a"), ("x-forwarded-host", "b")])), Some("b"));
        assert_eq!(host(&headers(&[("host", "a")])), Some("a"));
        assert_eq!(host(&headers(&[("x-forwarded-host", "a"), ("x-forwarded-host", "b")])), None);
        assert_eq!(host(&headers(&[("host", "a@b")])), None);
        assert_eq!(host(&headers(&[("host", "a, b")])), None);
    }

    #[test]
    fn a_form_is_read_as_browsers_send_it() {
        let sent =
            Sent::read(b"code=ab+cd-1&name=Ada%27s%20phone%21&to=%2Fa%3Fb%3Dc&x=y&code=other");
        assert_eq!((&*sent.code, &*sent.name, &*sent.to), ("ab cd-1", "Ada's phone!", "/a?b=c"));
        let empty = Sent::read(b"&=&code&name=%ff");
        assert_eq!((&*empty.code, &*empty.name, &*empty.to), ("", "\u{fffd}", ""));
    }
}
