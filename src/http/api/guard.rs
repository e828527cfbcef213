//! The guard in front of the table: it decides who asks, before anything is looked up.
//!
//! Requests with the configured token are the operator's. Without a token everyone who can
//! reach the listener is trusted, but not every web page that they visit: a page could make
//! its own name resolve to this listener, or have a browser send requests to it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use ipnet::IpNet;
use subtle::ConstantTimeEq;
use tracing::debug;

use super::problem::{Kind, Problem};
use super::proxies;
use crate::access::{LookUpError, Principal, Tokens};
use crate::config::{self, ListenAddr, Secret};
use crate::http::{Response, answer, probes};

/// Tells whether a page of another site sent the request (Fetch Metadata, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Admits requests to the table.
pub(super) struct Guard {
    /// If a token is configured, every request must carry it, or one that is a row.
    root: Option<Secret>,
    /// `None` if there are no rows.
    tokens: Option<Arc<Tokens>>,
    /// Host names that requests may use, in addition to those of this machine.
    hosts: Vec<String>,
    /// Whether the listener is a socket file: web pages cannot reach one, and clients send
    /// any host name to it.
    is_socket_file: bool,
    /// Networks whose programs may ask what is for monitors without a token.
    monitors: Vec<IpNet>,
}

/// Why a request gets no further than the table.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    Credentials,
    UnknownHost,
    OtherSite,
    /// The path exists, and these are its methods.
    OtherMethod(String),
    NoRoute,
    NoRight,
    /// Whose token it is cannot be found out, or must not count now.
    LookUp(LookUpError),
}

impl Refusal {
    /// `as_problem` asks for a problem document.
    pub(super) fn answer(self, as_problem: bool) -> Response {
        if !as_problem {
            return match self {
                Self::Credentials => answer::bearer_required(),
                Self::UnknownHost => answer::unknown_host(),
                Self::OtherSite | Self::NoRight => answer::forbidden(),
                Self::OtherMethod(allowed) => answer::method_not_allowed(&allowed),
                Self::NoRoute => answer::not_found(),
                Self::LookUp(_) => answer::of_status(503),
            };
        }
        match self {
            Self::Credentials => {
                let detail = "the request needs a valid token: `Authorization: Bearer ...`";
                let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).answer();
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                response
            }
            Self::UnknownHost => {
                let detail = "ask by an IP address or localhost, or add the name to ops.hosts";
                Problem::new(StatusCode::FORBIDDEN, detail).kind(Kind::UNKNOWN_HOST).answer()
            }
            Self::OtherSite => {
                let detail = "a page of another site sent the request";
                Problem::new(StatusCode::FORBIDDEN, detail).kind(Kind::OTHER_SITE).answer()
            }
            Self::NoRight => {
                let detail = "the token does not have the right to do this";
                Problem::new(StatusCode::FORBIDDEN, detail).answer()
            }
            Self::OtherMethod(allowed) => {
                let detail = format!("the methods of this path are {allowed}");
                let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).answer();
                if let Ok(allowed) = HeaderValue::from_str(&allowed) {
                    response.headers_mut().insert(header::ALLOW, allowed);
                }
                response
            }
            Self::LookUp(LookUpError::Archive(error)) => {
                debug!(%error, "a token cannot be looked up");
                Problem::unavailable("tokens cannot be looked up at the moment").answer()
            }
            Self::LookUp(error @ LookUpError::NotIsolated) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
                    .kind(Kind::TENANTS_NOT_ISOLATED)
                    .answer()
            }
            Self::NoRoute => Problem::not_found("there is no such path").reject(),
        }
    }
}

/// What a request carries to show whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    None,
    Bearer(&'a [u8]),
    /// Several headers: which one counts is not for this process to guess.
    Ambiguous,
}

impl<'a> Credential<'a> {
    /// Returns the text of the token, if there is one.
    pub(super) fn bearer(self) -> Option<&'a [u8]> {
        match self {
            Self::Bearer(sent) => Some(sent),
            Self::None | Self::Ambiguous => None,
        }
    }
}

impl Guard {
    pub(super) fn new(config: &config::Ops, tokens: Option<Arc<Tokens>>) -> Self {
        let config::Ops { listen, token, hosts, monitors, app_metrics: _ } = config.clone();
        let is_socket_file = matches!(listen, ListenAddr::Unix(_));
        Self { root: token, tokens, hosts, is_socket_file, monitors }
    }

    pub(super) async fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Result<Principal, Refusal> {
        let credential = credential(headers);
        let is_monitor = method.is_safe()
            && credential == Credential::None
            && proxies::is_for_monitors(uri.path())
            && client.is_some_and(|client| self.is_monitor(client));
        let principal = if is_monitor && self.root.is_some() {
            Principal::monitor()
        } else {
            self.principal(credential).await?
        };
        let is_anonymous = credential == Credential::None;
        if is_anonymous
            && !probes::reveals_only_a_state(uri.path())
            && !self.knows_host(uri, headers)
        {
            return Err(Refusal::UnknownHost);
        }
        if !method.is_safe() && is_of_another_site(headers) {
            return Err(Refusal::OtherSite);
        }
        Ok(principal)
    }

    fn is_monitor(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.monitors.iter().any(|network| network.contains(&client))
    }

    async fn principal(&self, credential: Credential<'_>) -> Result<Principal, Refusal> {
        let sent = match credential {
            Credential::Bearer(sent) => sent,
            Credential::None if self.root.is_none() => return Ok(Principal::root()),
            Credential::None | Credential::Ambiguous => return Err(Refusal::Credentials),
        };
        let is_root = |root: &Secret| sent.ct_eq(root.expose().as_bytes()).into();
        if self.root.as_ref().is_some_and(is_root) {
            return Ok(Principal::root());
        }
        let Some(tokens) = &self.tokens else { return Err(Refusal::Credentials) };
        tokens.principal(sent).await.map_err(Refusal::LookUp)?.ok_or(Refusal::Credentials)
    }

