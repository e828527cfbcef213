//! The loop that finds out who is not used any more.
//!
//! A use is a request that was granted, or traffic: bytes that move in both directions
//! keep streams, downloads and WebSockets awake, of which the gate sees only the
//! beginning. Traffic is noted as a use like any other, so that it is written down and
//! other processes know of it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::app::{AppWake, Facts, wall_clock};
use super::attempt::Means;
use super::conditions::{free_disk, memory_pressure};
use super::docker::watch::View;
use super::docker::{EngineError, Snapshot, State};
use super::observed::{EngineState, Selector};
use super::{Order, Wakes};
use crate::config::{Config, Sleep};
use crate::domain::app::Lifecycle;
use crate::domain::lifecycle::{Candidate, Rest, RestRules};
use crate::store::app_meta::{AppMetaDir, ReadError};
use crate::store::touch::Touches;
use crate::store::{Cached, Freshness, Table, Touched};

/// Containers asked for their traffic at one time.
const SAMPLES: usize = 4;

/// An app that was asked for so short ago needs no look at its traffic.
const JUST_NOW: Duration = Duration::from_secs(1);

/// How far ahead of this clock a use may have been written down, by a process whose
/// clock differs. What is later was written while a clock was wrong, and would keep its
/// app from sleeping until then.
const AHEAD: Duration = Duration::from_secs(60);

/// What is read of each app's description; `None` where it cannot be used.
type Described = Option<Facts>;

#[derive(Debug)]
pub(super) struct Idle {
    config: Sleep,
    rules: RestRules,
    means: Arc<Means>,
    wakes: Arc<Wakes>,
    freshness: Arc<Freshness>,
    touches: Arc<Touches>,
    view: View,
    names: Arc<Cached<Vec<String>>>,
    described: Arc<Cached<Described>>,
    /// Bytes received and sent, as last seen, by container.
    traffic: HashMap<Arc<str>, (u64, u64)>,
    /// Uses that were written down before this process began, or by another one, once
    /// they were read.
    written: Option<HashMap<Arc<str>, SystemTime>>,
    /// Apps that were not installed at the last look.
    missed: HashSet<Arc<str>>,
    /// Whether it was said that the engine does not tell of traffic.
    no_traffic: bool,
    /// Whether the disk was low at the last look.
    low_disk: bool,
}

/// An app that is awake or paused.
struct Sleeper {
    app: Arc<AppWake>,
    lifecycle: Lifecycle,
    is_paused: bool,
    last_use: SystemTime,
    /// Whether this process has seen it come up or used.
    was_used_here: bool,
    /// Whether enough was seen of it to say that nobody uses it.
    is_known: bool,
    /// Containers whose traffic counts.
    containers: Vec<Arc<str>>,
}

impl Sleeper {
    fn idle(&self, now: SystemTime) -> Duration {
        now.duration_since(self.last_use).unwrap_or_default()
    }

    fn candidate(&self, now: SystemTime) -> Candidate<'_> {
        Candidate { lifecycle: &self.lifecycle, is_paused: self.is_paused, idle: self.idle(now) }
    }
}

impl Idle {
    pub(super) fn new(
        config: &Config,
        means: Arc<Means>,
        wakes: &Arc<Wakes>,
        freshness: &Arc<Freshness>,
        touches: &Arc<Touches>,
        view: View,
    ) -> Self {
        let source = Arc::clone(&means.source);
        let names = Cached::single(Arc::clone(freshness), Table::AppNames, move || {
            let source = Arc::clone(&source);
            async move { source.app_names().await }
        });
        let dir = AppMetaDir::new(config.store.installed_apps_dir.clone());
        let described = Cached::keyed(Arc::clone(freshness), [Table::AppMeta; 2], move |name| {
            let dir = dir.clone();
            async move {
                match dir.read(&name).await {
                    Ok(meta) => Ok(Some(Facts::of(&meta))),
                    // The gate has said what is wrong with it.
                    Err(ReadError::Unusable(_)) => Ok(None),
                    Err(ReadError::Unavailable(error)) => Err(error),
                }
            }
        });
        let Sleep { pause, idle_for_pause, idle_for_stop, .. } = config.sleep;
        Self {
            rules: RestRules { pause, idle_for_pause, idle_for_stop },
            config: config.sleep.clone(),
            means,
            wakes: Arc::clone(wakes),
            freshness: Arc::clone(freshness),
            touches: Arc::clone(touches),
            view,
            names,
            described,
            traffic: HashMap::new(),
            written: None,
            missed: HashSet::new(),
            no_traffic: false,
            low_disk: false,
        }
    }

    /// Looks at every app, again and again, as long as the process runs.
    pub(super) async fn run(mut self) -> Infallible {
        let began = Instant::now();
        loop {
            self.register().await;
            let snapshot = self.view.snapshot();
            if self.config.enabled && snapshot.live {
                let holds_off = began.elapsed() < self.config.hold_off;
                self.tick(&snapshot, holds_off).await;
            }
            // Until the store has told which apps there are, it is asked sooner.
            let is_known = self.freshness.was_verified();
            let soon = Duration::from_millis(100);
            sleep(if is_known { self.config.interval } else { soon.min(self.config.interval) })
                .await;
        }
    }

