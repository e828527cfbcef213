//! The background tasks and jobs of the ledger.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::tasks::Tasks;
use crate::config::Config;
use crate::gate::Gate;
use crate::jobs::{
    Context, DeadLetters, Integrity, Job, Jobs, Probes, Retention, new_id, spool_id,
};
use crate::ledger::{self, Ledger};
use crate::wake::Registry;

/// How often the box's id is looked up, in memory: records carry it.
const TENANT_PERIOD: Duration = Duration::from_secs(1);

/// How long the first records wait for the box's id, and how often it is looked for then.
const FIRST_TENANT: Duration = Duration::from_secs(2);
const TENANT_LOOK: Duration = Duration::from_millis(10);

/// How long the spool's folder may delay the start.
const SPOOL_LIMIT: Duration = Duration::from_secs(1);

/// Returns the jobs of this process.
pub(super) async fn jobs(
    config: &Config,
    ledger: &Arc<Ledger>,
    registry: &Arc<Registry>,
) -> Arc<Jobs> {
    let (tenant, recorder) = (Arc::clone(&ledger.tenant), Arc::clone(&ledger.recorder));
    let context = Context::new(
        Arc::clone(&ledger.archive),
        ledger::locks(&config.ledger.path),
        ledger.recorder.writer(),
        Box::new(move || tenant.get()),
        Box::new(move |entry| recorder.record(entry)),
    );
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
    ];
    if config.wake.enabled {
        let probes = Probes::new(Arc::clone(registry), intervals.probes);
        jobs.push(Job::Long(Box::new(probes)));
    }
    Jobs::new(context, jobs)
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

/// Tells the ledger the box's id, whenever it changes.
async fn follow_tenant(ledger: Arc<Ledger>, gate: Arc<Gate>) -> Infallible {
    loop {
        if let Some(id) = gate.box_id().await
            && *ledger.tenant.get() != *id
        {
            ledger.tenant.set(&id);
        }
        sleep(TENANT_PERIOD).await;
    }
}
