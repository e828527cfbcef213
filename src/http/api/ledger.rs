//! The record of requests: history, live events, proofs and dead letters.
//!
//! Every read runs on the archive's own connections, under its time limit; nothing here is
//! shared with the gate.

mod audit;
mod dead_letters;
mod events;
mod requests;
mod streams;
mod view;

use std::fmt::Display;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tracing::warn;

pub(super) use self::audit::{checkpoint, prove};
pub(super) use self::dead_letters::{
    dismiss, list as list_letters, replay, show as show_letter, stats,
};
pub(super) use self::events::follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::requests::fuzz_page_request;
pub(super) use self::requests::{VERDICTS, list, show};
use self::streams::Streams;
use super::outcome::Recorded;
use super::problem::{Kind, Problem};
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
use crate::telemetry::in_same_request;

/// The forms of answers, for the API's description.
pub(super) mod forms {
    pub(in super::super) use super::audit::Pending as ProofPending;
    pub(in super::super) use super::dead_letters::{
        Dismissed, LetterWithRecords as DeadLetter, List as DeadLetters, Replayed,
        Totals as DeadLetterStats,
    };
    pub(in super::super) use super::requests::Answer as Requests;
    pub(in super::super) use super::view::RecordView;
}

/// What the routes of the ledger work with.
#[derive(Debug)]
pub(crate) struct History {
    ledger: Arc<Ledger>,
    pub(super) keys: Arc<Keys>,
    streams: Arc<Streams>,
}

/// What an answer leaves out.
#[derive(Debug, Serialize, JsonSchema)]
struct LeftOut {
    /// The requests that the records of this answer only count.
    rolled_up: i64,
    /// The rows of this answer that are not records which this version can read: a later one has
    /// written them, or they were altered.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<usize>,
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
        Self { ledger, keys, streams: Arc::default() }
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
    pub(super) async fn viewer(&self, principal: &Principal, tenant: &str) -> Viewer {
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

    fn left_out(&self, tenant: &str, rolled_up: i64, unreadable: usize) -> LeftOut {
        let unreadable = (unreadable > 0).then_some(unreadable);
        if *tenant != *self.own_tenant() {
            return LeftOut { rolled_up, unreadable, dropped: None, in_spool: None };
        }
        let Ledger { losses, letters, .. } = &*self.ledger;
        let (refused, lost) = (losses.refused(), losses.lost());
        let refused = refused.iter().map(|(_, count)| count);
        let lost = lost.iter().map(|(_, count)| count);
        let (in_spool, _bytes) = letters.size();
        let dropped = Some(refused.chain(lost).sum());
        LeftOut { rolled_up, unreadable, dropped, in_spool: Some(in_spool) }
    }
}

impl Services {
    pub(super) fn history(&self) -> Result<&History, Problem> {
        self.history.as_ref().ok_or_else(|| Problem::ledger_disabled("there is no record"))
    }

    /// Returns the tenant whose rows a request changes, which is the box's own: the record of
    /// the change belongs to the same box.
    pub(super) fn own_rows(&self, call: &Call) -> Result<Arc<str>, Problem> {
        self.rows_of(&call.tenant)
    }

    /// The same, if it is known which tenant's rows are changed. The record of a change in
    /// another box could not be that box's: what it records is sealed with a key that only its
    /// own process has, and its tree takes nothing else.
    pub(super) fn rows_of(&self, tenant: &str) -> Result<Arc<str>, Problem> {
        let own = self.own_tenant();
        if own.is_empty() {
            let detail = "the box has no identity yet, and nothing belongs to a box without one: \
                          ask again once it has been set up; `nightporter check` says what is \
                          missing";
            return Err(Problem::unavailable(detail));
        }
        if *tenant != *own {
            let detail = "this changes rows of another box: ask the nightporter of that box";
            let problem = Problem::new(StatusCode::CONFLICT, detail).kind(Kind::OTHER_BOX);
            // With an idempotency key, that one may do it.
            return Err(Problem { is_passing: true, ..problem });
        }
        Ok(own)
    }

