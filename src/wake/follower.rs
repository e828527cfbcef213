//! How waiting requests follow what is shown of an app.

use std::sync::Arc;

use tokio::sync::watch;

use super::app_view::AppView;
use super::handle::AppHandle;

impl AppHandle {
    /// Begins to follow what is shown.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Follower {
        Follower { app: Arc::clone(self), changes: self.changes() }
    }
}

/// Follows what is shown of an app.
#[derive(Debug)]
pub struct Follower {
    app: Arc<AppHandle>,
    changes: watch::Receiver<()>,
}

impl Follower {
    /// Waits until what is shown meets a condition, which it may do at once; returns it.
    pub async fn wait_for(&mut self, mut is_met: impl FnMut(&AppView) -> bool) -> AppView {
        loop {
            // Before the look, so that no change after it is missed.
            self.changes.mark_unchanged();
            if let Some(shown) = self.app.shown_if(&mut is_met) {
                return shown;
            }
            // Cannot fail: the app owns the sender.
            let _ = self.changes.changed().await;
        }
    }

    /// Whether something else is shown than when this began to follow, or last looked.
    #[cfg(test)]
    pub(super) fn has_changed(&self) -> bool {
        self.changes.has_changed().expect("the app owns the sender")
    }
}
