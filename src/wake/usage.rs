//! Activity in an app's containers besides requests: traffic, commands, processor time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::docker::{Commands, Container, Engine, EngineError, Snapshot, State, Usage};
use super::observed::Observed;
use super::spec::AppSpec;
use crate::domain::activity::{Activity, Traffic};

/// Containers whose counters are read at the same time.
const CONCURRENT_SAMPLES: usize = 4;

/// How long what a probe has caused within an app may go on after the answer.
const SETTLING: Duration = Duration::from_millis(100);

/// The containers of one app whose activity is measured.
#[derive(Debug, Clone, Default)]
pub(super) struct MonitoredApp {
    /// The containers that requests are sent to.
    pub(super) entrypoints: Vec<Arc<str>>,
    /// The other containers, unless another app shares them.
    pub(super) internal: Vec<Arc<str>>,
    pub(super) activity: Activity,
}

impl MonitoredApp {
    /// Selects the containers of an app whose activity is measured.
    pub(super) fn new(
        observed: &Observed,
        spec: &AppSpec,
        activity: Activity,
        snapshot: &Snapshot,
    ) -> Self {
        let runs = |container: &&Arc<Container>| container.state == State::Running;
        let candidates = observed.entrypoints(spec);
        // If no entrypoint can be identified, all containers count that no other app shares.
        let are_distinct =
            candidates.len() < observed.containers.len() || observed.containers.len() == 1;
        let is_shared = |container: &Arc<Container>| observed.shared.contains_key(&container.id);
        let mut entrypoints: Vec<Arc<str>> = Vec::new();
        let counted = candidates
            .iter()
            .filter(|container| are_distinct || observed.is_all_shared() || !is_shared(container));
        for container in counted {
            // Its bytes are counted at the container whose network it uses.
            for counting in [container, snapshot.network_owner(container)] {
                if !entrypoints.contains(&counting.id) {
                    entrypoints.push(Arc::clone(&counting.id));
                }
            }
        }
        let internal = observed.own().filter(|c| !entrypoints.contains(&c.id)).filter(runs);
        let internal = internal.map(|container| Arc::clone(&container.id)).collect();
        for service in &observed.services {
            let tasks = snapshot.containers.values().filter(runs).filter(|container| {
                container.labels.swarm_service.as_deref() == Some(&*service.id)
            });
            entrypoints.extend(tasks.map(|task| Arc::clone(&task.id)));
        }
        Self { entrypoints, internal, activity }
    }
}

/// Whether an app has been active since the last measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActivityStatus {
    InUse,
    Quiet,
    /// It has not been measured twice.
    Unknown,
}

/// The counters of containers, by id.
type Samples = HashMap<Arc<str>, Usage>;

/// The last measurement of all measured containers.
#[derive(Debug)]
pub(super) struct Usages {
    engine: Arc<Engine>,
    at: Instant,
    /// Internal containers are counted before and after the entrypoints. From `before` to
    /// the next measurement's `after` is longer than the entrypoints' interval, and from
    /// `after` to the next `before` is shorter.
    before: Samples,
    after: Samples,
    all: Samples,
    /// Commands that could not be distinguished from a health check.
    unclear: HashSet<String>,
    /// Whether it has been logged that the engine has no counters.
    warned_no_counters: bool,
}

/// The thresholds of `[sleep]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    pub(super) bytes: u64,
    /// In percent of one processor.
    pub(super) cpu: u64,
}