    /// Makes every installed app known, also those that nobody has asked for.
    ///
    /// One that is not installed any more is forgotten when it was missed twice: the
    /// names may be older than what the gate has just heard.
    async fn register(&mut self) {
        let now = self.freshness.now();
        let names = match self.names.get("", now).await {
            Ok(names) => names,
            Err(error) => return debug!(%error, "the installed apps are not known"),
        };
        for name in &names.value {
            if let Ok(described) = self.described.get(name, now).await
                && described.value.is_some()
            {
                let _known = self.wakes.of(&name.as_str().into(), described.value.clone());
            }
        }
        let known = self.wakes.list().into_iter().map(|app| Arc::clone(&app.name));
        let missed: HashSet<_> =
            known.filter(|name| !names.value.iter().any(|other| **other == **name)).collect();
        // Nothing was heard since that could have brought one back.
        if names.is_usable(&self.freshness, self.freshness.now()) {
            self.wakes.forget(missed.intersection(&self.missed));
        }
        self.missed = missed;
    }

    async fn tick(&mut self, snapshot: &Snapshot, holds_off: bool) {
        let now = wall_clock();
        let mut sleepers = self.sleepers(snapshot);
        self.note_traffic(&mut sleepers, now).await;
        self.learn_written_uses(&mut sleepers, now).await;
        for sleeper in &sleepers {
            let Sleeper { lifecycle, is_paused, last_use, .. } = sleeper;
            let next = self.rules.next_rest_at(lifecycle, *is_paused, *last_use);
            sleeper.app.note(|history| history.next_rest = next);
        }
        if self.is_disk_low().await {
            for sleeper in &sleepers {
                self.rest(sleeper, Rest::Stopped, None);
            }
            return;
        }
        self.keep_running();
        if holds_off {
            return;
        }
        let mut is_any_due = false;
        for sleeper in &sleepers {
            if let Some(rest) = self.rules.due(&sleeper.candidate(now))
                && sleeper.is_known
            {
                is_any_due = true;
                self.rest(sleeper, rest, Some(sleeper.last_use));
            }
        }
        // What is going to sleep anyway frees memory, too.
        if !is_any_due {
            self.relieve(&sleepers, now).await;
        }
    }

    /// Apps that are awake or paused, with the use that is known of them here.
    fn sleepers(&self, snapshot: &Snapshot) -> Vec<Sleeper> {
        let mut sleepers = Vec::new();
        for app in self.wakes.list() {
            let facts = app.facts();
            let observed = Selector::new(&app.name).observe(&facts, snapshot);
            let here = self.touches.last_use(&app.name).max(app.history().woken);
            let written = self.written.as_ref().and_then(|uses| uses.get(&app.name).copied());
            let last_use = here.max(written);
            app.note(|history| history.last_use = last_use);
            let is_paused = match observed.state {
                EngineState::Running => false,
                // A part of it does not run, and it is let through all the same.
                EngineState::Exited if app.is_awake() => false,
                EngineState::Paused => true,
                EngineState::Exited | EngineState::Missing => {
                    app.note(|history| history.next_rest = None);
                    continue;
                }
            };
            let entrypoints = observed.entrypoints(&facts);
            let mut containers: Vec<_> = entrypoints.iter().map(|c| Arc::clone(&c.id)).collect();
            for service in &observed.services {
                let tasks = snapshot.containers.values().filter(|container| {
                    container.state == State::Running
                        && container.belongs.swarm_service.as_deref() == Some(&*service.id)
                });
                containers.extend(tasks.map(|task| Arc::clone(&task.id)));
            }
            let mut lifecycle = facts.lifecycle.clone();
            // A service can be scaled, and not paused.
            lifecycle.skip_pause |= !observed.services.is_empty();
            sleepers.push(Sleeper {
                last_use: last_use.unwrap_or(app.known_since),
                was_used_here: here.is_some(),
                is_known: !app.history().is_left_alone(Instant::now()),
                lifecycle,
                is_paused,
                containers,
                app,
            });
        }
        sleepers
    }

    /// Counts moved bytes of apps that nobody has asked for lately as uses.
    async fn note_traffic(&mut self, sleepers: &mut [Sleeper], now: SystemTime) {
        let is_quiet = |s: &&Sleeper| !s.is_paused && s.idle(now) >= JUST_NOW;
        let asked: Vec<_> =
            sleepers.iter().filter(is_quiet).flat_map(|s| s.containers.iter().cloned()).collect();
        let samples = self.sample(asked).await;
        for sleeper in sleepers.iter_mut() {
            let mut moved = false;
            for id in &sleeper.containers {
                match (self.traffic.get(id), samples.get(id)) {
                    // Both ways: what only comes in is the chatter of a network.
                    (Some(before), Some(after)) => {
                        let received = after.0.saturating_sub(before.0);
                        let sent = after.1.saturating_sub(before.1);
                        moved |= received.min(sent) >= self.config.activity_bytes.max(1);
                    }
                    // Not known to be quiet before it was looked at twice.
                    _ => sleeper.is_known &= sleeper.is_paused,
                }
            }
            if moved {
                sleeper.last_use = now;
                sleeper.was_used_here = true;
                let used = self.touches.of(Touched::App, &sleeper.app.name);
                self.touches.touch(&used, now);
            }
        }
        self.traffic = samples;
    }

