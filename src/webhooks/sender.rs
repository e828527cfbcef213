//! Sends what is queued.
//!
//! A task looks for endpoints with due deliveries, claims some of each endpoint's and starts
//! an attempt for each claimed one. No transaction and no lock is open while a receiver is
//! talked to: what keeps other senders away is the lease, which ends by itself. Each endpoint
//! has slots of its own, so that a slow one delays no other.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::select;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::client::{self, Answer, DEADLINE, SendError};
use super::connector::{AllowedBy, Connector, Resolve, Rules};
use super::deliveries::{self, AttemptLog, ClaimedDelivery, DeliveryState, DueEndpoint};
use super::endpoint::{Endpoint, Origin};
use super::event::Content;
use super::message::message;
use super::retry::{AttemptResult, NextStep, next_step};
use super::slots::Slots;
use super::{configured, rows};
use crate::backoff::{doubled, jittered, random};
use crate::config;
use crate::ledger::Ledger;
use crate::ledger::archive::{Archive, ArchiveError};
use crate::ledger::clock;
use crate::ledger::record::{Micros, micros};
use crate::telemetry::meters;
use crate::throttle::Throttle;

/// How long a claim is good for: an exchange, and the time to write what came of it.
const LEASE: Duration = Duration::from_secs(30);

/// How often the log says that messages of an endpoint wait for a row that cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How often is looked at least, and at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// After the archive could not be used.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The most bytes that are kept of what went wrong.
const LONGEST_DETAIL: usize = 1024;

/// How often it is tried to write what came of an attempt; after that, the lease ends and the
/// message is sent again.
const WRITES: u32 = 4;

/// Sends the messages of the box that this process serves.
#[derive(Debug)]
pub struct Sender {
    ledger: Arc<Ledger>,
    settings: config::Webhooks,
    configured: Vec<config::Endpoint>,
    connector: Connector,
    slots: Arc<Slots>,
    unreadable: Throttle,
}

impl Sender {
    #[must_use]
    pub fn new(
        ledger: Arc<Ledger>,
        settings: config::Webhooks,
        configured: Vec<config::Endpoint>,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let connector = Connector::new(resolver, settings.ca_file.clone());
        Self {
            ledger,
            settings,
            configured,
            connector,
            slots: Arc::default(),
            unreadable: Throttle::default(),
        }
    }

