//! How far a long command has come, on a terminal's standard error.

use std::io::{self, IsTerminal, Write};

/// How many records lie between two lines.
const STEP: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Progress {
    /// What is done with the records.
    done: &'static str,
    is_shown: bool,
    next: u64,
}

impl Progress {
    pub(super) fn new(done: &'static str) -> Self {
        Self { done, is_shown: io::stderr().is_terminal(), next: STEP }
    }

    /// Shows how many records are done, of all if their number is known.
    pub(super) fn show(&mut self, count: u64, all: Option<u64>) {
        if !self.is_shown || count < self.next {
            return;
        }
        self.next = count + STEP;
        let all = all.map(|all| format!(" of {all}")).unwrap_or_default();
        // Progress that cannot be written is not a failure.
        let _ = write!(io::stderr(), "\r{count}{all} records {}\u{1b}[K", self.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown && self.next > STEP {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
