//! Traefik as `nightporter traefik` configures it, in front of apps in containers.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::super::boxes::SampleBox;
use super::super::client::{Connection, Request, poll};
use super::super::programs::{Program, free_address, install, traefik};
use super::super::server::Nightporter;
use super::apps::App;

/// A host that is routed to nightporter itself.
const PROBE: &str = "probe.test";

/// Which middlewares are in front of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// Errors that Traefik itself generates are replaced by nightporter's page, as in the
    /// shipped files.
    Replaced,
    /// Every error is replaced, even the gate's own, as FreeShard's core does.
    All,
    /// Every response reaches the client unchanged.
    Kept,
}

#[derive(Debug)]
pub struct Front {
    pub address: SocketAddr,
    /// The box's domain: an app's host is a label in front of it.
    pub domain: String,
    _traefik: Program,
    _folder: TempDir,
}

impl Front {
    /// Starts Traefik and waits until every app has its route.
    pub async fn before(
        sample: &SampleBox,
        porter: &Nightporter,
        apps: &[&App],
        errors: Errors,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let config = path.join("nightporter.toml");
        let listen = format!("[gate]\nlisten = \"{}\"\n", porter.gate);
        std::fs::write(&config, format!("{}{listen}", sample.store_config())).expect("writable");
        let printed = Command::new(env!("CARGO_BIN_EXE_nightporter"))
            .env_clear()
            .arg("--config")
            .arg(&config)
            .args(["traefik", "--entrypoint", "web"])
            .output()
            .expect("runs");
        assert!(printed.status.success(), "{printed:?}");
        let mut routes = String::from_utf8(printed.stdout).expect("UTF-8");
        for app in apps {
            // Names of containers cannot be resolved outside of their network.
            let (named, reached) = (format!("http://{}:80", app.name), app.address());
            assert!(routes.contains(&named), "{routes}");
            routes = routes.replace(&named, &format!("http://{reached}"));
        }
        if errors == Errors::Kept {
            let both = r#"["nightporter-page", "nightporter"]"#;
            assert!(routes.contains(both), "{routes}");
            routes = routes.replace(both, r#"["nightporter"]"#);
        }
        if errors == Errors::All {
            for (shipped, cores) in [
                ("[\"489\", \"502\", \"504\"]", "[\"500-599\", \"400-499\"]"),
                ("{originalStatus}?url={url}", "{status}"),
                ("        statusRewrites:\n          \"489\": 200\n", ""),
            ] {
                assert!(routes.contains(shipped), "{routes}");
                routes = routes.replace(shipped, cores);
            }
        }
        let start = routes.find("Host(`").expect("a route") + "Host(`".len();
        let host = routes[start..].split('`').next().expect("a host");
        let domain = host.split_once('.').expect("a domain").1.to_owned();
        let probe =
            format!("    probe:\n      rule: Host(`{PROBE}`)\n      service: nightporter\n");
        let routes = routes.replacen("  routers:\n", &format!("  routers:\n{probe}"), 1);
        std::fs::write(path.join("routes.yml"), &routes).expect("writable");

        let address = free_address();
        let replacements = [
            ("address: \":80\"", format!("address: \"{address}\"")),
            ("/etc/traefik/dynamic.yml", path.join("routes.yml").display().to_string()),
        ];
        let configuration = install("traefik/traefik.yml", path, &replacements);
        let mut command = Command::new(traefik());
        command.arg(format!("--configfile={}", configuration.display()));
        let traefik = Program::start(&mut command, path);
        let front = Self { address, domain, _traefik: traefik, _folder: folder };
        front.is_ready().await;
        front
    }

    /// Traefik listens before it knows its routes, and no app must get a request here.
    async fn is_ready(&self) {
        let probe = Request::new("GET", "/livez").without("Host").header("Host", PROBE);
        poll("Traefik is ready", Duration::from_secs(120), async || {
            let Ok(mut connection) = Connection::open(self.address).await else { return false };
            connection.ask(&probe).await.is_ok_and(|response| response.status == 200)
        })
        .await;
    }

    pub fn host(&self, app: &App) -> String {
        format!("{}.{}", app.name, self.domain)
    }

    pub fn url(&self, app: &App, path: &str) -> String {
        format!("http://{}:{}{path}", self.host(app), self.address.port())
    }

    /// A page of a host that is not one of the box's.
    pub fn elsewhere(&self) -> String {
        format!("http://{PROBE}:{}/livez", self.address.port())
    }

    /// A client's request for an app.
    pub fn request(&self, method: &str, app: &App, path: &str) -> Request {
        Request::new(method, path).without("Host").header("Host", self.host(app))
    }
}
