//! The program in a network of its own, in which every address of the world is this machine,
//! so that a connection to any of them is seen where it arrives.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::sign::python;

/// Routes of the kind `local` make all addresses this machine's own. What runs in here sees
/// no other network, and names are looked up here as well.
const SCRIPT: &str = r#"
set -e
ip link set lo up
ip route add local 0.0.0.0/0 dev lo
ip -6 route add local ::/0 dev lo
echo 'nameserver 127.0.0.53' > "$1/resolv.conf"
mount --bind "$1/resolv.conf" "$(readlink -f /etc/resolv.conf)"
exec 3< <(exec "$2" "$3" "$1/zones.json" "$1/accepted")
for service in names port port port; do read -r line <&3; done
exec "$4" serve
"#;

/// The program and its world; both end when this is dropped.
#[derive(Debug)]
pub struct World {
    child: Child,
    accepted: PathBuf,
    log: Arc<Mutex<String>>,
}

impl World {
    /// `zones` says what names are answered with. The configuration listens on sockets in the
    /// file system, which belong to no network.
    pub fn start(config: &Path, folder: &Path, zones: &Value) -> Self {
        std::fs::write(folder.join("zones.json"), zones.to_string()).expect("writable");
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["bash", "-c", SCRIPT, "bash"])
            .arg(folder)
            .arg(python())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/webhooks/world.py"))
            .arg(env!("CARGO_BIN_EXE_nightporter"))
            .env("NIGHTPORTER_CONFIG", config)
            .env("http_proxy", "http://10.7.7.7:8080")
            .env("https_proxy", "http://10.7.7.7:8080")
            .env("ALL_PROXY", "http://10.7.7.7:8080")
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
        for _ in 0..2 {
            let line = lines.next().unwrap_or_else(|| panic!("{}", log.lock().expect("no panic")));
            assert!(line.expect("readable").contains("listening on"));
        }
        Self { child, accepted: folder.join("accepted"), log }
    }

    /// Returns the addresses and ports that were connected to.
    pub fn accepted(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(&self.accepted).expect("readable");
        text.lines().map(str::to_owned).collect()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Returns the largest amount of memory that the program had, in KiB.
    pub fn memory(&self) -> u64 {
        // unshare's only child became the program.
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let child = children.expect("readable").trim().to_owned();
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).expect("readable");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
