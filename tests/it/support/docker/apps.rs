//! Apps as a box has them: a folder with a description and a compose file, a row
//! in the store, and containers with fixed addresses.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::boxes::{SampleBox, app_meta};
use super::super::client::{Connection, Request, Response, poll};
use super::engine::Engine;
use super::subnet::Subnet;

/// Marks every container of a test, so that the test removes them at its end.
const LABEL: &str = "test.of.nightporter";
pub const STARTING: Duration = Duration::from_secs(120);

/// The apps of one test, in a network of their own.
#[derive(Debug)]
pub struct Apps {
    pub engine: Arc<Engine>,
    network: String,
    subnet: Subnet,
    next: AtomicU8,
}

/// A service of the compose file. By default it listens on port 80 at once.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    env: Map<String, Value>,
    more: Map<String, Value>,
}

/// The definition of an app.
#[derive(Debug, Clone)]
pub struct Plan {
    label: String,
    services: Vec<Service>,
    paths: Value,
    meta: Map<String, Value>,
    status: &'static str,
}

/// An installed app.
#[derive(Debug, Clone)]
pub struct App {
    /// The name of the app, its project and its first container; unique on this engine.
    pub name: String,
    folder: PathBuf,
    engine: Arc<Engine>,
    services: Vec<(String, Ipv4Addr)>,
    network: String,
    plan: Plan,
}

impl Service {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), env: Map::new(), more: Map::new() }
    }

    /// Sets the behaviour of its program: see `app/main.rs`.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.insert(name.into(), value.to_string().into());
        self
    }

    /// Sets any key of compose, such as `mem_limit`, `restart` or `image`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.into(), value.into());
        self
    }

    /// Adds a health check.
    #[must_use]
    pub fn health_check(self) -> Self {
        let check = json!({
            "test": ["CMD", "/app", "healthcheck"], "interval": "500ms", "retries": 3,
        });
        self.with("healthcheck", check)
    }

    /// Starts after another: `service_started`, `service_healthy`,
    /// `service_completed_successfully`.
    #[must_use]
    pub fn after(mut self, service: &str, condition: &str) -> Self {
        let all = self.more.entry("depends_on").or_insert_with(|| json!({}));
        all[service] = json!({ "condition": condition });
        self
    }
}

impl Plan {
    /// An app of one service with public paths.
    pub fn new(label: &str) -> Self {
        Self::of(label, vec![Service::new("web")])
    }

    /// An app of several services; the first is the entrypoint.
    pub fn of(label: &str, services: Vec<Service>) -> Self {
        let paths = json!({"": {"access": "public"}});
        Self { label: label.into(), services, paths, meta: Map::new(), status: "running" }
    }

    /// Sets the behaviour of the first service's program.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.services[0] = self.services[0].clone().env(name, value);
        self
    }

    #[must_use]
    pub fn paths(mut self, paths: Value) -> Self {
        self.paths = paths;
        self
    }

    /// Sets a key of its `app_meta.json`, such as `lifecycle` or `wake`.
    #[must_use]
    pub fn meta(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// Sets the status of its row, if the store has rows.
    #[must_use]
    pub fn status(mut self, status: &'static str) -> Self {
        self.status = status;
        self
    }
}

impl Apps {
    pub async fn on(engine: &Arc<Engine>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = format!("np{:x}-{n:x}", std::process::id());
        let subnet = Subnet::take();
        engine.docker(["network", "create", "--subnet", &subnet.cidr(), &network]).await;
        // The first address is the gateway's.
        Self { engine: Arc::clone(engine), network, subnet, next: AtomicU8::new(2) }
    }

    /// The arguments of the client that make a container one of these apps' containers.
    pub fn membership(&self) -> [String; 4] {
        let label = format!("{LABEL}={}", self.network);
        ["--network".into(), self.network.clone(), "--label".into(), label]
    }

    /// Writes the app's files and its row; creates no container.
    pub async fn install(&self, sample: &SampleBox, plan: Plan) -> App {
        let image = self.engine.image().await;
        let number = self.next.load(Ordering::Relaxed);
        let name = format!("{}-{}-{number:x}", plan.label, self.network);
        let folder = sample.folder().join("installed_apps").join(&name);
        let mut services = Vec::new();
        let mut file = Map::new();
        for (n, service) in plan.services.iter().enumerate() {
            let container = if n == 0 { name.clone() } else { format!("{name}-{}", service.name) };
            let address = self.subnet.address(self.next.fetch_add(1, Ordering::Relaxed));
            file.insert(service.name.clone(), self.service(service, image, &container, address));
            services.push((container, address));
        }
        let networks = json!({"box": {"external": true, "name": self.network}});
        let file = json!({"services": file, "networks": networks});
        std::fs::create_dir_all(&folder).expect("writable");
        // Every JSON document is a YAML one (YAML 1.2 section 1.3).
        std::fs::write(folder.join("docker-compose.yml"), file.to_string()).expect("writable");
        let app = App {
            name,
            folder,
            engine: Arc::clone(&self.engine),
            services,
            network: self.network.clone(),
            plan,
        };
        sample.add_app_bytes(&app.name, app.meta().to_string().as_bytes()).await;
        app.set_status(sample, app.plan.status).await;
        app
    }

