//! Commands for the reconciler, and the queue in which they wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::domain::lifecycle::{SleepMode, WakeError};
use crate::domain::observation::Cause;

/// Receives the result of an operator's command.
pub(super) type Reply = oneshot::Sender<Result<(), WakeError>>;

/// A command for the reconciler.
#[derive(Debug)]
pub enum Command {
    /// An app is new, or its spec has changed.
    Observe(Arc<str>),
    /// A request needs the app awake.
    Wake(Arc<str>),
    /// A visitor has asked for another attempt after a failed one.
    Retry(Arc<str>),
    /// An app that is always on does not run.
    KeepRunning(Arc<str>),
    /// The operator has asked for a wake and waits for its result.
    WakeNow(Arc<str>, Reply),
    Sleep {
        app: Arc<str>,
        mode: SleepMode,
        cause: Cause,
        /// The app is not put to sleep if a different last use has been noted since.
        unless_used_since: Option<LastUse>,
        reply: Option<Reply>,
    },
    /// An app is not installed any more.
    Forget(Arc<str>),
}

/// The last noted use of an app, if there was one. A newer note may carry an earlier
/// time, because the wall clock may have been set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastUse(pub Option<SystemTime>);

/// Sends commands; never waits.
#[derive(Debug, Clone)]
pub struct CommandSender {
    sender: mpsc::UnboundedSender<Command>,
    waiting: Arc<Waiting>,
}

/// Receives commands in the order in which they were sent.
#[derive(Debug)]
pub struct CommandReceiver {
    receiver: mpsc::UnboundedReceiver<Command>,
    waiting: Arc<Waiting>,
}

/// When each command in the queue was sent, the oldest first.
#[derive(Debug, Default)]
struct Waiting(Mutex<VecDeque<Instant>>);

/// The commands that have not been received yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub length: usize,
    /// How long the oldest one has been waiting.
    pub age: Duration,
}

/// Creates a queue of commands. Requests send at most one command of a kind for an app until
/// that has been handled, so the queue is bounded by the apps and by the operator's calls.
#[must_use]
pub fn channel() -> (CommandSender, CommandReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting::default());
    (CommandSender { sender, waiting: Arc::clone(&waiting) }, CommandReceiver { receiver, waiting })
}

impl CommandSender {
    pub(super) fn send(&self, command: Command) {
        // Held while sending, so that times and commands are in the same order.
        let mut waiting = self.waiting.lock();
        // The reconciler stops only when the process ends.
        if self.sender.send(command).is_ok() {
            waiting.push_back(Instant::now());
        }
    }

    pub(super) fn backlog(&self) -> Backlog {
        let waiting = self.waiting.lock();
        let age = waiting.front().map_or(Duration::ZERO, Instant::elapsed);
        Backlog { length: waiting.len(), age }
    }
}

impl CommandReceiver {
    pub(super) async fn recv(&mut self) -> Option<Command> {
        let command = self.receiver.recv().await?;
        self.waiting.lock().pop_front();
        Some(command)
    }

    /// Returns the next command if one is waiting.
    pub(crate) fn try_recv(&mut self) -> Option<Command> {
        let command = self.receiver.try_recv().ok()?;
        self.waiting.lock().pop_front();
        Some(command)
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_backlog_is_as_old_as_its_oldest_command() {
        let (sender, mut receiver) = channel();
        assert_eq!(sender.backlog(), Backlog::default());
        sender.send(Command::Wake("notes".into()));
        tokio::time::advance(Duration::from_secs(2)).await;
        sender.clone().send(Command::Wake("wiki".into()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sender.backlog(), Backlog { length: 2, age: Duration::from_secs(3) });
        let first = receiver.recv().await;
        assert!(matches!(first, Some(Command::Wake(name)) if &*name == "notes"));
        assert_eq!(sender.backlog(), Backlog { length: 1, age: Duration::from_secs(1) });
        receiver.recv().await.expect("the second");
        assert_eq!(sender.backlog(), Backlog::default());
        drop(receiver);
        sender.send(Command::Wake("late".into()));
        assert_eq!(sender.backlog(), Backlog::default(), "nobody receives it");
    }
}
