//! A mount whose server does not answer any more: every call to it waits for ever.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};

const PATIENCE: Duration = Duration::from_secs(120);

/// Serves with one worker, in a mount namespace of its own, and, once it reads a line,
/// mounts over a folder what nobody answers for: a FUSE connection without a server.
const SCRIPT: &str = "
    \"$1\" serve <&- &
    read -r line
    exec 3<>/dev/fuse
    mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0,allow_other hung \"$2\"
    echo hung
    wait
";

pub(crate) struct Program {
    child: Child,
    stdin: ChildStdin,
    pub(crate) gate: SocketAddr,
    pub(crate) ops: SocketAddr,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    log: Arc<Mutex<String>>,
}

impl Program {
    pub(crate) fn start(config: &Path, folder: &Path) -> Self {
        // With its first process all of the namespace ends.
        let mut child = Command::new("unshare")
            .args(["-m", "--fork", "--pid", "--kill-child", "bash", "-c", SCRIPT, "bash"])
            .arg(env!("CARGO_BIN_EXE_nightporter"))
            .arg(folder)
            .env("NIGHTPORTER_CONFIG", config)
            .env("TOKIO_WORKER_THREADS", "1")
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare");
        let log = Arc::new(Mutex::new(String::new()));
        let (written, mut stderr) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..read]);
                written.lock().expect("no panic").push_str(&text);
            }
        });
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let [gate, ops] = ["gate listening on ", "ops listening on "].map(|name| {
            let line = lines.next().unwrap_or_else(|| panic!("{}", log.lock().expect("no panic")));
            let line = line.expect("readable");
            line.strip_prefix(name).expect(&line).parse().expect("an address")
        });
        let stdin = child.stdin.take().expect("piped");
        Self { child, stdin, gate, ops, lines, log }
    }

    pub(crate) fn hang(&mut self) {
        self.stdin.write_all(b"\n").expect("it reads");
        let line = self.lines.next().unwrap_or_else(|| panic!("{}", self.logged()));
        assert_eq!(line.expect("readable"), "hung");
    }

    pub(crate) fn logged(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_mount_that_hangs_does_not_stop_the_gate() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    sample.add_app("cold", &json!({"": {"access": "public"}})).await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let config = elsewhere.path().join("nightporter.toml");
    let sections = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                    [cache]\nheartbeat = \"1s\"\nmax_stale = \"1h\"\n";
    std::fs::write(&config, format!("{}{sections}", sample.store_config())).expect("written");
    let mut program = Program::start(&config, sample.folder());
    let notes = Request::auth("notes.box.test", "/");
    poll("the gate answers", PATIENCE, async || ask(program.gate, &notes).await.status == 200)
        .await;

    program.hang();
    // Asked for all the while, until the limit has passed and been told.
    poll("it is told", PATIENCE, async || {
        assert_eq!(ask(program.gate, &notes).await.status, 200, "{}", program.logged());
        assert_eq!(ask(program.ops, &Request::new("GET", "/livez")).await.status, 200);
        program.logged().contains("did not answer within")
    })
    .await;
    // Of an app that nobody has asked for yet nothing is known, and that is the answer.
    let (cold, unknown) =
        (Request::auth("cold.box.test", "/"), Request::auth("random.box.test", "/"));
    assert_eq!(ask(program.gate, &cold).await.status, 503);
    assert_eq!(ask(program.gate, &unknown).await.status, 404);
    for _ in 0..20 {
        assert_eq!(ask(program.gate, &notes).await.status, 200);
    }
    let health = ask(program.ops, &Request::new("GET", "/healthz")).await;
    assert!(health.body().contains("did not answer within"), "{}", health.body());
}
