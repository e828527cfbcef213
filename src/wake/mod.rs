//! Sleeping apps are there when they are asked for, and go back to sleep.
//!
//! - [`docker`] calls the engine and follows its events;
//! - `observed` takes an app's containers together, `parts` says what each means;
//! - [`AppWake`] is one app for all who ask: a flag for the gate, and what is shown;
//! - `waker` decides what is done, one thing at a time an app;
//! - `attempt` does it: lock, status, act, until ready; `compose` makes containers;
//! - `idle` finds out who is not used any more.
//!
//! Errors: what goes wrong in an attempt is a [`Failure`](crate::domain::lifecycle::Failure),
//! shown to who waits and kept for the operator. No error here ends the process, and
//! none keeps the gate from answering: while no engine was ever seen, every app counts
//! as awake.

mod app;
mod attempt;
mod clocks;
mod compose;
mod conditions;
pub mod docker;
mod idle;
mod job;
mod observed;
mod parts;
mod readiness;
mod roster;
mod sharing;
mod slot;
mod status;
mod survey;
mod usage;
mod waker;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::attempt::Means;
use self::compose::Compose;
use self::docker::Engine;
use self::docker::watch::{View, Watch};
use self::idle::Idle;
use self::observed::Selector;
use self::roster::Roster;
use self::slot::{Reply, asleep};
use self::status::Statuses;
use self::waker::Waker;
use crate::config::Config;
use crate::domain::lifecycle::{Failure, Phase, Rest};
use crate::store::touch::Touches;
use crate::store::{Freshness, Source};

pub use self::app::{AppWake, ContainerState, Facts, History, Shown, Target};
use self::app::{milliseconds_since_1970, wall_clock};
pub use self::survey::{Survey, survey};

/// How long the doors stay closed for the first listing of the engine, so that no
/// request is let through to an app of which it is not known yet that it sleeps.
const FIRST_LISTING: Duration = Duration::from_millis(500);

/// What the waker is told to do.
#[derive(Debug)]
pub enum Order {
    /// There is an app that was not known before, or it is described anew.
    Look(Arc<str>),
    /// Somebody asked for an app.
    Wake(Arc<str>),
    /// A visitor asked for another attempt after one that failed.
    Retry(Arc<str>),
    /// The operator did, and wants to know what comes of it.
    WakeNow(Arc<str>, Reply),
    Rest {
        app: Arc<str>,
        rest: Rest,
        /// Not where another use is noted by now.
        unless_used_since: Option<Noted>,
        reply: Option<Reply>,
    },
    /// An app is not installed any more.
    Forget(Arc<str>),
}

/// The use of an app that was noted last, where there was one: another one may be earlier,
/// by a clock that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted(pub Option<SystemTime>);

/// All apps that are known of, as the gate and the operator see them.
#[derive(Debug)]
pub struct Wakes {
    apps: Mutex<HashMap<Arc<str>, Arc<AppWake>>>,
    orders: mpsc::UnboundedSender<Order>,
    roster: Arc<Roster>,
    closing: watch::Sender<bool>,
    /// Set where containers are looked at.
    sight: OnceLock<Watched>,
}

/// What is looked at, and with which limits.
#[derive(Debug)]
struct Watched {
    view: View,
    compose: Arc<Compose>,
    start_timeout: Duration,
}

