//! The record of what came to the door: history, live events, proofs and dead letters.
//!
//! Every read runs on the archive's own connections, under its time limit; nothing here is
//! shared with the gate.

mod audit;
mod dead_letters;
mod events;
mod requests;
mod view;

use std::fmt::Display;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Semaphore;

pub(super) use self::audit::{checkpoint, prove};
pub(super) use self::dead_letters::{
    dismiss, list as list_letters, replay, show as show_letter, stats,
};
pub(super) use self::events::follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::requests::fuzz_page_request;
pub(super) use self::requests::{VERDICTS, list, show};
use super::problem::Problem;
use super::repeat::lost;
use super::{Call, Services, json, ok};
use crate::access::{Principal, Right, Tokens, Viewer};
use crate::idempotency::table::Keys;
use crate::ledger::Ledger;
use crate::ledger::acts::Act;
use crate::ledger::archive::{Archive, Transaction};
use crate::ledger::clock;
use crate::ledger::dead_letter::DeadLetters;
use crate::ledger::health::Health;
use crate::ledger::record::{Entry, RecordId};
use crate::ledger::recorder::Recorder;

/// The forms of answers, for the API's description.
pub(super) mod forms {
    pub(in super::super) use super::audit::Pending as ProofPending;
    pub(in super::super) use super::dead_letters::{
        Dismissed, List as DeadLetters, Replayed, Totals as DeadLetterStats, Whole as DeadLetter,
    };
    pub(in super::super) use super::requests::Answer as Requests;
    pub(in super::super) use super::view::Shown;
}

/// How many streams of events may be open at once; each asks the archive at least once a
/// second.
const MAX_STREAMS: usize = 16;

/// What the routes of the ledger work with.
#[derive(Debug)]
pub(crate) struct History {
    ledger: Arc<Ledger>,
    pub(super) keys: Arc<Keys>,
    streams: Arc<Semaphore>,
}

/// What an answer leaves out.
#[derive(Debug, Serialize, JsonSchema)]
struct LeftOut {
    /// The requests that the records of this answer only count.
    rolled_up: i64,
    /// The records that this process has lost since it began; only of its own box.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    /// The batches that wait on the disk for the archive; only of its own box.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_spool: Option<usize>,
}

impl History {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        let keys = Arc::new(Keys::new(Arc::clone(&ledger.archive)));
        Self { ledger, keys, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// Returns the table of idempotency keys.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys)
    }

    pub(super) fn keys_problem(&self) -> Option<Arc<str>> {
        self.keys.problem()
    }

    /// Returns how the ledger fares.
    pub(super) fn health(&self) -> Health {
        self.ledger.health()
    }

    /// Returns the tokens, whose rows are beside the records.
    pub(super) fn tokens(&self) -> Arc<Tokens> {
        Arc::new(Tokens::new(Arc::clone(&self.ledger.archive)))
    }

    /// Returns as whom a request's answer is written.
    async fn viewer(&self, principal: &Principal, tenant: &str) -> Viewer {
        if principal.may(Right::Pii) {
            return Viewer::clear();
        }
        self.ledger.masked_viewer(tenant).await
    }

    pub(super) fn archive(&self) -> &Arc<Archive> {
        &self.ledger.archive
    }

    fn letters(&self) -> &DeadLetters {
        &self.ledger.letters
    }

    /// Returns the id of the box.
    pub(super) fn own_tenant(&self) -> Arc<str> {
        self.ledger.tenant.get()
    }

    fn left_out(&self, tenant: &str, rolled_up: i64) -> LeftOut {
        if *tenant != *self.own_tenant() {
            return LeftOut { rolled_up, dropped: None, in_spool: None };
        }
        let Ledger { losses, letters, .. } = &*self.ledger;
        let (refused, lost) = (losses.refused(), losses.lost());
        let refused = refused.iter().map(|(_, count)| count);
        let lost = lost.iter().map(|(_, count)| count);
        let (in_spool, _bytes) = letters.size();
        LeftOut { rolled_up, dropped: Some(refused.chain(lost).sum()), in_spool: Some(in_spool) }
    }
}

impl Services {
    pub(super) fn history(&self) -> Result<&History, Problem> {
        self.history.as_ref().ok_or_else(|| Problem::ledger_disabled("there is no record"))
    }

    /// Commits the record of an act. What is not recorded is not done. If an earlier
    /// execution of a request with an idempotency key has recorded it, that is enough.
    pub(super) async fn commit(&self, call: &Call, act: Act) -> Result<Committed, Problem> {
        let Some(history) = &self.history else { return Ok(Committed(None)) };
        let recorder = &history.ledger.recorder;
        let committed = |id, entry| Committed(Some((Arc::clone(recorder), id, entry)));
        let entry = act.clone().entry(clock::now());
        let Some(execution) = &call.execution else {
            let id = recorder.commit(entry.clone()).await.map_err(unrecorded)?;
            return Ok(committed(id, entry));
        };
        if execution.is_recorded() {
            return Ok(Committed(None));
        }
        let mut transaction = history.archive().begin().await.map_err(unrecorded)?;
        if !execution.note_recorded(&mut transaction).await.map_err(unrecorded)? {
            return Err(lost());
        }
        let id = self.record(&mut transaction, act).await?;
        transaction.commit().await.map_err(unrecorded)?;
        Ok(committed(id, entry))
    }

    /// Writes the record of an act into the transaction that does it; returns its id.
    pub(super) async fn record(
        &self,
        transaction: &mut Transaction<'_>,
        act: Act,
    ) -> Result<RecordId, Problem> {
        let ledger = &self.history()?.ledger;
        let record = ledger.record_of(act.entry(clock::now())).await.map_err(unrecorded)?;
        let id = record.id;
        transaction.write(&[record]).await.map_err(unrecorded)?;
        Ok(id)
    }
}

/// An act whose record is committed; `None` if nothing is recorded, or an earlier execution of
/// the same request has recorded it.
pub(super) struct Committed(Option<(Arc<Recorder>, RecordId, Entry)>);

impl Committed {
    /// Records what came of the act.
    pub(super) fn conclude<T, E: std::fmt::Display>(self, outcome: &Result<T, E>) {
        if let Some((recorder, id, entry)) = self.0 {
            let failure = outcome.as_ref().err().map(ToString::to_string);
            recorder.conclude(id, entry, failure.as_deref().map_or(Ok(()), Err));
        }
    }
}

fn unrecorded(error: impl Display) -> Problem {
    Problem::unavailable(format!("not done, because it cannot be recorded: {error}"))
}
