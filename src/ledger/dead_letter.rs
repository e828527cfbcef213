//! Dead letters: batches that the archive did not take, until they are replayed or dismissed.
//!
//! A replay that fails because the archive does not work is repeated as often as it takes. If
//! the archive works, and still does not take a letter, that counts as a retry; after
//! `ledger.max_retries` the letter waits for the operator. A letter that is refused for its
//! content is split until each record that is at fault has a letter of its own, with the
//! error; the others are written.

mod listing;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::archive::ArchiveError;
use super::link::{Link, Target};
use super::losses::{Cause, Losses};
use super::record::Record;
use super::spool::{LockedLetter, OpenedLetter, Spool, SpoolError};
use crate::backoff::{doubled, jittered};

pub use listing::{Detail, Stats, Summary};

/// Waits after a counted retry.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How long one replay of a letter may take.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

/// After this many letters in a row that cannot be written, the archive is taken for broken
/// and the others are not tried.
const IN_VAIN: u32 = 2;

/// The dead letters of a spool.
#[derive(Debug)]
pub struct DeadLetters {
    spool: Arc<Spool>,
    losses: Arc<Losses>,
    max_retries: u32,
    /// What is known of the letters that were tried in vain, by name.
    retries: Mutex<HashMap<String, Retry>>,
    /// One replay at a time; other processes are kept away by locks on the files.
    replaying: AsyncMutex<()>,
    wanted: Notify,
    problem: Mutex<Option<Arc<str>>>,
}

#[derive(Debug, Clone)]
struct Retry {
    /// How many retries count.
    count: u32,
    due: Instant,
    error: Arc<str>,
    /// How many writes had succeeded then: if there are more by the next failure, the archive
    /// works.
    writes: u64,
}

/// What a replay has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records that are in the archive now.
    pub replayed: usize,
    /// Letters that are gone.
    pub letters: usize,
    /// Letters that were tried in vain.
    pub failed: usize,
    /// Files that were no dead letters.
    pub set_aside: usize,
    /// The last error of the archive or of the spool.
    pub error: Option<Arc<str>>,
}

