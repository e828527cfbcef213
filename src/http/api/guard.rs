//! The guard in front of the table: it decides who asks, before anything is looked up.
//!
//! Requests with the configured token are the operator's. Without a token everyone who can
//! reach the listener is trusted, but not every web page that they visit: a page could make
//! its own name resolve to this listener, or have a browser send requests to it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use subtle::ConstantTimeEq;

use super::Principal;
use crate::config::{self, ListenAddr, Secret};
use crate::http::{Response, answer, probes};

/// Tells whether a page of another site sent the request (Fetch Metadata, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Admits requests to the table.
pub(super) struct Guard {
    /// If a token is configured, every request must carry it.
    token: Option<Secret>,
    /// Host names that requests may use, in addition to those of this machine.
    hosts: Vec<String>,
    /// Whether the listener is a socket file: web pages cannot reach one, and clients send
    /// any host name to it.
    is_socket_file: bool,
}

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Credentials,
    UnknownHost,
    OtherSite,
}

impl Refusal {
    pub(super) fn answer(self) -> Response {
        match self {
            Self::Credentials => answer::bearer_required(),
            Self::UnknownHost => answer::unknown_host(),
            Self::OtherSite => answer::forbidden(),
        }
    }
}

impl Guard {
    pub(super) fn new(config: &config::Ops) -> Self {
        let config::Ops { listen, token, hosts, app_metrics: _ } = config.clone();
        let is_socket_file = matches!(listen, ListenAddr::Unix(_));
        Self { token, hosts, is_socket_file }
    }

    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<Principal, Refusal> {
        if !self.has_token(request.headers()) {
            return Err(Refusal::Credentials);
        }
        if !probes::reveals_only_a_state(request.uri().path()) && !self.knows_host(request) {
            return Err(Refusal::UnknownHost);
        }
        if !request.method().is_safe() && is_of_another_site(request.headers()) {
            return Err(Refusal::OtherSite);
        }
        Ok(Principal::OPERATOR)
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let credentials =
            headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        credentials.is_some_and(|sent| sent.ct_eq(token.expose().as_bytes()).into())
    }

    /// Whether the request uses a host name that a stranger cannot point to this listener.
    /// If a web page makes its own name resolve to this listener (DNS rebinding), the
    /// browser treats both as the same origin and lets the page read all responses, but it
    /// sends the page's name as the host.
    fn knows_host<B>(&self, request: &Request<B>) -> bool {
        if self.token.is_some() || self.is_socket_file {
            return true;
        }
        let host = match request.uri().authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => request.headers().get(header::HOST).map(HeaderValue::as_bytes),
        };
        // Browsers always send a host.
        host.is_none_or(|host| is_own_name(host, &self.hosts))
    }
}

/// Whether a host, with or without a port, is an IP address, a name of the loopback
/// interface or one of `names`.
fn is_own_name(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || names.contains(&name)
}

/// Whether a browser sends the request for a page of another site: a listener without a
/// token trusts every user of this machine, but not every page that they visit.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || !matches!(site, None | Some(b"none" | b"same-origin"))
}

/// Returns the credentials of a `Bearer` header; the scheme is case-insensitive
/// (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(listen: &str, token: Option<&str>) -> Guard {
        let listen = listen.parse().expect("an address");
        let hosts = vec!["porter.lan".to_owned()];
        Guard::new(&config::Ops { listen, token: token.map(Secret::new), hosts, app_metrics: true })
    }

    fn admit(guard: &Guard, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Refusal> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.admit(&request.body(()).expect("a request")).err()
    }

    #[test]
    fn requests_are_judged_by_token_host_and_site_whatever_is_asked_for() {
        use Refusal::{Credentials, OtherSite, UnknownHost};
        let (own, evil) = (("host", "localhost:8401"), ("host", "evil.example"));
        let (token, wrong) = (("authorization", "Bearer abc"), ("authorization", "Bearer abd"));
        let (origin, cross) = (("origin", "http://localhost"), ("sec-fetch-site", "cross-site"));
        let tcp = "127.0.0.1:0";
        for (listen, secret, method, path, headers, expected) in [
            (tcp, None, "GET", "/v1/apps", &[own][..], None),
            (tcp, None, "GET", "/v1/apps", &[], None),
            (tcp, None, "GET", "/v1/apps", &[evil], Some(UnknownHost)),
            (tcp, None, "GET", "/nothing", &[evil], Some(UnknownHost)),
            (tcp, None, "GET", "http://evil.example/metrics", &[own], Some(UnknownHost)),
            (tcp, None, "GET", "/livez", &[evil], None),
            (tcp, None, "GET", "/healthz", &[evil], Some(UnknownHost)),
            (tcp, None, "GET", "/v1/apps", &[own, cross], None),
            (tcp, None, "POST", "/v1/apps/a/wake", &[own], None),
            (tcp, None, "POST", "/v1/apps/a/wake", &[own, cross], Some(OtherSite)),
            (tcp, None, "POST", "/v1/apps/a/wake", &[own, origin], Some(OtherSite)),
            (tcp, None, "DELETE", "/nothing", &[own, origin], Some(OtherSite)),
            ("unix:/ops.sock", None, "GET", "/v1/apps", &[evil], None),
            (tcp, Some("abc"), "GET", "/v1/apps", &[own], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/livez", &[own], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/v1/apps", &[own, wrong], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/v1/apps", &[evil, token], None),
            (tcp, Some("abc"), "POST", "/v1/apps/a/wake", &[token, origin], Some(OtherSite)),
        ] {
            let refusal = admit(&guard(listen, secret), method, path, headers);
            assert_eq!(refusal, expected, "{method} {path} {headers:?}");
        }
    }

    #[test]
    fn only_names_that_no_stranger_can_give_are_own_names() {
        let names = ["porter.lan".to_owned()];
        for own in [
            "127.0.0.1",
            "127.0.0.1:8401",
            "192.168.1.5:8401",
            "::1",
            "[::1]",
            "[::1]:8401",
            "localhost",
            "LocalHost:8401",
            "localhost.:80",
            "box.localhost",
            "porter.lan:1",
            "Porter.lan.",
        ] {
            assert!(is_own_name(own.as_bytes(), &names), "{own}");
        }
        for strange in [
            "",
            ":8401",
            "evil.example",
            "evil.example:8401",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "localhost:x",
            "[::1",
            "[porter.lan]",
            "x.porter.lan",
            "localhost:80:80",
            "127.1",
        ] {
            assert!(!is_own_name(strange.as_bytes(), &names), "{strange}");
        }
        assert!(!is_own_name(b"\xff", &names));
    }

    #[test]
    fn the_scheme_of_a_bearer_header_has_no_case() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer ", Some("")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value:?}");
        }
    }
}
