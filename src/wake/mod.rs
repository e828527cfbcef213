//! Sleeping apps are there when they are asked for, and go back to sleep.

mod app;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

pub use app::{AppWake, ContainerState, Facts, Shown, Target};

/// What the waker is told to do.
#[derive(Debug)]
pub enum Order {
    /// Somebody asked for an app.
    Wake(Arc<str>),
}

/// All apps that are known of, as the gate and the operator see them.
#[derive(Debug)]
pub struct Wakes {
    apps: Mutex<HashMap<Arc<str>, Arc<AppWake>>>,
    orders: mpsc::UnboundedSender<Order>,
    closing: watch::Sender<bool>,
}

impl Wakes {
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Order>) {
        let (orders, taken) = mpsc::unbounded_channel();
        let wakes = Self { apps: Mutex::default(), orders, closing: watch::Sender::new(false) };
        (Arc::new(wakes), taken)
    }

    /// One app; `facts` are what is known of it now.
    #[must_use]
    pub fn of(&self, name: &Arc<str>, facts: Facts) -> Arc<AppWake> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(app) = apps.get(name) {
            app.describe(facts);
            return Arc::clone(app);
        }
        let app = Arc::new(AppWake::new(Arc::clone(name), facts, self.orders.clone()));
        apps.insert(Arc::clone(name), Arc::clone(&app));
        app
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
