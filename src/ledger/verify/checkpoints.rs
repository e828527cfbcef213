//! The checkpoints that the records are compared with.

use std::collections::HashSet;
use std::sync::Arc;

use super::finding::{Finding, MAX_FINDINGS, Source};
use crate::ledger::archive::StoredCheckpoint;
use crate::ledger::checkpoint::file::Notes;
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::ledger::key::VerifierKey;

/// A checkpoint that the key has signed, and where it is kept.
#[derive(Debug, Clone)]
pub(super) struct KnownCheckpoint {
    pub(super) checkpoint: Checkpoint,
    pub(super) source: Source,
}

/// Checkpoints that were kept in a file.
#[derive(Debug)]
pub struct SavedCheckpoints {
    /// The file's name, as it is shown.
    pub name: Arc<str>,
    pub notes: Notes,
    /// Whether it is the file beside the key, to which every checkpoint is appended.
    pub is_log: bool,
}

/// Every checkpoint, sorted.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Those that the key has signed, by size.
    pub(super) known: Vec<KnownCheckpoint>,
    pub(super) findings: Vec<Finding>,
    /// What is odd and no proof of alteration.
    pub(super) remarks: Vec<String>,
}

impl Checkpoints {
    pub(super) fn new(
        stored: &[StoredCheckpoint],
        kept: &[SavedCheckpoints],
        key: &VerifierKey,
    ) -> Self {
        let mut checkpoints = Self::default();
        let mut misplaced = Vec::new();
        let mut signed = HashSet::new();
        for StoredCheckpoint { size, note, at: _ } in stored {
            match Checkpoint::verify(note, key) {
                Ok(checkpoint) => {
                    if u64::try_from(*size) != Ok(checkpoint.size) {
                        misplaced.push((*size, checkpoint.size));
                    }
                    signed.insert(note.as_str());
                    checkpoints
                        .known
                        .push(KnownCheckpoint { checkpoint, source: Source::Database });
                }
                Err(problem) => checkpoints.refuse(Source::Database, note, problem),
            }
        }
        for file in kept {
            checkpoints.add_file(file, &signed, key);
        }
        let misplaced = misplaced.into_iter().take(MAX_FINDINGS);
        let finding = |(stored, signed)| Finding::MisplacedCheckpoint { stored, signed };
        checkpoints.findings.extend(misplaced.map(finding));
        checkpoints.known.sort_by_key(|known| known.checkpoint.size);
        checkpoints
    }

    fn add_file(&mut self, file: &SavedCheckpoints, signed: &HashSet<&str>, key: &VerifierKey) {
        let SavedCheckpoints { name, notes: Notes { notes, fragments }, is_log } = file;
        let source = || Source::File(Arc::clone(name));
        let (mut good, mut incomplete) = (HashSet::new(), fragments.len());
        // Of a box whose identity was another one, in a file that its ledgers share.
        let mut of_others = 0;
        for note in notes {
            // Most are in the database too, and to verify a signature takes some 50 µs.
            if signed.contains(note.as_str()) {
                good.insert(note.as_str());
                continue;
            }
            match Checkpoint::verify(note, key) {
                Ok(checkpoint) => {
                    if good.insert(note) {
                        self.known.push(KnownCheckpoint { checkpoint, source: source() });
                    }
                }
                Err(CheckpointError::OtherOrigin(origin))
                    if *is_log && Checkpoint::verify(note, &key.of_tree(&origin)).is_ok() =>
                {
                    of_others += 1;
                }
                // An append that was interrupted.
                Err(CheckpointError::Malformed) => incomplete += 1,
                Err(problem) => self.refuse(source(), note, problem),
            }
        }
        // Who names a file wants the records compared with what it says.
        let is_empty = incomplete == 0 && of_others == 0 && !is_log;
        if good.is_empty() && (incomplete > 0 || is_empty) {
            self.refuse(source(), "", CheckpointError::Malformed);
        } else if incomplete > 0 {
            self.remarks.push(format!("{name}: texts that are not checkpoints: {incomplete}"));
        }
        if of_others > 0 {
            self.remarks.push(format!("{name}: checkpoints of other boxes' trees: {of_others}"));
        }
        // The last one is appended after it is committed.
        let missing = signed.iter().filter(|note| !good.contains(*note)).count();
        if *is_log && missing > 1 && good.is_empty() && incomplete == 0 {
            self.findings.push(Finding::Log { name: Arc::clone(name), missing });
        } else if *is_log && missing > 1 {
            self.remarks
                .push(format!("{name}: checkpoints of the database that it lacks: {missing}"));
        }
    }

    fn refuse(&mut self, source: Source, note: &str, problem: CheckpointError) {
        if self.findings.len() < MAX_FINDINGS {
            let size = Checkpoint::claimed(note).ok().map(|checkpoint| checkpoint.size);
            self.findings.push(Finding::Checkpoint { source, size, problem });
        }
    }

    /// Returns whether checkpoints exist, and another key has signed all of them.
    pub(super) fn is_another_key(&self) -> bool {
        let is_of_other_key = |finding: &Finding| {
            matches!(finding, Finding::Checkpoint { problem: CheckpointError::OtherKey, .. })
        };
        self.known.is_empty() && self.findings.iter().any(is_of_other_key)
    }
}
