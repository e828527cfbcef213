//! What is done to an app in a task of its own.

use std::sync::Arc;

use super::app::AppWake;
use super::attempt::Outcome;
use super::slot::Reply;
use crate::domain::lifecycle::{Failure, Rest};

/// What a task does, kept beside it: a task that panics says nothing.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) app: Arc<AppWake>,
    pub(super) job: Job,
    /// Of an operator who has ordered it.
    pub(super) reply: Option<Reply>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    Wake,
    Follow,
    Rest(Rest),
}

impl Job {
    /// What a task that has panicked has come to.
    pub(super) fn panicked(self) -> Ended {
        match self {
            Self::Wake => Ended::Woken(Outcome::Failed(Failure::Panicked)),
            Self::Follow => Ended::Followed(Outcome::Failed(Failure::Panicked)),
            Self::Rest(rest) => Ended::Rested(rest, Err(Failure::Panicked)),
        }
    }
}

/// What a task has come to.
#[derive(Debug)]
pub(super) enum Ended {
    Woken(Outcome),
    Followed(Outcome),
    Rested(Rest, Result<(), Failure>),
}
