//! The program as a process of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::{Request, ask, poll};

const PATIENCE: Duration = Duration::from_secs(120);

/// `nightporter serve` as a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Program {
    pub child: Child,
    pub gate: SocketAddr,
    pub ops: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts under a limit of open files.
    pub fn start(config: &Path, open_files: u32) -> Self {
        Self::start_with(config, open_files, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(config: &Path, open_files: u32, environment: &[(&str, &OsStr)]) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -n {open_files}; exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_nightporter"))
            .arg("serve")
            .env("NIGHTPORTER_CONFIG", config)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = follow(child.stderr.take().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Both must be read, or the program would block on a full pipe.
        let [gate, ops] = ["gate listening on ", "ops listening on "].map(|name| {
            let line = lines.next().unwrap_or_else(|| panic!("{}", log.lock().unwrap())).unwrap();
            line.strip_prefix(name).expect(&line).parse().unwrap()
        });
        Self { child, gate, ops, log }
    }

    pub async fn metrics(&self) -> String {
        ask(self.ops, &Request::new("GET", "/metrics")).await.body().to_owned()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -$0 $1", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap().matches(text).count()
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        poll("the program ends", PATIENCE, async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn follow(mut stderr: ChildStderr) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let writer = Arc::clone(&log);
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut chunk) {
            writer.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    });
    log
}

/// What shows another time to the program that it is loaded into.
pub fn faketime() -> PathBuf {
    let name = "faketime/libfaketimeMT.so.1";
    let folders = std::fs::read_dir("/usr/lib").expect("a folder").flatten();
    let mut found = folders.map(|folder| folder.path().join(name)).filter(|path| path.exists());
    found.next().expect("libfaketime; `tests/run` installs it")
}
