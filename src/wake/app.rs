//! What is known of one app's sleep, for all who ask at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::Order;
use crate::domain::app::{AppMeta, Lifecycle, Size};
use crate::domain::lifecycle::Phase;

/// What the waker needs of an app's description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Containers and ports that the proxy sends requests to, HTTP ones first.
    pub entrypoints: Vec<Target>,
    pub lifecycle: Lifecycle,
    pub minimum_size: Size,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The container's name, or its service's in the compose file.
    pub container: String,
    pub port: u16,
    pub speaks_http: bool,
}

impl Facts {
    #[must_use]
    pub fn of(meta: &AppMeta) -> Self {
        use crate::domain::app::EntrypointPort;
        let mut entrypoints: Vec<_> = meta
            .entrypoints
            .iter()
            .map(|entry| Target {
                container: entry.container_name.clone(),
                port: entry.container_port,
                speaks_http: entry.entrypoint_port == EntrypointPort::Http,
            })
            .collect();
        entrypoints.sort_by_key(|target| !target.speaks_http);
        Self {
            entrypoints,
            lifecycle: meta.lifecycle.clone(),
            minimum_size: meta.minimum_portal_size,
        }
    }
}

/// One container in words, for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    pub name: String,
    /// The engine's word: `running`, `exited`, …
    pub state: &'static str,
    /// Its last exit code, where it is not running.
    pub exit_code: Option<i64>,
}

/// What is shown of an app at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Grows with every change.
    pub version: u64,
    pub phase: Phase,
    pub containers: Arc<[ContainerState]>,
}

/// One app as the gate sees it: a flag on the way of every request, and for those
/// who wait, what they wait for.
#[derive(Debug)]
pub struct AppWake {
    pub name: Arc<str>,
    awake: AtomicBool,
    /// Whether an order to wake it is on its way to the waker.
    wanted: AtomicBool,
    shown: watch::Sender<Shown>,
    facts: Mutex<Arc<Facts>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl AppWake {
    pub(super) fn new(name: Arc<str>, facts: Facts, orders: mpsc::UnboundedSender<Order>) -> Self {
        let shown = Shown { version: 0, phase: Phase::Awake, containers: Arc::default() };
        Self {
            name,
            awake: AtomicBool::new(true),
            wanted: AtomicBool::new(false),
            shown: watch::Sender::new(shown),
            facts: Mutex::new(Arc::new(facts)),
            orders,
        }
    }

    /// Whether requests may pass at once.
    ///
    /// Sequentially consistent with the note of a use that a grant makes before it
    /// looks here: who puts the app to sleep clears the flag first and looks for
    /// uses then, so that one of the two sees the other.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::SeqCst)
    }

    /// Asks the waker to bring the app up. Costs nothing where it was asked already.
    pub fn ask(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            // The waker is gone only when the process ends.
            let _ = self.orders.send(Order::Wake(Arc::clone(&self.name)));
        }
    }

    #[must_use]
    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }

    /// Follows what is shown.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    #[must_use]
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new description; whether it differs from the last one.
    pub(super) fn describe(&self, facts: Facts) -> bool {
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = **known != facts;
        if differs {
            *known = Arc::new(facts);
        }
        differs
    }

    /// From here on an order counts as a new one.
    pub(super) fn order_taken(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// Holds requests back before anything is done to the containers.
    pub(super) fn close(&self) {
        self.awake.store(false, Ordering::SeqCst);
    }

    /// Shows a phase and lets those who wait for it know.
    pub(super) fn show(&self, phase: Phase, containers: &Arc<[ContainerState]>) {
        self.awake.store(phase == Phase::Awake, Ordering::SeqCst);
        self.shown.send_if_modified(|shown| {
            if shown.phase == phase && shown.containers == *containers {
                return false;
            }
            shown.version += 1;
            shown.phase = phase;
            shown.containers = Arc::clone(containers);
            true
        });
    }
}
