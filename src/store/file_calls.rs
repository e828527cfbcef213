//! File calls that may never return: on a mount whose server is gone even a `stat`
//! blocks for ever, and a thread that is blocked in such a call cannot be stopped.
//!
//! So no file call is made on a worker thread, no caller waits for one longer than a limit,
//! and only a limited number run at the same time in one folder: calls that hang cost a
//! few threads and no more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time limit of a call. A disk that has to spin up first needs several seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Calls that may run at the same time, including those that hang.
const MAX_CONCURRENT: usize = 8;

/// Runs the file calls of one folder.
#[derive(Debug, Clone)]
pub(crate) struct FileCalls {
    permits: Arc<Semaphore>,
    limit: Duration,
}

impl FileCalls {
    pub(crate) fn new() -> Self {
        Self::within(LIMIT)
    }

    fn within(limit: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONCURRENT)), limit }
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// The error of `work`, or [`io::ErrorKind::TimedOut`], after which `work` may still
    /// finish later.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let call = async {
            let permit =
                Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
            let result = spawn_blocking(move || {
                let done = work();
                drop(permit);
                done
            });
            result.await.map_err(io::Error::other)?
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
        for _ in 0..3 * MAX_CONCURRENT {
            let (release, hanging) = mpsc::channel::<()>();
            let began = began.clone();
            held.push(release);
            let hangs = calls.run(move || {
                began.send(()).map_err(io::Error::other)?;
                // Ends when its sender is dropped.
                hanging.recv().ok();
                Ok(())
            });
            assert_eq!(hangs.await.expect_err("hangs").kind(), io::ErrorKind::TimedOut);
        }
        assert!(begun.try_iter().count() <= MAX_CONCURRENT);
        // Another folder's calls are not delayed, nor are these once the mount is back.
        assert_eq!(FileCalls::new().run(|| Ok(1)).await.expect("done"), 1);
        held.clear();
        while calls.run(|| Ok(2)).await.is_err() {}
    }
}
