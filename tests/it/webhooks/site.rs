//! A ledger whose messages are sent, without the rest of the program.

use std::sync::Arc;
use std::time::Duration;

use nightporter::ledger::Ledger;
use nightporter::ledger::record::Micros;
use nightporter::webhooks::connector::System;
use nightporter::webhooks::deliveries::Attempt;
use nightporter::webhooks::endpoint::Endpoint;
use nightporter::webhooks::event::{Content, Event};
use nightporter::webhooks::manage;
use nightporter::webhooks::outbox::enqueue;
use nightporter::webhooks::sender::Sender;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;
use crate::support::server::config;

pub const TENANT: &str = "box";
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An event about which nothing is special.
pub fn event(id: &str, kind: &'static str) -> Event {
    Event {
        id: id.to_owned(),
        kind,
        at: Micros(1_700_000_000_000_000),
        app: None,
        subject: None,
        title: "The disk is nearly full".to_owned(),
        text: "1 GiB is left since 12:00; remove what nobody needs.".to_owned(),
        data: json!({"rule": "disk_low"}),
        masked: None,
    }
}

/// The same, with a name in it.
pub fn personal(id: &str) -> Event {
    let masked =
        Content { title: "A device was added".into(), text: "Was it you?".into(), data: json!({}) };
    let title = "Ada's phone was added".to_owned();
    Event { title, masked: Some(masked), ..event(id, "terminal.added") }
}

/// A webhook with this name, and more lines of its section.
pub fn webhook(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[endpoint]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n\
         allow = [\"127.0.0.0/8\"]\n{more}\n"
    )
}

/// A ledger with a sender.
#[derive(Debug)]
pub struct Site {
    pub ledger: Arc<Ledger>,
    sender: Option<JoinHandle<()>>,
}

impl Site {
    /// Sends for these endpoints.
    pub async fn new(sample: &SampleBox, endpoints: &str) -> Self {
        let config = config(&format!("{}{endpoints}", sample.store_config()));
        let ledger = Arc::new(Ledger::new(&config.ledger).expect("a valid configuration"));
        ledger.archive.prepare().await.expect("a schema");
        ledger.tenant.set(TENANT);
        let (settings, endpoints) = (config.webhooks.clone(), config.endpoints.clone());
        let sender = Sender::new(Arc::clone(&ledger), settings, endpoints, Arc::new(System));
        let sender = Arc::new(sender);
        let sender = tokio::spawn(async move {
            sender.run().await;
        });
        let site = Self { ledger, sender: Some(sender) };
        let count = config.endpoints.len();
        poll("the endpoints are stored", PATIENCE, async || site.endpoints().await.len() == count)
            .await;
        site
    }

    /// Queues an event, as a part of a transaction.
    /// Queues an event; tried again if the database has not become free in time.
    pub async fn queue(&self, event: &Event) {
        poll("it is queued", PATIENCE, async || {
            let Ok(mut transaction) = self.ledger.archive.begin().await else { return false };
            enqueue(&mut transaction, TENANT, event).await.is_ok()
                && transaction.commit().await.is_ok()
        })
        .await;
    }

    pub async fn endpoints(&self) -> Vec<Endpoint> {
        let mut snapshot = self.ledger.archive.snapshot().await.expect("a snapshot");
        manage::list(&mut snapshot, TENANT).await.expect("endpoints")
    }

    pub async fn endpoint(&self, id: &str) -> Endpoint {
        let all = self.endpoints().await;
        all.into_iter().find(|endpoint| endpoint.id == id).expect("an endpoint")
    }

    /// Returns the log of an endpoint, the newest attempts first.
    pub async fn log(&self, id: &str) -> Vec<Attempt> {
        let mut snapshot = self.ledger.archive.snapshot().await.expect("a snapshot");
        let page = manage::log(&mut snapshot, TENANT, id, None, None, 10_000).await;
        page.expect("a page").attempts
    }

    /// Waits until the log of an endpoint has so many attempts that have ended.
    pub async fn until(&self, id: &str, attempts: usize) -> Vec<Attempt> {
        let mut log = Vec::new();
        poll(&format!("{attempts} attempts at {id}"), PATIENCE, async || {
            log = self.log(id).await;
            log.iter().filter(|attempt| attempt.outcome != "running").count() >= attempts
        })
        .await;
        log
    }

    /// Stops to send, in the middle of whatever it does.
    pub async fn stop(mut self) {
        if let Some(sender) = self.sender.take() {
            sender.abort();
            sender.await.ok();
        }
    }

    /// Runs a statement of a test's own; `{}` stands for the schema.
    pub async fn execute(&self, sample: &SampleBox, sql: &str) {
        match sample.store {
            Store::Files => {
                let (path, sql) = (sample.ledger().join("ledger.db"), sql.replace("{}", ""));
                // A thread of its own: the lock's holder may need this one.
                let executed = tokio::task::spawn_blocking(move || {
                    let connection = rusqlite::Connection::open(path).expect("opens");
                    connection.busy_timeout(PATIENCE).expect("set");
                    connection.execute_batch(&sql).expect(&sql);
                });
                executed.await.expect("no panic");
            }
            Store::Postgres => {
                let sql = sql.replace("{}", "nightporter_ledger.");
                sample.database().client.batch_execute(&sql).await.expect(&sql);
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(sender) = &self.sender {
            sender.abort();
        }
    }
}
