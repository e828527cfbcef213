//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on the thread that it was assigned to: it wakes no other thread, and
//! its data stays in the cache of one core. A new connection goes to the thread with the
//! fewest connections. (The kernel's own distribution, `SO_REUSEPORT`, uses a hash: of a
//! proxy's few dozen connections one thread may get twice as many as the next, and its
//! requests wait for each other.)

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{self, Handle};
use tokio::sync::mpsc;

/// Threads that serve connections of type `C`. When this is dropped, the threads end and
/// all open connections are closed.
#[derive(Debug)]
pub(super) struct Workers<C>(Box<[Worker<C>]>);

#[derive(Debug)]
struct Worker<C> {
    runtime: Handle,
    connections: mpsc::UnboundedSender<(C, OpenGuard)>,
    open: Arc<AtomicUsize>,
}

/// Counts one of a thread's open connections until it is dropped.
#[derive(Debug)]
struct OpenGuard(Arc<AtomicUsize>);

impl OpenGuard {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C: Send + 'static> Workers<C> {
    /// Starts `count` threads, or one if `count` is 0.
    ///
    /// # Errors
    /// Returns the operating system's error if no more threads or descriptors are available.
    pub(super) fn start<S, F>(name: &str, count: usize, serve: S) -> io::Result<Self>
    where
        S: Fn(C) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let worker = |number| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (connections, mut queue) = mpsc::unbounded_channel::<(C, OpenGuard)>();
            let serve = serve.clone();
            let handle = runtime.handle().clone();
            let take = async move {
                while let Some((connection, guard)) = queue.recv().await {
                    let served = serve(connection);
                    tokio::spawn(async move {
                        served.await;
                        drop(guard);
                    });
                }
            };
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || runtime.block_on(take))?;
            Ok(Worker { runtime: handle, connections, open: Arc::default() })
        };
        Ok(Self((0..count.max(1)).map(worker).collect::<io::Result<_>>()?))
    }

    /// Returns the runtime of the first thread, which new connections should be accepted on:
    /// those that it serves itself then wake no other thread.
    pub(super) fn first_runtime(&self) -> Option<&Handle> {
        self.0.first().map(|worker| &worker.runtime)
    }

    /// Gives a connection to the thread with the fewest connections.
    ///
    /// # Errors
    /// Returns the connection if that thread has ended.
    pub(super) fn serve(&self, connection: C) -> Result<(), C> {
        let fewest = self.0.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let Some(Worker { runtime: _, connections, open }) = fewest else { return Err(connection) };
        let guard = OpenGuard::new(open);
        connections.send((connection, guard)).map_err(|refused| refused.0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread::ThreadId;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Reports the thread that serves it, and stays open until the test closes it.
    struct Connection {
        served: oneshot::Sender<ThreadId>,
        close: oneshot::Receiver<()>,
    }

    async fn open(workers: &Workers<Connection>) -> (ThreadId, oneshot::Sender<()>) {
        let (served, on) = oneshot::channel();
        let (closes, close) = oneshot::channel();
        assert!(workers.serve(Connection { served, close }).is_ok());
        let on = timeout(PATIENCE, on).await.expect("in time").expect("served");
        (on, closes)
    }

    #[tokio::test]
    async fn a_new_connection_goes_where_fewest_are_open() {
        let workers = Workers::start("test", 3, |connection: Connection| async move {
            connection.served.send(std::thread::current().id()).expect("the test waits");
            connection.close.await.ok();
        });
        let workers = workers.expect("threads");
        let mut on: HashMap<ThreadId, Vec<oneshot::Sender<()>>> = HashMap::new();
        for _ in 0..30 {
            let (thread, closes) = open(&workers).await;
            on.entry(thread).or_default().push(closes);
        }
        assert_eq!(on.values().map(Vec::len).collect::<Vec<_>>(), [10; 3]);
        let emptied = *on.keys().next().expect("a thread");
        on.remove(&emptied);
        let all_closed = async {
            while workers.0.iter().all(|worker| worker.open.load(Ordering::Relaxed) == 10) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, all_closed).await.expect("the connections close");
        assert_eq!(open(&workers).await.0, emptied);
    }

    #[tokio::test]
    async fn threads_end_with_their_owner_and_take_what_is_open_along() {
        let (ends, ended) = oneshot::channel::<()>();
        let workers = Workers::start("test", 1, |open: oneshot::Sender<()>| async move {
            std::future::pending::<()>().await;
            drop(open);
        });
        let workers = workers.expect("a thread");
        assert!(workers.serve(ends).is_ok());
        drop(workers);
        let gone = timeout(PATIENCE, ended).await.expect("in time");
        assert!(gone.is_err(), "dropped with the thread's runtime");
    }
}
