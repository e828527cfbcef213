//! The link and the pool under faults.

use std::time::{Duration, Instant};

use nightporter::store::Table;

use super::{PATIENCE, QUERY_TIMEOUT, Store, settings, until};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::pooler::Pooler;
use crate::support::postgres::{Cluster, Database};

/// A box behind a breakable network, and a store that follows it.
async fn behind_a_proxy() -> (Database, ChaosProxy, Store) {
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let store = Store::live(&database.url_at(proxy.address)).await;
    (database, proxy, store)
}

/// Live again, with everything read anew, changes heard, and queries answered.
async fn has_healed(store: &Store, database: &Database) {
    store.until_live().await;
    let apps = store.origin(Table::AppNames, "");
    let name = format!("app {:?}", Instant::now());
    database.insert_app(&name, "running").await;
    until("a change is heard", async || !store.is_current(&apps)).await;
    until("queries are answered", async || {
        store.postgres.app(&name).await.is_ok_and(|row| row.is_some())
    })
    .await;
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());
}

#[tokio::test]
async fn every_fault_of_the_network_is_noticed_and_got_over() {
    let (database, proxy, store) = behind_a_proxy().await;
    for fault in [Network::Cut, Network::Stall, Network::LoseAnswers, Network::LoseQuestions] {
        let before = store.origin(Table::Apps, "notes");
        proxy.set(fault);
        store.until_degraded().await;
        until("told", async || !store.postgres.health().problems.is_empty()).await;
        assert!(!store.freshness.is_latest(&before), "{fault:?}: read again");
        let between = store.origin(Table::Apps, "notes");
        proxy.set(Network::Pass);
        // What a half-open connection swallowed never comes: it is made anew.
        proxy.reset();
        has_healed(&store, &database).await;
        assert!(!store.freshness.is_latest(&between), "{fault:?}: nobody listened meanwhile");
    }
}

#[tokio::test]
async fn a_link_that_only_stalled_goes_on_without_a_new_network() {
    let (database, proxy, store) = behind_a_proxy().await;
    proxy.set(Network::Stall);
    store.until_degraded().await;
    proxy.set(Network::Pass);
    has_healed(&store, &database).await;
}

#[tokio::test]
async fn a_slow_network_is_no_fault() {
    let (database, proxy, store) = behind_a_proxy().await;
    proxy.set(Network::Delay(Duration::from_millis(20)));
    let slow = Instant::now();
    let verified = |store: &Store| store.freshness.verified_ago(store.freshness.now());
    until("a slow heartbeat comes back", async || verified(&store) < slow.elapsed()).await;
    assert!(store.is_live());
    has_healed(&store, &database).await;
}

#[tokio::test]
async fn ended_backends_and_restarts_are_got_over() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let store = Store::live(&database.url()).await;
    let before = store.origin(Table::Apps, "notes");
    assert!(database.terminate_backends().await >= 2);
    until("read again", async || !store.freshness.is_latest(&before)).await;
    has_healed(&store, &database).await;

    cluster.crash().await;
    store.until_degraded().await;
    let down = store.postgres.app("notes").await.expect_err("down");
    // A refused connection is an answer.
    assert!(!down.to_string().contains("in time"), "{down}");
    cluster.start().await;
    store.until_live().await;
    until("queries are answered", async || store.postgres.app("notes").await.is_ok()).await;

    let before = store.origin(Table::Apps, "notes");
    cluster.restart().await;
    until("read again", async || !store.freshness.is_latest(&before)).await;
    store.until_live().await;
}

#[tokio::test]
async fn a_server_that_comes_up_later_is_waited_for() {
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    proxy.set(Network::Cut);
    let store = Store::watch(&settings(&database.url_at(proxy.address)));
    until("told", async || !store.postgres.health().problems.is_empty()).await;
    let down = store.postgres.identity().await.expect_err("not there yet");
    // That would be after the pool's patience.
    assert!(!down.to_string().contains("in time"), "{down}");
    proxy.set(Network::Pass);
    has_healed(&store, &database).await;
}

#[tokio::test]
async fn a_stalled_connection_is_never_used_again() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let store = Store::open(&settings(&database.url_at(proxy.address)));
    store.postgres.app("notes").await.expect("answers");
    assert_eq!((proxy.accepted(), store.postgres.health().pool), (1, Some((1, 1))));
    for fault in [Network::Stall, Network::LoseAnswers] {
        proxy.set(fault);
        let accepted = proxy.accepted();
        let asking = tokio::time::timeout(PATIENCE, store.postgres.app("notes")).await;
        asking.expect("it is given up").expect_err("stalled");
        proxy.set(Network::Pass);
        store.postgres.app("notes").await.expect("answers over a new connection");
        assert!(proxy.accepted() > accepted);
    }
}

#[tokio::test]
async fn a_query_nobody_waits_for_leaves_no_answer_to_the_next() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    database.insert_terminal("t", "Phone").await;
    let store = Store::open(&settings(&database.url()));
    for _ in 0..20 {
        let hurried = Duration::from_micros(300);
        let _cut_short = tokio::time::timeout(hurried, store.postgres.app_names()).await;
        let terminal = store.postgres.terminal("t").await.expect("answers").expect("is there");
        assert_eq!(&*terminal.name, "Phone");
    }
}

#[tokio::test]
async fn a_query_that_waits_for_a_lock_is_given_up_in_the_server_too() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    let mut owner = database.connect().await;
    let open = owner.transaction().await.expect("begins");
    open.batch_execute("LOCK TABLE installed_apps").await.expect("locks");
    let store = Store::open(&settings(&database.url()));
    let error = store.postgres.app("notes").await.expect_err("locked").to_string();
    assert!(error.contains(&format!("{QUERY_TIMEOUT:?}")), "{error}");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'nightporter'";
    until("the server has let it go", async || {
        let row = database.client.query_one(waiting, &[]).await.expect("answers");
        row.get::<_, i64>(0) == 0
    })
    .await;
    open.rollback().await.expect("unlocks");
    store.postgres.app("notes").await.expect("answers");
}

#[tokio::test]
async fn a_pooler_that_swallows_listen_is_never_believed() {
    let database = Cluster::shared().database().await;
    let pooler = Pooler::before(&database, "transaction");
    let store = Store::watch(&settings(&pooler.url(&database)));
    until("the problem is told", async || {
        assert!(!store.is_live());
        let problems = store.postgres.health().problems;
        problems.iter().any(|problem| problem.contains("transaction-pooling"))
    })
    .await;
    // Queries work all the same.
    database.insert_app("notes", "running").await;
    assert_eq!(store.postgres.app_names().await.expect("answers"), ["notes"]);
    assert!(!store.is_live());

    let pooler = Pooler::before(&database, "session");
    let store = Store::live(&pooler.url(&database)).await;
    let names = store.origin(Table::AppNames, "");
    database.insert_app("wiki", "running").await;
    until("heard", async || !store.is_current(&names)).await;
}