    /// Sends for as long as the process runs.
    pub async fn run(self: Arc<Self>) -> Infallible {
        let mut attempts = JoinSet::new();
        let mut stored_for: Option<Arc<str>> = None;
        let mut failures = 0;
        let mut changes = self.archive().changes();
        loop {
            let begun = Instant::now();
            let tenant = self.ledger.tenant.get();
            let worked = if tenant.is_empty() {
                Ok(())
            } else {
                self.work(&tenant, &mut stored_for, &mut attempts).await
            };
            match worked {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    let wait = jittered(doubled(SHORTEST_WAIT, failures, LONGEST_PAUSE));
                    // The ledger's own log goes on about it.
                    if failures == 1 {
                        warn!(%error, "messages wait for the ledger's archive");
                    }
                    sleep(wait).await;
                }
            }
            while attempts.try_join_next().is_some() {}
            select! {
                () = changes.changed() => {}
                () = self.slots.freed() => {}
                () = sleep(LONGEST_WAIT) => {}
            }
            sleep(SHORTEST_WAIT.saturating_sub(begun.elapsed())).await;
        }
    }

    /// Claims what is due and starts its attempts.
    async fn work(
        self: &Arc<Self>,
        tenant: &Arc<str>,
        stored_for: &mut Option<Arc<str>>,
        attempts: &mut JoinSet<()>,
    ) -> Result<(), ArchiveError> {
        let archive = self.archive();
        if stored_for.as_ref() != Some(tenant) {
            configured::store(archive, tenant, &self.configured).await?;
            *stored_for = Some(Arc::clone(tenant));
        }
        let due = deliveries::due(&mut archive.snapshot().await?, tenant).await?;
        let mut worked = Ok(());
        for DueEndpoint { endpoint, is_failing } in due {
            let free = self.slots.free(&endpoint, is_failing);
            if free == 0 {
                continue;
            }
            let claimed = match self.claim(tenant, &endpoint, free).await {
                Ok(claimed) => claimed,
                // A row that cannot be read is that of one endpoint; the others get theirs.
                Err(error @ ArchiveError::Content(_)) => {
                    if self.unreadable.admit(Instant::now(), WARN_EVERY).is_some() {
                        warn!(%endpoint, "messages wait, since a row cannot be read");
                        debug!(%error, %endpoint, "a row cannot be read");
                    }
                    continue;
                }
                Err(error) => {
                    worked = Err(error);
                    continue;
                }
            };
            for claimed in claimed {
                let slot = self.slots.take(&endpoint);
                let (sender, tenant) = (Arc::clone(self), Arc::clone(tenant));
                attempts.spawn(async move {
                    let (endpoint, claimed) = claimed;
                    sender.attempt(&tenant, &endpoint, &claimed).await;
                    drop(slot);
                });
            }
        }
        worked
    }

    fn archive(&self) -> &Archive {
        &self.ledger.archive
    }

    async fn claim(
        &self,
        tenant: &str,
        id: &str,
        free: usize,
    ) -> Result<Vec<(Arc<Endpoint>, ClaimedDelivery)>, ArchiveError> {
        let mut transaction = self.archive().begin().await?;
        let now = transaction.now().await?;
        let endpoint = rows::find(&mut transaction, tenant, id).await?;
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.disabled.is_none()) else {
            deliveries::give_up(&mut transaction, tenant, id, now).await?;
            transaction.commit().await?;
            return Ok(Vec::new());
        };
        match endpoint.definition.quiet.and_then(|quiet| quiet.end(now, &self.settings.time_zone)) {
            Some(end) => deliveries::hold(&mut transaction, tenant, id, now, end).await?,
            None => deliveries::drop_stale(&mut transaction, tenant, id, now).await?,
        }
        deliveries::drop_superseded(&mut transaction, tenant, id, now).await?;
        let lease = format!("{:08x}{:08x}", random(), random());
        let until = Micros(now.0 + micros(LEASE));
        let limit = i64::try_from(free).unwrap_or(1);
        let claimed =
            deliveries::claim(&mut transaction, tenant, id, now, (&lease, until), limit).await?;
        transaction.commit().await?;
        let endpoint = Arc::new(endpoint);
        Ok(claimed.into_iter().map(|claimed| (Arc::clone(&endpoint), claimed)).collect())
    }

    /// Sends one message and writes what came of it.
    async fn attempt(&self, tenant: &str, endpoint: &Endpoint, claimed: &ClaimedDelivery) {
        let begun = Instant::now();
        let sent = self.send(endpoint, claimed).await;
        let duration = micros(begun.elapsed());
        let (result, log) = attempt_result(sent, duration);
        meters::webhook_attempt(log.outcome);
        let mut failures = 0;
        while let Err(error) = self.complete(tenant, endpoint, claimed, result, &log).await {
            failures += 1;
            if failures == WRITES {
                let id = &endpoint.id;
                warn!(%error, endpoint = %id, "a message was sent and may be sent again");
                return;
            }
            sleep(jittered(doubled(Duration::from_millis(500), failures, DEADLINE))).await;
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        claimed: &ClaimedDelivery,
    ) -> Result<Answer, SendError> {
        let Endpoint { origin, definition, secrets, .. } = endpoint;
        let rules = match origin {
            Origin::Configuration => {
                Rules { allow: &definition.allow, allowed_by: AllowedBy::Endpoint }
            }
            Origin::Api => Rules { allow: &self.settings.allow, allowed_by: AllowedBy::Webhooks },
        };
        // What is stored was written by us; a row that was edited has an empty message.
        let content: Content = serde_json::from_str(&claimed.content).unwrap_or_default();
        let message = message(definition, secrets, claimed, &content, clock::now())?;
        let now = UNIX_EPOCH + Duration::from_micros(clock::now().0.unsigned_abs());
        client::send(&self.connector, &definition.url, rules, message, now).await
    }

    async fn complete(
        &self,
        tenant: &str,
        endpoint: &Endpoint,
        claimed: &ClaimedDelivery,
        result: AttemptResult,
        log: &AttemptLog,
    ) -> Result<(), ArchiveError> {
        let id = &*endpoint.id;
        let mut transaction = self.archive().begin().await?;
        let now = transaction.now().await?;
        let stored = rows::find(&mut transaction, tenant, id).await?;
        // Without it, the endpoint was removed, and the delivery with it.
        let Some(stored) = stored else { return transaction.roll_back().await };
        let since = stored.failing_since;
        let jitter = f64::from(random()) / f64::from(u32::MAX);
        let next = next_step(result, claimed.attempt, now, since, jitter);
        let state = match next {
            NextStep::Delivered => DeliveryState::Delivered,
            NextStep::Retry { at } => DeliveryState::Queued(at),
            NextStep::GivenUp | NextStep::Disable(_) => DeliveryState::Failed,
        };
        let is_ours =
            deliveries::complete(&mut transaction, tenant, id, claimed, log, state, now).await?;
        if is_ours {
            let failing = (next != NextStep::Delivered).then(|| since.unwrap_or(now));
            if failing != since {
                rows::set_failing(&mut transaction, tenant, id, failing).await?;
            }
            if let NextStep::Disable(why) = next
                && rows::disable(&mut transaction, tenant, id, now, why.as_str()).await?
            {
                // An alert tells it: what is stored is all that it takes.
                deliveries::give_up(&mut transaction, tenant, id, now).await?;
                warn!(endpoint = %id, reason = why.as_str(), "an endpoint is disabled");
            }
        }
        transaction.commit().await?;
        if next != NextStep::Delivered {
            let detail = log.detail.as_deref().unwrap_or(log.outcome);
            let (event, attempt) = (&*claimed.event, claimed.attempt);
            info!(endpoint = %id, event, attempt, "a message was not delivered: {detail}");
        }
        Ok(())
    }
}

