//! Background tasks: those that the process cannot do without, and those that are restarted.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tracing::error;

use crate::backoff::{doubled, jittered};
use crate::telemetry::meters;

/// Waits before a task that has panicked is started again.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A task that has run for this long starts again with [`FIRST_WAIT`].
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// Tasks that run as long as the process.
#[derive(Debug, Default)]
pub(super) struct Tasks(JoinSet<Infallible>);

impl Tasks {
    /// Spawns tasks that the process cannot do without: if one ends, by a panic, the process
    /// ends. A gate without its store's listener must not continue as if nothing had happened.
    pub(super) fn essential(&mut self) -> &mut JoinSet<Infallible> {
        &mut self.0
    }

    /// Spawns a task that is started again after a panic. No verdict depends on it.
    pub(super) fn supervise<F>(
        &mut self,
        name: &'static str,
        start: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Infallible> + Send + 'static,
    {
        meters::task_known(name);
        self.0.spawn(async move {
            let mut failures = 0;
            loop {
                let started = Instant::now();
                let panicked = match AssertUnwindSafe(start()).catch_unwind().await {
                    Ok(never) => match never {},
                    Err(panicked) => panicked,
                };
                failures = if started.elapsed() >= STABLE_AFTER { 1 } else { failures + 1 };
                let wait = jittered(doubled(FIRST_WAIT, failures, LONGEST_WAIT));
                meters::task_restarted(name);
                error!(task = name, ?wait, "a background task panicked and will be restarted");
                drop(panicked);
                sleep(wait).await;
            }
        });
    }

    /// Returns the error of the first task that has ended; waits as long as none has.
    pub(super) async fn failed(&mut self) -> JoinError {
        match self.0.join_next().await {
            Some(Err(error)) => error,
            Some(Ok(never)) => match never {},
            None => std::future::pending().await,
        }
    }

    /// Cancels all tasks and waits for them.
    pub(super) async fn shutdown(&mut self) {
        self.0.shutdown().await;
    }

    /// Cancels all tasks without waiting.
    pub(super) fn abort(&mut self) {
        self.0.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    async fn panics() -> Infallible {
        tokio::task::yield_now().await;
        panic!("on purpose")
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_that_panics_is_started_again_and_ends_nothing() {
        let (mut tasks, starts) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&starts);
        tasks.supervise("test", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            panics()
        });
        // Waits of at most 1 + 2 + 4 + ... + 60 + 60 seconds.
        assert!(timeout(Duration::from_secs(250), tasks.failed()).await.is_err());
        let starts = starts.load(Ordering::Relaxed);
        assert!((8..=14).contains(&starts), "{starts}");
    }

    #[tokio::test]
    async fn an_essential_task_that_panics_is_told() {
        let mut tasks = Tasks::default();
        tasks.supervise("other", std::future::pending);
        tasks.essential().spawn(panics());
        assert!(tasks.failed().await.is_panic());
    }
}
