//! `nightporter traefik`: prints the dynamic configuration with which Traefik asks this
//! gate about its requests.

use std::fmt::Write as _;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::open::open;
use super::{CliError, CommandResult, domain, wait};
use crate::config::{self, Certificate, Config, ListenAddr};
use crate::domain::app::{AppMeta, EntrypointPort};
use crate::gate::verdict::ASLEEP;
use crate::store::app_meta::AppMetaDir;

/// The headers that Traefik deletes from a client's request and copies from the gate's
/// response.
///
/// Servers behind CGI, WSGI and the like read `X_Ptl_A`, `x.ptl.a` and
/// `X-Ptl-A` as one header, so all spellings are matched.
const GRANTED_HEADERS: &str = "(?i)^x[^a-z0-9]ptl[^a-z0-9]";

/// Longest response that Traefik accepts from the gate, in bytes; pages are far smaller.
const MAX_RESPONSE_BODY: u32 = 1024 * 1024;

/// The name of the authority's file in the folder of self-signed certificates.
const AUTHORITY: &str = "ca.pem";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The URL at which Traefik reaches the gate, such as `https://nightporter:8400`
    /// [default: the address of `gate.listen`]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// Traefik's entry point for the apps; can be given more than once
    /// [default: Traefik's own default entry points]
    #[arg(long = "entrypoint", value_name = "NAME")]
    entrypoints: Vec<String>,
    /// The gate's authority, if Traefik sees its file at another path than this process
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Traefik's client certificate, if `gate.tls.client_ca` requires one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// How Traefik reaches the gate.
#[derive(Debug)]
struct Gate {
    /// Scheme, host and port.
    url: String,
    tls: Option<Tls>,
    /// The status that a monitor gets for a sleeping app; `None` if the gate can send it
    /// itself.
    asleep: Option<u16>,
}

#[derive(Debug)]
struct Tls {
    ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
    server_name: String,
}

/// One app's route.
#[derive(Debug)]
struct Route {
    app: String,
    /// The URL of its container, or why there is no route.
    target: Result<String, String>,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let gate = Gate::new(options, config)?;
        let (source, _) = open(config)?;
        let domain = domain(config, &source).await?;
        let dir = AppMetaDir::new(config.store.installed_apps_dir.clone());
        let mut apps = source.app_names().await?;
        apps.sort();
        let mut routes = Vec::new();
        for app in apps {
            let meta = dir.read(&app).await.map_err(|error| error.to_string());
            let target = meta.and_then(|meta| target(&app, &meta));
            routes.push(Route { app, target });
        }
        write!(out, "{}", document(&gate, &domain, &options.entrypoints, &routes))?;
        Ok(ExitCode::SUCCESS)
    })
}

impl Gate {
    fn new(options: &Options, config: &Config) -> Result<Self, CliError> {
        let Options { address, entrypoints: _, ca, cert, key } = options;
        let tls = config.gate.tls.as_ref();
        let url = match address {
            Some(address) => address.trim_end_matches('/').to_owned(),
            None => own_url(&config.gate.listen, tls)?,
        };
        let Ok(uri) = url.parse::<http::Uri>() else {
            return Err(CliError::Message(format!("invalid URL `{url}`")));
        };
        let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(CliError::Message(format!("`{url}` must begin with http:// or https://")));
        };
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(CliError::Message(format!("`{url}` must end after the port")));
        }
        let over_tls = scheme == "https";
        if over_tls != tls.is_some() {
            let state = if tls.is_some() { "on" } else { "off" };
            let hint = "change the scheme or `gate.tls`";
            return Err(CliError::Message(format!(
                "the address is `{url}`, but TLS is {state}; {hint}"
            )));
        }
        let client = cert.clone().zip(key.clone());
        let tls = match tls {
            None => None,
            Some(config::Tls { client_ca: Some(_), .. }) if client.is_none() => {
                let hint = "give Traefik's certificate with --cert and --key";
                return Err(CliError::Message(format!("`gate.tls.client_ca` is set; {hint}")));
            }
            Some(tls) => {
                check_name(host, tls)?;
                let ca = ca.clone().or_else(|| authority(tls));
                Some(Tls { ca, client, server_name: host.to_owned() })
            }
        };
        let asleep = config.wake.ignore.status;
        let asleep = asleep.is_success().then(|| asleep.as_u16());
        Ok(Self { url, tls, asleep })
    }
}

