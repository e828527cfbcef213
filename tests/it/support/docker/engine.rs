//! Docker engines: one that tests share, and ones that a test may break.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::image;
use super::subnet::Subnet;

/// How long an engine may take to start or to end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    own: Option<Own>,
    image: OnceCell<String>,
}

/// An engine that was started by this process.
#[derive(Debug)]
struct Own {
    folder: PathBuf,
    data: PathBuf,
    pool: Subnet,
    arguments: Vec<String>,
    running: Mutex<Option<Child>>,
    /// The keeper cleans up when its standard input ends.
    keeper: Mutex<Option<(Child, ChildStdin)>>,
}

impl Engine {
    /// The engine for tests that do not break it: the one that `tests/run`
    /// found or started, else one of this process.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Engine>> = OnceLock::new();
        let engine = SHARED.get_or_init(|| {
            let answers = Command::new("docker").arg("info").output();
            if !answers.is_ok_and(|output| output.status.success()) {
                return Arc::new(Self::started(Vec::new()));
            }
            let host = std::env::var("DOCKER_HOST").unwrap_or_default();
            let host = if host.is_empty() { "unix:///var/run/docker.sock" } else { &host };
            let socket = host.strip_prefix("unix://").expect("an engine on this machine");
            Arc::new(Self { socket: socket.into(), own: None, image: OnceCell::new() })
        });
        Arc::clone(engine)
    }

    /// An engine for a test that stops, restarts or kills it.
    pub async fn own() -> Arc<Self> {
        Self::own_with(&[]).await
    }

    /// The same with more arguments for `dockerd`.
    pub async fn own_with(arguments: &[String]) -> Arc<Self> {
        let arguments = arguments.to_vec();
        let starting = tokio::task::spawn_blocking(|| Self::started(arguments));
        Arc::new(starting.await.expect("no panic"))
    }

    fn started(arguments: Vec<String>) -> Self {
        let own = Own::prepare(arguments);
        own.start();
        Self { socket: own.socket(), own: Some(own), image: OnceCell::new() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The folder in which an engine of the test's own keeps a volume.
    pub fn volume(self: &Arc<Self>, name: &str) -> PathBuf {
        self.own_parts().data.join("volumes").join(name)
    }

    /// Its address, for `DOCKER_HOST` and `wake.docker`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn own_parts(self: &Arc<Self>) -> &Own {
        self.own.as_ref().expect("an engine of the test's own")
    }

    async fn blocking(self: &Arc<Self>, act: impl FnOnce(&Own) + Send + 'static) {
        let engine = Arc::clone(self);
        let acting = tokio::task::spawn_blocking(move || act(engine.own_parts()));
        acting.await.expect("no panic");
    }

    /// Starts it again and waits until it responds.
    pub async fn start(self: &Arc<Self>) {
        self.blocking(Own::start).await;
    }

    /// Stops it and its containers gracefully.
    pub async fn stop(self: &Arc<Self>) {
        self.blocking(|own| own.end("-TERM")).await;
    }

    /// Kills it; its containers keep running until it starts again.
    pub async fn kill(self: &Arc<Self>) {
        self.blocking(|own| own.end("-KILL")).await;
    }

    pub async fn restart(self: &Arc<Self>) {
        self.stop().await;
        self.start().await;
    }

    /// Runs `docker` with these arguments, which must succeed, and returns its output.
    pub async fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.try_docker(args).await.unwrap_or_else(|error| panic!("docker: {error}"))
    }

    /// The same for a command that may fail; the error is its output.
    pub async fn try_docker<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, String> {
        let mut command = tokio::process::Command::new("docker");
        command.env("DOCKER_HOST", self.host()).args(args).stdin(Stdio::null());
        told(&command.output().await.expect("the docker client; `tests/run` installs it"))
    }

    /// Runs compose on the file in a folder; the error is its output.
    pub async fn try_compose(
        &self,
        folder: &Path,
        project: &str,
        args: &[&str],
    ) -> Result<String, String> {
        let mut command = tokio::process::Command::from(compose());
        command
            .current_dir(folder)
            .env("DOCKER_HOST", self.host())
            .args(["--project-name", project])
            .args(args)
            .stdin(Stdio::null());
        told(&command.output().await.expect("compose; `tests/run` installs it"))
    }

    /// Returns a part of `docker inspect` for a container, by a Go template.
    pub async fn inspect(&self, container: &str, template: &str) -> Option<String> {
        self.try_docker(["container", "inspect", "--format", template, container]).await.ok()
    }

    /// The image of the app in `app/main.rs`, built once.
    pub async fn image(&self) -> &str {
        self.image.get_or_init(|| image::import(self)).await
    }
}

