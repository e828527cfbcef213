//! Events on their way out: what happened is put into the transaction that makes it so, and
//! sent afterwards.

use super::endpoint::Subscription;
use super::event::Event;
use super::{deliveries, rows};
use crate::ledger::archive::{ArchiveError, Transaction};
use crate::ledger::record::Micros;

/// Queues an event for every endpoint of the tenant that wants it. It is sent if the
/// transaction commits.
///
/// # Errors
/// As for every statement of the transaction.
pub async fn enqueue(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    event: &Event,
) -> Result<(), ArchiveError> {
    let mut now = None;
    for (endpoint, subscription) in rows::recipients(transaction, tenant).await? {
        if subscription.includes(event.kind, event.app.as_deref()) {
            let now = match now {
                Some(now) => now,
                None => *now.insert(transaction.now().await?),
            };
            queue(transaction, tenant, &endpoint, &subscription, event, now).await?;
        }
    }
    Ok(())
}

/// Queues an event for one endpoint, whatever it wants.
pub(super) async fn queue(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    endpoint: &str,
    subscription: &Subscription,
    event: &Event,
    now: Micros,
) -> Result<(), ArchiveError> {
    let content = serde_json::to_string(&event.content(subscription.pii))
        .map_err(|error| ArchiveError::Content(error.to_string().into()))?;
    deliveries::insert(transaction, tenant, endpoint, event, content, now).await
}
