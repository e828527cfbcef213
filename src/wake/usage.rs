//! Signs of life in an app's containers besides requests: traffic, commands, processor time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::app::Facts;
use super::docker::{Commands, Container, Engine, EngineError, Snapshot, State, Usage};
use super::observed::Observed;
use crate::domain::activity::{Activity, Moved};

/// Containers asked at one time.
const SAMPLES: usize = 4;

/// The containers of one app.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    /// Those that requests go to.
    pub(super) entrypoints: Vec<Arc<str>>,
    /// The others, which are no other app's.
    pub(super) parts: Vec<Arc<str>>,
    pub(super) activity: Activity,
}

impl Subject {
    /// What of an app is looked at for signs of life.
    pub(super) fn of(
        observed: &Observed,
        facts: &Facts,
        activity: Activity,
        snapshot: &Snapshot,
    ) -> Self {
        let runs = |container: &&Arc<Container>| container.state == State::Running;
        let reached = observed.entrypoints(facts);
        // Where none can be told from the others, all count that are no other app's.
        let is_told = reached.len() < observed.containers.len() || observed.containers.len() == 1;
        let is_shared = |container: &Arc<Container>| observed.shared.contains_key(&container.id);
        let mut entrypoints: Vec<Arc<str>> = Vec::new();
        let counted = reached
            .iter()
            .filter(|container| is_told || observed.is_all_shared() || !is_shared(container));
        for container in counted {
            // Its bytes are counted where its network is.
            for one in [container, snapshot.networked(container)] {
                if !entrypoints.contains(&one.id) {
                    entrypoints.push(Arc::clone(&one.id));
                }
            }
        }
        let parts = observed.own().filter(|c| !entrypoints.contains(&c.id)).filter(runs);
        let parts = parts.map(|container| Arc::clone(&container.id)).collect();
        for service in &observed.services {
            let tasks = snapshot.containers.values().filter(runs).filter(|container| {
                container.belongs.swarm_service.as_deref() == Some(&*service.id)
            });
            entrypoints.extend(tasks.map(|task| Arc::clone(&task.id)));
        }
        Self { entrypoints, parts, activity }
    }
}

/// What was seen of an app since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Use,
    Quiet,
    /// It was not looked at twice.
    Unknown,
}

/// Counters of containers, by id.
type Samples = HashMap<Arc<str>, Usage>;

/// What was last seen of all containers that were looked at.
#[derive(Debug)]
pub(super) struct Usages {
    engine: Arc<Engine>,
    at: Instant,
    /// Of parts: counted before the entrypoints were, and after them. From the one to the
    /// other of the next look is longer than the entrypoints' time, and the other way
    /// round it is shorter.
    before: Samples,
    after: Samples,
    all: Samples,
    /// Commands of which nobody could say what they are.
    unclear: HashSet<String>,
    /// Whether it was said that the engine does not count.
    is_uncounted: bool,
}