/// Returns the URL of a listener if its address determines one.
fn own_url(listen: &ListenAddr, tls: Option<&config::Tls>) -> Result<String, CliError> {
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
        other => Err(CliError::Message(format!(
            "`gate.listen` is {other}; give the URL at which Traefik reaches it with --address"
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
fn check_name(host: &str, tls: &config::Tls) -> Result<(), CliError> {
    let Certificate::SelfSigned { names, .. } = &tls.certificate else {
        return Ok(());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if names.iter().any(|name| name == host) {
        return Ok(());
    }
    let hint = "add it to `gate.tls.names`, or give another --address";
    Err(CliError::Message(format!("the gate's certificate is not valid for `{host}`; {hint}")))
}

/// Returns the URL at which an app's container answers HTTP, or why there is none.
fn target(app: &str, meta: &AppMeta) -> Result<String, String> {
    let is_label = !app.is_empty()
        && app.len() <= 63
        && app.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_label {
        return Err("its name cannot be part of a host".into());
    }
    let mut http =
        meta.entrypoints.iter().filter(|entry| entry.entrypoint_port == EntrypointPort::Http);
    let entry = http.next().ok_or("it has no entry point for HTTP")?;
    Ok(format!("http://{}:{}", entry.container_name, entry.container_port))
}

fn document(gate: &Gate, domain: &str, entrypoints: &[String], routes: &[Route]) -> String {
    let mut text = String::from("# Generated by `nightporter traefik`.\nhttp:\n");
    // Writing to a String does not fail.
    let _ = routers(&mut text, domain, entrypoints, routes)
        .and_then(|()| middlewares(&mut text, gate))
        .and_then(|()| services(&mut text, gate, routes));
    text
}

fn routers(
    text: &mut String,
    domain: &str,
    entrypoints: &[String],
    routes: &[Route],
) -> std::fmt::Result {
    let mut routed = false;
    for Route { app, target } in routes {
        if let Err(problem) = target {
            writeln!(text, "  # {}: no route: {}", app.escape_debug(), problem.escape_debug())?;
            continue;
        }
        if !routed {
            text.push_str("  routers:\n");
            routed = true;
        }
        let host = format!("{}.{domain}", app.to_ascii_lowercase());
        writeln!(text, "    {}:", quoted(&format!("app-{app}")))?;
        writeln!(text, "      rule: {}", quoted(&format!("Host(`{host}`)")))?;
        if !entrypoints.is_empty() {
            let names: Vec<_> = entrypoints.iter().map(|name| quoted(name)).collect();
            writeln!(text, "      entryPoints: [{}]", names.join(", "))?;
        }
        text.push_str("      middlewares: [nightporter-page, nightporter]\n");
        writeln!(text, "      service: {}", quoted(&format!("app-{app}")))?;
    }
    Ok(())
}

fn middlewares(text: &mut String, gate: &Gate) -> std::fmt::Result {
    text.push_str("  middlewares:\n    nightporter:\n      forwardAuth:\n");
    writeln!(text, "        address: {}", quoted(&format!("{}/internal/auth", gate.url)))?;
    if let Some(Tls { ca, client, server_name: _ }) = &gate.tls {
        if ca.is_some() || client.is_some() {
            text.push_str("        tls:\n");
        }
        if let Some(ca) = ca {
            writeln!(text, "          ca: {}", path(ca))?;
        }
        if let Some((cert, key)) = client {
            writeln!(text, "          cert: {}\n          key: {}", path(cert), path(key))?;
        }
    }
    text.push_str("        trustForwardHeader: false\n");
    text.push_str("        # Deleted from the client's request, then copied from the response.\n");
    writeln!(text, "        authResponseHeadersRegex: {}", quoted(GRANTED_HEADERS))?;
    writeln!(text, "        maxResponseBodySize: {MAX_RESPONSE_BODY}")?;
    text.push_str(
        "    # A page for requests that the app does not answer; all other responses are left\n    \
         # as they are. The request for the page carries the app's Host.\n    \
         nightporter-page:\n      errors:\n        status: [\"502\", \"504\"]\n        \
         service: nightporter\n        \
         query: \"/internal/app_error/{originalStatus}?url={url}\"\n",
    );
    add_status_rewrite(text, gate)
}

/// Rewrites the gate's status for a monitor of a sleeping app to the 2xx that it stands for.
fn add_status_rewrite(text: &mut String, gate: &Gate) -> std::fmt::Result {
    let Some(status) = gate.asleep else { return Ok(()) };
    let replaced = "        status: [";
    if let Some(at) = text.rfind(replaced) {
        text.insert_str(at + replaced.len(), &format!("\"{ASLEEP}\", "));
    }
    writeln!(text, "        statusRewrites:\n          \"{ASLEEP}\": {status}")
}

fn services(text: &mut String, gate: &Gate, routes: &[Route]) -> std::fmt::Result {
    if let Some(Tls { ca, client, server_name }) = &gate.tls {
        text.push_str("  serversTransports:\n    nightporter:\n");
        // The request for a page has the app's name as its Host, not the gate's.
        writeln!(text, "      serverName: {}", quoted(server_name))?;
        if let Some(ca) = ca {
            writeln!(text, "      rootCAs: [{}]", path(ca))?;
        }
        if let Some((cert, key)) = client {
            let (cert, key) = (path(cert), path(key));
            writeln!(text, "      certificates:\n        - certFile: {cert}")?;
            writeln!(text, "          keyFile: {key}")?;
        }
    }
    text.push_str("  services:\n    nightporter:\n      loadBalancer:\n");
    if gate.tls.is_some() {
        text.push_str("        serversTransport: nightporter\n");
    }
    writeln!(text, "        servers:\n          - url: {}", quoted(&gate.url))?;
    for Route { app, target } in routes {
        if let Ok(url) = target {
            writeln!(text, "    {}:\n      loadBalancer:", quoted(&format!("app-{app}")))?;
            writeln!(text, "        servers:\n          - url: {}", quoted(url))?;
        }
    }
    Ok(())
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Quotes a text: a JSON string is a YAML one (YAML 1.2 section 1.3).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