impl Wakes {
    /// Until somebody takes the orders, every app is awake.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Order>) {
        let (orders, taken) = mpsc::unbounded_channel();
        let wakes = Self {
            apps: Mutex::default(),
            orders,
            roster: Arc::default(),
            closing: watch::Sender::new(false),
            sight: OnceLock::new(),
        };
        (Arc::new(wakes), taken)
    }

    /// One app; `facts` are what is known of it now. Where its description cannot be
    /// used at the moment, the last one counts: somebody may be writing it.
    #[must_use]
    pub fn of(&self, name: &Arc<str>, facts: Option<Facts>) -> Arc<AppWake> {
        let mut apps = self.lock();
        if let Some(facts) = &facts {
            self.roster.note(name, facts);
        }
        if let Some(app) = apps.get(name) {
            if facts.is_some_and(|facts| app.describe(facts)) {
                self.order(Order::Look(Arc::clone(name)));
            }
            return Arc::clone(app);
        }
        let app = AppWake::new(Arc::clone(name), facts.unwrap_or_default(), self.orders.clone());
        let app = Arc::new(app);
        self.roster.note(name, &app.facts());
        self.show_first(&app);
        apps.insert(Arc::clone(name), Arc::clone(&app));
        self.order(Order::Look(Arc::clone(name)));
        app
    }

    /// Looks from what an app's containers could be made; to be done before it is asked
    /// for by [`Wakes::of`], which waits for no disk.
    pub async fn look_for(&self, name: &str) {
        if let Some(Watched { compose, .. }) = self.sight.get() {
            compose.files().look(&[name]).await;
        }
    }

    /// What is known of a new app already, so that not even its first request is let
    /// through to sleeping containers.
    fn show_first(&self, app: &AppWake) {
        let Some(Watched { view, compose, start_timeout }) = self.sight.get() else { return };
        let snapshot = view.snapshot();
        if snapshot.was_listed {
            let (selector, facts) = (self.selector(&app.name), app.facts());
            let observed = selector.observe(&facts, &snapshot);
            let now = milliseconds_since_1970(wall_clock());
            let phase = if observed.is_young(&facts, now, *start_timeout) {
                // The waker asks its port.
                Phase::Starting
            } else {
                asleep(observed.state, compose.can_make(&app.name, &selector))
            };
            app.show(phase, &observed.states());
        }
    }

    /// An app that is known of.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<AppWake>> {
        self.lock().get(name).cloned()
    }

    /// Which containers are an app's.
    fn selector(&self, name: &Arc<str>) -> Selector {
        Selector::new(name, &self.roster)
    }

    /// All that are known of, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<AppWake>> {
        let mut apps: Vec<_> = self.lock().values().cloned().collect();
        apps.sort_by(|a, b| a.name.cmp(&b.name));
        apps
    }

    fn forget<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) {
        let mut apps = self.lock();
        for name in names {
            apps.remove(name);
            self.roster.forget(name);
            if let Some(Watched { compose, .. }) = self.sight.get() {
                compose.files().forget(name);
            }
            self.order(Order::Forget(Arc::clone(name)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<AppWake>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn order(&self, order: Order) {
        // The waker is gone only when the process ends.
        let _ = self.orders.send(order);
    }

    /// Whether anything is done to containers here.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.sight.get().is_some()
    }

    /// Whether the engine tells what happens in it.
    #[must_use]
    pub fn is_engine_live(&self) -> bool {
        self.sight.get().is_some_and(|sight| sight.view.snapshot().live)
    }

    /// Whether the engine has nothing that is this app's, and nothing can be made: it
    /// counts as awake, whatever it does.
    #[must_use]
    pub fn is_unmatched(&self, app: &AppWake) -> bool {
        let shown = app.shown();
        self.is_engine_live() && shown.phase == Phase::Awake && shown.containers.is_empty()
    }

    /// Brings an app up; returns when it is ready or has failed.
    ///
    /// # Errors
    /// Why it could not be woken.
    pub async fn wake(&self, name: &Arc<str>) -> Result<(), Failure> {
        self.operate(|reply| Order::WakeNow(Arc::clone(name), reply)).await
    }

    /// Puts an app to sleep, used or not.
    ///
    /// # Errors
    /// Why it could not be put to sleep.
    pub async fn rest(&self, name: &Arc<str>, rest: Rest) -> Result<(), Failure> {
        let app = Arc::clone(name);
        let order = |reply| Order::Rest { app, rest, unless_used_since: None, reply: Some(reply) };
        self.operate(order).await
    }

    async fn operate(&self, order: impl FnOnce(Reply) -> Order) -> Result<(), Failure> {
        if !self.is_at_work() {
            return Err(Failure::Declined("`wake.enabled` is false"));
        }
        let (reply, done) = tokio::sync::oneshot::channel();
        self.order(order(reply));
        tokio::select! {
            done = done => done.unwrap_or(Err(Failure::Declined("there is no such app"))),
            () = self.closed() => Err(Failure::Declined("the process ends")),
        }
    }

    /// Lets everyone go who waits: the process ends.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Returns when the process ends.
    pub async fn closed(&self) {
        // The sender is `self`'s own.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

/// Follows the engine, takes orders and puts to sleep, in tasks that never end.
///
/// Returns when the engine was listed, or does not answer at once.
pub async fn begin(
    config: &Config,
    wakes: &Arc<Wakes>,
    orders: mpsc::UnboundedReceiver<Order>,
    source: &Arc<Source>,
    freshness: &Arc<Freshness>,
    touches: &Arc<Touches>,
    parts: &mut JoinSet<Infallible>,
) {
    let engine = Arc::new(Engine::new(config.wake.docker.clone()));
    let (watch, view) = Watch::new(Arc::clone(&engine));
    let compose = Compose::new(&config.wake, &config.store.installed_apps_dir);
    let compose = Arc::new(compose);
    wakes.roster.set_files(Arc::clone(compose.files()));
    let start_timeout = config.wake.start_timeout;
    let sight = Watched { view: view.clone(), compose: Arc::clone(&compose), start_timeout };
    if wakes.sight.set(sight).is_err() {
        tracing::warn!("the engine is followed already");
        return;
    }
    let means = Arc::new(Means {
        config: config.wake.clone(),
        reclaim: config.sleep.reclaim,
        engine,
        source: Arc::clone(source),
        compose,
    });
    let (statuses, writer) = Statuses::new(Arc::clone(source));
    let waker = Waker::new(
        Arc::clone(&means),
        Arc::clone(wakes),
        Arc::clone(touches),
        view.clone(),
        statuses,
    );
    let idle = Idle::new(config, means, wakes, freshness, touches, view.clone());
    parts.spawn(watch.run());
    parts.spawn(waker.run(orders));
    parts.spawn(writer.run());
    parts.spawn(idle.run());
    let mut view = view;
    let _ = timeout(FIRST_LISTING, view.listed_or_away()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_whose_description_breaks_is_what_it_was() {
        let (wakes, _orders) = Wakes::new();
        let mut facts = Facts::default();
        facts.lifecycle.always_on = true;
        let app = wakes.of(&"notes".into(), Some(facts));
        let _same = wakes.of(&"notes".into(), None);
        assert!(app.facts().lifecycle.always_on);
        let _same = wakes.of(&"notes".into(), Some(Facts::default()));
        assert!(!app.facts().lifecycle.always_on);
    }
}
