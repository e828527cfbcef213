//! What is shown of dead letters.

use std::sync::{Arc, PoisonError};

use super::{DeadLetters, LetterError, Retry};
use crate::ledger::record::Record;
use crate::ledger::spool::{LockedLetter, SetAsideFile, Spool};

/// A dead letter, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub id: String,
    pub bytes: u64,
    pub retries: u32,
    /// Whether it waits for the operator.
    pub is_given_up: bool,
    /// Why it was refused, or could not be replayed.
    pub error: Option<Arc<str>>,
}

/// A dead letter with its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    pub summary: Summary,
    pub records: Vec<Record>,
}

/// All dead letters together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub letters: usize,
    pub bytes: u64,
    pub max_bytes: u64,
    /// Letters that wait for the operator.
    pub given_up: usize,
    /// Files that were no dead letters, and lie in the spool's folder `bad`.
    pub bad: Vec<SetAsideFile>,
    /// Why the spool does not work.
    pub problem: Option<Arc<str>>,
}

impl DeadLetters {
    /// Returns all letters, oldest first.
    pub async fn list(&self) -> Result<Vec<Summary>, LetterError> {
        let letters = self
            .blocking(|spool| {
                let with_refusal = |(name, bytes): (String, u64)| {
                    let refusal = spool.refusal(&name);
                    (name, bytes, refusal)
                };
                Ok(spool.list()?.into_iter().map(with_refusal).collect::<Vec<_>>())
            })
            .await?;
        let summary = |(name, bytes, refusal)| {
            let mut summary = self.summary(name, bytes);
            summary.error = summary.error.or(refusal);
            summary
        };
        Ok(letters.into_iter().map(summary).collect())
    }

    /// Returns a letter with its records.
    pub async fn get(&self, id: &str) -> Result<Detail, LetterError> {
        let LockedLetter { letter, .. } = self.open(id).await?;
        let names = self.blocking(Spool::list).await?;
        let bytes = names.get(id).copied().unwrap_or(0);
        let mut summary = self.summary(id.to_owned(), bytes);
        summary.error = summary.error.or(letter.error.map(Arc::from));
        Ok(Detail { summary, records: letter.records })
    }

    pub async fn stats(&self) -> Result<Stats, LetterError> {
        let (names, bad) = self.blocking(|spool| Ok((spool.list()?, spool.bad()?))).await?;
        let max = self.max_retries;
        let is_given_up =
            |(name, retry): &(&String, &Retry)| retry.count >= max && names.contains_key(*name);
        let given_up = self.lock().iter().filter(is_given_up).count();
        Ok(Stats {
            letters: names.len(),
            bytes: names.values().sum(),
            max_bytes: self.spool.max_bytes(),
            given_up,
            bad,
            problem: self.problem(),
        })
    }

    /// Returns the number of letters and the bytes that they take up, as last known.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        self.spool.size()
    }

    /// Returns how many files are set aside and the bytes that they take up, as last known.
    #[must_use]
    pub fn bad_size(&self) -> (usize, u64) {
        self.spool.bad_size()
    }

    /// Returns why the spool does not work.
    #[must_use]
    pub fn problem(&self) -> Option<Arc<str>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn summary(&self, id: String, bytes: u64) -> Summary {
        let retry = self.lock().get(&id).cloned();
        let retries = retry.as_ref().map_or(0, |retry| retry.count);
        let is_given_up = retries >= self.max_retries;
        Summary { id, bytes, retries, is_given_up, error: retry.map(|retry| retry.error) }
    }
}
