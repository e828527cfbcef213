//! File calls that may never return: on a mount whose server is gone even a `stat`
//! waits for ever, and no thread that waits so can be stopped.
//!
//! So none is made on a worker thread, nobody waits for one longer than a limit, and
//! only so many are under way in one folder: what hangs costs a few threads and no more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a call may take; a disk that has to spin up first needs several seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Calls under way at one time, those that hang among them.
const AT_ONCE: usize = 8;

/// The calls in one folder.
#[derive(Debug, Clone)]
pub(crate) struct FileCalls {
    places: Arc<Semaphore>,
    limit: Duration,
}

impl FileCalls {
    pub(crate) fn new() -> Self {
        Self::within(LIMIT)
    }

    fn within(limit: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), limit }
    }

    /// Does `work` on a thread that may wait.
    ///
    /// # Errors
    /// Its own, or [`io::ErrorKind::TimedOut`]. It may then be done later all the same.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let call = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
            let called = spawn_blocking(move || {
                let done = work();
                drop(place);
                done
            });
            called.await.map_err(io::Error::other)?
        };
        timeout(self.limit, call).await.unwrap_or_else(|_| {
            let problem = format!("the file system did not answer within {:?}", self.limit);
            Err(io::Error::new(io::ErrorKind::TimedOut, problem))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn calls_that_hang_cost_a_few_threads_and_nobody_waits_for_them() {
        let calls = FileCalls::within(Duration::from_millis(20));
        let (began, begun) = mpsc::channel();
        let mut held = Vec::new();
        for _ in 0..3 * AT_ONCE {
            let (release, hanging) = mpsc::channel::<()>();
            let began = began.clone();
            held.push(release);
            let hangs = calls.run(move || {
                began.send(()).map_err(io::Error::other)?;
                // Ends with its sender.
                hanging.recv().ok();
                Ok(())
            });
            assert_eq!(hangs.await.expect_err("hangs").kind(), io::ErrorKind::TimedOut);
        }
        assert!(begun.try_iter().count() <= AT_ONCE);
        // Another folder's are not held up, nor are these once the mount is back.
        assert_eq!(FileCalls::new().run(|| Ok(1)).await.expect("done"), 1);
        held.clear();
        while calls.run(|| Ok(2)).await.is_err() {}
    }
}
