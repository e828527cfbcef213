//! Learns when any process has written to the archive.
//!
//! One connection listens for all who wait. It is opened when somebody first waits, and
//! again after every fault. Nobody relies on a notification: while none can be received,
//! those who wait are woken at every attempt to connect.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_stream::StreamExt;

use super::ProblemKind;
use crate::backoff::{doubled, jittered};
use crate::postgres::{Error, Problems, Server, ensure_direct, notifications};

pub(super) const CHANNEL: &str = "nightporter_ledger";

const LISTEN: &str = "LISTEN nightporter_ledger";

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often the connection is asked for a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Those who wait for changes, and the task that listens for them.
#[derive(Debug)]
pub(super) struct Listener {
    link: Link,
    task: OnceLock<JoinHandle<Infallible>>,
}

#[derive(Debug, Clone)]
struct Link {
    server: Arc<Server>,
    problems: Arc<Problems<ProblemKind>>,
    changes: watch::Sender<()>,
    /// The time limit of each exchange with the server.
    limit: Duration,
}

impl Listener {
    pub(super) fn new(
        server: Arc<Server>,
        problems: Arc<Problems<ProblemKind>>,
        limit: Duration,
    ) -> Self {
        let changes = watch::Sender::new(());
        Self { link: Link { server, problems, changes, limit }, task: OnceLock::new() }
    }

    /// Returns a receiver of the changes from now on. Needs a runtime.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        let link = &self.link;
        self.task.get_or_init(|| tokio::spawn(link.clone().keep()));
        link.changes.subscribe()
    }

    /// Tells of a change that this process has made.
    pub(super) fn wake(&self) {
        self.link.changes.send_replace(());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Link {
    /// Keeps up a connection that listens.
    async fn keep(self) -> Infallible {
        let mut failures = 0;
        loop {
            let Err(error) = self.run(&mut failures).await;
            failures += 1;
            let problem = format!("not receiving the ledger's notifications: {error}");
            self.problems.set(ProblemKind::Listening, problem);
            sleep(jittered(doubled(FIRST_WAIT, failures, LONGEST_WAIT))).await;
            self.changes.send_replace(());
        }
    }

    /// Listens until the connection is lost.
    async fn run(&self, failures: &mut u32) -> Result<Infallible, Error> {
        let connect = async |config: tokio_postgres::Config, tls| config.connect(tls).await;
        let (client, connection) = self.server.connect(connect).await?;
        let mut notifications = notifications(connection, CHANNEL);
        let receive = async {
            while let Some(notification) = notifications.next().await {
                notification?;
                self.changes.send_replace(());
            }
            Err(Error::Unexpected("the server closed the connection".into()))
        };
        tokio::select! {
            result = receive => result,
            result = self.supervise(client, failures) => result,
        }
    }

    async fn supervise(&self, client: Client, failures: &mut u32) -> Result<Infallible, Error> {
        self.within_limit(client.batch_execute(LISTEN)).await?;
        ensure_direct(&self.server, &client, self.limit).await?;
        *failures = 0;
        self.problems.clear(ProblemKind::Listening);
        // What was written before LISTEN was not heard.
        self.changes.send_replace(());
        loop {
            sleep(HEARTBEAT).await;
            self.within_limit(client.batch_execute("SELECT 1")).await?;
        }
    }

    async fn within_limit(
        &self,
        response: impl Future<Output = Result<(), tokio_postgres::Error>>,
    ) -> Result<(), Error> {
        let limit = self.limit;
        let response = timeout(limit, response).await;
        Ok(response.map_err(|_| Error::TooSlow { what: "a notification connection", limit })??)
    }
}
