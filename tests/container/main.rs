//! The shipped Dockerfile and `deploy/compose.yml`, run for real on images made
//! of this machine. A test target of its own: `tests/run` runs it beside tests that
//! mostly wait, so that building the program once more takes no time from tests that measure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

#[path = "../it/support/client.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of the tests' support is used here")]
mod client;
mod images;
#[path = "../it/support/docker/subnet.rs"]
#[allow(dead_code, reason = "a part of the tests' support is used here")]
mod subnet;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{Connection, Request, Response, poll};
use crate::images::{APP, IMAGE, POSTGRES, REPOSITORY, TRAEFIK, docker, output, run};
use crate::subnet::Subnet;

static BUILT: LazyLock<()> = LazyLock::new(images::build_nightporter);

const STARTING: Duration = Duration::from_secs(300);

/// A container that ends with the test.
struct Container(String);

impl Container {
    fn inspect(&self, what: &str) -> String {
        run(docker().args(["inspect", "--format", what, &self.0]))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = output(docker().args(["logs", &self.0]));
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
            eprintln!("{}", String::from_utf8_lossy(&logs.stderr));
        }
        output(docker().args(["rm", "--force", "--volumes", &self.0]));
    }
}

async fn ask(address: SocketAddr, request: &Request) -> Option<Response> {
    Connection::open(address).await.ok()?.ask(request).await.ok()
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

/// What the sample box serves, readable by whoever runs in the container.
fn open_to_all(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            open_to_all(&path);
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("ours");
}

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to.parent().expect("inside")).expect("writable");
    run(Command::new("cp").arg("-r").arg(Path::new(REPOSITORY).join(from)).arg(to));
    open_to_all(to);
}

#[tokio::test]
async fn the_image_runs_as_nobody_becomes_healthy_and_answers() {
    LazyLock::force(&BUILT);
    let size: u64 = run(docker().args(["image", "inspect", "--format", "{{.Size}}", IMAGE]))
        .parse()
        .expect("bytes");
    println!("image: {size} bytes, {} MiB", size >> 20);

    let folder = tempfile::tempdir().expect("a temporary folder");
    copy("config/box", &folder.path().join("box"));
    let public = free_address();
    // What asks from this machine comes from the network of the container.
    let start = |trusted: &[String]| {
        let folder = folder.path().join("box");
        Container(run(docker()
            .args(["run", "--detach", "--read-only", "--cap-drop=ALL"])
            .arg(format!("--publish={public}:8400"))
            .arg(format!("--volume={}:/var/lib/nightporter/box", folder.display()))
            .args(trusted)
            .arg(IMAGE)))
    };
    let container = start(&[]);
    poll("the container is healthy", STARTING, async || {
        container.inspect("{{.State.Health.Status}}") == "healthy"
    })
    .await;
    let by_default = ask(public, &Request::auth("wiki.box.example", "/")).await;
    assert!(by_default.is_none(), "any container may ask: {by_default:?}");
    drop(container);

    let range = "{{(index .IPAM.Config 0).Subnet}}";
    let range = run(docker().args(["network", "inspect", "bridge", "--format", range]));
    let container = start(&[format!("--env=NIGHTPORTER_GATE__TRUSTED_PROXIES={range}")]);

    poll("the container is healthy", STARTING, async || {
        container.inspect("{{.State.Health.Status}}") == "healthy"
    })
    .await;
    let response = ask(public, &Request::auth("wiki.box.example", "/")).await.expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.text("x-ptl-client-type"), Some("anonymous"));
    let response = ask(public, &Request::auth("notes.box.example", "/")).await.expect("an answer");
    assert_eq!(response.status, 401, "{response:?}");

    assert_eq!(container.inspect("{{.Config.User}}"), "65532:65532");
    let process = container.inspect("{{.State.Pid}}");
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("runs here");
    assert!(status.contains("\nUid:\t65532\t65532\t65532\t65532\n"), "{status}");
}

fn project() -> String {
    format!("nightporter-test-{}", std::process::id())
}

/// The shipped composition, started in a copy of `deploy/` and `config/`.
struct Composition {
    folder: TempDir,
    public: SocketAddr,
    gate: Subnet,
    /// In `deploy/`.
    files: Vec<&'static str>,
}

