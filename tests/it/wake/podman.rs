//! Podman by its Docker-compatible socket: what it has in common with Docker serves.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::{LONG, NO_SLEEP, Stage, known};
use crate::support::boxes::{SampleBox, Store, app_meta};
use crate::support::client::{Request, ask, poll};
use crate::support::programs::free_address;
use crate::support::server::Nightporter;

const IMAGE: &str = "localhost/nightporter-test:1";

/// An engine with folders of its own; it and its containers end with it.
struct Podman {
    folder: tempfile::TempDir,
    service: Option<Child>,
}

impl Podman {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("np").tempdir().expect("a folder");
        let mut podman = Self { folder, service: None };
        podman.import();
        let socket = format!("unix://{}", podman.path("socket"));
        let mut service = podman.command();
        service.args(["system", "service", "--time", "0", &socket]);
        podman.service = Some(service.spawn().expect("podman; `tests/run` installs it"));
        poll("the engine answers", LONG, async || Path::new(&podman.path("socket")).exists()).await;
        podman
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.args([option, &self.path(name)]);
        }
        command
            .args(["--storage-driver=vfs", "--events-backend=file", "--cgroup-manager=cgroupfs"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs `podman`, which must succeed; what it printed.
    fn run(&self, args: &[&str]) -> String {
        let mut command = self.command();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.output().expect("podman; `tests/run` installs it");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "podman {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// An image of one static program.
    fn import(&self) {
        let (files, archive) = (self.path("files"), self.path("image.tar"));
        let script = "mkdir -p \"$1/bin\" && cp \"$(command -v busybox)\" \"$1/bin/httpd\" && \
                      tar --create --file \"$2\" --directory \"$1\" .";
        let packed = Command::new("sh").args(["-c", script, "sh", &files, &archive]).status();
        assert!(packed.expect("a shell").success(), "busybox-static; `tests/run` installs it");
        self.run(&["import", &archive, IMAGE]);
    }

    /// A container that was made and never started; it listens on the machine's own network.
    fn create(&self, name: &str, port: u16) {
        let label = format!("nightporter.app={name}");
        let port = port.to_string();
        // Limits that may be set by whoever may set few; a signal that the first process
        // of a container does not ignore.
        self.run(&[
            "create",
            "--name",
            name,
            "--label",
            &label,
            "--network",
            "host",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "--stop-signal",
            "KILL",
            IMAGE,
            "/bin/httpd",
            "-f",
            "-p",
            &port,
        ]);
    }

    fn state(&self, name: &str) -> String {
        self.run(&["inspect", "--format", "{{.State.Status}}", name])
    }

    async fn until(&self, name: &str, state: &str) {
        poll(state, LONG, async || self.state(name) == state).await;
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.command().args(["rm", "--all", "--force", "--time", "0"]).status().ok();
        if let Some(mut service) = self.service.take() {
            service.kill().ok();
            service.wait().ok();
        }
    }
}

/// A box with one app that sleeps, and who looks after it.
async fn stage(sleep: &str) -> (Podman, SampleBox, Nightporter) {
    let podman = Podman::start().await;
    let port = free_address().port();
    podman.create("notes", port);
    let sample = SampleBox::new(Store::Files).await;
    let mut meta = app_meta("notes", &json!({"": {"access": "public"}}));
    meta["entrypoints"][0]["container_port"] = port.into();
    meta["lifecycle"] = json!({"always_on": false, "idle_for_pause": 5, "idle_for_stop": 10});
    sample.add_app_bytes("notes", meta.to_string().as_bytes()).await;
    let host = format!("unix://{}", podman.path("socket"));
    let porter = Nightporter::with(&sample, &Stage::config_at(&host, "", sleep)).await;
    until_known(&porter, "stopped").await;
    (podman, sample, porter)
}

async fn until_known(porter: &Nightporter, state: &str) {
    let mut seen = serde_json::Value::Null;
    let deadline = std::time::Instant::now() + LONG;
    while seen["state"] != state {
        assert!(std::time::Instant::now() < deadline, "not {state}: {seen}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen = known(porter, "notes").await;
    }
}

async fn ask_for_it(porter: &Nightporter) {
    let request = Request::auth("notes.box.example", "/").header("Sec-Fetch-Mode", "cors");
    poll("it is granted", LONG, async || porter.ask(&request).await.status == 200).await;
}

async fn order(porter: &Nightporter, operation: &str) -> u16 {
    let path = format!("/v1/apps/notes/{operation}");
    ask(porter.ops, &Request::new("POST", &path)).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_wakes_pauses_and_stops_and_tells_what_others_do() {
    let (podman, _sample, porter) = stage(NO_SLEEP).await;
    ask_for_it(&porter).await;
    assert_eq!(podman.state("notes"), "running");

    assert_eq!(order(&porter, "pause").await, 200);
    assert_eq!(podman.state("notes"), "paused");
    until_known(&porter, "paused").await;
    ask_for_it(&porter).await;
    assert_eq!(podman.state("notes"), "running");

    // A paused one is stopped, too.
    assert_eq!(order(&porter, "pause").await, 200);
    assert_eq!(order(&porter, "sleep").await, 200);
    podman.until("notes", "exited").await;
    until_known(&porter, "stopped").await;

    // Somebody else does it.
    podman.run(&["start", "notes"]);
    until_known(&porter, "awake").await;
    podman.run(&["stop", "--time", "0", "notes"]);
    until_known(&porter, "stopped").await;
    ask_for_it(&porter).await;
    assert_eq!(podman.state("notes"), "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_puts_to_sleep_what_nobody_uses() {
    let (podman, _sample, porter) = stage("interval = \"1s\"\nhold_off = \"1s\"\n").await;
    ask_for_it(&porter).await;
    podman.until("notes", "exited").await;
    until_known(&porter, "stopped").await;
    let events = podman.run(&["events", "--stream=false", "--format", "{{.Status}}"]);
    let place = |event| events.lines().position(|line| line == event);
    let (paused, ended) = (place("pause"), place("died"));
    assert!(paused.is_some() && paused < ended, "paused first: {events}");
    ask_for_it(&porter).await;
}
