//! What a handler hands back: the response and, if its effect is in the archive, the
//! transaction that makes it so.

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};

use super::problem::Problem;
use crate::http::Response;
use crate::ledger::Ledger;
use crate::ledger::archive::Transaction;
use crate::ledger::direct::DirectWriter;
use crate::ledger::record::RecordId;

/// The result of a handler. The response is sent once the transaction is committed.
pub(super) struct Outcome<'a> {
    pub(super) response: Response,
    /// Everything that the request changes in the archive. A handler does not commit it: with
    /// an idempotency key, the answer is stored in the same transaction.
    pub(super) transaction: Option<Transaction<'a>>,
    /// What is called once everything is committed.
    pub(super) after_commit: Vec<AfterCommit>,
}

/// Must not block.
type AfterCommit = Box<dyn FnOnce() + Send>;

/// What a handler of the table returns.
pub(super) type Handled<'a> = BoxFuture<'a, Result<Outcome<'a>, Problem>>;

impl<'a> Outcome<'a> {
    /// The response to a request whose effect and record are in this transaction.
    pub(super) fn within(
        transaction: Transaction<'a>,
        recorded: Recorded,
        response: Response,
    ) -> Self {
        let outcome = Self { response, transaction: Some(transaction), after_commit: Vec::new() };
        outcome.after_commit(move || {
            recorded.committed();
        })
    }

    /// Adds what is done once everything is committed.
    pub(super) fn after_commit(mut self, call: impl FnOnce() + Send + 'static) -> Self {
        self.after_commit.push(Box::new(call));
        self
    }

    /// Commits what there is to commit.
    pub(super) async fn commit(self) -> Result<Response, Problem> {
        let Self { response, transaction, after_commit } = self;
        if let Some(transaction) = transaction {
            transaction.commit().await?;
        }
        for call in after_commit {
            call();
        }
        Ok(response)
    }
}

/// The record of an act in a transaction that is not committed yet.
#[derive(Debug)]
#[must_use]
pub(super) struct Recorded {
    id: RecordId,
    writer: DirectWriter,
    ledger: Arc<Ledger>,
}

impl Recorded {
    pub(super) fn new(id: RecordId, writer: DirectWriter, ledger: Arc<Ledger>) -> Self {
        Self { id, writer, ledger }
    }

    /// Returns the id of the record, whose transaction is committed. The next act's has the
    /// next number of the same writer, so that a record that is deleted leaves a gap.
    pub(super) fn committed(self) -> RecordId {
        let Self { id, writer, ledger } = self;
        ledger.give_back(writer);
        id
    }
}

impl From<Response> for Outcome<'_> {
    fn from(response: Response) -> Self {
        Self { response, transaction: None, after_commit: Vec::new() }
    }
}

/// Answers without waiting for anything.
pub(super) fn now<'a>(response: Response) -> Handled<'a> {
    Box::pin(ready(Ok(response.into())))
}

/// Answers with what an asynchronous function returns, a response or a whole outcome.
pub(super) fn answered<'a, T: Into<Outcome<'a>>>(
    handled: impl Future<Output = Result<T, Problem>> + Send + 'a,
) -> Handled<'a> {
    Box::pin(async { handled.await.map(Into::into) })
}