/// Returns how an attempt ended, for the decision and for the log.
fn attempt_result(sent: Result<Answer, SendError>, duration: i64) -> (AttemptResult, AttemptLog) {
    let (result, mut log) = untruncated_result(sent, duration);
    if let Some(detail) = &mut log.detail {
        // A name or a peer's certificate may be in it.
        detail.truncate(detail.floor_char_boundary(LONGEST_DETAIL));
    }
    (result, log)
}

fn untruncated_result(
    sent: Result<Answer, SendError>,
    duration: i64,
) -> (AttemptResult, AttemptLog) {
    let Answer { status, retry_after, text, cut_off } = match sent {
        Ok(answer) => answer,
        Err(error) => {
            let log = AttemptLog {
                outcome: error.as_str(),
                duration,
                status: None,
                detail: Some(error.to_string()),
                answer: None,
            };
            return (AttemptResult::Failed { retry_after: None }, log);
        }
    };
    let (result, outcome, detail) = match status {
        200..=299 => (AttemptResult::Delivered, "delivered", cut_off.map(str::to_owned)),
        410 => (AttemptResult::Gone, "status", Some("the receiver answered 410 Gone".to_owned())),
        300..=399 => {
            let detail = format!("the receiver answered {status}; redirects are not followed");
            (AttemptResult::Failed { retry_after }, "redirect", Some(detail))
        }
        _ => {
            let detail = format!("the receiver answered {status}");
            (AttemptResult::Failed { retry_after }, "status", Some(detail))
        }
    };
    let answer = (!text.is_empty()).then_some(text);
    (result, AttemptLog { outcome, duration, status: Some(status.into()), detail, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::connector::ConnectError;

    #[test]
    fn what_is_kept_of_a_failure_is_bounded() {
        let problem = "ü".repeat(10_000);
        let failed = ConnectError::Tls { host: "receiver.example".into(), problem };
        let (_, log) = attempt_result(Err(failed.into()), 5);
        let detail = log.detail.expect("a detail");
        assert!(detail.len() <= LONGEST_DETAIL && detail.ends_with('ü'), "{}", detail.len());
        assert!(detail.starts_with("TLS with `receiver.example` failed"), "{detail}");
    }
}
