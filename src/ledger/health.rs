//! How the ledger fares, for probes and metrics.

use std::sync::Arc;
use std::time::Duration;

use super::Ledger;
use super::losses::Cause;
use super::record::Kind;

/// How the ledger fares. All counts are those of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Records that were accepted.
    pub accepted: u64,
    /// Accepted ones that wait for the writer, and how long the oldest has waited.
    pub waiting: usize,
    pub age: Duration,
    /// Records that the archive took, and that went to the spool instead.
    pub written: u64,
    pub spooled: u64,
    /// The dead letters, and what they take up on the disk.
    pub letters: usize,
    pub letter_bytes: u64,
    /// Files in the spool that are not dead letters, and what they take up.
    pub set_aside: usize,
    pub set_aside_bytes: u64,
    /// What was not accepted for lack of room, by kind.
    pub refused: Vec<(Kind, u64)>,
    /// Accepted records that were lost, by cause.
    pub lost: Vec<(Cause, u64)>,
    /// What is wrong now, worded for the operator; empty if nothing is.
    pub problems: Vec<String>,
}

impl Health {
    /// Returns how many records were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let refused = self.refused.iter().map(|(_, count)| count);
        refused.chain(self.lost.iter().map(|(_, count)| count)).sum()
    }
}

impl Ledger {
    /// Returns how the ledger fares. Waits for nothing.
    #[must_use]
    pub fn health(&self) -> Health {
        let Self { archive, letters, link, losses, recorder, writer, .. } = self;
        let mut problems = Vec::new();
        let mut add = |what: &str, problem: Option<Arc<str>>| {
            problems.extend(problem.map(|problem| format!("{what}: {problem}")));
        };
        add("records are not written", link.problem().or_else(|| writer.problem()));
        add("the spool", letters.problem());
        add("the database", archive.problem().map(Arc::from));
        let (set_aside, set_aside_bytes) = letters.bad_size();
        add("tokens", archive.isolation_problem());
        let (letters, letter_bytes) = letters.size();
        let mut health = Health {
            accepted: recorder.accepted(),
            waiting: recorder.waiting(),
            age: writer.age(),
            written: link.records(),
            spooled: writer.spooled(),
            letters,
            letter_bytes,
            set_aside,
            set_aside_bytes,
            refused: losses.refused(),
            lost: losses.lost().into(),
            problems,
        };
        let dropped = health.dropped();
        if dropped > 0 {
            health.problems.push(format!("records were dropped since the start: {dropped}"));
        }
        if letters > 0 {
            health.problems.push(format!("dead letters wait to be replayed: {letters}"));
        }
        if set_aside > 0 {
            health.problems.push(format!("files in the spool are not dead letters: {set_aside}"));
        }
        health
    }
}
