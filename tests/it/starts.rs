//! A start that is held up by something that does not answer, and is told to end.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;
use crate::support::program::Program;

const PATIENCE: Duration = Duration::from_secs(60);

const GATE: &str = "[gate]\nlisten = \"127.0.0.1:0\"\n";
const OPS: &str = "[ops]\nlisten = \"127.0.0.1:0\"\n";

fn program(sample: &SampleBox, store: &str, sections: &str) -> Program {
    let path = sample.folder().join("nightporter.toml");
    std::fs::write(&path, format!("{store}{GATE}{sections}{OPS}")).unwrap();
    Program::start(&path, 256)
}

/// Killed when dropped.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn sigterm_is_heard_while_the_configuration_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("nightporter.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut program = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    program.arg("serve").env("NIGHTPORTER_CONFIG", &pipe).stdout(Stdio::null());
    let mut program = Held(program.spawn().unwrap());
    // A pipe is opened when both sides open it: from here on it is read, and nothing comes.
    let opened = spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(pipe));
    let _writer = timeout(PATIENCE, opened).await.expect("is read").unwrap().unwrap();
    let pid = program.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut status = None;
    poll("the program ends", PATIENCE, async || {
        status = program.0.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[tokio::test]
async fn sigterm_is_heard_while_another_process_holds_the_certificates() {
    let sample = SampleBox::new(Store::Files).await;
    let directory = sample.folder().join("tls");
    std::fs::create_dir(&directory).unwrap();
    let lock = std::fs::File::create(directory.join(".lock")).unwrap();
    lock.lock().unwrap();
    let tls = format!("[gate.tls]\nself_signed = true\ndirectory = \"{}\"\n", directory.display());
    let wake = "[wake]\nenabled = false\n";
    let mut program = program(&sample, &sample.store_config(), &format!("{tls}{wake}"));
    program.signal("TERM");
    assert!(program.ended().await.success(), "{}", program.log());
    assert_eq!(program.logged("shut down while starting"), 1, "{}", program.log());
}

#[tokio::test]
async fn sigterm_waits_for_no_silent_database_and_no_silent_engine() {
    let sample = SampleBox::new(Store::Files).await;
    let database = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = sample.folder().join("docker.sock");
    let listener = UnixListener::bind(&engine).unwrap();
    let url = format!("postgres://box@{}/box", database.local_addr().unwrap());
    let store = sample.store_config_with(Some(&url));
    let wake = format!("[wake]\ndocker = \"unix://{}\"\n", engine.display());
    let mut program = program(&sample, &store, &wake);
    // Both are asked, and say nothing.
    let both = async { tokio::join!(database.accept(), listener.accept()) };
    let _connections = timeout(PATIENCE, both).await.expect("both are asked");
    program.signal("TERM");
    assert!(program.ended().await.success(), "{}", program.log());
}
