//! A process that is stopped for a while, as a laptop's or a paused container's.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::boxes::{SampleBox, Store};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::client::{Request, ask, poll};

use super::Stopped;
use super::verifier::{HEARTBEAT, LIVE_BOUND, MAX_STALE, RECOVERY, TIMES, Verifier, furnish};

/// The binary, serving a box; killed when dropped.
struct Process {
    child: Child,
    gate: SocketAddr,
    ops: SocketAddr,
}

impl Process {
    fn serve(sample: &SampleBox, database: &str) -> Self {
        let config = sample.folder().join("np.toml");
        let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
        let store = sample.store_config_with(Some(database));
        std::fs::write(&config, format!("{store}{TIMES}{ports}")).unwrap();
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
    let proxy = ChaosProxy::before(sample.database().server_address()).await;
    let process = Process::serve(&sample, &sample.database().url_at(proxy.address));
    poll("live", RECOVERY, async || {
        let ready = ask(process.ops, &Request::new("GET", "/readyz")).await;
        ready.body().contains("\"live\"")
    })
    .await;
    let verifier = Verifier::begin(&sample, process.gate, process.ops);
    let beyond = MAX_STALE + Duration::from_millis(500);
    // Within the bound and beyond it; then with a network that died meanwhile,
    // so that nothing but the clock can tell.
    for (stopped_for, network) in [
        (Duration::from_millis(700), Network::Pass),
        (beyond, Network::Pass),
        (beyond, Network::Stall),
    ] {
        let fault = format!("stopped for {stopped_for:?}, then {network:?}");
        for _ in 0..2 {
            let resting = verifier.rests(&fault).await;
            verifier.allow(MAX_STALE);
            let stopped = Stopped::now(process.child.id());
            proxy.set(network);
            resting.delete_terminal().await;
            tokio::time::sleep(stopped_for).await;
            drop(stopped);
            let goes_on = Instant::now();
            if network == Network::Stall {
                tokio::time::sleep(HEARTBEAT * 2).await;
                assert_eq!(verifier.granted(goes_on, Instant::now()), 0, "{fault}: granted");
                proxy.set(Network::Pass);
            }
            verifier.settled(&fault).await;
            println!("{fault}: live again {:?} after it went on", goes_on.elapsed());
            drop(resting);
            verifier.agrees(&fault).await;
            verifier.allow(LIVE_BOUND);
        }
        verifier.judge(&fault);
    }
}