    /// Whether the request uses a host name that a stranger cannot point to this listener.
    /// If a web page makes its own name resolve to this listener (DNS rebinding), the
    /// browser treats both as the same origin and lets the page read all responses, but it
    /// sends the page's name as the host. It knows no token.
    fn knows_host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        if self.is_socket_file {
            return true;
        }
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => headers.get(header::HOST).map(HeaderValue::as_bytes),
        };
        // Browsers always send a host.
        host.is_none_or(|host| is_own_name(host, &self.hosts))
    }
}

/// Returns the bearer credential of a request. The header may occur once (RFC 9110 section
/// 11.6.2). Without `ops.token`, credentials of other schemes are left to the program that added
/// them, such as a proxy.
pub(super) fn credential(headers: &HeaderMap) -> Credential<'_> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Credential::None,
        (Some(value), None) => {
            bearer(value.as_bytes()).map_or(Credential::None, Credential::Bearer)
        }
        (Some(_), Some(_)) => Credential::Ambiguous,
    }
}

/// Returns the token that an admitted request carries.
pub(super) fn token(headers: &HeaderMap) -> Option<&[u8]> {
    match credential(headers) {
        Credential::Bearer(sent) => Some(sent),
        Credential::None | Credential::Ambiguous => None,
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
    // The space in front of an empty token does not arrive.
    if value.eq_ignore_ascii_case(b"Bearer") {
        return Some(b"");
    }
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Right;

    fn guard(listen: &str, token: Option<&str>) -> Guard {
        let listen = listen.parse().expect("an address");
        let hosts = vec!["porter.lan".to_owned()];
        let token = token.map(Secret::new);
        let monitors = vec!["192.0.2.0/24".parse().expect("a network")];
        Guard::new(&config::Ops { listen, token, hosts, monitors, app_metrics: true }, None)
    }

    /// Returns the status of the refusal.
    async fn admit(
        guard: &Guard,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<Refused> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let admitted = guard.admit(&parts.method, &parts.uri, &parts.headers, None).await;
        let refusal = admitted.err()?;
        Some(match refusal {
            Refusal::Credentials => Refused::Credentials,
            Refusal::UnknownHost => Refused::UnknownHost,
            Refusal::OtherSite => Refused::OtherSite,
            refusal => panic!("the guard has no table: {refusal:?}"),
        })
    }

    #[derive(Debug, PartialEq)]
    enum Refused {
        Credentials,
        UnknownHost,
        OtherSite,
    }

    #[tokio::test]
    async fn requests_are_judged_by_token_host_and_site_whatever_is_asked_for() {
        use Refused::{Credentials, OtherSite, UnknownHost};
        let (own, evil) = (("host", "localhost:8401"), ("host", "evil.example"));
        let (token, wrong) = (("authorization", "Bearer abc"), ("authorization", "Bearer abd"));
        let (origin, cross) = (("origin", "http://localhost"), ("sec-fetch-site", "cross-site"));
        let basic = ("authorization", "Basic abc");
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
            (tcp, Some("abc"), "GET", "/v1/apps", &[token, token], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/v1/apps", &[wrong, token], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/v1/apps", &[basic], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/v1/apps", &[basic, token], Some(Credentials)),
            (tcp, Some("abc"), "GET", "/v1/apps", &[token, basic], Some(Credentials)),
            // The sender of a token is who the token says, or nobody.
            (tcp, None, "GET", "/v1/apps", &[own, token], Some(Credentials)),
            (tcp, None, "GET", "/livez", &[own, token], Some(Credentials)),
            ("unix:/ops.sock", None, "GET", "/v1/apps", &[token], Some(Credentials)),
            (tcp, None, "GET", "/v1/apps", &[own, basic], None),
            (tcp, None, "GET", "/v1/apps", &[own, basic, basic], Some(Credentials)),
        ] {
            let refusal = admit(&guard(listen, secret), method, path, headers).await;
            assert_eq!(refusal, expected, "{method} {path} {headers:?}");
        }
    }

    #[tokio::test]
    async fn monitors_of_listed_networks_ask_for_states_and_routes_and_nothing_else() {
        let guard = guard("127.0.0.1:0", Some("abc"));
        let host = |name| HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(name))]);
        let ask = async |method: &str, path: &str, client: &str, name| {
            let (method, uri) = (method.parse().expect("a method"), path.parse().expect("a path"));
            let client = Some(client.parse().expect("an address"));
            guard.admit(&method, &uri, &host(name), client).await.ok()
        };
        for client in ["192.0.2.7", "::ffff:192.0.2.7"] {
            for path in ["/v1/status/notes", "/v1/status?host=a.example", "/v1/traefik"] {
                let principal = ask("GET", path, client, "porter.lan").await.expect(path);
                assert!(principal.may(Right::Read) && !principal.may(Right::Operate));
                assert!(!principal.may(Right::Pii));
                assert!(ask("POST", path, client, "porter.lan").await.is_none(), "{path}");
                assert!(ask("GET", path, client, "evil.example").await.is_none(), "{path}");
                assert!(ask("GET", path, "192.0.3.7", "porter.lan").await.is_none(), "{path}");
            }
            for path in ["/v1/apps", "/metrics", "/v1/statusX", "/v1/requests", "/livez"] {
                assert!(ask("GET", path, client, "porter.lan").await.is_none(), "{path}");
            }
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
            ("Bearer", Some("")),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value:?}");
        }
    }
}
