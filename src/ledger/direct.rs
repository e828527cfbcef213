//! Records that a job writes in its own transaction, past the recorder and its queue.
//!
//! They have a writer of their own, whose next number counts only once its transaction is
//! committed. So a transaction that is rolled back leaves no gap in the numbers.

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

/// Where a writer is kept between two transactions.
///
/// It is taken out for a transaction and given back after the commit. If it is not given back,
/// because nothing was committed or nobody knows whether, a new writer follows.
#[derive(Debug, Default)]
pub struct Resting(Mutex<Option<DirectWriter>>);

impl Resting {
    /// Returns the writer; a new one if there is none.
    pub fn take(&self, key: &SealKey) -> Result<DirectWriter, Unspecified> {
        let rested = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        rested.map_or_else(|| DirectWriter::new(key.clone()), Ok)
    }

    /// Keeps a writer whose records are committed.
    pub fn give_back(&self, writer: DirectWriter) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
    }
}
