//! Every answer of the gate reaches the client as it was meant, through each proxy with
//! the files that are shipped for it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{LONG, NO_SLEEP, Stage, until_state};
use crate::support::boxes::{Store, token};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::docker::apps::{App, Plan};
use crate::support::programs::{self, Program, free_address, install, traefik};

/// Which proxies a row holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    All,
    /// nginx itself refuses such a request.
    AllButNginx,
}

/// An answer of the gate, and what is to come of it at the client.
struct Row {
    name: &'static str,
    through: Through,
    request: Request,
    status: u16,
    /// Headers by their beginnings; an empty one is not to be there.
    headers: Vec<(&'static str, String)>,
    body: &'static str,
}

impl Row {
    fn new(name: &'static str, request: Request, status: u16) -> Self {
        Self { name, through: Through::All, request, status, headers: Vec::new(), body: "" }
    }

    fn not_nginx(mut self) -> Self {
        self.through = Through::AllButNginx;
        self
    }

    fn header(mut self, name: &'static str, begins: impl Into<String>) -> Self {
        self.headers.push((name, begins.into()));
        self
    }

    fn json(self, body: &'static str) -> Self {
        Self { body, ..self.header("content-type", "application/json") }
    }

    fn page(self, body: &'static str) -> Self {
        Self { body, ..self.header("content-type", "text/html") }
    }

