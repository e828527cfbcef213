//! The background tasks and jobs of the ledger.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::tasks::Tasks;
use crate::config::Config;
use crate::domain::observation::JobObserver;
use crate::gate::Gate;
use crate::idempotency::table::{ClaimError, Keys};
use crate::jobs::{
    Alerts, Context, DeadLetters, IdempotencyKeys, Integrity, Job, Jobs, Messages, Probes,
    Retention, new_id, spool_id,
};
use crate::ledger::history::{Filter, Order, PageRequest};
use crate::ledger::{self, Ledger};
use crate::wake::Registry;
use crate::webhooks::connector::System;
use crate::webhooks::sender::Sender;

/// How often the box's id is looked up, in memory: records carry it.
const TENANT_PERIOD: Duration = Duration::from_secs(1);

/// How long the first records wait for the box's id, and how often it is looked for then.
const FIRST_TENANT: Duration = Duration::from_secs(2);
const TENANT_LOOK: Duration = Duration::from_millis(10);

/// How often the table of idempotency keys is looked at; sooner if the archive is away.
const KEYS_PERIOD: Duration = Duration::from_secs(60);
const KEYS_RETRY: Duration = Duration::from_secs(2);

/// How often it is looked whether tenants are kept apart, until that is known.
const ISOLATION_RETRY: Duration = Duration::from_secs(2);

/// How long the spool's folder may delay the start.
const SPOOL_LIMIT: Duration = Duration::from_secs(1);

/// Returns the jobs of this process.
pub(super) async fn jobs(
    config: &Config,
    ledger: &Arc<Ledger>,
    registry: &Arc<Registry>,
    observers: Vec<Box<dyn JobObserver>>,
) -> Arc<Jobs> {
    let (tenant, recorder) = (Arc::clone(&ledger.tenant), Arc::clone(&ledger.recorder));
    let context = Context::new(
        Arc::clone(&ledger.archive),
        ledger::locks(&config.ledger.path),
        ledger.recorder.writer(),
        Box::new(move || tenant.get()),
        Box::new(move |entry| recorder.record(entry)),
    )
    .with_observers(observers);
    let intervals = &config.jobs;
    let integrity = Integrity::new(Arc::clone(ledger), intervals.integrity);
    let retention = Retention::new(config.ledger.clone(), intervals.retention, Arc::clone(ledger));
    let folder = ledger::spool(&config.ledger.path);
    let spool_id = timeout(SPOOL_LIMIT, spawn_blocking(move || spool_id(&folder))).await;
    let spool_id = spool_id.ok().and_then(Result::ok).unwrap_or_else(new_id);
    let (letters, link) = (Arc::clone(&ledger.letters), Arc::clone(&ledger.link));
    let dead_letters = DeadLetters::new(letters, link, spool_id, intervals.dead_letters);
    let mut jobs = vec![
        Job::Short(Box::new(integrity)),
        Job::Long(Box::new(retention)),
        Job::Long(Box::new(dead_letters)),
        Job::Short(Box::new(IdempotencyKeys)),
        Job::Short(Box::new(Messages::new(intervals.messages, config.webhooks.keep))),
    ];
    if config.alerts.enabled {
        let alerts = Alerts::new(config.alerts.keep, intervals.retention);
        jobs.push(Job::Short(Box::new(alerts)));
    }
    if config.wake.enabled {
        let probes = Probes::new(Arc::clone(registry), intervals.probes);
        jobs.push(Job::Long(Box::new(probes)));
    }
    Jobs::new(context, jobs)
}

/// Spawns what sends messages.
pub(super) fn spawn_sender(config: &Config, ledger: &Arc<Ledger>, tasks: &mut Tasks) {
    let (settings, configured) = (config.webhooks.clone(), config.endpoints.clone());
    let sender = Sender::new(Arc::clone(ledger), settings, configured, Arc::new(System));
    let sender = Arc::new(sender);
    tasks.supervise("messages", move || Arc::clone(&sender).run());
}

/// Spawns what writes records, and the jobs.
pub(super) fn spawn(ledger: &Arc<Ledger>, jobs: &Jobs, gate: &Arc<Gate>, tasks: &mut Tasks) {
    let (of_tenant, gate) = (Arc::clone(ledger), Arc::clone(gate));
    tasks.supervise("tenant", move || follow_tenant(Arc::clone(&of_tenant), Arc::clone(&gate)));
    let writer = Arc::clone(ledger);
    tasks.supervise("ledger", move || write(Arc::clone(&writer)));
    let replayer = Arc::clone(ledger);
    tasks.supervise("dead letters", move || replay(Arc::clone(&replayer)));
    for runner in jobs.runners() {
        let name = runner.plan().name;
        tasks.supervise(name, move || Arc::clone(&runner).run());
    }
}

/// Looks whether the table of idempotency keys can be used: at the start, and again and again,
/// since others may alter it.
pub(super) async fn watch_keys(keys: Arc<Keys>) -> Infallible {
    let mut known = None;
    loop {
        let wait = match keys.check().await {
            Ok(()) | Err(ClaimError::Shape(_)) => KEYS_PERIOD,
            Err(ClaimError::Archive(_)) => KEYS_RETRY,
        };
        let problem = keys.problem();
        if problem != known
            && let Some(problem) = &problem
        {
            warn!(%problem, "the table of idempotency keys cannot be used");
        }
        known = problem;
        sleep(wait).await;
    }
}

/// Writes records, the first when the box's id is known, which they carry, or is not known
/// in time.
async fn write(ledger: Arc<Ledger>) -> Infallible {
    let known = async {
        while ledger.tenant.get().is_empty() {
            sleep(TENANT_LOOK).await;
        }
    };
    let _known_or_not = timeout(FIRST_TENANT, known).await;
    ledger.writer.run().await
}

async fn replay(ledger: Arc<Ledger>) -> Infallible {
    ledger.letters.run(&ledger.link).await
}

/// Reads a page, so that the operator's first one finds a connection that is open and knows the
/// tables. Whether that succeeds does not matter.
async fn warm(ledger: &Ledger, tenant: &str) {
    let request = PageRequest {
        tenant: tenant.to_owned(),
        filter: Filter::default(),
        order: Order::NewestFirst,
        after: None,
        limit: 1,
        with_unplaced: true,
    };
    let _page = ledger.archive.page(&request).await;
}

/// Tells the ledger the box's id, whenever it changes.
async fn follow_tenant(ledger: Arc<Ledger>, gate: Arc<Gate>) -> Infallible {
    // As long as nobody has looked, it is a problem that tenants may not be kept apart.
    let check = async {
        while ledger.archive.check_isolation().await.is_err() {
            sleep(ISOLATION_RETRY).await;
        }
    };
    let (never, ()) = tokio::join!(tell_tenant(&ledger, &gate), check);
    never
}

async fn tell_tenant(ledger: &Ledger, gate: &Gate) -> Infallible {
    loop {
        if let Some(id) = gate.box_id().await
            && *ledger.tenant.get() != *id
        {
            ledger.tenant.set(&id);
            warm(ledger, &id).await;
        }
        sleep(TENANT_PERIOD).await;
    }
}
