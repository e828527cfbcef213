//! The record of what came to the door: history, live events, proofs and dead letters.
//!
//! Every read runs on the archive's own connections, under its time limit; nothing here is
//! shared with the gate.

mod audit;
mod dead_letters;
mod events;
mod requests;
mod view;

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use tokio::sync::Semaphore;

pub(super) use self::audit::{checkpoint, prove};
pub(super) use self::dead_letters::{
    dismiss, list as list_letters, replay, show as show_letter, stats,
};
pub(super) use self::events::follow;
pub(super) use self::requests::{list, show};
use super::problem::Problem;
use super::{Call, Services};
use crate::http::{Response, answer};
use crate::ledger::Ledger;
use crate::ledger::acts::Act;
use crate::ledger::archive::Archive;
use crate::ledger::clock;
use crate::ledger::dead_letter::DeadLetters;
use crate::ledger::health::Health;

/// How many streams of events may be open at once; each asks the archive at least once a
/// second.
const MAX_STREAMS: usize = 16;

/// What the routes of the ledger work with.
#[derive(Debug)]
pub(crate) struct History {
    ledger: Arc<Ledger>,
    streams: Arc<Semaphore>,
}

/// What an answer leaves out.
#[derive(Debug, Serialize)]
struct LeftOut {
    /// The requests that the records of this answer only count.
    rolled_up: i64,
    /// The records that this process has lost since it began.
    dropped: u64,
    /// The batches that wait on the disk for the archive.
    in_spool: usize,
}

impl History {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// Returns how the ledger fares.
    pub(super) fn health(&self) -> Health {
        self.ledger.health()
    }

    fn archive(&self) -> &Arc<Archive> {
        &self.ledger.archive
    }

    fn letters(&self) -> &DeadLetters {
        &self.ledger.letters
    }

    fn tenant(&self) -> Arc<str> {
        self.ledger.tenant.get()
    }

    fn left_out(&self, rolled_up: i64) -> LeftOut {
        let Ledger { losses, letters, .. } = &*self.ledger;
        let (refused, lost) = (losses.refused(), losses.lost());
        let refused = refused.iter().map(|(_, count)| count);
        let lost = lost.iter().map(|(_, count)| count);
        let (in_spool, _bytes) = letters.size();
        LeftOut { rolled_up, dropped: refused.chain(lost).sum(), in_spool }
    }
}

impl Services {
    fn history(&self) -> Result<&History, Problem> {
        let disabled = || Problem::not_found("there is no record: `ledger.enabled` is false");
        self.history.as_ref().ok_or_else(disabled)
    }

    /// Commits the record of an act. What is not recorded is not done.
    pub(super) async fn commit(&self, act: Act) -> Result<(), Problem> {
        let Some(history) = &self.history else { return Ok(()) };
        let committed = history.ledger.recorder.commit(act.entry(clock::now())).await;
        committed.map(drop).map_err(|error| {
            Problem::unavailable(format!("not done, because it cannot be recorded: {error}"))
        })
    }
}

fn ok(body: &impl Serialize) -> Response {
    // Serializing strings, numbers and lists does not fail.
    answer::json(StatusCode::OK, serde_json::to_vec(body).unwrap_or_default().into())
}