    /// What of the answer is not as it was meant.
    fn differs(&self, response: &Response) -> Option<String> {
        if response.status != self.status {
            return Some(format!("{}, not {}", response.status, self.status));
        }
        for (header, begins) in &self.headers {
            let value = response.text(header).unwrap_or_default();
            let is_so =
                if begins.is_empty() { value.is_empty() } else { value.starts_with(begins) };
            if !is_so {
                return Some(format!("{header}: {value:?}, not {begins:?}"));
            }
        }
        let said = response.body();
        (!said.contains(self.body)).then(|| format!("{said:?} has no {:?}", self.body))
    }
}

/// The apps of the table, each in another condition.
struct Conditions {
    awake: App,
    asleep: App,
    /// Never comes up.
    slow: App,
}

const HOSTS: [&str; 5] = ["closed", "ruleless", "broken", "several", "uninstalled"];

fn host(app: &str) -> String {
    format!("{app}.box.example")
}

fn get(app: &str, path: &str) -> Request {
    Request::new("GET", path).without("Host").header("Host", host(app))
}

fn navigation(app: &str, path: &str) -> Request {
    get(app, path).header("Sec-Fetch-Dest", "document").header("Accept", "text/html")
}

/// A path that may be read in more ways than are looked at.
fn ambiguous() -> String {
    "/a%252f%2f%5c%5c;x%3by/%252e;%253b".repeat(150)
}

fn table(apps: &Conditions, proxy: &str) -> Vec<Row> {
    let Conditions { awake, asleep, slow } = apps;
    let address = format!("/held?by={proxy}");
    let post = Request::new("POST", &address).without("Host").header("Host", host(&slow.name));
    let location = format!("http://{}{address}", host(&slow.name));
    vec![
        Row::new("a grant", get(&awake.name, "/"), 200).page("id=\"app\""),
        Row::new("asleep", get(&asleep.name, "/healthz"), 200)
            .header("x-nightporter-state", "asleep")
            .header("cache-control", "no-store")
            .json("\"state\":\"asleep\""),
        Row::new("asleep, in a browser", navigation(&asleep.name, "/healthz"), 200)
            .header("x-nightporter-state", "asleep")
            .json("\"state\":\"asleep\""),
        Row::new("denied", get("closed", "/"), 401).json("{\"detail\":\"Unauthorized\"}"),
        Row::new("denied, in a browser", navigation("closed", "/"), 401)
            .header("content-security-policy", "default-src")
            .page("Access Denied"),
        Row::new("no rule", get("ruleless", "/x"), 403).json("{\"detail\":\"Forbidden\"}"),
        Row::new("no rule, in a browser", navigation("ruleless", "/x"), 403).page("data-state"),
        Row::new("no app", get("uninstalled", "/"), 404).json("{\"detail\":\"Not Found\"}"),
        Row::new("no app, in a browser", navigation("uninstalled", "/"), 404)
            .json("{\"detail\":\"Not Found\"}"),
        Row::new("ambiguous", get("several", &ambiguous()), 400)
            .json("{\"detail\":\"Bad Request\"}"),
        Row::new("ambiguous, in a browser", navigation("several", &ambiguous()), 400)
            .json("{\"detail\":\"Bad Request\"}"),
        Row::new("too long", get("several", "/").header("X-Long", "x".repeat(90_000)), 431)
            .not_nginx(),
        Row::new("broken", get("broken", "/"), 503)
            .header("retry-after", "")
            .json("{\"detail\":\"Service Unavailable\"}"),
        Row::new("broken, in a browser", navigation("broken", "/"), 503).page("data-state"),
        Row::new("news", get(&slow.name, "/").header("X-Nightporter-Poll", "0"), 300)
            .header("cache-control", "no-store")
            .json("\"state\":"),
        Row::new("waiting, in a browser", navigation(&slow.name, "/"), 503)
            .header("cache-control", "no-store")
            .page("data-state"),
        Row::new("held in vain", post, 307)
            .header("location", location)
            .header("cache-control", "no-store"),
        Row::new(
            "a WebSocket, held in vain",
            get(&slow.name, "/ws").header("Sec-WebSocket-Key", "x"),
            503,
        )
        .header("content-type", "application/problem+json"),
        Row::new(
            "fetched in advance",
            navigation(&slow.name, "/").header("Purpose", "prefetch"),
            503,
        ),
        Row::new("denied a cookie", get("closed", "/").cookie("forged"), 401)
            .json("{\"detail\":\"Unauthorized\"}"),
        Row::new("granted by a cookie", get("closed", "/").cookie(token()), 200).page("id=\"app\""),
        Row::new("no rule for a cookie", get("ruleless", "/x").cookie(token()), 403)
            .json("{\"detail\":\"Forbidden\"}"),
    ]
}

/// What is said while the store cannot say which devices there are.
fn without_terminals() -> Vec<Row> {
    let asked = || get("closed", "/").cookie(token());
    let in_a_browser = || navigation("closed", "/").cookie(token());
    vec![
        Row::new("no store", asked(), 503)
            .header("retry-after", "1")
            .json("{\"detail\":\"Service Unavailable\"}"),
        Row::new("no store, in a browser", in_a_browser(), 503).header("retry-after", "1"),
    ]
}

/// What of these answers is not as it was meant, through this proxy.
async fn wrong(rows: Vec<Row>, proxy: &str, address: SocketAddr) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows {
        if proxy == "nginx" && row.through == Through::AllButNginx {
            continue;
        }
        let mut connection = Connection::open(address).await.expect("the proxy listens");
        let response = connection.ask(&row.request).await.expect("an answer");
        let differs = row.differs(&response);
        wrong.extend(differs.map(|differs| format!("{} through {proxy}: {differs}", row.name)));
    }
    wrong
}