    async fn sample(&mut self, containers: Vec<Arc<str>>) -> HashMap<Arc<str>, (u64, u64)> {
        let engine = &self.means.engine;
        let mut sampled = stream::iter(containers)
            .map(|id| async move {
                let traffic = engine.traffic(&id).await;
                (id, traffic)
            })
            .buffer_unordered(SAMPLES);
        let mut samples = HashMap::new();
        let mut refused = None;
        while let Some((id, traffic)) = sampled.next().await {
            match traffic {
                Ok(traffic) => {
                    samples.insert(id, traffic);
                }
                // This engine does not count: requests are all there is to go by.
                Err(error @ EngineError::Refused { .. }) => {
                    refused = Some(error);
                    samples.insert(id, (0, 0));
                }
                Err(error) => debug!(container = %id, %error, "its traffic is not known"),
            }
        }
        drop(sampled);
        if let Some(error) = refused
            && !std::mem::replace(&mut self.no_traffic, true)
        {
            warn!(%error, "the engine does not tell of traffic: only requests keep apps awake");
        }
        samples
    }

    /// Before an app is put to sleep the store is asked whether another process knows
    /// of a later use.
    async fn learn_written_uses(&mut self, sleepers: &mut [Sleeper], now: SystemTime) {
        let is_due = |s: &Sleeper| self.rules.due(&s.candidate(now)).is_some();
        if self.written.is_some() && !sleepers.iter().any(is_due) {
            return;
        }
        let written = match self.means.source.last_uses().await {
            Ok(mut uses) => {
                uses.retain(|_, at| is_believable(*at, now));
                self.written.insert(uses)
            }
            Err(error) => {
                debug!(%error, "written uses are not known");
                // Nobody is put to sleep on half of what there is to know.
                for sleeper in sleepers.iter_mut() {
                    sleeper.last_use = now;
                }
                return;
            }
        };
        for sleeper in sleepers {
            match written.get(&sleeper.app.name) {
                // It was in use long before this process began, and not since.
                Some(at) if !sleeper.was_used_here => sleeper.last_use = *at,
                Some(at) => sleeper.last_use = sleeper.last_use.max(*at),
                None => {}
            }
        }
    }

    async fn is_disk_low(&mut self) -> bool {
        let free = match free_disk(&self.means.config.data_dir).await {
            Ok(free) => free,
            Err(error) => {
                debug!(%error, "free disk space is not known");
                return false;
            }
        };
        let is_low = free < self.means.config.min_free_disk;
        if is_low && !std::mem::replace(&mut self.low_disk, true) {
            warn!(free, "low disk space: every app is stopped, and none is started");
        } else if !is_low && std::mem::take(&mut self.low_disk) {
            info!(free, "enough disk space again");
        }
        is_low
    }

    /// Apps that are always on are brought up again, whoever stopped them.
    fn keep_running(&self) {
        for app in self.wakes.list() {
            if app.facts().lifecycle.always_on && !app.is_awake() {
                app.ask();
            }
        }
    }

    /// Demotes one app where memory is short.
    async fn relieve(&self, sleepers: &[Sleeper], now: SystemTime) {
        let Some(limit) = self.config.memory_pressure else { return };
        let Some(pressure) =
            memory_pressure().await.filter(|pressure| *pressure > f64::from(limit))
        else {
            return;
        };
        let known: Vec<_> = sleepers.iter().filter(|sleeper| sleeper.is_known).collect();
        let candidates: Vec<_> = known.iter().map(|sleeper| sleeper.candidate(now)).collect();
        if let Some((place, rest)) = self.rules.demoted(&candidates)
            && let Some(sleeper) = known.get(place)
        {
            info!(app = %sleeper.app.name, pressure, ?rest, "memory is short");
            self.rest(sleeper, rest, Some(sleeper.last_use));
        }
    }

    fn rest(&self, sleeper: &Sleeper, rest: Rest, unless_used_since: Option<SystemTime>) {
        let app = Arc::clone(&sleeper.app.name);
        self.wakes.order(Order::Rest { app, rest, unless_used_since, reply: None });
    }
}

fn is_believable(use_: SystemTime, now: SystemTime) -> bool {
    use_.duration_since(now).unwrap_or_default() <= AHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_that_are_still_to_come_are_not_believed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = at(1_000_000);
        for (use_, expected) in
            [(0, true), (1_000_000, true), (1_000_060, true), (1_000_061, false), (1 << 62, false)]
        {
            assert_eq!(is_believable(at(use_), now), expected, "{use_}");
        }
    }
}