    fn service(&self, service: &Service, image: &str, container: &str, ip: Ipv4Addr) -> Value {
        let mut all = json!({
            "image": image, "container_name": container, "environment": {"NAME": container},
            "networks": {"box": {"ipv4_address": ip.to_string()}},
            "labels": {LABEL: self.network}, "restart": "no",
        });
        for (key, value) in &service.more {
            all[key] = value.clone();
        }
        for (key, value) in &service.env {
            all["environment"][key] = value.clone();
        }
        all
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        let docker = |args: &[&str]| {
            let mut command = Command::new("docker");
            let output = command.env("DOCKER_HOST", self.engine.host()).args(args).output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let filter = format!("label={LABEL}={}", self.network);
        let containers = docker(&["ps", "--all", "--quiet", "--filter", &filter]);
        let containers: Vec<_> = containers.lines().collect();
        if !containers.is_empty() {
            docker(&[&["rm", "--force", "--volumes"], &containers[..]].concat());
        }
        docker(&["network", "rm", &self.network]);
    }
}

impl App {
    fn meta(&self) -> Value {
        let mut meta = app_meta(&self.name, &self.plan.paths);
        meta["entrypoints"][0]["container_port"] = self.address().port().into();
        for (key, value) in &self.plan.meta {
            meta[key] = value.clone();
        }
        meta
    }

    /// The address of its entrypoint.
    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// The address of its n-th service.
    pub fn address_of(&self, n: usize) -> SocketAddr {
        let port = self.plan.services[n].env.get("PORT");
        let port = port.and_then(Value::as_str).map_or(80, |port| port.parse().expect("a port"));
        (self.services[n].1, port).into()
    }

    /// The container of its n-th service; the entrypoint is the first.
    pub fn container(&self, n: usize) -> &str {
        &self.services[n].0
    }

    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|(container, _)| &**container)
    }

    pub async fn set_status(&self, sample: &SampleBox, status: &str) {
        if sample.store == super::super::boxes::Store::Postgres {
            let sql = "UPDATE installed_apps SET status = $2 WHERE name = $1";
            sample.database().execute(sql, &[&self.name, &status]).await;
        }
    }

    async fn compose(&self, args: &[&str]) {
        self.try_compose(args).await.unwrap_or_else(|error| panic!("compose {args:?}: {error}"));
    }

    /// Runs a compose command that may fail; the error is its output.
    pub async fn try_compose(&self, args: &[&str]) -> Result<String, String> {
        self.engine.try_compose(&self.folder, &self.name, args).await
    }

    /// Creates its containers with compose without starting them.
    pub async fn create(&self) {
        self.compose(&["up", "--no-start"]).await;
    }

    /// Whether [`Self::create_quickly`] can create it: it has one service, for which only
    /// variables are set.
    pub fn is_simple(&self) -> bool {
        matches!(&self.plan.services[..], [service] if service.more.is_empty())
    }

    /// Creates the one container of a simple app as compose would, in a tenth of the time.
    pub async fn create_quickly(&self) {
        let [service] = &self.plan.services[..] else { panic!("{} is not simple", self.name) };
        let name = &self.name;
        let (project, ip) = (name, self.services[0].1.to_string());
        let mut args: Vec<String> =
            ["create", "--name", name, "--network", &self.network, "--ip", &ip]
                .map(Into::into)
                .into();
        let labels = [
            format!("{LABEL}={}", self.network),
            format!("com.docker.compose.project={project}"),
            format!("com.docker.compose.service={}", service.name),
            "com.docker.compose.container-number=1".into(),
            "com.docker.compose.oneoff=False".into(),
            "com.docker.compose.version=1.29.2".into(),
            "com.docker.compose.config-hash=by-hand".into(),
        ];
        args.extend(labels.into_iter().flat_map(|label| ["--label".into(), label]));
        args.extend(["--env".into(), format!("NAME={name}")]);
        for (key, value) in &service.env {
            let value = value.as_str().expect("text");
            args.extend(["--env".into(), format!("{key}={value}")]);
        }
        assert!(service.more.is_empty(), "{name} is not simple");
        args.push(self.engine.image().await.to_owned());
        self.engine.docker(args).await;
    }

    pub async fn up(&self) {
        self.compose(&["up", "--detach"]).await;
    }

    pub async fn down(&self) {
        self.compose(&["down", "--timeout=1"]).await;
    }

    /// Runs a command on all of its containers: `start`, `stop`, `pause`, …
    pub async fn all(&self, verb: &str) {
        self.engine.docker([verb].into_iter().chain(self.containers())).await;
    }

    pub async fn remove(&self) {
        self.engine.docker(["rm", "--force"].into_iter().chain(self.containers())).await;
    }

    /// The engine's state of its first container; `missing` if there is none.
    pub async fn state(&self) -> String {
        self.state_of(0).await
    }

    pub async fn state_of(&self, n: usize) -> String {
        let state = self.engine.inspect(self.container(n), "{{.State.Status}}").await;
        state.unwrap_or_else(|| "missing".into())
    }

    /// The response of its entrypoint, if it responds.
    pub async fn get(&self, path: &str) -> Option<Response> {
        let asking = async {
            let mut connection = Connection::open(self.address()).await.ok()?;
            connection.ask(&Request::new("GET", path)).await.ok()
        };
        // A paused app does not respond: the timeout must be short, and not so short that a busy
        // machine needs longer.
        tokio::time::timeout(Duration::from_secs(10), asking).await.ok()?
    }

    pub async fn answers(&self) -> bool {
        self.get("/").await.is_some_and(|response| response.status == 200)
    }

    pub async fn until_it_answers(&self) {
        poll(&format!("{} answers", self.name), STARTING, async || self.answers().await).await;
    }

    /// When it started to listen, in Unix nanoseconds.
    pub async fn listens_since(&self) -> u128 {
        let response = self.get("/ready").await.expect("it answers");
        response.body().parse().expect("nanoseconds")
    }

    /// How often its container was started.
    pub async fn starts(&self) -> u32 {
        let response = self.get("/starts").await.expect("it answers");
        response.body().parse().expect("a number")
    }
}