impl Usages {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            at: Instant::now(),
            before: Samples::new(),
            after: Samples::new(),
            all: Samples::new(),
            unclear: HashSet::new(),
            warned_no_counters: false,
        }
    }

    /// Measures these apps; returns the status of each.
    pub(super) async fn measure(
        &mut self,
        apps: &[MonitoredApp],
        limits: Thresholds,
    ) -> Vec<ActivityStatus> {
        let (mut internals, mut others) = (Vec::new(), Vec::new());
        for MonitoredApp { entrypoints, internal, activity } in apps {
            if activity.traffic {
                internals.extend(internal.iter().cloned());
            }
            if activity.traffic || activity.cpu {
                others.extend(entrypoints.iter().cloned());
            }
            if activity.cpu {
                others.extend(internal.iter().cloned());
            }
        }
        let before = self.sample(internals.clone()).await;
        let all = self.sample(others).await;
        let at = Instant::now();
        let after = self.sample(internals).await;
        let elapsed = at.duration_since(self.at);
        let comparison =
            Comparison { old: self, before: &before, all: &all, after: &after, elapsed, limits };
        let statuses = apps.iter().map(|app| comparison.status_of(app)).collect();
        (self.at, self.before, self.all, self.after) = (at, before, all, after);
        statuses
    }

    /// Runs a probe of an app. What its containers move meanwhile is not a use of it: the last
    /// measurement is changed as if it had been moved before.
    pub(super) async fn without_counting<T>(
        &mut self,
        app: &MonitoredApp,
        probe: impl Future<Output = T>,
    ) -> T {
        // Taken out, so that a probe that is cut short leaves these containers unmeasured.
        let mut measured = Vec::new();
        for id in app.entrypoints.iter().chain(&app.internal) {
            let [before, after, all] = [&mut self.before, &mut self.after, &mut self.all]
                .map(|samples| samples.remove(id));
            if before.is_some() || after.is_some() || all.is_some() {
                measured.push((Arc::clone(id), [before, after, all]));
            }
        }
        if measured.is_empty() {
            return probe.await;
        }
        let ids: Vec<_> = measured.iter().map(|(id, _)| Arc::clone(id)).collect();
        let began = self.sample(ids.clone()).await;
        let result = probe.await;
        sleep(SETTLING).await;
        let ended = self.sample(ids).await;
        for (id, usages) in measured {
            let (Some(began), Some(ended)) = (began.get(&id), ended.get(&id)) else { continue };
            let samples = [&mut self.before, &mut self.after, &mut self.all];
            for (samples, usage) in samples.into_iter().zip(usages) {
                if let Some(usage) = usage {
                    samples.insert(Arc::clone(&id), later(usage, began, ended));
                }
            }
        }
        result
    }

    async fn sample(&mut self, containers: Vec<Arc<str>>) -> Samples {
        let engine = &self.engine;
        let mut sampled = stream::iter(containers)
            .map(|id| async move {
                let usage = engine.usage(&id).await;
                (id, usage)
            })
            .buffer_unordered(CONCURRENT_SAMPLES);
        let (mut samples, mut refused) = (Samples::new(), None);
        while let Some((id, usage)) = sampled.next().await {
            match usage {
                Ok(usage) => {
                    samples.insert(id, usage);
                }
                // This engine has no counters, so only requests can be counted as use.
                Err(error @ EngineError::Refused { .. }) => {
                    refused = Some(error);
                    samples.insert(id, Usage::default());
                }
                Err(error) => debug!(container = %id, %error, "cannot read its counters"),
            }
        }
        drop(sampled);
        if let Some(error) = refused
            && !std::mem::replace(&mut self.warned_no_counters, true)
        {
            warn!(%error, "the engine has no traffic counters: only requests keep apps awake");
        }
        samples
    }

    /// Returns whether a command is running in one of an app's containers, which must not
    /// be frozen halfway.
    pub(super) async fn commands(&mut self, app: &MonitoredApp) -> ActivityStatus {
        let mut status = ActivityStatus::Quiet;
        for id in app.entrypoints.iter().chain(&app.internal) {
            match self.engine.commands(id).await {
                Ok(Commands::Nothing) => {}
                Ok(Commands::Running) => return ActivityStatus::InUse,
                // A command that is still there at the next check is not a health check.
                Ok(Commands::Unclear(commands)) => {
                    if commands.iter().any(|command| self.unclear.contains(command)) {
                        return ActivityStatus::InUse;
                    }
                    self.unclear.extend(commands);
                    status = ActivityStatus::Unknown;
                }
                Err(error) => debug!(container = %id, %error, "cannot list its commands"),
            }
        }
        if status == ActivityStatus::Quiet && self.unclear.len() > 1000 {
            self.unclear.clear();
        }
        status
    }
}

/// Compares two measurements.
struct Comparison<'a> {
    old: &'a Usages,
    before: &'a Samples,
    all: &'a Samples,
    after: &'a Samples,
    elapsed: Duration,
    limits: Thresholds,
}

impl Comparison<'_> {
    fn status_of(&self, app: &MonitoredApp) -> ActivityStatus {
        let Activity { traffic, exec: _, cpu } = app.activity;
        let by_traffic = if traffic { self.traffic(app) } else { Some(false) };
        let by_cpu = if cpu { self.cpu(app) } else { Some(false) };
        match (by_traffic, by_cpu) {
            (Some(true), _) | (_, Some(true)) => ActivityStatus::InUse,
            (Some(false), Some(false)) => ActivityStatus::Quiet,
            _ => ActivityStatus::Unknown,
        }
    }

    fn traffic(&self, app: &MonitoredApp) -> Option<bool> {
        let (mut most, mut least) = (Traffic::default(), Traffic::default());
        for id in &app.internal {
            add(&mut most, moved(self.old.before.get(id)?, self.after.get(id)?));
            add(&mut least, moved(self.old.after.get(id)?, self.before.get(id)?));
        }
        let threshold = self.limits.bytes;
        let mut own = Traffic::default();
        let mut is_use = false;
        for id in &app.entrypoints {
            let moved = moved(self.old.all.get(id)?, self.all.get(id)?);
            is_use |= app.internal.is_empty() && moved.is_use(most, least, threshold);
            add(&mut own, moved);
        }
        Some(is_use || (!app.internal.is_empty() && own.is_use(most, least, threshold)))
    }

    fn cpu(&self, app: &MonitoredApp) -> Option<bool> {
        let mut spent = 0;
        for id in app.entrypoints.iter().chain(&app.internal) {
            let sample = |samples: &Samples| samples.get(id).map(|usage| usage.cpu);
            spent += sample(self.all)?.saturating_sub(sample(&self.old.all)?);
        }
        let allowed = self.elapsed.as_nanos() * u128::from(self.limits.cpu) / 100;
        Some(u128::from(spent) > allowed)
    }
}

fn add(sum: &mut Traffic, moved: Traffic) {
    sum.received += moved.received;
    sum.sent += moved.sent;
}

/// Returns a reading as if what was counted from `began` to `ended` had come before it.
fn later(mut reading: Usage, began: &Usage, ended: &Usage) -> Usage {
    let Traffic { received, sent } = moved(began, ended);
    reading.received += received;
    reading.sent += sent;
    reading.cpu += ended.cpu.saturating_sub(began.cpu);
    reading
}

fn moved(before: &Usage, after: &Usage) -> Traffic {
    Traffic {
        received: after.received.saturating_sub(before.received),
        sent: after.sent.saturating_sub(before.sent),
    }
}
