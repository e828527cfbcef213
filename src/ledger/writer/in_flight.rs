//! What the writer has in flight between the queue and the archive.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::ledger::archive::ArchiveError;
use crate::ledger::record::{Entry, Kind, Record};
use crate::ledger::recorder::{Accepted, Queue, Reply};

/// Accepted entries and records on their way. An entry is in exactly one of its places at any
/// time, so that a panic in between loses none.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    received: Vec<Accepted>,
    accepted: VecDeque<Accepted>,
    /// The entry of which a record is being made.
    in_sealing: Option<i64>,
    batch: Arc<Vec<Record>>,
    batch_bytes: usize,
    /// Acts, and who waits for each.
    acts: Vec<Record>,
    replies: Vec<Reply>,
}

/// What was received.
pub(super) enum Received {
    /// The first entry since nothing was in flight, accepted at this time, and perhaps others.
    First(Instant),
    More,
    /// Nothing will come any more.
    Closed,
}

impl InFlight {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.accepted() + self.batch.len() + self.acts.len()
    }

    /// Returns how many entries were received and are not sealed.
    pub(super) fn accepted(&self) -> usize {
        self.received.len() + self.accepted.len()
    }

    pub(super) fn has_act(&self) -> bool {
        let mut accepted = self.received.iter().chain(&self.accepted);
        accepted.any(|accepted| accepted.reply.is_some())
    }

    pub(super) fn add(&mut self, accepted: Accepted) {
        self.accepted.push_back(accepted);
    }

    /// Receives until there are `max` entries. Nothing is lost if the call is cancelled.
    pub(super) async fn receive(&mut self, queue: &mut Queue, max: usize) -> Received {
        self.sort_in();
        let was_empty = self.accepted.is_empty();
        let room = max.saturating_sub(self.accepted.len()).max(1);
        let number = queue.recv_many(&mut self.received, room).await;
        self.sort_in();
        match self.accepted.front() {
            _ if number == 0 => Received::Closed,
            Some(first) if was_empty => Received::First(first.since),
            _ => Received::More,
        }
    }

    /// Receives what is there, until there are `max` entries.
    pub(super) fn receive_now(&mut self, queue: &mut Queue, max: usize) {
        self.sort_in();
        while self.accepted.len() < max {
            let Ok(accepted) = queue.try_recv() else { return };
            self.accepted.push_back(accepted);
        }
    }

    fn sort_in(&mut self) {
        self.accepted.extend(self.received.drain(..));
    }

    /// Returns the entry whose sealing has panicked, which is lost.
    pub(super) fn take_unsealable(&mut self) -> Option<i64> {
        self.sort_in();
        let seq = self.in_sealing.take()?;
        // The task that waits for it sees its sender dropped.
        self.accepted.pop_front_if(|accepted| accepted.seq == seq)?;
        Some(seq)
    }

    /// Returns whether the batch has room for another record.
    pub(super) fn has_room(&self, max: usize, max_bytes: usize) -> bool {
        self.batch.len() + self.acts.len() < max && self.batch_bytes < max_bytes
    }

    /// Makes a record of the next entry; returns `false` if there is none.
    pub(super) fn seal_next(&mut self, seal: impl FnOnce(i64, Entry) -> Option<Record>) -> bool {
        let Some(next) = self.accepted.front() else { return false };
        self.in_sealing = Some(next.seq);
        // Sealed from a copy: the entry stays in its place until there is a record of it.
        let record = seal(next.seq, next.entry.clone());
        self.in_sealing = None;
        let Some(record) = record else { return false };
        let reply = self.accepted.pop_front().and_then(|accepted| accepted.reply);
        match reply {
            Some(reply) => {
                self.acts.push(record);
                self.replies.push(reply);
            }
            None => self.add_to_batch(record),
        }
        true
    }

    pub(super) fn acts(&self) -> &[Record] {
        &self.acts
    }

    /// Tells those who wait what came of their acts. What is not committed stays.
    pub(super) fn answer_acts(&mut self, outcome: &Result<(), ArchiveError>) {
        if outcome.is_err() {
            for record in std::mem::take(&mut self.acts) {
                self.add_to_batch(record);
            }
        }
        self.acts.clear();
        for reply in self.replies.drain(..) {
            // Nobody may wait any more.
            let _ = reply.send(outcome.clone());
        }
    }

    /// Tells those who wait for what is not sealed yet that it will not be committed now.
    pub(super) fn refuse_acts(&mut self, error: &ArchiveError) {
        self.sort_in();
        for accepted in &mut self.accepted {
            if let Some(reply) = accepted.reply.take() {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    pub(super) fn batch(&self) -> Arc<Vec<Record>> {
        Arc::clone(&self.batch)
    }

    /// Moves the counts of grants to the end of the batch; returns how many there are.
    pub(super) fn move_counts_to_the_end(&mut self) -> usize {
        let is_count = |record: &Record| record.kind == Kind::Grants;
        if !self.batch.is_sorted_by_key(is_count) {
            Arc::make_mut(&mut self.batch).sort_by_key(is_count);
        }
        self.batch.len() - self.batch.partition_point(|record| !is_count(record))
    }

    /// The first records of the batch are in the spool.
    pub(super) fn remove_from_batch(&mut self, number: usize) {
        if number == self.batch.len() {
            return self.batch_done();
        }
        let removed = Arc::make_mut(&mut self.batch).drain(..number);
        let bytes: usize = removed.map(|record| size(&record)).sum();
        self.batch_bytes = self.batch_bytes.saturating_sub(bytes);
    }

    /// The batch is in the archive or in the spool.
    pub(super) fn batch_done(&mut self) {
        self.batch = Arc::default();
        self.batch_bytes = 0;
    }

    fn add_to_batch(&mut self, record: Record) {
        self.batch_bytes += size(&record);
        // Shared only if a write to the spool was abandoned and still goes on.
        Arc::make_mut(&mut self.batch).push(record);
    }
}

/// Returns about how many bytes a record takes.
fn size(record: &Record) -> usize {
    let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
    let steps = record.steps.len() * 64;
    let notes: usize = record.notes.iter().map(|note| 64 + note.text.len()).sum();
    size_of::<Record>() + text(&record.host) + text(&record.path) + steps + notes
}
