//! How many attempts are under way: each endpoint has slots of its own, so that a slow one
//! delays no other, and all together are bounded, whatever the number of endpoints.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Attempts at the same time for one endpoint, and for all, of one process. When half of them
/// are under way, an endpoint gets one only, and none if its last attempt has failed. So those
/// that fail, however slowly, delay no other.
const OF_ENDPOINT: usize = 4;
const OF_PROCESS: usize = 64;
const FEW: usize = OF_PROCESS / 2;

/// How many attempts are under way, by endpoint.
#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: Mutex<HashMap<String, usize>>,
    freed: Notify,
}

/// A place for one attempt, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    endpoint: String,
}

impl Slots {
    /// Returns how many attempts may be begun for an endpoint; it is failing if its last attempt
    /// has failed.
    pub(super) fn free(&self, endpoint: &str, is_failing: bool) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(endpoint).copied().unwrap_or_default();
        let all: usize = taken.values().sum();
        let allowed = match all {
            OF_PROCESS.. => 0,
            FEW.. => usize::from(!is_failing),
            _ if is_failing => 1,
            _ => OF_ENDPOINT,
        };
        allowed.saturating_sub(own)
    }

    /// Takes a place, which must be free.
    pub(super) fn take(self: &Arc<Self>, endpoint: &str) -> Slot {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken.entry(endpoint.to_owned()).or_default() += 1;
        Slot { slots: Arc::clone(self), endpoint: endpoint.to_owned() }
    }

    /// Returns when a place has become free.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.endpoint);
            }
        }
        drop(taken);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded_by_endpoint_and_in_all() {
        let slots = Arc::new(Slots::default());
        let mut held = Vec::new();
        for n in 0..100 {
            let endpoint = n.to_string();
            while slots.free(&endpoint, false) > 0 {
                held.push(slots.take(&endpoint));
            }
        }
        assert_eq!(held.len(), OF_PROCESS);
        assert_eq!((held[0].endpoint.as_str(), held[3].endpoint.as_str()), ("0", "0"));
        held.remove(0);
        let free = |endpoint| slots.free(endpoint, false);
        assert_eq!((free("0"), free("99")), (0, 1), "one for those who have none");
        assert_eq!(slots.free("99", true), 0, "and none for those that fail");
        drop(held);
        assert_eq!((slots.free("99", false), slots.free("99", true)), (OF_ENDPOINT, 1));
    }
}
