//! What a handler hands back: the response and, if its effect is in the archive, the
//! transaction that makes it so.

use futures_util::future::{BoxFuture, ready};

use super::problem::Problem;
use crate::http::Response;
use crate::ledger::archive::Transaction;

/// The result of a handler. The response is sent once the transaction is committed.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) response: Response,
    /// Everything that the request changes in the archive. A handler does not commit it: with
    /// an idempotency key, the answer is stored in the same transaction.
    pub(super) transaction: Option<Transaction<'a>>,
}

/// What a handler of the table returns.
pub(super) type Handled<'a> = BoxFuture<'a, Result<Outcome<'a>, Problem>>;

impl<'a> Outcome<'a> {
    /// The response to a request whose effect is in this transaction.
    pub(super) fn within(transaction: Transaction<'a>, response: Response) -> Self {
        Self { response, transaction: Some(transaction) }
    }

    /// Commits what there is to commit.
    pub(super) async fn commit(self) -> Result<Response, Problem> {
        let Self { response, transaction } = self;
        if let Some(transaction) = transaction {
            transaction.commit().await?;
        }
        Ok(response)
    }
}

impl From<Response> for Outcome<'_> {
    fn from(response: Response) -> Self {
        Self { response, transaction: None }
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
