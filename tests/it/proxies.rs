//! Real proxies, started from the files under `deploy/` with nothing but
//! addresses and paths replaced, in front of the real program on the sample box.

mod answers;
mod cookies;
mod echo;
mod freeshard;
mod journey;
mod pairing;
mod provider;
mod standby;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::sign;

use self::echo::{Seen, web_socket};
use crate::support::programs::{self, Program, free_address, install, traefik};

const STARTING: Duration = Duration::from_secs(120);
const SECRET: &str = "terminal-secret-of-the-sample-box-0123456789";
/// The paired device of `config/box`.
const TERMINAL: &str = "laptop";

/// nightporter on a copy of the sample box, and the app behind the proxy.
struct House {
    gate: SocketAddr,
    ops: SocketAddr,
    tls: bool,
    /// Instead of the sample box's own.
    domain: Option<&'static str>,
    /// `ops.token`.
    token: Option<&'static str>,
    app: SocketAddr,
    /// `None` while it is away.
    nightporter: Option<Program>,
    /// The last to go: it holds the logs.
    folder: TempDir,
}

impl House {
    async fn open(tls: bool) -> Self {
        Self::open_in(None, tls, None).await
    }

    async fn with_token(tls: bool, token: Option<&'static str>) -> Self {
        Self::open_in(None, tls, token).await
    }

    async fn open_in(domain: Option<&'static str>, tls: bool, token: Option<&'static str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/box"), &path.join("box"));
        fs::write(path.join("box/terminal_jwt_secret"), SECRET).expect("writable");
        let (gate, ops) = (free_address(), free_address());
        let app = echo::serve().await;
        let mut house = Self { gate, ops, tls, domain, token, app, folder, nightporter: None };
        house.come_back().await;
        house
    }

