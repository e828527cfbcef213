//! The loop that finds out who is not used any more.
//!
//! A use is a request that was granted, or a sign of life: bytes that move in both
//! directions keep streams, downloads and WebSockets awake, of which the gate sees only
//! the beginning. It is noted as a use like any other, so that it is written down and
//! other processes know of it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::app::{AppWake, Facts, wall_clock};
use super::attempt::Means;
use super::clocks::Clocks;
use super::conditions::{free_disk, memory_pressure};
use super::docker::watch::View;
use super::docker::{APP_LABEL, Snapshot};
use super::observed::EngineState;
use super::usage::{Seen, Subject, Thresholds, Usages};
use super::{Noted, Order, Wakes};
use crate::config::{Config, Sleep};
use crate::domain::app::Lifecycle;
use crate::domain::lifecycle::{Candidate, Phase, Rest, RestRules};
use crate::store::app_meta::{AppMetaDir, ReadError};
use crate::store::touch::Touches;
use crate::store::{Cached, Freshness, Table, Touched};

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
    usages: Usages,
    clocks: Clocks,
    /// Uses that were written down before this process began, or by another one, once
    /// they were read.
    written: Option<HashMap<Arc<str>, SystemTime>>,
    /// Apps that were not installed at the last look.
    missed: HashSet<Arc<str>>,
    /// Whether the disk was low at the last look.
    low_disk: bool,
    /// Apps that the engine had nothing of at the last look, and whether that was said.
    unmatched: HashMap<Arc<str>, bool>,
    /// Apps that would be gone if they were stopped, as was said.
    told_lost: HashSet<Arc<str>>,
}

/// An app that is awake or paused.
struct Sleeper {
    app: Arc<AppWake>,
    lifecycle: Lifecycle,
    is_paused: bool,
    /// Whether it would be gone if it was stopped.
    is_lost_when_stopped: bool,
    last_use: SystemTime,
    /// Whether this process has seen it come up or used.
    was_used_here: bool,
    /// Whether enough was seen of it to say that nobody uses it.
    is_known: bool,
    /// What was noted of its use when it was looked at.
    noted: Noted,
    subject: Subject,
}

impl Sleeper {
    fn candidate(&self, clocks: &Clocks, now: Now) -> Candidate<'_> {
        let idle = clocks.since(self.last_use, now.moment);
        Candidate { lifecycle: &self.lifecycle, is_paused: self.is_paused, idle }
    }
}

/// The time of one look, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    moment: Instant,
    wall: SystemTime,
}

