//! The state that all connections of a listener share: the tick and the phase.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// Whether connections may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) enum Phase {
    Running,
    /// Connections finish the requests that have begun.
    Draining,
    /// Connections end immediately.
    Aborting,
}

/// The tick and the phase in one word, so that a request reads both with one load.
#[derive(Debug)]
pub(in crate::http) struct Pulse {
    /// The tick in the upper bits, the phase in the lower two.
    word: AtomicU32,
    pub(super) beat: Notify,
}

const PHASE_BITS: u32 = 2;

impl Pulse {
    pub(in crate::http) fn new() -> Self {
        // Tick 0 stands for "never".
        Self { word: AtomicU32::new(1 << PHASE_BITS), beat: Notify::new() }
    }

    pub(in crate::http) fn beat(&self) {
        self.word.fetch_add(1 << PHASE_BITS, Ordering::Relaxed);
        self.beat.notify_waiters();
    }

    pub(in crate::http) fn enter(&self, phase: Phase) {
        self.word.fetch_or(phase as u32, Ordering::Relaxed);
        self.beat.notify_waiters();
    }

    pub(super) fn load(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    pub(super) fn tick(&self) -> u32 {
        tick_of(self.load())
    }
}

pub(super) fn tick_of(word: u32) -> u32 {
    word >> PHASE_BITS
}

pub(super) fn phase_of(word: u32) -> Phase {
    match word & ((1 << PHASE_BITS) - 1) {
        0 => Phase::Running,
        1 => Phase::Draining,
        _ => Phase::Aborting,
    }
}