/// `docker compose` if it exists, else `docker-compose`.
pub fn compose() -> Command {
    static PLUGIN: OnceLock<bool> = OnceLock::new();
    let plugin = *PLUGIN.get_or_init(|| {
        let output = Command::new("docker").args(["compose", "version"]).output();
        output.is_ok_and(|output| output.status.success())
    });
    if plugin {
        let mut command = Command::new("docker");
        command.arg("compose");
        return command;
    }
    Command::new("docker-compose")
}

fn told(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Own {
    /// Its folders and network, and the keeper that cleans up.
    fn prepare(arguments: Vec<String>) -> Self {
        let mut keeper = Command::new("sh")
            .args(["-c", include_str!("engine.sh"), "engine", env!("CARGO_TARGET_TMPDIR")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The terminal's interrupt must not reach it: it has to outlive the tests.
            .process_group(0)
            .spawn()
            .expect("a shell starts");
        let alive = keeper.stdin.take().expect("piped");
        let mut lines = BufReader::new(keeper.stdout.take().expect("piped")).lines();
        let mut folder = || PathBuf::from(lines.next().expect("a line").expect("readable"));
        Self {
            folder: folder(),
            data: folder(),
            pool: Subnet::take(),
            arguments,
            running: Mutex::default(),
            keeper: Mutex::new(Some((keeper, alive))),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    fn start(&self) {
        let mut running = self.running.lock().expect("no panic");
        assert!(running.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("writable");
        // Its packet rules would conflict with those of other engines, so it makes none.
        // Published ports pass through its own proxy, and addresses of containers
        // are reached over their bridge.
        let mut child = Command::new("dockerd")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--pidfile")
            .arg(self.folder.join("docker.pid"))
            .arg("--exec-root")
            .arg(self.folder.join("exec"))
            .arg("--data-root")
            .arg(&self.data)
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .arg(format!("--default-address-pool=base={},size=28", self.pool.cidr()))
            .args(["--shutdown-timeout=5", "--log-level=warn"])
            .args(&self.arguments)
            // A swarm asks a registry even for images that exist locally.
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("dockerd; `tests/run` installs it");
        let began = Instant::now();
        while !self.answers() {
            let ended = child.try_wait().expect("ours").is_some();
            assert!(!ended && began.elapsed() < PATIENCE, "no engine:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        *running = Some(child);
    }

    fn answers(&self) -> bool {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display())).arg("version");
        command.output().is_ok_and(|output| output.status.success())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn end(&self, signal: &str) {
        let child = self.running.lock().expect("no panic").take();
        let mut child = child.expect("it runs");
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().expect("kill starts");
        assert!(sent.success());
        child.wait().expect("ours");
        if signal == "-KILL" {
            // Its containerd ends soon after it: a new engine that finds it running
            // would wait for it.
            let process = self.folder.join("exec/containerd/containerd.pid");
            let id = std::fs::read_to_string(&process).expect("it ran");
            let began = Instant::now();
            let lives = || {
                let sent = Command::new("kill").args([signal, id.trim()]).output();
                sent.is_ok_and(|output| output.status.success())
            };
            while lives() {
                assert!(began.elapsed() < PATIENCE, "containerd lives on");
                std::thread::sleep(Duration::from_millis(10));
            }
            std::fs::remove_file(process).ok();
            std::fs::remove_file(self.folder.join("docker.pid")).ok();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.folder.display(), self.log());
        }
        let keeper = self.keeper.lock().map(|mut keeper| keeper.take());
        if let Ok(Some((mut keeper, alive))) = keeper {
            drop(alive);
            if let Ok(Some(child)) = self.running.lock().as_deref_mut() {
                child.wait().ok();
            }
            keeper.wait().ok();
        }
    }
}