impl Now {
    fn read() -> Self {
        Self { moment: Instant::now(), wall: wall_clock() }
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
        let (usages, now) = (Usages::new(Arc::clone(&means.engine)), Now::read());
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
            usages,
            clocks: Clocks::new(now.moment, now.wall),
            written: None,
            missed: HashSet::new(),
            low_disk: false,
            unmatched: HashMap::new(),
            told_lost: HashSet::new(),
        }
    }

    /// Looks at every app, again and again, as long as the process runs.
    pub(super) async fn run(mut self) -> Infallible {
        let began = Instant::now();
        loop {
            self.register().await;
            self.tell_of_unmatched();
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
        for changed in self.means.compose.files().look(&names.value).await {
            self.wakes.order(Order::Look(changed.into()));
        }
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

    /// Says once of each app that the engine has nothing of it: at the second look, since
    /// one that is being installed has its containers a moment later.
    fn tell_of_unmatched(&mut self) {
        let mut unmatched = HashMap::new();
        for app in self.wakes.list() {
            if !self.wakes.is_unmatched(&app) {
                continue;
            }
            let known = self.unmatched.get(&app.name).copied();
            if known == Some(false) {
                let name = &app.name;
                warn!(app = %name, "no container is this app's, so it counts as awake; label it {APP_LABEL}={name}");
            }
            unmatched.insert(Arc::clone(&app.name), known.is_some());
        }
        self.unmatched = unmatched;
    }

    async fn tick(&mut self, snapshot: &Snapshot, holds_off: bool) {
        let now = Now::read();
        if let Some(milliseconds) = self.clocks.look(now.moment, now.wall) {
            info!(milliseconds, "the clock was set; idle times go on");
        }
        let mut sleepers = self.sleepers(snapshot);
        self.tell_of_lost(&sleepers);
        self.note_activity(&mut sleepers, now).await;
        self.learn_written_uses(&mut sleepers, now).await;
        self.note_commands(&mut sleepers, now).await;
        for sleeper in &sleepers {
            let Candidate { lifecycle, is_paused, idle } = sleeper.candidate(&self.clocks, now);
            let last_use = now.wall.checked_sub(idle).unwrap_or(sleeper.last_use);
            let next = self.rules.next_rest_at(lifecycle, is_paused, last_use);
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
            if let Some(rest) = self.due(sleeper, now)
                && sleeper.is_known
            {
                is_any_due = true;
                self.rest(sleeper, rest, Some(sleeper.noted));
            }
        }
        // What is going to sleep anyway frees memory, too.
        if !is_any_due {
            self.relieve(&sleepers, now).await;
        }
    }

    fn due(&self, sleeper: &Sleeper, now: Now) -> Option<Rest> {
        let due = self.rules.due(&sleeper.candidate(&self.clocks, now));
        due.filter(|rest| *rest != Rest::Stopped || !sleeper.is_lost_when_stopped)
    }

    /// Says once of each app that it is not stopped, and why.
    fn tell_of_lost(&mut self, sleepers: &[Sleeper]) {
        for sleeper in sleepers.iter().filter(|sleeper| sleeper.is_lost_when_stopped) {
            let name = &sleeper.app.name;
            if self.told_lost.insert(Arc::clone(name)) {
                warn!(app = %name, "is not stopped: it was run with `--rm`, so the engine would remove it, and it has no compose file here to be made anew from");
            }
        }
    }

    /// Apps that are awake or paused, with the use that is known of them here.
    fn sleepers(&self, snapshot: &Snapshot) -> Vec<Sleeper> {
        let mut sleepers = Vec::new();
        for app in self.wakes.list() {
            let facts = app.facts();
            let selector = self.wakes.selector(&app.name);
            let observed = selector.observe(&facts, snapshot);
            let noted = Noted(self.touches.last_use(&app.name));
            let here = noted.0.max(app.history().woken);
            let written = self.written.as_ref().and_then(|uses| uses.get(&app.name).copied());
            let last_use = here.max(written);
            app.note(|history| history.last_use = last_use);
            let shown = app.shown().phase;
            let is_paused = match observed.state {
                // Its containers are kept for the other apps that share them.
                _ if observed.is_kept() && shown == Phase::Stopped => {
                    app.note(|history| history.next_rest = None);
                    continue;
                }
                EngineState::Running => observed.is_all_shared() && shown == Phase::Paused,
                // A part of it does not run, and it is let through all the same.
                EngineState::Exited if app.is_awake() => false,
                EngineState::Paused => true,
                EngineState::Exited | EngineState::Missing => {
                    app.note(|history| history.next_rest = None);
                    continue;
                }
            };
            let own_choice = self.config.apps.get(&*app.name).copied().or(facts.activity);
            let activity = own_choice.unwrap_or(self.config.activity);
            let subject = Subject::of(&observed, &facts, activity, snapshot);
            let mut lifecycle = facts.lifecycle.clone();
            // A service can be scaled, and not paused; nor can what some engines run.
            lifecycle.skip_pause |= !observed.services.is_empty()
                || app.history().cannot_be_paused
                || self.means.engine.pauses_nothing();
            sleepers.push(Sleeper {
                is_lost_when_stopped: self
                    .means
                    .is_lost_when_stopped(&app.name, &selector, &observed),
                last_use: last_use.unwrap_or(app.known_since),
                was_used_here: here.is_some(),
                is_known: !app.history().is_left_alone(Instant::now()),
                lifecycle,
                is_paused,
                noted,
                subject,
                app,
            });
        }
        sleepers
    }

    /// Counts signs of life of apps that nobody has asked for lately as uses.
    async fn note_activity(&mut self, sleepers: &mut [Sleeper], now: Now) {
        let quiet: Vec<_> = (0..sleepers.len())
            .filter(|place| {
                let sleeper = &sleepers[*place];
                let idle = sleeper.candidate(&self.clocks, now).idle;
                !sleeper.is_paused && idle >= JUST_NOW
            })
            .collect();
        let subjects: Vec<_> = quiet.iter().map(|place| sleepers[*place].subject.clone()).collect();
        let limits =
            Thresholds { bytes: self.config.activity_bytes, cpu: self.config.activity_cpu };
        let seen = self.usages.look(&subjects, limits).await;
        let mut looked_at = seen.into_iter();
        for (place, sleeper) in sleepers.iter_mut().enumerate() {
            let seen = if quiet.contains(&place) { looked_at.next() } else { None };
            self.take(sleeper, seen.unwrap_or(Seen::Unknown), now);
        }
    }

    /// Looks for running commands where an app is about to be put to sleep.
    async fn note_commands(&mut self, sleepers: &mut [Sleeper], now: Now) {
        for sleeper in sleepers {
            let is_due = self.due(sleeper, now).is_some() && sleeper.is_known;
            if is_due && !sleeper.is_paused && sleeper.subject.activity.exec {
                let seen = self.usages.commands(&sleeper.subject).await;
                self.take(sleeper, seen, now);
            }
        }
    }

    fn take(&self, sleeper: &mut Sleeper, seen: Seen, now: Now) {
        match seen {
            Seen::Quiet => {}
            // Not known to be quiet before it was looked at twice.
            Seen::Unknown => sleeper.is_known &= sleeper.is_paused,
            Seen::Use => {
                sleeper.last_use = now.wall;
                sleeper.was_used_here = true;
                let used = self.touches.of(Touched::App, &sleeper.app.name);
                self.touches.touch(&used, now.wall);
            }
        }
    }

    /// Before an app is put to sleep the store is asked whether another process knows
    /// of a later use.
    async fn learn_written_uses(&mut self, sleepers: &mut [Sleeper], now: Now) {
        if self.written.is_some() && !sleepers.iter().any(|s| self.due(s, now).is_some()) {
            return;
        }
        let written = match self.means.source.last_uses().await {
            Ok(mut uses) => {
                uses.retain(|_, at| is_believable(*at, now.wall));
                self.written.insert(uses)
            }
            Err(error) => {
                debug!(%error, "written uses are not known");
                // Nobody is put to sleep on half of what there is to know.
                for sleeper in sleepers.iter_mut() {
                    sleeper.last_use = now.wall;
                }
                return;
            }
        };
        for sleeper in sleepers {
            match written.get(&sleeper.app.name) {
                // It was in use long before this process began, and not since.
                Some(at) if !sleeper.was_used_here => sleeper.last_use = *at,
                Some(at) => {
                    let ago = |at| self.clocks.since(at, now.moment);
                    if ago(*at) < ago(sleeper.last_use) {
                        sleeper.last_use = *at;
                    }
                }
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
    async fn relieve(&self, sleepers: &[Sleeper], now: Now) {
        // As the contract has it: without pausing nobody is demoted.
        let Some(limit) = self.config.memory_pressure.filter(|_| self.rules.pause) else { return };
        let Some(pressure) =
            memory_pressure().await.filter(|pressure| *pressure > f64::from(limit))
        else {
            return;
        };
        let known: Vec<_> = sleepers.iter().filter(|sleeper| sleeper.is_known).collect();
        let candidates: Vec<_> =
            known.iter().map(|sleeper| sleeper.candidate(&self.clocks, now)).collect();
        if let Some((place, rest)) = self.rules.demoted(&candidates)
            && let Some(sleeper) = known.get(place)
        {
            info!(app = %sleeper.app.name, pressure, ?rest, "memory is short");
            self.rest(sleeper, rest, Some(sleeper.noted));
        }
    }

    fn rest(&self, sleeper: &Sleeper, rest: Rest, unless_used_since: Option<Noted>) {
        if rest == Rest::Stopped && sleeper.is_lost_when_stopped {
            return;
        }
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
