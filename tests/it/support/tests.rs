//! Tests of the test tools.

use std::time::Duration;

use tokio::time::timeout;

use super::chaos::{ChaosProxy, Network};
use super::postgres::{Cluster, Database};
use super::sign::{self, PEER_KEY};

/// Far longer than a response takes, and still short for a failing test.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

async fn through(database: &Database, proxy: &ChaosProxy) -> tokio_postgres::Client {
    let url = database.url_at(proxy.address);
    let connecting = tokio_postgres::connect(&url, tokio_postgres::NoTls);
    let (client, connection) = timeout(LONG, connecting).await.expect("in time").expect("passes");
    tokio::spawn(async move { connection.await.ok() });
    client
}

async fn answers(client: &tokio_postgres::Client, patience: Duration) -> Option<bool> {
    timeout(patience, client.simple_query("SELECT 1")).await.ok().map(|answer| answer.is_ok())
}

#[tokio::test]
async fn databases_are_fresh_and_count_their_statements() {
    let (one, two) = (Cluster::shared().database().await, Cluster::shared().database().await);
    assert_ne!(one.url(), two.url());
    one.create_freeshard_tables().await;
    one.insert_app("notes", "running").await;
    one.insert_terminal("t", "Phone").await;
    one.set_secret("terminal_jwt_secret", "s").await;
    one.forget_statements().await;
    assert_eq!(one.statements().await, []);
    for _ in 0..3 {
        one.client
            .query("SELECT name FROM installed_apps WHERE name = 'notes'", &[])
            .await
            .unwrap();
    }
    two.client.simple_query("SELECT 2").await.unwrap();
    let counted = one.statements().await;
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert_eq!(counted[0].1, 3);
}

#[tokio::test]
async fn the_network_breaks_in_every_way_and_heals() {
    let database = Cluster::shared().database().await;
    let proxy = ChaosProxy::before(database.server_address()).await;
    let client = through(&database, &proxy).await;
    assert_eq!(answers(&client, LONG).await, Some(true));

    proxy.set(Network::Stall);
    assert_eq!(answers(&client, SHORT).await, None);
    proxy.set(Network::Pass);
    assert_eq!(answers(&client, LONG).await, Some(true), "a stall loses nothing");

    for half in [Network::LoseAnswers, Network::LoseQuestions] {
        let client = through(&database, &proxy).await;
        proxy.set(half);
        assert_eq!(answers(&client, SHORT).await, None, "{half:?}");
        proxy.set(Network::Pass);
        assert_eq!(answers(&client, LONG).await, Some(false), "a stream with a hole is reset");
    }

    let client = through(&database, &proxy).await;
    proxy.set(Network::Delay(SHORT));
    assert_eq!(answers(&client, SHORT).await, None);
    assert_eq!(answers(&client, LONG).await, Some(true));

    proxy.set(Network::Cut);
    assert_eq!(answers(&client, LONG).await, Some(false));
    let url = database.url_at(proxy.address);
    assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err());
    proxy.set(Network::Pass);
    let client = through(&database, &proxy).await;
    proxy.reset();
    assert_eq!(answers(&client, LONG).await, Some(false));
    assert!(proxy.accepted() >= 5);
}

#[tokio::test]
async fn a_cluster_of_ones_own_crashes_and_returns() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    database.create_freeshard_tables().await;
    cluster.crash().await;
    assert!(database.client.simple_query("SELECT 1").await.is_err());
    cluster.start().await;
    database.connect().await.simple_query("SELECT * FROM terminals").await.unwrap();
}

#[test]
fn python_signs_as_the_contract_shows() {
    let url = "https://tmpl.w2wqjf.freeshard.test/peer/foo?a=1";
    let signed = sign::sign(&[sign::order(&PEER_KEY, "ff1gfz", url)]);
    let input = &signed[0]["Signature-Input"];
    let parameters = input.split_once('=').expect("a label").1;
    assert!(parameters.starts_with(r#"("@method" "@authority" "@target-uri" "date""#), "{input}");
    assert!(parameters.contains(r#"keyid="ff1gfz""#), "{input}");
    assert!(signed[0]["Signature"].ends_with(':'), "{:?}", signed[0]);
}