    /// Commits the record of an act. What is not recorded is not done. If an earlier
    /// execution of a request with an idempotency key has recorded it, that is enough.
    pub(super) async fn commit(&self, call: &Call, act: Act) -> Result<Committed, Problem> {
        // A request with an idempotency key is done in a task of its own as it is, and is dropped
        // if another process does it.
        let is_detached = call.execution.is_some();
        let nothing = Committed { record: None, is_detached };
        let Some(history) = &self.history else { return Ok(nothing) };
        let recorder = &history.ledger.recorder;
        let committed = |id, entry| {
            let record = Some((Arc::clone(recorder), id, entry));
            Committed { record, is_detached }
        };
        let entry = act.clone().entry(clock::now());
        let Some(execution) = &call.execution else {
            let id = recorder.commit(entry.clone()).await.map_err(unrecorded)?;
            return Ok(committed(id, entry));
        };
        if execution.is_recorded() {
            return Ok(nothing);
        }
        let mut transaction = history.archive().begin().await.map_err(unrecorded)?;
        if !execution.note_recorded(&mut transaction).await.map_err(unrecorded)? {
            return Err(Problem::key_lost());
        }
        let recorded = self.record(&mut transaction, act).await?;
        transaction.commit().await.map_err(unrecorded)?;
        Ok(committed(recorded.committed(), entry))
    }

    /// Writes the record of an act into the transaction that does it.
    pub(super) async fn record(
        &self,
        transaction: &mut Transaction<'_>,
        act: Act,
    ) -> Result<Recorded, Problem> {
        let ledger = Arc::clone(&self.history()?.ledger);
        let (record, writer) = ledger.act(act.entry(clock::now())).await.map_err(unrecorded)?;
        let id = record.id;
        transaction.write(&[record]).await.map_err(unrecorded)?;
        Ok(Recorded::new(id, writer, ledger))
    }
}

/// An act whose record is committed.
#[must_use = "it is to be done by `perform`"]
pub(super) struct Committed {
    /// `None` if nothing is recorded, or an earlier execution of the same request has recorded it.
    record: Option<(Arc<Recorder>, RecordId, Entry)>,
    /// Whether the handler goes on when its client disconnects.
    is_detached: bool,
}

impl Committed {
    /// Does the act and records what came of it, also if the client disconnects meanwhile.
    pub(super) async fn perform<T, E>(
        self,
        effect: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Display + Send + 'static,
    {
        let is_detached = self.is_detached;
        let act = async move {
            let outcome = effect.await;
            self.conclude(&outcome);
            outcome
        };
        if is_detached {
            return act.await;
        }
        match tokio::spawn(in_same_request(act)).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends, and with it this handler.
                Err(_) => pending().await,
            },
        }
    }

    fn conclude<T, E: Display>(self, outcome: &Result<T, E>) {
        if let Some((recorder, id, entry)) = self.record {
            let failure = outcome.as_ref().err().map(ToString::to_string);
            recorder.conclude(id, entry, failure.as_deref().map_or(Ok(()), Err));
        }
    }
}

/// What the archive has said is for the log: it may quote anything.
pub(super) fn unrecorded(error: impl Display) -> Problem {
    warn!(%error, "an act is refused, because it cannot be recorded");
    let detail = "not done, because it cannot be recorded: `/healthz` tells the operator why";
    Problem::unavailable(detail)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::ledger::record::{Kind, Micros, WriterId};

    #[tokio::test]
    async fn what_came_of_an_act_is_recorded_though_its_client_is_gone() {
        let (recorder, mut queue) = Recorder::with_room(Arc::default(), 10);
        let id = RecordId { writer: WriterId(1), seq: 1 };
        let record = Some((recorder, id, Entry::new(Kind::Act, Micros(1))));
        let committed = Committed { record, is_detached: false };
        let (begun, is_begun) = oneshot::channel();
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let request = tokio::spawn(committed.perform(async move {
            let _ = begun.send(());
            may_go_on.await
        }));
        is_begun.await.expect("the act has begun");
        request.abort();
        assert!(request.await.expect_err("the client is gone").is_cancelled());
        go_on.send(()).expect("the act goes on");
        let outcome = queue.recv().await.expect("a record").entry;
        assert_eq!((outcome.kind, outcome.verdict.as_deref()), (Kind::Act, Some("done")));
    }
}
