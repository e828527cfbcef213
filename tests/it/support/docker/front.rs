//! Traefik as `nightporter traefik` sets it up, before apps in containers.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::super::boxes::SampleBox;
use super::super::client::{Connection, Request, poll};
use super::super::programs::{Program, free_address, install, traefik};
use super::super::server::Nightporter;
use super::apps::App;

/// A host that leads to nightporter itself.
const PROBE: &str = "probe.test";

/// Which middlewares stand before an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// What Traefik itself makes is replaced by nightporter's page, as the shipped files
    /// have it.
    Replaced,
    /// Every error is, the gate's own too, as FreeShard's core has it.
    All,
    /// Whatever is answered reaches the client.
    Kept,
}

#[derive(Debug)]
pub struct Front {
    pub address: SocketAddr,
    /// The box's domain: an app's host is a label before it.
    pub domain: String,
    _traefik: Program,
    _folder: TempDir,
}

impl Front {
    /// Returns when every app has its route.
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
            // Names of containers mean nothing outside of their network.
            let (named, reached) = (format!("http://{}:80", app.name), app.address());
            assert!(routes.contains(&named), "{routes}");
            routes = routes.replace(&named, &format!("http://{reached}"));
        }
        if errors == Errors::Kept {
            let both = "[nightporter-page, nightporter]";
            assert!(routes.contains(both), "{routes}");
            routes = routes.replace(both, "[nightporter]");
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

    /// Traefik listens before it knows its routes, and no app is to be asked here.
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

    /// A page of a host that is none of the box's.
    pub fn elsewhere(&self) -> String {
        format!("http://{PROBE}:{}/livez", self.address.port())
    }

    /// A client's request for an app.
    pub fn request(&self, method: &str, app: &App, path: &str) -> Request {
        Request::new(method, path).without("Host").header("Host", self.host(app))
    }
}
