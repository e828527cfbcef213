//! Records that a job or an act writes in its own transaction, past the recorder and its queue.
//!
//! They have writers of their own, whose next number counts only once its transaction is
//! committed. So a transaction that is rolled back leaves no gap in the numbers, and one that
//! was deleted does.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::error::Unspecified;

use super::record::{Entry, Record, RecordId, WriterId};
use super::recorder::random_writer;
use super::seal::{SealKey, Sealer};

/// A writer in the hands of one transaction.
#[derive(Debug)]
pub struct DirectWriter {
    writer: WriterId,
    last: i64,
    sealer: Sealer,
}

impl DirectWriter {
    /// Creates a writer with an id of its own.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new(key: SealKey) -> Result<Self, Unspecified> {
        Ok(Self { writer: random_writer(), last: 0, sealer: Sealer::new(key)? })
    }

    /// Returns the next record.
    #[must_use]
    pub fn record(&mut self, tenant: &Arc<str>, entry: Entry) -> Record {
        self.last += 1;
        let id = RecordId { writer: self.writer, seq: self.last };
        self.sealer.seal(id, tenant, entry)
    }
}

/// The most writers that the pool keeps.
const MOST: usize = 16;

/// A pool of writers, where they are kept between transactions.
///
/// One is taken out for a transaction and given back after the commit. If it is not given back,
/// because nothing was committed or nobody knows whether, its numbers end there, and a new
/// writer follows. There are as many as there were transactions at the same time.
#[derive(Debug, Default)]
pub struct WriterPool(Mutex<Vec<DirectWriter>>);

impl WriterPool {
    /// Returns a writer; a new one if there is none.
    pub fn take(&self, key: &SealKey) -> Result<DirectWriter, Unspecified> {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pooled.map_or_else(|| DirectWriter::new(key.clone()), Ok)
    }

    /// Keeps a writer whose records are committed.
    pub fn give_back(&self, writer: DirectWriter) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < MOST {
            pool.push(writer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::{Kind, Micros};

    #[test]
    fn numbers_go_on_only_after_a_commit() {
        let (pool, key) = (WriterPool::default(), SealKey::derive(&[7; 32]));
        let tenant: Arc<str> = "box".into();
        let id = |is_committed: bool| {
            let mut writer = pool.take(&key).expect("random numbers");
            let id = writer.record(&tenant, Entry::new(Kind::Act, Micros(1))).id;
            if is_committed {
                pool.give_back(writer);
            }
            id
        };
        let (first, second, lost, after) = (id(true), id(true), id(false), id(true));
        assert_eq!((first.seq, second.seq, lost.seq, after.seq), (1, 2, 3, 1));
        assert!(first.writer == second.writer && after.writer != first.writer);
    }

    #[test]
    fn transactions_at_the_same_time_have_writers_of_their_own() {
        let (pool, key) = (WriterPool::default(), SealKey::derive(&[7; 32]));
        let mut writers: Vec<_> =
            (0..MOST + 4).map(|_| pool.take(&key).expect("random numbers")).collect();
        let tenant: Arc<str> = "box".into();
        let ids: std::collections::HashSet<_> = writers
            .iter_mut()
            .map(|writer| writer.record(&tenant, Entry::new(Kind::Act, Micros(1))).id)
            .collect();
        assert_eq!(ids.len(), MOST + 4);
        for writer in writers {
            pool.give_back(writer);
        }
        assert_eq!(pool.0.lock().expect("no panic").len(), MOST);
    }
}
