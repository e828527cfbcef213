//! How many streams of events are open, and whose they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::access::Principal;

/// How many streams may be open at once; each asks the archive at least once a second.
const MAX: usize = 16;

/// How many of them one token may have. `ops.token` may have all.
const MAX_OF_TOKEN: usize = 4;

/// How many are left for `ops.token` whatever others open.
const FOR_ROOT: usize = 4;

/// The open streams, counted by token.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<Arc<str>, usize>>);

/// A slot for one stream, until it is dropped.
#[derive(Debug)]
pub(super) struct StreamSlot {
    streams: Arc<Streams>,
    token: Arc<str>,
}

impl Streams {
    /// Takes a slot; `None` if there is none for this token.
    pub(super) fn open(self: &Arc<Self>, token: &Arc<str>) -> Option<StreamSlot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.get(token).copied().unwrap_or_default();
        let is_free = if **token == *Principal::ROOT {
            all < MAX
        } else {
            let of_root = open.get(Principal::ROOT).copied().unwrap_or_default();
            own < MAX_OF_TOKEN && all < MAX && all - of_root < MAX - FOR_ROOT
        };
        if !is_free {
            return None;
        }
        open.insert(Arc::clone(token), own + 1);
        Some(StreamSlot { streams: Arc::clone(self), token: Arc::clone(token) })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_takes_all_places_and_some_are_left_for_root() {
        let streams = Arc::new(Streams::default());
        let open = |token: &str| streams.open(&token.into());
        let mut of_tokens = Vec::new();
        for token in ["a", "b", "c"] {
            of_tokens.extend((0..MAX_OF_TOKEN).map(|_| open(token).expect("a slot")));
            assert!(open(token).is_none(), "{token}");
        }
        assert!(open("d").is_none(), "the others are for root");
        let of_root: Vec<_> = (0..FOR_ROOT).map(|_| open("root").expect("a slot")).collect();
        assert!(open("root").is_none());
        of_tokens.pop();
        let another = open("d").expect("a slot is free again");
        drop((another, of_tokens, of_root));
        assert!(streams.0.lock().expect("not poisoned").is_empty());
        let all: Vec<_> = (0..MAX).map(|_| open("root").expect("a slot")).collect();
        assert!(open("a").is_none());
        drop(all);
    }
}
