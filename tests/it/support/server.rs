//! nightporter itself, on ports of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nightporter::config::{self, Config, Environment, ListenAddr};
use nightporter::{Listeners, Signal};
use tokio::sync::mpsc;

use super::boxes::SampleBox;
use super::client::{Connection, Request, Response, ask, poll};

/// How long a start may take on a busy machine.
const STARTING: Duration = Duration::from_secs(120);

/// A running nightporter, in a thread and a runtime of its own; it stops when dropped.
#[derive(Debug)]
pub struct Nightporter {
    pub gate: SocketAddr,
    pub ops: SocketAddr,
    stop: mpsc::Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

/// A valid configuration with free ports: `[store]` and whatever a test adds.
pub fn config(toml: &str) -> Config {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    std::fs::write(file.path(), toml).expect("writable");
    let ports = ["NIGHTPORTER_GATE__LISTEN", "NIGHTPORTER_OPS__LISTEN"];
    let mut env: Environment = ports.map(|key| (key.into(), "127.0.0.1:0".into())).into();
    // This machine may have containers with the names of a test's apps.
    if !toml.contains("[wake]") {
        env.insert("NIGHTPORTER_WAKE__ENABLED".into(), "false".into());
    }
    config::load(Some(file.path()), &env).unwrap_or_else(|findings| panic!("{findings}\n{toml}"))
}

impl Nightporter {
    /// Serves a box and waits until its store is live.
    pub async fn of(sample: &SampleBox) -> Self {
        Self::with(sample, "").await
    }

    /// The same, with more configuration.
    pub async fn with(sample: &SampleBox, toml: &str) -> Self {
        let started = Self::start(config(&format!("{}{toml}", sample.store_config())));
        started.ready().await;
        started
    }

    /// Starts without waiting.
    pub fn start(config: Config) -> Self {
        let listeners = Listeners::bind(&config).expect("free ports");
        let address = |addr: &ListenAddr| match addr {
            ListenAddr::Tcp(addr) => *addr,
            ListenAddr::Unix(path) => panic!("{} is no port", path.display()),
        };
        let (gate, ops) = (address(listeners.gate.addr()), address(listeners.ops.addr()));
        let (stop, signals) = mpsc::channel(2);
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().expect("threads");
            let ended = runtime.block_on(nightporter::run(Arc::new(config), listeners, signals));
            // A second shutdown signal aborts the drain: tests do not wait for it.
            if let Err(error) = ended
                && !matches!(error, nightporter::RunError::Aborted)
            {
                panic!("{error}");
            }
        });
        Self { gate, ops, stop, thread: Some(thread) }
    }

    /// Asks it to end, and does not wait for that.
    pub fn shut_down(&mut self) {
        self.stop.try_send(Signal::Shutdown).ok();
    }

    /// Waits until requests can be answered and notifications arrive.
    pub async fn ready(&self) {
        poll("ready", STARTING, async || self.state().await == "live").await;
    }

    /// `live`, `degraded` or `unavailable`.
    pub async fn state(&self) -> String {
        let response = ask(self.ops, &Request::new("GET", "/readyz")).await;
        let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        body["state"].as_str().expect("a word").to_owned()
    }

    /// Sends a request to the gate over a connection of its own.
    pub async fn ask(&self, request: &Request) -> Response {
        ask(self.gate, request).await
    }

    /// Returns whether an anonymous client may open `https://{host}{uri}`.
    pub async fn auth(&self, host: &str, uri: &str) -> Response {
        self.ask(&Request::auth(host, uri)).await
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(self.gate).await.expect("the gate listens")
    }

    /// Polls until the response has this status; fails at the deadline.
    pub async fn until(&self, status: u16, request: &Request) {
        let start = Instant::now();
        loop {
            let response = self.ask(request).await;
            if response.status == status {
                return;
            }
            assert!(
                start.elapsed() < STARTING,
                "not within {STARTING:?}: {status} for {request:?}; still {response:?}, {}",
                ask(self.ops, &Request::new("GET", "/healthz")).await.body(),
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Nightporter {
    fn drop(&mut self) {
        for _ in 0..2 {
            self.stop.try_send(Signal::Shutdown).ok();
        }
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended
            && !std::thread::panicking()
        {
            panic!("nightporter ended with an error, see above");
        }
    }
}
