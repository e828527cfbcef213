//! A process that is stopped for a while, as a laptop's or a paused container's.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};

use super::Stopped;
use super::verifier::{LIVE_BOUND, MAX_STALE, TIMES, Verifier, furnish};

/// The binary, serving a box; killed when dropped.
struct Process {
    child: Child,
    gate: SocketAddr,
    ops: SocketAddr,
}

impl Process {
    fn serve(sample: &SampleBox) -> Self {
        let config = sample.folder().join("np.toml");
        let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(&config, format!("{}{TIMES}{ports}", sample.store_config())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NIGHTPORTER_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--config"]).arg(&config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |listener: &str| {
            let line = lines.next().expect("a line for each listener").unwrap();
            line.strip_prefix(listener).expect("in this order").parse().unwrap()
        };
        let gate = address("gate listening on ");
        let ops = address("ops listening on ");
        Self { child, gate, ops }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_stopped_grants_nothing_from_before() {
    let sample = SampleBox::new(Store::Postgres).await;
    furnish(&sample).await;
    let process = Process::serve(&sample);
    poll("live", Duration::from_secs(20), async || {
        let ready = ask(process.ops, &Request::new("GET", "/readyz")).await;
        ready.body().contains("\"live\"")
    })
    .await;
    let verifier = Verifier::begin(&sample, process.gate, process.ops).await;
    // Within the bound, and beyond all bounds; the latter with the link alive.
    for stopped_for in [Duration::from_millis(700), MAX_STALE + Duration::from_millis(500)] {
        let fault = format!("stopped for {stopped_for:?}");
        for _ in 0..2 {
            let resting = verifier.rests(&fault).await;
            verifier.allow(MAX_STALE);
            let stopped = Stopped::now(process.child.id());
            resting.delete_terminal().await;
            tokio::time::sleep(stopped_for).await;
            drop(stopped);
            let goes_on = Instant::now();
            verifier.settled(&fault).await;
            println!("{fault}: live again {:?} after it went on", goes_on.elapsed());
            drop(resting);
            verifier.agrees(&fault).await;
            verifier.allow(LIVE_BOUND);
        }
        verifier.judge(&fault);
    }
}
