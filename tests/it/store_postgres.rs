//! The Postgres store against a real server.

mod definitions;
mod foreign;
mod freeshard;
mod link;
mod locks;
mod migrate;
mod queries;
mod tls;
mod triggers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nightporter::config::{self, Secret};
use nightporter::store::freshness::Origin;
use nightporter::store::postgres::Postgres;
use nightporter::store::{Freshness, Table};
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// One that has not come back by then is lost, which on a busy machine none is to be.
const HEARTBEAT: Duration = Duration::from_secs(3);
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// A store as a process opens it, with a short temper.
#[derive(Debug)]
struct Store {
    postgres: Arc<Postgres>,
    freshness: Arc<Freshness>,
    watching: Option<JoinHandle<()>>,
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

fn settings(url: &str) -> config::Postgres {
    config::Postgres {
        url: Secret::new(url),
        pool_size: 4,
        pool_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(3),
        query_timeout: QUERY_TIMEOUT,
        create_tables: true,
    }
}

impl Store {
    /// Opened, not yet followed.
    fn open(settings: &config::Postgres) -> Self {
        let freshness = Arc::new(Freshness::new(config::Cache {
            capacity: 100,
            ttl: Duration::from_secs(3600),
            degraded_ttl: Duration::from_secs(1),
            max_stale: Duration::from_secs(60),
            heartbeat: HEARTBEAT,
        }));
        let store = config::Store {
            kind: config::StoreKind::Postgres(settings.clone()),
            labels: false,
            installed_apps_dir: "/nowhere".into(),
            zone: "box.example".into(),
            prefix_length: 6,
        };
        let touch = config::Touch {
            flush_interval: Duration::from_secs(5),
            last_access_every: Duration::from_secs(60),
        };
        let postgres = Postgres::new(settings, &store, &touch, Arc::clone(&freshness));
        let postgres = Arc::new(postgres.expect("a valid connection string"));
        Self { postgres, freshness, watching: None }
    }

    /// Followed, wherever that leads.
    fn watch(settings: &config::Postgres) -> Self {
        let mut store = Self::open(settings);
        let postgres = Arc::clone(&store.postgres);
        store.watching = Some(tokio::spawn(async move { match postgres.watch().await {} }));
        store
    }

    /// Followed, and known to hear of changes.
    async fn live(url: &str) -> Self {
        let store = Self::watch(&settings(url));
        store.until_live().await;
        store
    }

    fn is_live(&self) -> bool {
        self.freshness.is_live(self.freshness.now())
    }

    async fn until_live(&self) {
        until(&format!("live; problems: {:?}", self.postgres.health().problems), async || {
            self.is_live()
        })
        .await;
    }

    async fn until_degraded(&self) {
        until("degraded", async || !self.is_live()).await;
    }

    fn origin(&self, table: Table, key: &str) -> Origin {
        self.freshness.origin([table; 2], key)
    }

    fn is_current(&self, origin: &Origin) -> bool {
        self.freshness.is_current(origin)
    }
}

/// Waits for something that is to come true.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