impl Composition {
    fn up() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy("deploy", &folder.path().join("deploy"));
        copy("config/box", &folder.path().join("config/box"));
        let secrets = folder.path().join("deploy/secrets");
        fs::create_dir_all(&secrets).expect("writable");
        let password = run(Command::new("openssl").args(["rand", "-hex", "24"]));
        let url = format!("postgres://nightporter:{password}@postgres/box\n");
        fs::write(secrets.join("database_url"), url).expect("writable");
        fs::write(secrets.join("database_password"), password).expect("writable");
        let (public, gate) = (free_address(), Subnet::take());
        let composition = Self { folder, public, gate, files: vec!["compose.yml"] };
        run(composition.compose().args(["up", "--detach", "--no-build"]));
        composition
    }

    /// The same, and from now on what stands for nightporter while it is away.
    fn add_standby(&mut self) {
        for file in ["standby.yml", "traefik/hosts"] {
            let path = self.folder.path().join("deploy").join(file);
            let shipped = fs::read_to_string(&path).expect("shipped");
            let moved = [10, 11].iter().fold(shipped, |text, n| {
                let address = format!("172.31.84.{n}");
                assert!(text.contains(&address), "{file}: {text}");
                text.replace(&address, &self.gate.address(*n).to_string())
            });
            fs::write(&path, moved).expect("writable");
        }
        self.files.push("standby.yml");
        run(self.compose().args(["up", "--detach", "--no-build"]));
    }

    /// `docker compose` or the older `docker-compose`, on the shipped files.
    fn compose(&self) -> Command {
        let plugin = output(docker().args(["compose", "version"])).status.success();
        let mut command = if plugin { docker() } else { Command::new("docker-compose") };
        if plugin {
            command.arg("compose");
        }
        let deploy = self.folder.path().join("deploy");
        command
            .args(["--project-name", &project()])
            .args(self.files.iter().flat_map(|file| ["--file".into(), deploy.join(file)]))
            .env("LISTEN", self.public.to_string())
            .env("GATE_SUBNET", self.gate.cidr())
            .env("DOCKER_SOCKET", images::socket())
            .env("DOCKER_GID", fs::metadata(images::socket()).expect("a socket").gid().to_string())
            .env("NIGHTPORTER_IMAGE", IMAGE)
            .env("TRAEFIK_IMAGE", TRAEFIK)
            .env("POSTGRES_IMAGE", POSTGRES)
            .env("NOTES_IMAGE", APP)
            .env("WIKI_IMAGE", APP);
        command
    }

    fn nightporter(&self) -> String {
        run(self.compose().args(["ps", "--quiet", "nightporter"]))
    }

    /// What nightporter says on its loopback.
    fn metrics(&self) -> String {
        let network = format!("--network=container:{}", self.nightporter());
        let wget = ["wget", "-q", "-O", "-", "http://127.0.0.1:8401/metrics"];
        run(docker().args(["run", "--rm", &network, APP]).args(wget))
    }

    async fn ask(&self, host: &str, cookie: Option<&str>) -> Option<Response> {
        let request = request(host);
        let request = cookie.iter().fold(request, |request, value| request.header("Cookie", value));
        ask(self.public, &request).await
    }
}

fn request(host: &str) -> Request {
    Request::new("GET", "/debian_version").without("Host").header("Host", host)
}

impl Drop for Composition {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = output(self.compose().args(["logs", "--no-color", "--tail=40"]));
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        output(self.compose().args(["down", "--volumes", "--timeout=1"]));
    }
}

#[tokio::test]
async fn the_composition_guards_its_apps_over_http2_and_has_a_standby() {
    LazyLock::force(&BUILT);
    images::build_neighbours();
    let mut composition = Composition::up();

    poll("a public app is open to all", STARTING, async || {
        composition.ask("wiki.box.example", None).await.is_some_and(|r| r.status == 200)
    })
    .await;
    let denied = composition.ask("notes.box.example", None).await.expect("an answer");
    assert_eq!(denied.status, 401, "{denied:?}");

    let add = ["nightporter", "terminal", "add", "laptop"];
    let cookie = cookie(&run(docker().args(["exec", &composition.nightporter()]).args(add)));
    poll("a new terminal is let in", STARTING, async || {
        let response = composition.ask("notes.box.example", Some(&cookie)).await;
        response.is_some_and(|response| response.status == 200)
    })
    .await;
    run(composition.compose().args(["stop", "--timeout=0", "notes"]));
    poll("a stopped app wakes for whoever is let in", STARTING, async || {
        let response = composition.ask("notes.box.example", Some(&cookie)).await;
        response.is_some_and(|response| response.status == 200)
    })
    .await;

    let forged = format!("{cookie}x");
    let denied = composition.ask("notes.box.example", Some(&forged)).await.expect("an answer");
    assert_eq!(denied.status, 401, "{denied:?}");

    assert!(!composition.metrics().contains("reason=\"untrusted\"} 1"));
    let network = format!("--network={}_default", project());
    let wget = ["wget", "-q", "-O", "-", "http://nightporter:8400/livez"];
    let from_an_app = output(docker().args(["run", "--rm", &network, APP]).args(wget));
    assert!(!from_an_app.status.success());

    let metrics = composition.metrics();
    assert!(metrics.contains("reason=\"untrusted\"} 1"), "{metrics}");
    let mut handshakes =
        metrics.lines().filter(|line| line.starts_with("nightporter_tls_handshakes_total{"));
    assert!(handshakes.clone().count() > 0, "{metrics}");
    assert!(handshakes.all(|line| line.contains(r#"protocol="h2""#)), "{metrics}");

    composition.add_standby();
    a_page_stands_for_nightporter_while_it_is_away(&composition, &cookie).await;
}

async fn a_page_stands_for_nightporter_while_it_is_away(composition: &Composition, cookie: &str) {
    let decides = async || {
        let terminal = composition.ask("notes.box.example", Some(cookie)).await;
        let nobody = composition.ask("notes.box.example", None).await;
        let is = |response: Option<Response>, status| response.is_some_and(|r| r.status == status);
        is(terminal, 200) && is(nobody, 401)
    };
    poll("nightporter decides, with a standby beside it", STARTING, decides).await;

    run(composition.compose().args(["stop", "nightporter"]));
    let visit = request("wiki.box.example")
        .header("Sec-Fetch-Dest", "document")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Accept", "text/html");
    poll("a page stands for it", STARTING, async || {
        let response = ask(composition.public, &visit).await;
        response.is_some_and(|r| r.status == 503 && r.body().contains("id=\"standby\""))
    })
    .await;
    for (host, cookie) in [("wiki.box.example", None), ("notes.box.example", Some(cookie))] {
        let response = composition.ask(host, cookie).await.expect("an answer");
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(response.text("x-nightporter-state"), Some("standby"), "{response:?}");
    }

    run(composition.compose().args(["start", "nightporter"]));
    poll("nightporter decides again", STARTING, decides).await;
}

/// `authorization=<token>` out of what `terminal add` printed.
fn cookie(printed: &str) -> String {
    let start = printed.find("authorization=").unwrap_or_else(|| panic!("no cookie: {printed}"));
    let end = |c: char| c == ';' || c.is_whitespace();
    printed[start..].split(end).next().expect("not empty").to_owned()
}
