//! Locks of apps, whose holders and sessions come to an end at any time.

use std::time::Duration;

use nightporter::postgres::AdvisoryLock;
use tokio::time::timeout;

use super::{Store, settings, until};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::postgres::{Cluster, Database};

/// A box behind a breakable network, and two stores: one that reaches it over the network
/// and one that reaches it past that.
async fn two_stores() -> (Database, ChaosProxy, Store, Store) {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let far = Store::open(&settings(&database.url_at(proxy.address)));
    let near = Store::open(&settings(&database.url()));
    (database, proxy, far, near)
}

async fn locks_held(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    database.client.query_one(sql, &[]).await.expect("answers").get(0)
}

/// Takes the lock of an app once it is free.
async fn take(store: &Store, app: &str) -> AdvisoryLock {
    let mut lock = None;
    until("the lock is free", async || {
        lock = store.postgres.try_lock_app(app).await.ok().flatten();
        lock.is_some()
    })
    .await;
    lock.expect("just taken")
}

/// Waits until another process may have the lock, and gives it back.
async fn until_free(store: &Store, app: &str) {
    until("the lock is free", async || match store.postgres.try_lock_app(app).await {
        Ok(Some(lock)) => {
            lock.release().await;
            true
        }
        _ => false,
    })
    .await;
}

#[tokio::test]
async fn a_lock_is_one_sessions_until_it_is_released_or_dropped() {
    let (database, _proxy, one, other) = two_stores().await;
    for is_dropped in [false, true] {
        let lock = one.postgres.try_lock_app("notes").await.expect("answers").expect("free");
        assert!(other.postgres.try_lock_app("notes").await.expect("answers").is_none());
        assert!(other.postgres.try_lock_app("wiki").await.expect("answers").is_some());
        if is_dropped {
            drop(lock);
        } else {
            lock.release().await;
        }
        until_free(&other, "notes").await;
    }
    until("none is left", async || locks_held(&database).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_given_up_in_the_middle_leaves_no_lock() {
    let (database, proxy, far, near) = two_stores().await;
    // Cut short at every stage: connecting, asking, being answered.
    for delay in [0, 1, 5] {
        proxy.set(Network::Delay(Duration::from_millis(delay)));
        for micros in (0..40).map(|step| step * 700) {
            let tried = far.postgres.try_lock_app("notes");
            let _given_up = timeout(Duration::from_micros(micros), tried).await;
        }
    }
    proxy.set(Network::Pass);
    until_free(&near, "notes").await;
    until("none is left", async || locks_held(&database).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_too_late_leaves_no_lock() {
    let (database, proxy, far, near) = two_stores().await;
    let warm = far.postgres.try_lock_app("warm").await.expect("answers").expect("free");
    warm.release().await;
    // The server hears the question and takes the lock; its word does not come back.
    proxy.set(Network::LoseAnswers);
    far.postgres.try_lock_app("notes").await.expect_err("not answered");
    proxy.set(Network::Pass);
    until_free(&near, "notes").await;
    until("none is left", async || locks_held(&database).await == 0).await;
    let again = far.postgres.try_lock_app("notes").await.expect("answers over a new session");
    again.expect("free").release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_not_answered_ends_the_session() {
    let (database, proxy, far, near) = two_stores().await;
    let lock = far.postgres.try_lock_app("notes").await.expect("answers").expect("free");
    proxy.set(Network::LoseQuestions);
    lock.release().await;
    proxy.set(Network::Pass);
    until_free(&near, "notes").await;
    until("none is left", async || locks_held(&database).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_a_lock_learns_that_its_session_has_ended() {
    let (database, proxy, far, near) = two_stores().await;
    let patience = Duration::from_secs(60);

    let lock = far.postgres.try_lock_app("notes").await.expect("answers").expect("free");
    assert!(timeout(Duration::from_millis(50), lock.lost()).await.is_err(), "it is held");
    database.terminate_backends().await;
    timeout(patience, lock.lost()).await.expect("an administrator ended it");

    // The server may be done with a session after its client.
    let lock = take(&far, "notes").await;
    proxy.reset();
    timeout(patience, lock.lost()).await.expect("the network did");

    let held = take(&far, "notes").await;
    proxy.set(Network::Stall);
    far.postgres.try_lock_app("wiki").await.expect_err("not answered");
    timeout(patience, held.lost()).await.expect("another one's question stalled in it");
    proxy.set(Network::Pass);
    until_free(&near, "notes").await;
}
