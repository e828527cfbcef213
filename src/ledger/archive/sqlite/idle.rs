//! Connections that wait for the next reads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::Opened;

pub(super) type Idle = Arc<Mutex<Vec<Opened>>>;

/// Closes the connections.
pub(super) fn close_all(idle: &Idle) {
    lock(idle).clear();
}

pub(super) fn lock(idle: &Idle) -> MutexGuard<'_, Vec<Opened>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