/// The thresholds of `[sleep]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    pub(super) bytes: u64,
    /// Percentage of one processor.
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
            is_uncounted: false,
        }
    }

    /// Looks at the counters of these apps; what was seen of each.
    pub(super) async fn look(&mut self, apps: &[Subject], limits: Thresholds) -> Vec<Seen> {
        let (mut parts, mut others) = (Vec::new(), Vec::new());
        for Subject { entrypoints, parts: own, activity } in apps {
            if activity.traffic {
                parts.extend(own.iter().cloned());
            }
            if activity.traffic || activity.cpu {
                others.extend(entrypoints.iter().cloned());
            }
            if activity.cpu {
                others.extend(own.iter().cloned());
            }
        }
        let before = self.sample(parts.clone()).await;
        let all = self.sample(others).await;
        let at = Instant::now();
        let after = self.sample(parts).await;
        let elapsed = at.duration_since(self.at);
        let look = Look { old: self, before: &before, all: &all, after: &after, elapsed, limits };
        let seen = apps.iter().map(|app| look.at(app)).collect();
        (self.at, self.before, self.all, self.after) = (at, before, all, after);
        seen
    }

    async fn sample(&mut self, containers: Vec<Arc<str>>) -> Samples {
        let engine = &self.engine;
        let mut sampled = stream::iter(containers)
            .map(|id| async move {
                let usage = engine.usage(&id).await;
                (id, usage)
            })
            .buffer_unordered(SAMPLES);
        let (mut samples, mut refused) = (Samples::new(), None);
        while let Some((id, usage)) = sampled.next().await {
            match usage {
                Ok(usage) => {
                    samples.insert(id, usage);
                }
                // This engine does not count: requests are all there is to go by.
                Err(error @ EngineError::Refused { .. }) => {
                    refused = Some(error);
                    samples.insert(id, Usage::default());
                }
                Err(error) => debug!(container = %id, %error, "its traffic is not known"),
            }
        }
        drop(sampled);
        if let Some(error) = refused
            && !std::mem::replace(&mut self.is_uncounted, true)
        {
            warn!(%error, "the engine does not tell of traffic: only requests keep apps awake");
        }
        samples
    }

    /// Whether a command runs in one of an app's containers, which is not to be frozen in
    /// the middle.
    pub(super) async fn commands(&mut self, app: &Subject) -> Seen {
        let mut seen = Seen::Quiet;
        for id in app.entrypoints.iter().chain(&app.parts) {
            match self.engine.commands(id).await {
                Ok(Commands::Nothing) => {}
                Ok(Commands::Running) => return Seen::Use,
                // A health check has ended by the next look, and what has not is none.
                Ok(Commands::Unclear(commands)) => {
                    if commands.iter().any(|command| self.unclear.contains(command)) {
                        return Seen::Use;
                    }
                    self.unclear.extend(commands);
                    seen = Seen::Unknown;
                }
                Err(error) => debug!(container = %id, %error, "its commands are not known"),
            }
        }
        if seen == Seen::Quiet && self.unclear.len() > 1000 {
            self.unclear.clear();
        }
        seen
    }
}

/// Two looks.
struct Look<'a> {
    old: &'a Usages,
    before: &'a Samples,
    all: &'a Samples,
    after: &'a Samples,
    elapsed: Duration,
    limits: Thresholds,
}

impl Look<'_> {
    fn at(&self, app: &Subject) -> Seen {
        let Activity { traffic, exec: _, cpu } = app.activity;
        let by_traffic = if traffic { self.traffic(app) } else { Some(false) };
        let by_cpu = if cpu { self.cpu(app) } else { Some(false) };
        match (by_traffic, by_cpu) {
            (Some(true), _) | (_, Some(true)) => Seen::Use,
            (Some(false), Some(false)) => Seen::Quiet,
            _ => Seen::Unknown,
        }
    }

    fn traffic(&self, app: &Subject) -> Option<bool> {
        let (mut most, mut least) = (Moved::default(), Moved::default());
        for id in &app.parts {
            add(&mut most, moved(self.old.before.get(id)?, self.after.get(id)?));
            add(&mut least, moved(self.old.after.get(id)?, self.before.get(id)?));
        }
        let threshold = self.limits.bytes;
        let mut own = Moved::default();
        let mut is_use = false;
        for id in &app.entrypoints {
            let moved = moved(self.old.all.get(id)?, self.all.get(id)?);
            is_use |= app.parts.is_empty() && moved.is_use(most, least, threshold);
            add(&mut own, moved);
        }
        Some(is_use || (!app.parts.is_empty() && own.is_use(most, least, threshold)))
    }

    fn cpu(&self, app: &Subject) -> Option<bool> {
        let mut spent = 0;
        for id in app.entrypoints.iter().chain(&app.parts) {
            let sample = |samples: &Samples| samples.get(id).map(|usage| usage.cpu);
            spent += sample(self.all)?.saturating_sub(sample(&self.old.all)?);
        }
        let allowed = self.elapsed.as_nanos() * u128::from(self.limits.cpu) / 100;
        Some(u128::from(spent) > allowed)
    }
}

fn add(sum: &mut Moved, moved: Moved) {
    sum.received += moved.received;
    sum.sent += moved.sent;
}

fn moved(before: &Usage, after: &Usage) -> Moved {
    Moved {
        received: after.received.saturating_sub(before.received),
        sent: after.sent.saturating_sub(before.sent),
    }
}