    /// The program with the house's settings.
    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
        command
            .env_clear()
            .current_dir(self.path())
            .env("NIGHTPORTER_GATE__LISTEN", self.gate.to_string())
            .env("NIGHTPORTER_OPS__LISTEN", self.ops.to_string())
            .env("NIGHTPORTER_STORE__PATH", "box")
            .env("NIGHTPORTER_WAKE__ENABLED", "false")
            .env("NIGHTPORTER_LOG__LEVEL", "info,nightporter=debug");
        if let Some(domain) = self.domain {
            command.env("NIGHTPORTER_GATE__DOMAIN", domain);
        }
        if let Some(token) = self.token {
            command
                .env("NIGHTPORTER_OPS__TOKEN", token)
                .env("NIGHTPORTER_TRAEFIK__ENTRYPOINTS", "web");
        }
        if self.tls {
            command
                .env("NIGHTPORTER_GATE__TLS__SELF_SIGNED", "true")
                .env("NIGHTPORTER_GATE__TLS__DIRECTORY", "tls")
                .env("NIGHTPORTER_GATE__TLS__NAMES", "nightporter,127.0.0.1,gate.test");
        }
        command
    }

    async fn come_back(&mut self) {
        self.nightporter = Some(Program::start(&mut self.program(), self.path()));
        poll("nightporter is ready", STARTING, async || {
            let mut request = Request::new("GET", "/readyz");
            if let Some(token) = self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let ready = try_ask(self.ops, &request).await;
            ready.is_some_and(|response| response.status == 200)
        })
        .await;
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What stands for the gate and the apps in every shipped file.
    fn neighbours(&self) -> [(&'static str, String); 3] {
        let app = self.app.to_string();
        [
            ("127.0.0.1:8400", self.gate.to_string()),
            ("127.0.0.1:8081", app.clone()),
            ("127.0.0.1:8082", app),
        ]
    }

    /// Has the apps' descriptions say where they listen.
    fn move_apps_here(&self) {
        for app in ["notes", "wiki"] {
            let meta = self.path().join("box/installed_apps").join(app).join("app_meta.json");
            let text = fs::read_to_string(&meta).expect("readable");
            let entrypoint = format!("\"container_name\": \"{app}\", \"container_port\": 80");
            assert!(text.contains(&entrypoint), "{text}");
            let (ip, port) = (self.app.ip(), self.app.port());
            let here = format!("\"container_name\": \"{ip}\", \"container_port\": {port}");
            fs::write(&meta, text.replace(&entrypoint, &here)).expect("writable");
        }
    }

    /// The output of `nightporter traefik`, as it is, with the apps where they listen.
    fn printed_routes(&self, tls: bool) -> PathBuf {
        self.move_apps_here();
        let scheme = if tls { "https" } else { "http" };
        let address = format!("{scheme}://{}", self.gate);
        let ca = self.path().join("tls/ca.pem");
        let printed = Command::new(env!("CARGO_BIN_EXE_nightporter"))
            .args(["traefik", "--entrypoint", "web", "--address", &address, "--ca"])
            .arg(ca)
            .env_clear()
            .current_dir(self.path())
            .env("NIGHTPORTER_STORE__PATH", "box")
            .env("NIGHTPORTER_GATE__TLS__SELF_SIGNED", tls.to_string())
            .env("NIGHTPORTER_GATE__TLS__NAMES", "nightporter,127.0.0.1")
            .output()
            .expect("runs");
        assert!(printed.status.success(), "{printed:?}");
        let routes = self.path().join("printed.yml");
        fs::write(&routes, printed.stdout).expect("writable");
        routes
    }

    /// Traefik with these routes; `keep_aliases` leaves the stripping to the
    /// middleware alone, as in front of a Traefik that is set up otherwise.
    fn traefik(&self, routes: &Path, keep_aliases: bool) -> (Program, SocketAddr) {
        let public = free_address();
        let mut replacements = vec![
            ("address: \":80\"", format!("address: \"{public}\"")),
            ("/etc/traefik/dynamic.yml", routes.display().to_string()),
        ];
        if keep_aliases {
            replacements
                .push(("aliasHeadersStrategy: delete", "aliasHeadersStrategy: keep".into()));
        }
        let configuration = install("traefik/traefik.yml", self.path(), &replacements);
        let mut command = Command::new(traefik());
        command.arg(format!("--configfile={}", configuration.display()));
        (Program::start(&mut command, self.path()), public)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("a folder") {
        let from = entry.expect("readable").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// The answer of something that may not listen yet.
async fn try_ask(address: SocketAddr, request: &Request) -> Option<Response> {
    Connection::open(address).await.ok()?.ask(request).await.ok()
}

/// A client's request for the sample app `notes`.
fn notes(path: &str) -> Request {
    Request::new("GET", path).without("Host").header("Host", "notes.box.example")
}

fn with_cookie(request: Request) -> Request {
    request.cookie(sign::token(SECRET, TERMINAL))
}

/// The same by a browser that shows what comes.
fn navigating(request: Request) -> Request {
    request.header("Sec-Fetch-Dest", "document").header("Accept", "text/html")
}

/// Asks for what must be granted: what the app saw of it.
async fn passes(proxy: SocketAddr, request: &Request) -> Seen {
    let response = ask(proxy, request).await;
    assert_eq!(response.status, 200, "{request:?} {response:?}");
    serde_json::from_slice(&response.body).expect("the app's answer")
}

const ANONYMOUS: [(&str, &str); 1] = [("x-ptl-client-type", "anonymous")];
const GRANTED: [(&str, &str); 4] = [
    ("x-ptl-client-id", TERMINAL),
    ("x-ptl-client-name", "Laptop"),
    ("x-ptl-client-type", "terminal"),
    ("x-ptl-user", "f68xf7@box.example"),
];

fn assert_granted(seen: &Seen, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(seen.granted(), expected, "{seen:?}");
}

/// A proxy listens before it knows its routes.
async fn is_ready(proxy: SocketAddr) {
    poll("the proxy is ready", STARTING, async || {
        try_ask(proxy, &notes("/shared/")).await.is_some_and(|response| response.status == 200)
    })
    .await;
}

/// All that a proxy has to show.
async fn prove(proxy: SocketAddr) {
    is_ready(proxy).await;
    decides(proxy).await;
    strips(proxy).await;
    believes_nothing_forwarded(proxy).await;
    keeps_what_connection_lists(proxy).await;
    upgrades(proxy).await;
    shows_pages(proxy).await;
    answers::prove(proxy).await;
    cookies::prove(proxy).await;
}

async fn decides(proxy: SocketAddr) {
    let seen = passes(proxy, &notes("/shared/a%2Fb?x=1")).await;
    assert!(seen.line.starts_with("GET /shared/a%2Fb?x=1 "), "{seen:?}");
    assert_granted(&seen, &ANONYMOUS);

    let response = ask(proxy, &notes("/")).await;
    assert_eq!((response.status, response.body()), (401, r#"{"detail":"Unauthorized"}"#));
    let response = ask(proxy, &navigating(notes("/"))).await;
    assert_eq!(response.status, 401);
    assert!(response.body().contains("Access Denied"), "no page: {response:?}");

    assert_granted(&passes(proxy, &with_cookie(notes("/"))).await, &GRANTED);

    let post = Request::new("POST", "/shared/").without("Host").header("Host", "notes.box.example");
    let bytes = [&post.header("Content-Length", "4").bytes()[..], b"body"].concat();
    let mut connection = Connection::open(proxy).await.expect("the proxy listens");
    let response = connection.ask_bytes(&bytes).await.expect("an answer");
    let seen: Seen = serde_json::from_slice(&response.body).expect("the app's answer");
    assert_eq!((seen.body.as_str(), response.status), ("body", 200), "{seen:?}");
    assert!(seen.line.starts_with("POST /shared/ "), "{seen:?}");
}

/// Every separator that a header's name may have (RFC 9110 section 5.6.2), in
/// every place, and every case.
fn forgeries() -> Vec<String> {
    let mut names: Vec<String> = ["X-Ptl-Client-Id", "x-ptl-client-id", "X-PTL-CLIENT-ID"]
        .into_iter()
        .chain(["x_ptl-client.id", "X.ptl_User", "X-Ptl_Client_Name", "X-Ptl-Anything"])
        .map(Into::into)
        .collect();
    for separator in "!#$%&'*+-.^_`|~".chars() {
        let with = |name: &str| name.replace('-', separator.encode_utf8(&mut [0; 4]));
        names.extend(["X-Ptl-Client-Id", "x-ptl-client-type", "X-PTL-USER"].map(with));
    }
    names
}

async fn strips(proxy: SocketAddr) {
    let forgeries = forgeries();
    for name in &forgeries {
        let forge = |request: Request| request.header(name, "forged").header(name, "forged again");
        assert_granted(&passes(proxy, &forge(notes("/shared/"))).await, &ANONYMOUS);
        assert_granted(&passes(proxy, &with_cookie(forge(notes("/")))).await, &GRANTED);
    }
    let all = |request: Request| request.headers(forgeries.iter().map(|name| (name, "forged")));
    assert_granted(&passes(proxy, &all(notes("/shared/"))).await, &ANONYMOUS);
    assert_granted(&passes(proxy, &all(with_cookie(notes("/")))).await, &GRANTED);
    assert_eq!(ask(proxy, &all(notes("/"))).await.status, 401);
}

async fn believes_nothing_forwarded(proxy: SocketAddr) {
    let forwarded = [
        ("X-Forwarded-Uri", "/shared/"),
        ("X-Forwarded-Host", "wiki.box.example"),
        ("X-Forwarded-Method", "OPTIONS"),
        ("X-Forwarded-Proto", "https"),
        ("X_Forwarded_Uri", "/shared/"),
        ("X.Forwarded.Host", "wiki.box.example"),
        ("x_forwarded-uri", "/shared/"),
    ];
    for header in forwarded {
        let response = ask(proxy, &notes("/").headers([header, header])).await;
        assert_eq!(response.status, 401, "{header:?} {response:?}");
    }
    assert_eq!(ask(proxy, &notes("/").headers(forwarded)).await.status, 401);
}

/// A client can have headers dropped on the way by listing them in Connection
/// (RFC 9110 section 7.6.1), but not those that say who it is.
async fn keeps_what_connection_lists(proxy: SocketAddr) {
    let listed = "X-Ptl-Client-Id, X-Ptl-Client-Type, X-Forwarded-Uri, X-Forwarded-Host";
    let request = notes("/").header("Connection", listed);
    assert_eq!(ask(proxy, &request).await.status, 401);
    assert_granted(&passes(proxy, &with_cookie(request)).await, &GRANTED);
}

async fn upgrades(proxy: SocketAddr) {
    let none = || Ok("none".to_owned());
    assert_eq!(web_socket(proxy, notes("/shared/live")).await, none());
    assert_eq!(web_socket(proxy, with_cookie(notes("/live"))).await, none());
    let cookies = format!("a=b; authorization={}", sign::token(SECRET, TERMINAL));
    let seen = web_socket(proxy, notes("/live").header("Cookie", cookies)).await;
    assert_eq!(seen, Ok("a=b".to_owned()));
    assert_eq!(web_socket(proxy, notes("/live")).await, Err(401));
}

/// What is shown in an app's place, in the form and language that are asked for, and
/// a waiting page's questions: the gate answers them itself, whoever asks.
async fn shows_pages(proxy: SocketAddr) {
    let question = || notes("/shared/").header("X-Nightporter-Poll", "0");
    let response = ask(proxy, &question()).await;
    assert_eq!(response.status, 300, "{response:?}");
    assert_eq!(response.text("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.text("cache-control"), Some("no-store"), "{response:?}");
    let news = |response: &Response| -> serde_json::Value {
        serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("no JSON: {response:?}"))
    };
    assert_eq!(news(&response)["state"], "awake", "{response:?}");
    let response = ask(proxy, &question().header("Accept-Language", "de-AT,en;q=0.5")).await;
    assert_eq!(news(&response)["text"], "Bereit", "{response:?}");

    let response = ask(proxy, &notes("/").header("X-Nightporter-Poll", "0")).await;
    assert_eq!(response.status, 401, "{response:?}");
    assert!(!response.body().contains("awake"), "{response:?}");
    let granted = with_cookie(notes("/").header("X-Nightporter-Poll", "x"));
    let response = ask(proxy, &granted).await;
    assert_eq!((response.status, &news(&response)["state"]), (300, &"awake".into()));

    let response = ask(proxy, &navigating(notes("/")).header("Accept-Language", "de")).await;
    assert!(response.body().contains("Zugriff verweigert"), "{response:?}");
    assert!(response.text("content-security-policy").is_some(), "{response:?}");
    assert_eq!(response.text("www-authenticate"), Some("Bearer"), "{response:?}");
    let response = ask(proxy, &notes("/").header("Accept", "application/json")).await;
    assert_eq!(response.status, 401);
    assert_eq!(response.text("content-type"), Some("application/problem+json"), "{response:?}");
    assert_eq!(response.text("www-authenticate"), Some("Bearer"), "{response:?}");
    assert_eq!(news(&response)["title"], "Unauthorized", "{response:?}");
}

#[tokio::test]
async fn traefik_over_plain_http() {
    let house = House::open(false).await;
    let routes = install("traefik/plain.yml", house.path(), &house.neighbours());
    let (_traefik, public) = house.traefik(&routes, false);
    prove(public).await;
    pairing::prove(&house, public).await;
}

#[tokio::test]
async fn traefik_strips_with_the_middleware_alone() {
    let house = House::open(false).await;
    let routes = install("traefik/plain.yml", house.path(), &house.neighbours());
    let (_traefik, public) = house.traefik(&routes, true);
    prove(public).await;
    pairing::prove(&house, public).await;
}

#[tokio::test]
async fn traefik_with_what_the_subcommand_prints() {
    for tls in [false, true] {
        let house = House::open(tls).await;
        let routes = house.printed_routes(tls);
        let (_traefik, public) = house.traefik(&routes, false);
        prove(public).await;
        pairing::prove(&house, public).await;
    }
}

#[tokio::test]
async fn traefik_over_tls_and_http2() {
    let house = House::open(true).await;
    let replacements = [
        ("https://gate:8400", format!("https://{}", house.gate)),
        ("/run/nightporter/tls/ca.pem", house.path().join("tls/ca.pem").display().to_string()),
        ("http://notes:80", format!("http://{}", house.app)),
        ("http://wiki:80", format!("http://{}", house.app)),
    ];
    let routes = install("traefik/tls.yml", house.path(), &replacements);
    let (_traefik, public) = house.traefik(&routes, false);
    is_ready(public).await;
    decides(public).await;
    cookies::split_by_http2(public).await;
    // Before any upgrade: for the page of a denied one Traefik speaks HTTP/1.1.
    assert_only_http2(house.ops).await;
    prove(public).await;
    pairing::prove(&house, public).await;
}

/// Every connection to the gate agreed on HTTP/2.
async fn assert_only_http2(ops: SocketAddr) {
    let response = ask(ops, &Request::new("GET", "/metrics")).await;
    let handshakes: Vec<_> = response
        .body()
        .lines()
        .filter(|line| line.starts_with("nightporter_tls_handshakes_total{"))
        .collect();
    assert!(!handshakes.is_empty(), "no TLS at all");
    assert!(handshakes.iter().all(|line| line.contains(r#"protocol="h2""#)), "{handshakes:?}");
}

impl House {
    /// The page for the time in which nightporter is away, where Caddy and nginx find it.
    fn print_standby_page(&self) {
        let printed = self.program().args(["standby", "--page"]).output().expect("runs");
        assert!(printed.status.success(), "{printed:?}");
        let page = self.path().join("nightporter-standby.html");
        fs::write(page, printed.stdout).expect("writable");
    }

    fn caddy(&self) -> (Program, SocketAddr) {
        self.print_standby_page();
        let public = free_address();
        let [gate, notes, wiki] = self.neighbours();
        let port = |app: &str| format!("http://{app}.box.example:{}", public.port());
        let replacements = [
            gate,
            notes,
            wiki,
            ("http://notes.box.example", port("notes")),
            ("http://wiki.box.example", port("wiki")),
            ("/etc/caddy", self.path().display().to_string()),
        ];
        let configuration = install("caddy/Caddyfile", self.path(), &replacements);
        (programs::caddy(&configuration, self.path()), public)
    }

    fn nginx(&self) -> (Program, SocketAddr) {
        self.print_standby_page();
        let public = free_address();
        let [gate, notes, wiki] = self.neighbours();
        let folder = self.path().display();
        let replacements = [
            gate,
            notes,
            wiki,
            ("listen 80;", format!("listen {public};")),
            ("/etc/nginx", folder.to_string()),
        ];
        let site = install("nginx/nightporter.conf", self.path(), &replacements);
        (programs::nginx(&site, self.path()), public)
    }
}

#[tokio::test]
async fn caddy() {
    let house = House::open(false).await;
    let (_caddy, public) = house.caddy();
    prove(public).await;
    pairing::prove(&house, public).await;
}

#[tokio::test]
async fn nginx() {
    let house = House::open(false).await;
    let (_nginx, public) = house.nginx();
    prove(public).await;
    pairing::prove(&house, public).await;
}
