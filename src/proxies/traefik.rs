//! Traefik's dynamic configuration: the middlewares that ask the gate, and a router and a
//! service for each app.
//!
//! Its HTTP provider polls this from `/v1/traefik`, and `nightporter traefik` prints the same
//! for its file provider. The page that pairs a device has a router of its own; other pages of
//! the gate need none: the gate answers for every app's host before the app is asked.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::SettingError;
use super::routes::Route;
use crate::config::{self, Certificate, Config, ListenAddr};
use crate::gate::verdict::ASLEEP;

/// The headers that Traefik deletes from a client's request and copies from the gate's
/// response.
///
/// Servers behind CGI, WSGI and the like read `X_Ptl_A`, `x.ptl.a` and
/// `X-Ptl-A` as one header, so all spellings are matched.
const GRANTED_HEADERS: &str = "(?i)^x[^a-z0-9]ptl[^a-z0-9]";

/// The same with the cookies, for a gate whose grants have those without the terminal's token.
const WITH_COOKIES: &str = "(?i)^(cookie$|x[^a-z0-9]ptl[^a-z0-9])";

/// Before any router of an app: Traefik's own priorities are the lengths of rules.
const FIRST: u32 = 1_000_000;

/// Longest response that Traefik accepts from the gate, in bytes; pages are far smaller.
const MAX_RESPONSE_BODY: u32 = 1024 * 1024;

/// The name of the authority's file in the folder of self-signed certificates.
const AUTHORITY: &str = "ca.pem";

/// How Traefik reaches the gate, and what each router has.
#[derive(Debug)]
pub struct Setup {
    /// Scheme, host and port.
    url: String,
    tls: Option<Tls>,
    /// The status that a monitor gets for a sleeping app; `None` if the gate can send it
    /// itself.
    asleep: Option<u16>,
    /// Whether its grants have the cookies for the app.
    sends_cookies: bool,
    /// Whether it serves the page that pairs a device.
    pairs: bool,
    routers: config::Traefik,
}

#[derive(Debug)]
struct Tls {
    ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
    server_name: String,
}

