//! A collector of traces that decodes what it receives with OpenTelemetry's own messages.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::client::poll;
use super::programs::virtual_environment;

const PATIENCE: Duration = Duration::from_secs(120);

/// A running collector; it ends with the test.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/traces/collector.py");
        let mut command = Command::new(virtual_environment().join("bin/python"));
        let mut child = command.arg(script).stdout(Stdio::piped()).spawn().expect("Python");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.next().expect("a port").expect("readable").parse().expect("a number");
        let spans = Arc::<Mutex<Vec<Value>>>::default();
        let received = Arc::clone(&spans);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span = serde_json::from_str(&line).expect("JSON");
                received.lock().expect("no panic").push(span);
            }
        });
        Self { child, port, spans }
    }

    /// Returns its address, as it is configured.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("no panic").clone()
    }

    /// Waits for a span.
    pub async fn span(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        poll(what, PATIENCE, async || {
            found = self.spans().into_iter().find(&is_it);
            found.is_some()
        })
        .await;
        found.expect("found")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
