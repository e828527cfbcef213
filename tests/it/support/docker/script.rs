//! A Python script of the tests that drives a browser: it receives commands as lines of
//! JSON, and reports in lines.
#![allow(dead_code, reason = "tests and benchmarks take what is theirs")]

use std::process::Stdio;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::super::sign::python;

/// Ends with its process; see [`Script::end`].
#[derive(Debug)]
pub struct Script {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Script {
    pub async fn start(source: &str, order: &Value) -> Self {
        let mut child = tokio::process::Command::new(python())
            .args(["-c", source])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python with Playwright; `tests/run` makes target/venv");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut script = Self { child, input, output };
        script.tell(&order.to_string()).await;
        script
    }

    pub async fn tell(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.expect("read by the script");
    }

    /// Returns the next line of its output.
    pub async fn line(&mut self) -> String {
        let line = self.output.next_line().await.expect("UTF-8");
        line.expect("the browser failed, see above")
    }

    /// The same, parsed as its report.
    pub async fn report<T: DeserializeOwned>(&mut self) -> T {
        serde_json::from_str(&self.line().await).expect("JSON")
    }

    /// Lets it end by itself, so that it cleans up.
    pub async fn end(mut self) {
        drop(self.input);
        let status = self.child.wait().await.expect("it ran");
        assert!(status.success(), "the browser failed, see above");
    }
}
