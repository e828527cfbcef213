//! Wakes sleeping apps when they are requested, and puts unused apps to sleep.
//!
//! - [`docker`] calls the engine and follows its events;
//! - `observed` combines the state of an app's containers, `roles` classifies each of them;
//! - [`AppHandle`] is the shared view of one app: a flag for the gate, and what is shown;
//! - `reconciler` decides what is done to each app, one action at a time;
//! - `attempt` performs an action: it takes the lock, reads the status, acts, and waits
//!   until the app is ready; `compose` creates containers;
//! - `idle` finds the apps that are no longer used;
//! - `labelled` tells the store what labels of containers say.
//!
//! Errors: a failed attempt yields a [`WakeError`](crate::domain::lifecycle::WakeError),
//! which is shown to waiting clients and kept for the operator. No error here ends the
//! process or keeps the gate from answering: until an engine has been seen, every app
//! counts as awake.

mod action;
mod app_state;
mod app_view;
mod attempt;
mod clocks;
mod command;
mod compose;
pub mod docker;
mod follower;
mod handle;
mod history;
mod idle;
mod labelled;
mod mismatches;
mod observed;
mod ownership;
mod readiness;
mod reconciler;
mod registry;
mod resources;
mod roles;
mod selector;
mod sharing;
mod spec;
mod specs;
mod status;
mod usage;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::attempt::{Context, Outcome};
use self::compose::Compose;
use self::docker::Engine;
use self::docker::watch::Watch;
use self::idle::IdleLoop;
use self::reconciler::Reconciler;
use self::registry::ManagedEngine;
use self::status::Statuses;
use self::usage::Usages;
use crate::config::Config;
use crate::domain::lifecycle::SleepMode;
use crate::domain::observation::ActionObserver;
use crate::store::touch::Touches;
use crate::store::{Freshness, Source};
use crate::telemetry::meters;

pub use self::app_view::{AppView, ContainerState};
pub use self::command::{Backlog, Command, CommandReceiver};
pub use self::follower::Follower;
pub use self::handle::AppHandle;
pub use self::history::{History, LastProbe};
pub use self::mismatches::{Mismatches, find_mismatches};
pub use self::readiness::Probe;
pub use self::registry::Registry;
pub use self::spec::{AppSpec, Target};

/// How long startup waits for the engine's first listing, so that no request is let
/// through to an app that is asleep but not yet known to be.
const FIRST_LISTING: Duration = Duration::from_millis(500);

/// What the background tasks work with.
#[derive(Debug)]
pub struct Dependencies<'a> {
    pub config: &'a Config,
    pub registry: &'a Arc<Registry>,
    pub source: &'a Arc<Source>,
    pub freshness: &'a Arc<Freshness>,
    pub touches: &'a Arc<Touches>,
    pub observers: Box<[Box<dyn ActionObserver>]>,
}

/// Spawns the background tasks that follow the engine, execute commands and put idle apps
/// to sleep. They never end.
///
/// Returns when the engine has been listed, cannot be reached, or has not answered in time.
pub async fn spawn(
    dependencies: Dependencies<'_>,
    commands: CommandReceiver,
    tasks: &mut JoinSet<Infallible>,
) {
    let Dependencies { config, registry, source, freshness, touches, observers } = dependencies;
    let sleep_modes = [SleepMode::Paused, SleepMode::Stopped].map(SleepMode::as_str);
    meters::wakes_known(&Outcome::WORDS, &sleep_modes);
    let engine = Arc::new(Engine::new(config.wake.docker.clone()));
    let (watch, view) = Watch::new(Arc::clone(&engine));
    let compose = Compose::new(&config.wake, &config.store.installed_apps_dir);
    let compose = Arc::new(compose);
    let start_timeout = config.wake.start_timeout;
    let usages = Arc::new(Mutex::new(Usages::new(Arc::clone(&engine))));
    let watched = ManagedEngine {
        view: view.clone(),
        compose: Arc::clone(&compose),
        start_timeout,
        usages: Arc::clone(&usages),
    };
    if !registry.manage(watched) {
        tracing::warn!("the engine is already being followed");
        return;
    }
    let context = Arc::new(Context {
        config: config.wake.clone(),
        reclaim: config.sleep.reclaim,
        engine,
        source: Arc::clone(source),
        compose,
    });
    let (statuses, writer) = Statuses::new(Arc::clone(source));
    let reconciler = Reconciler::new(
        Arc::clone(&context),
        Arc::clone(registry),
        Arc::clone(touches),
        view.clone(),
        statuses,
        observers,
    );
    let idle = IdleLoop::new(config, context, registry, freshness, touches, view.clone(), usages);
    let descriptions = Arc::clone(source.descriptions());
    if let Some(labels) = descriptions.labels().cloned() {
        let (registry, view) = (Arc::clone(registry), view.clone());
        tasks.spawn(labelled::follow(labels, descriptions, registry, view));
    }
    tasks.spawn(watch.run());
    tasks.spawn(reconciler.run(commands));
    tasks.spawn(writer.run());
    tasks.spawn(idle.run());
    let mut view = view;
    let _ = timeout(FIRST_LISTING, view.listed_or_away()).await;
}