impl Setup {
    /// Combines the settings; `settings` is `config.traefik`, or what a command makes of it.
    ///
    /// # Errors
    /// Settings are missing, or contradict each other.
    pub fn new(settings: config::Traefik, config: &Config) -> Result<Self, SettingError> {
        let refuse = |problem: String| Err(SettingError(problem));
        let tls = config.gate.tls.as_ref();
        let url = match &settings.address {
            Some(address) => address.trim_end_matches('/').to_owned(),
            None => own_url(&config.gate.listen, tls)?,
        };
        let Ok(uri) = url.parse::<http::Uri>() else {
            return refuse(format!("invalid URL `{url}`"));
        };
        let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return refuse(format!("`{url}` must begin with http:// or https://"));
        };
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return refuse(format!("`{url}` must end after the port"));
        }
        let over_tls = scheme == "https";
        if over_tls != tls.is_some() {
            let state = if tls.is_some() { "on" } else { "off" };
            let hint = "change the scheme or `gate.tls`";
            return refuse(format!("the address is `{url}`, but TLS is {state}; {hint}"));
        }
        let client = settings.cert.clone().zip(settings.key.clone());
        let tls = match tls {
            None => None,
            Some(config::Tls { client_ca: Some(_), .. }) if client.is_none() => {
                let hint = "give Traefik's certificate by `traefik.cert` and `traefik.key`, or \
                            with --cert and --key";
                return refuse(format!("`gate.tls.client_ca` is set; {hint}"));
            }
            Some(tls) => {
                check_name(host, tls)?;
                let ca = settings.ca.clone().or_else(|| authority(tls));
                Some(Tls { ca, client, server_name: host.to_owned() })
            }
        };
        let asleep = config.wake.ignore.status;
        let asleep = asleep.is_success().then(|| asleep.as_u16());
        let config::Gate { hide_token: sends_cookies, pairing: pairs, .. } = config.gate;
        Ok(Self { url, tls, asleep, sends_cookies, pairs, routers: settings })
    }

    /// Returns the dynamic configuration.
    #[must_use]
    pub fn document(&self, routes: &[Route]) -> Value {
        let mut http = Map::new();
        let mut routers = Map::new();
        for Route { app, hosts, target, headers: _ } in routes {
            if target.is_ok() {
                routers.insert(format!("app-{app}"), self.router(app, hosts));
            }
        }
        if self.pairs && !routers.is_empty() {
            routers.insert("nightporter-pairing".into(), self.pairing_router());
        }
        // An empty element would be an error to Traefik.
        if !routers.is_empty() {
            http.insert("routers".into(), routers.into());
        }
        http.insert("middlewares".into(), self.middlewares());
        if let Some(tls) = &self.tls {
            let transport = transport(tls);
            http.insert("serversTransports".into(), json!({"nightporter": transport}));
        }
        http.insert("services".into(), self.services(routes));
        json!({"http": http})
    }

    fn router(&self, app: &str, hosts: &[String]) -> Value {
        let config::Traefik { middlewares, .. } = &self.routers;
        let hosts: Vec<_> = hosts.iter().map(|host| format!("Host(`{host}`)")).collect();
        let ours = ["nightporter-page", "nightporter"].map(String::from);
        // Those of the operator come first: they also apply to what the gate answers.
        let middlewares: Vec<_> = middlewares.iter().cloned().chain(ours).collect();
        self.on_entrypoints(json!({
            "rule": hosts.join(" || "),
            "service": format!("app-{app}"),
            "middlewares": middlewares,
        }))
    }

    /// Returns the router of the page that pairs a device: on every host, past the middlewares
    /// that ask the gate, but not past the operator's.
    fn pairing_router(&self) -> Value {
        let mut router = json!({
            "rule": "PathPrefix(`/.nightporter/`)",
            "priority": FIRST,
            "service": "nightporter",
        });
        if !self.routers.middlewares.is_empty() {
            router["middlewares"] = json!(self.routers.middlewares);
        }
        self.on_entrypoints(router)
    }

    fn on_entrypoints(&self, mut router: Value) -> Value {
        let config::Traefik { entrypoints, tls, cert_resolver, .. } = &self.routers;
        if !entrypoints.is_empty() {
            router["entryPoints"] = json!(entrypoints);
        }
        match cert_resolver {
            Some(resolver) => router["tls"] = json!({"certResolver": resolver}),
            None if *tls => router["tls"] = json!({}),
            None => {}
        }
        router
    }

    fn middlewares(&self) -> Value {
        let copied = if self.sends_cookies { WITH_COOKIES } else { GRANTED_HEADERS };
        let mut ask = json!({
            "address": format!("{}/internal/auth", self.url),
            "trustForwardHeader": false,
            // Deleted from the client's request, then copied from the response.
            "authResponseHeadersRegex": copied,
            "maxResponseBodySize": MAX_RESPONSE_BODY,
        });
        if let Some(Tls { ca, client, server_name: _ }) = &self.tls {
            let mut tls = Map::new();
            tls.extend(ca.iter().map(|ca| ("ca".to_owned(), path(ca))));
            if let Some((cert, key)) = client {
                tls.insert("cert".into(), path(cert));
                tls.insert("key".into(), path(key));
            }
            if !tls.is_empty() {
                ask["tls"] = tls.into();
            }
        }
        // A page for requests that the app does not answer; all other responses are left as
        // they are. The request for the page carries the app's Host.
        let mut page = json!({
            "status": ["502", "504"],
            "service": "nightporter",
            "query": "/internal/app_error/{originalStatus}?url={url}",
        });
        if let Some(status) = self.asleep {
            // The 2xx that the gate's status for a monitor of a sleeping app stands for.
            page["status"] = json!([ASLEEP.to_string(), "502", "504"]);
            page["statusRewrites"] = json!({ASLEEP.to_string(): status});
        }
        json!({"nightporter": {"forwardAuth": ask}, "nightporter-page": {"errors": page}})
    }

    fn services(&self, routes: &[Route]) -> Value {
        let mut gate = json!({"servers": [{"url": self.url}]});
        if self.tls.is_some() {
            gate["serversTransport"] = "nightporter".into();
        }
        let mut services = Map::new();
        services.insert("nightporter".into(), json!({"loadBalancer": gate}));
        for Route { app, target, .. } in routes {
            if let Ok(url) = target {
                let balancer = json!({"servers": [{"url": url}]});
                services.insert(format!("app-{app}"), json!({"loadBalancer": balancer}));
            }
        }
        services.into()
    }
}

fn transport(Tls { ca, client, server_name }: &Tls) -> Value {
    // The request for a page has the app's name as its Host, not the gate's.
    let mut transport = json!({"serverName": server_name});
    if let Some(ca) = ca {
        transport["rootCAs"] = json!([path(ca)]);
    }
    if let Some((cert, key)) = client {
        transport["certificates"] = json!([{"certFile": path(cert), "keyFile": path(key)}]);
    }
    transport
}

/// Returns the URL of a listener if its address determines one.
fn own_url(listen: &ListenAddr, tls: Option<&config::Tls>) -> Result<String, SettingError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    match listen {
        ListenAddr::Tcp(addr)
            if tls.is_some() && addr.ip() == Ipv4Addr::LOCALHOST && addr.port() != 0 =>
        {
            Ok(format!("{scheme}://localhost:{}", addr.port()))
        }
        ListenAddr::Tcp(addr) if !addr.ip().is_unspecified() && addr.port() != 0 => {
            Ok(format!("{scheme}://{addr}"))
        }
        other => Err(SettingError(format!(
            "`gate.listen` is {other}; give the URL at which Traefik reaches it by \
             `traefik.address`, or with --address"
        ))),
    }
}

fn authority(tls: &config::Tls) -> Option<PathBuf> {
    match &tls.certificate {
        Certificate::SelfSigned { directory, .. } => Some(directory.join(AUTHORITY)),
        Certificate::Files { .. } => None,
    }
}

/// Checks that a self-signed certificate is valid for the host of the gate's URL: Traefik
/// verifies it against that host.
fn check_name(host: &str, tls: &config::Tls) -> Result<(), SettingError> {
    let Certificate::SelfSigned { names, .. } = &tls.certificate else {
        return Ok(());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if names.iter().any(|name| name == host) {
        return Ok(());
    }
    let hint = "add it to `gate.tls.names`, or give another --address";
    Err(SettingError(format!("the gate's certificate is not valid for `{host}`; {hint}")))
}

fn path(path: &Path) -> Value {
    path.to_string_lossy().into()
}