/// Waits until the proxy leads to an app.
async fn is_ready(address: SocketAddr, awake: &App) {
    poll("the proxy is ready", LONG, async || {
        let Ok(mut connection) = Connection::open(address).await else { return false };
        let answer = connection.ask(&get(&awake.name, "/")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

/// What the files say, with this gate, this app behind it, and these hosts.
struct Places {
    gate: SocketAddr,
    app: SocketAddr,
    hosts: Vec<String>,
}

impl Places {
    fn neighbours(&self) -> Vec<(&'static str, String)> {
        vec![("127.0.0.1:8400", self.gate.to_string()), ("127.0.0.1:8081", self.app.to_string())]
    }

    fn traefik(&self, folder: &Path) -> (Program, SocketAddr) {
        let public = free_address();
        let rules: Vec<_> = self.hosts.iter().map(|host| format!("Host(`{host}`)")).collect();
        let mut replacements = self.neighbours();
        replacements.push(("Host(`notes.box.example`)", rules.join(" || ")));
        let routes = install("traefik/plain.yml", folder, &replacements);
        let replacements = [
            ("address: \":80\"", format!("address: \"{public}\"")),
            ("/etc/traefik/dynamic.yml", routes.display().to_string()),
        ];
        let configuration = install("traefik/traefik.yml", folder, &replacements);
        let mut command = Command::new(traefik());
        command.arg(format!("--configfile={}", configuration.display()));
        (Program::start(&mut command, folder), public)
    }

    fn caddy(&self, folder: &Path) -> (Program, SocketAddr) {
        let public = free_address();
        let port = public.port();
        let sites: Vec<_> = self.hosts.iter().map(|host| format!("http://{host}:{port}")).collect();
        let mut replacements = self.neighbours();
        replacements.extend([
            ("http://notes.box.example", sites.join(", ")),
            ("http://wiki.box.example", format!("http://wiki.box.example:{port}")),
        ]);
        let configuration = install("caddy/Caddyfile", folder, &replacements);
        (programs::caddy(&configuration, folder), public)
    }

    fn nginx(&self, folder: &Path) -> (Program, SocketAddr) {
        let public = free_address();
        let apps: Vec<_> = self.hosts.iter().map(|host| format!("    {host} notes;")).collect();
        let names = format!("server_name {} wiki.box.example;", self.hosts.join(" "));
        let mut replacements = self.neighbours();
        replacements.extend([
            ("listen 80;", format!("listen {public};")),
            ("    notes.box.example  notes;", apps.join("\n")),
            ("server_name notes.box.example wiki.box.example;", names),
        ]);
        let site = install("nginx/nightporter.conf", folder, &replacements);
        (programs::nginx(&site, folder), public)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_the_gate_reaches_the_client_as_it_was_meant() {
    let stage = Stage::new(Store::Files).await;
    let apps = Conditions {
        awake: stage.running(Plan::new("awake")).await,
        asleep: stage.stopped(Plan::new("asleep")).await,
        slow: stage.stopped(Plan::new("slow").env("START_DELAY_MS", 3_600_000)).await,
    };
    let sample = &stage.sample;
    sample.add_app("closed", &json!({"": {"access": "private"}})).await;
    sample.add_app("ruleless", &json!({"/pub": {"access": "public"}})).await;
    let several = json!({"": {"access": "public"}, "/private": {"access": "private"}});
    sample.add_app("several", &several).await;
    sample.add_app_bytes("broken", b"{").await;
    let wake = "hold_timeout = \"1s\"\nmax_redirects = 8\nstart_timeout = \"1h\"\n\
                [wake.ignore]\npaths = [\"/healthz\"]\n";
    let porter = stage.porter(wake, NO_SLEEP).await;
    until_state(&porter, &apps.awake, "awake", LONG).await;
    for app in [&apps.asleep, &apps.slow] {
        until_state(&porter, app, "stopped", LONG).await;
    }
    let own = [&apps.awake, &apps.asleep, &apps.slow].map(|app| &*app.name);
    let hosts = own.into_iter().chain(HOSTS).map(host).collect();
    let places = Places { gate: porter.gate, app: apps.awake.address(), hosts };
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let [one, two, three] = &folders;
    let proxies = [
        ("traefik", places.traefik(one.path())),
        ("caddy", places.caddy(two.path())),
        ("nginx", places.nginx(three.path())),
    ];
    let mut all_wrong = Vec::new();
    for (name, (_program, address)) in &proxies {
        is_ready(*address, &apps.awake).await;
        all_wrong.extend(wrong(table(&apps, name), name, *address).await);
    }
    std::fs::write(sample.folder().join("terminals.toml"), "[[").expect("writable");
    poll("no device is known", LONG, async || {
        let asked = Request::auth(host("closed"), "/").cookie(token());
        ask(porter.gate, &asked).await.status == 503
    })
    .await;
    for (name, (_program, address)) in &proxies {
        all_wrong.extend(wrong(without_terminals(), name, *address).await);
    }
    assert!(all_wrong.is_empty(), "{all_wrong:#?}");
    assert_eq!(apps.asleep.state().await, "created", "a monitor woke it");
}
