//! Actions that run on an app in a task of their own.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::attempt::Outcome;
use super::command::Reply;
use super::handle::{AppHandle, wall_clock};
use crate::domain::lifecycle::{Phase, SleepMode, WakeError};
use crate::domain::observation::{ActionKind, ActionStep, Cause};
use crate::domain::trace::SpanContext;

/// What a task does. Kept by the reconciler, because a task that panics returns nothing.
#[derive(Debug)]
pub(super) struct ActionTask {
    pub(super) app: Arc<AppHandle>,
    pub(super) action: Action,
    pub(super) cause: Cause,
    /// When it began, time in the queue included.
    pub(super) began: SystemTime,
    pub(super) steps: Steps,
    /// The span of the request that asked for it.
    pub(super) asked_by: Option<SpanContext>,
    /// Where to send the result, if an operator waits for it.
    pub(super) reply: Option<Reply>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Wake,
    Follow,
    Sleep(SleepMode),
}

/// The steps of an action, each with the time when it began.
#[derive(Debug)]
pub(super) struct Steps {
    first: (&'static str, Instant),
    more: Vec<(&'static str, Instant)>,
}

impl ActionTask {
    /// Returns an action that begins now; `queued` says since when its app has been waiting
    /// for a start slot.
    pub(super) fn new(
        app: &Arc<AppHandle>,
        action: Action,
        cause: Cause,
        queued: Option<Instant>,
        reply: Option<Reply>,
    ) -> Self {
        let (now, wall) = (Instant::now(), wall_clock());
        let steps = match queued {
            Some(since) => {
                let mut steps = Steps::new(Phase::Queued { place: 1 }.as_str(), since);
                steps.begin(action.first_step(), now);
                steps
            }
            None => Steps::new(action.first_step(), now),
        };
        let began = wall.checked_sub(now - steps.began()).unwrap_or(wall);
        let asked_by = (cause == Cause::Request).then(|| app.asked_by()).flatten();
        Self { app: Arc::clone(app), action, cause, began, steps, asked_by, reply }
    }
}

impl Action {
    pub(super) fn kind(self) -> ActionKind {
        match self {
            Self::Wake | Self::Follow => ActionKind::Wake,
            Self::Sleep(mode) => ActionKind::Sleep(mode),
        }
    }

    /// Returns the name of what it begins with.
    fn first_step(self) -> &'static str {
        match self {
            // The app's lock is acquired and its status is read.
            Self::Wake => "lock",
            Self::Follow => Phase::Starting.as_str(),
            Self::Sleep(SleepMode::Paused) => "pause",
            Self::Sleep(SleepMode::Stopped) => "stop",
        }
    }

    /// Returns the completion of a task that has panicked.
    pub(super) fn panicked(self) -> Completion {
        match self {
            Self::Wake => Completion::Woken(Outcome::Failed(WakeError::Panicked)),
            Self::Follow => Completion::Followed(Outcome::Failed(WakeError::Panicked)),
            Self::Sleep(mode) => Completion::Slept(mode, Err(WakeError::Panicked)),
        }
    }
}

impl Steps {
    fn new(name: &'static str, began: Instant) -> Self {
        Self { first: (name, began), more: Vec::new() }
    }

    /// Returns when the first step began.
    pub(super) fn began(&self) -> Instant {
        self.first.1
    }

    /// Begins a step, which ends the one before; a step that goes on is not begun again.
    pub(super) fn begin(&mut self, name: &'static str, now: Instant) {
        let (current, _) = self.more.last().unwrap_or(&self.first);
        if *current != name {
            self.more.push((name, now));
        }
    }

    /// Returns the steps with their durations; the last one ends now.
    pub(super) fn taken(&self, now: Instant) -> Vec<ActionStep> {
        let ends = self.more.iter().map(|(_, began)| *began).chain([now]);
        let steps = [self.first].into_iter().chain(self.more.iter().copied());
        steps.zip(ends).map(|((name, began), end)| ActionStep { name, took: end - began }).collect()
    }
}

/// The result of a task.
#[derive(Debug)]
pub(super) enum Completion {
    Woken(Outcome),
    Followed(Outcome),
    Slept(SleepMode, Result<(), WakeError>),
}

impl Completion {
    pub(super) fn result(&self) -> Result<(), WakeError> {
        match self {
            Self::Woken(outcome) | Self::Followed(outcome) => outcome.result(),
            Self::Slept(_, done) => done.clone(),
        }
    }
}