/// Why nothing was done with a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    #[error("there is no such dead letter, or it is being replayed")]
    NotFound,
    #[error("it is not a dead letter: it {0}")]
    SetAside(super::spool::Damage),
    #[error("the spool: {0}")]
    Spool(#[from] SpoolError),
    #[error("the archive does not take it: {0}")]
    Archive(#[from] ArchiveError),
    #[error("the spool failed")]
    Panicked,
}

/// How one letter was replayed.
enum Replayed {
    Whole,
    /// All but the records that are refused, each in a letter of its own.
    Split {
        written: usize,
        error: Arc<str>,
    },
}

impl DeadLetters {
    pub(super) fn new(spool: Arc<Spool>, losses: Arc<Losses>, max_retries: u32) -> Self {
        Self {
            spool,
            losses,
            max_retries,
            retries: Mutex::default(),
            replaying: AsyncMutex::default(),
            wanted: Notify::new(),
            problem: Mutex::default(),
        }
    }

    /// Keeps a batch that the archive did not take.
    pub(super) async fn put(
        &self,
        records: Arc<Vec<Record>>,
        error: Option<String>,
    ) -> Result<(), LetterError> {
        let losses = Arc::clone(&self.losses);
        let outcome = self
            .blocking(move |spool| {
                let evicted = |evicted: &[Record]| {
                    let number = evicted.len();
                    tracing::error!(number, "the spool is full; the oldest records in it are lost");
                    losses.add_records(Cause::SpoolFull, evicted);
                };
                spool.put(&records, error.as_deref(), evicted)?;
                Ok(())
            })
            .await;
        self.note(outcome.as_ref().err());
        outcome
    }

    /// Asks for a replay soon.
    pub(super) fn want_replay(&self) {
        self.wanted.notify_one();
    }

    /// Replays whenever that is asked for, or the archive works again; and while it does not,
    /// as often as it is worth an attempt.
    pub async fn run<T: Target>(&self, link: &Link<T>) -> Infallible {
        loop {
            let retry = async {
                match link.retry_at() {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wanted.notified() => {}
                () = link.returned() => {}
                () = link.failed() => continue,
                () = retry => {}
            }
            self.replay(link).await;
            // If there was no letter to try, nothing else has moved the time of the next attempt.
            link.probe_if_due().await;
        }
    }

    /// Replays all letters that are due, oldest first.
    pub async fn replay<T: Target>(&self, link: &Link<T>) -> Outcome {
        let _one = self.replaying.lock().await;
        let mut outcome = Outcome::default();
        let listed = self
            .blocking(|spool| {
                spool.remove_leftovers()?;
                spool.list()
            })
            .await;
        self.note(listed.as_ref().err());
        let names = match listed {
            Ok(names) => names,
            Err(error) => {
                outcome.error = Some(error.to_string().into());
                return outcome;
            }
        };
        self.lock().retain(|name, _| names.contains_key(name));
        let mut in_vain = 0;
        for name in names.into_keys() {
            if !self.is_due(&name) {
                continue;
            }
            match self.replay_one(&name, link, &mut outcome).await {
                Ok(()) => in_vain = 0,
                Err(LetterError::Archive(ArchiveError::Unavailable(_))) => in_vain += 1,
                Err(_) => {}
            }
            if in_vain == IN_VAIN {
                break;
            }
        }
        outcome
    }

    /// Replays one letter now, also one that has been given up.
    pub async fn replay_now<T: Target>(
        &self,
        id: &str,
        link: &Link<T>,
    ) -> Result<Outcome, LetterError> {
        let _one = self.replaying.lock().await;
        let mut outcome = Outcome::default();
        self.replay_one(id, link, &mut outcome).await?;
        Ok(outcome)
    }

    async fn replay_one<T: Target>(
        &self,
        name: &str,
        link: &Link<T>,
        outcome: &mut Outcome,
    ) -> Result<(), LetterError> {
        let held = match self.open(name).await {
            Ok(held) => Arc::new(held),
            Err(error) => {
                match &error {
                    LetterError::NotFound => return Ok(()),
                    LetterError::SetAside(_) => outcome.set_aside += 1,
                    other => self.failed(name, &other.to_string(), link, outcome),
                }
                return Err(error);
            }
        };
        let replayed = match self.deliver(&held, link).await {
            Ok(replayed) => replayed,
            Err(error) => {
                let text = match &error {
                    LetterError::Archive(error) => error.to_string(),
                    other => other.to_string(),
                };
                self.failed(name, &text, link, outcome);
                return Err(error);
            }
        };
        outcome.replayed += match &replayed {
            Replayed::Whole => held.letter.records.len(),
            Replayed::Split { written, .. } => *written,
        };
        if let Replayed::Split { error, .. } = replayed {
            outcome.failed += 1;
            outcome.error = Some(error);
        }
        let removed = Arc::clone(&held);
        self.blocking(move |spool| spool.remove(&removed)).await?;
        self.lock().remove(name);
        outcome.letters += 1;
        Ok(())
    }

    /// Writes the records of a letter, without those that the archive refuses.
    async fn deliver<T: Target>(
        &self,
        held: &LockedLetter,
        link: &Link<T>,
    ) -> Result<Replayed, LetterError> {
        let records = &held.letter.records;
        match link.write(records, REPLAY_LIMIT).await {
            Ok(()) => return Ok(Replayed::Whole),
            Err(ArchiveError::Content(_)) if records.len() > 1 => {}
            Err(ArchiveError::Content(error)) if held.letter.error.is_none() => {
                self.put(Arc::new(records.clone()), Some(error.to_string())).await?;
                return Ok(Replayed::Split { written: 0, error });
            }
            Err(error) => return Err(error.into()),
        }
        let refused = refused(records, link).await?;
        let written = records.len() - refused.len();
        let mut last = Arc::from("");
        for (index, error) in refused {
            self.put(Arc::new(vec![records[index].clone()]), Some(error.to_string())).await?;
            last = error;
        }
        Ok(Replayed::Split { written, error: last })
    }

    /// Notes that a letter could not be replayed.
    fn failed<T: Target>(&self, name: &str, error: &str, link: &Link<T>, outcome: &mut Outcome) {
        let error: Arc<str> = error.into();
        outcome.failed += 1;
        outcome.error = Some(Arc::clone(&error));
        let (now, writes) = (Instant::now(), link.writes());
        let mut retries = self.lock();
        let retry = retries.entry(name.to_owned()).or_insert(Retry {
            count: 0,
            due: now,
            error: Arc::clone(&error),
            writes,
        });
        // While the archive does not work, it is not the letter's fault.
        if link.works() || writes > retry.writes {
            retry.count += 1;
            retry.due = now + jittered(doubled(FIRST_WAIT, retry.count, LONGEST_WAIT));
            if retry.count == self.max_retries {
                tracing::error!(letter = name, %error, "a dead letter waits for the operator");
            }
        }
        retry.writes = writes;
        retry.error = error;
    }

    fn is_due(&self, name: &str) -> bool {
        let retries = self.lock();
        let Some(retry) = retries.get(name) else { return true };
        retry.count < self.max_retries && Instant::now() >= retry.due
    }

    /// Removes a letter for good; a record says which records were lost.
    pub async fn dismiss(&self, id: &str) -> Result<usize, LetterError> {
        let _one = self.replaying.lock().await;
        let held = self.open(id).await?;
        let losses = Arc::clone(&self.losses);
        let number = held.letter.records.len();
        self.blocking(move |spool| {
            spool.remove(&held)?;
            losses.add_records(Cause::Dismissed, &held.letter.records);
            Ok(())
        })
        .await?;
        self.lock().remove(id);
        Ok(number)
    }

    async fn open(&self, name: &str) -> Result<LockedLetter, LetterError> {
        let name = name.to_owned();
        match self.blocking(move |spool| spool.open(&name)).await? {
            OpenedLetter::Locked(held) => Ok(*held),
            OpenedLetter::Taken => Err(LetterError::NotFound),
            OpenedLetter::SetAside(damage) => Err(LetterError::SetAside(damage)),
        }
    }

    /// Works on the spool on a thread that may block.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Spool) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, LetterError> {
        let spool = Arc::clone(&self.spool);
        let outcome = spawn_blocking(move || work(&spool)).await;
        Ok(outcome.map_err(|_| LetterError::Panicked)??)
    }

    fn note(&self, error: Option<&LetterError>) {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(error), None) = (error, &*problem) {
            tracing::error!(%error, "the ledger's spool does not work");
        }
        *problem = error.map(|error| error.to_string().into());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Retry>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes records in halves, and halves of those, down to the ones that the archive refuses;
/// returns which these are, and why.
async fn refused<T: Target>(
    records: &[Record],
    link: &Link<T>,
) -> Result<Vec<(usize, Arc<str>)>, ArchiveError> {
    let (middle, end) = (records.len() / 2, records.len());
    let mut open = vec![middle..end, 0..middle];
    let mut refused = Vec::new();
    while let Some(range) = open.pop() {
        match link.write(&records[range.clone()], REPLAY_LIMIT).await {
            Ok(()) => {}
            Err(ArchiveError::Content(error)) if range.len() == 1 => {
                refused.push((range.start, error));
            }
            Err(ArchiveError::Content(_)) => {
                let middle = range.start + range.len() / 2;
                open.extend([middle..range.end, range.start..middle]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests;
