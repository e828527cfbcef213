//! Actions that run on an app in a task of their own.

use std::sync::Arc;

use super::attempt::Outcome;
use super::command::Reply;
use super::handle::AppHandle;
use crate::domain::lifecycle::{SleepMode, WakeError};

/// What a task does. Kept by the reconciler, because a task that panics returns nothing.
#[derive(Debug)]
pub(super) struct ActionTask {
    pub(super) app: Arc<AppHandle>,
    pub(super) action: Action,
    /// Where to send the result, if an operator waits for it.
    pub(super) reply: Option<Reply>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Wake,
    Follow,
    Sleep(SleepMode),
}

impl Action {
    /// Returns the completion of a task that has panicked.
    pub(super) fn panicked(self) -> Completion {
        match self {
            Self::Wake => Completion::Woken(Outcome::Failed(WakeError::Panicked)),
            Self::Follow => Completion::Followed(Outcome::Failed(WakeError::Panicked)),
            Self::Sleep(mode) => Completion::Slept(mode, Err(WakeError::Panicked)),
        }
    }
}

/// The result of a task.
#[derive(Debug)]
pub(super) enum Completion {
    Woken(Outcome),
    Followed(Outcome),
    Slept(SleepMode, Result<(), WakeError>),
}
