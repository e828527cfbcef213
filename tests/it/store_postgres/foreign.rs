//! What others send over the channel: any role of the database may.

use nightporter::store::Table;
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::AsyncMessage;

use super::{PATIENCE, Store, until};
use crate::support::postgres::{Cluster, Database};

async fn notify(database: &Database, payload: &str) {
    database.execute("SELECT pg_notify('nightporter', $1)", &[&payload]).await;
}

/// The server's process behind the link; a link that is made anew has another.
async fn link(database: &Database) -> Vec<i32> {
    // It is the only one whose session listens and does nothing after that.
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'nightporter' \
               AND (query LIKE 'LISTEN %' OR query LIKE '%pg_trigger%') \
               AND query NOT LIKE '%pg_notify%' ORDER BY pid";
    let rows = database.client.query(sql, &[]).await.expect("answers");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until everything sent so far has been heard.
async fn until_heard(store: &Store, database: &Database) {
    let mark = store.origin(Table::ManagementSecret, "");
    notify(database, r#"{"table":"kv_store","op":"reset"}"#).await;
    until("the mark is heard", async || !store.is_current(&mark)).await;
}

#[tokio::test]
async fn what_is_not_ours_is_ignored() {
    let database = Cluster::shared().database().await;
    let store = Store::live(&database.url()).await;
    let other = Store::live(&database.url()).await;
    let before = store.origin(Table::Apps, "notes");
    let long = format!("{{\"hello\":\"{}\"}}", "x".repeat(7900));
    for foreign in [
        "{}",
        r#"{"table":"app_secrets","op":"insert","key":"x"}"#,
        r#"{"heartbeat":"deadbeef","beat":1}"#,
        r#"{"heartbeat":"deadbeef"}"#,
        &long,
    ] {
        notify(&database, foreign).await;
    }
    // Heartbeats of the other come meanwhile, too.
    let sent = other.freshness.now();
    until("the other's heartbeat", async || {
        other.freshness.verified_ago(other.freshness.now()) < other.freshness.now().since(sent)
    })
    .await;
    until_heard(&store, &database).await;
    assert!(store.freshness.is_latest(&before), "{:?}", store.postgres.health().problems);
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_read_is_a_doubt_and_the_link_stays() {
    let database = Cluster::shared().database().await;
    let store = Store::live(&database.url()).await;
    let before = link(&database).await;
    assert_eq!(before.len(), 1, "{before:?}");
    for junk in ["", "not JSON", "[1]", "\u{1}"] {
        let origin = store.origin(Table::Apps, "notes");
        notify(&database, junk).await;
        until(junk, async || !store.freshness.is_latest(&origin)).await;
    }
    for half in [r#"{"table":"terminals","op":"merge"}"#, r#"{"table":"terminals"}"#] {
        let origin = store.origin(Table::Terminals, "t");
        notify(&database, half).await;
        until(half, async || !store.is_current(&origin)).await;
    }
    until_heard(&store, &database).await;
    assert_eq!(link(&database).await, before, "the link was made anew");
    assert!(store.is_live());
}

#[tokio::test]
async fn a_flood_that_cannot_be_read_is_a_bounded_number_of_doubts() {
    let database = Cluster::shared().database().await;
    let store = Store::live(&database.url()).await;
    let before = link(&database).await;
    let (began, mut doubts) = (tokio::time::Instant::now(), 0);
    let mut origin = store.origin(Table::Apps, "notes");
    for round in 0..300 {
        notify(&database, &format!("junk {round}")).await;
        if !store.freshness.is_latest(&origin) {
            doubts += 1;
            origin = store.origin(Table::Apps, "notes");
        }
    }
    until_heard(&store, &database).await;
    // One at once, and one for each period of `degraded_ttl` (a second) begun since.
    let most = 2 + began.elapsed().as_secs();
    assert!((1..=most).contains(&doubts), "{doubts} doubts");
    assert_eq!(link(&database).await, before, "the link was made anew");
}

/// A session that listens as anybody may, and the heartbeats it has heard.
async fn heartbeats(database: &Database, count: usize) -> Vec<String> {
    let url = database.url();
    let (listener, mut connection) =
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connects");
    let mut heard = Vec::new();
    let hearing = async {
        while heard.len() < count {
            let message = std::future::poll_fn(|context| connection.poll_message(context)).await;
            let message = message.expect("the server goes on").expect("readable");
            if let AsyncMessage::Notification(notification) = message {
                let payload: Value = serde_json::from_str(notification.payload()).expect("JSON");
                heard.push(payload["heartbeat"].as_str().expect("a heartbeat").to_owned());
            }
        }
    };
    let listening = async {
        listener.batch_execute("LISTEN nightporter").await.expect("listens");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = hearing => {}
        () = listening => {}
        () = sleep(PATIENCE) => panic!("too few heartbeats"),
    }
    heard
}

#[tokio::test]
async fn nobody_can_say_beforehand_what_vouches_for_the_link() {
    let database = Cluster::shared().database().await;
    let store = Store::live(&database.url()).await;
    let mut heard = heartbeats(&database, 8).await;
    assert!(store.is_live());
    assert!(heard.iter().all(|number| number.len() == 32), "{heard:?}");
    heard.sort();
    heard.dedup();
    assert_eq!(heard.len(), 8, "one that was heard vouches for a later one: {heard:?}");
    // A copy of a number that has had its day, again and again, is nobody's.
    for number in &heard {
        notify(&database, &format!("{{\"heartbeat\":\"{number}\",\"beat\":99}}")).await;
    }
    until_heard(&store, &database).await;
    assert!(store.is_live());
}
