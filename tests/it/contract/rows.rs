//! What FreeShard's tables may hold: shapes only Postgres has.

use std::time::Duration;

use serde_json::json;

use crate::support::boxes::{self, SampleBox, Store, ZONE, id_of};
use crate::support::client::{Request, poll};
use crate::support::server::Nightporter;
use crate::support::sign::{self, BOX_KEY, OTHER_KEY, PEER_KEY, order, signature_headers};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_bad_peers_row_is_skipped_and_the_rest_verify() {
    let sample = SampleBox::new(Store::Postgres).await;
    sample.add_app("notes", &json!({"": {"access": "peer"}})).await;
    let database = sample.database();
    database.insert_peer("aaaaaa", "No key yet", None).await;
    database.insert_peer("bbbbbb", "Not PEM", Some("garbage")).await;
    database.insert_peer("", "No id", Some(&OTHER_KEY.public_pem)).await;
    let other = id_of(&OTHER_KEY);
    let sql = "INSERT INTO peers VALUES ($1, NULL, $2, NULL)";
    database.execute(sql, &[&other, &OTHER_KEY.public_pem]).await;
    let server = Nightporter::of(&sample).await;
    let made = sign::sign(&[
        order(&PEER_KEY, &id_of(&PEER_KEY)[..6], "https://notes.x/"),
        order(&OTHER_KEY, &other[..6], "https://notes.x/"),
        order(&OTHER_KEY, "bbbbbb", "https://notes.x/"),
        order(&OTHER_KEY, "aaaaaa", "https://notes.x/"),
    ]);
    for (headers, status) in made.iter().zip([200, 200, 401, 401]) {
        let asked = Request::auth("notes.x", "/").headers(signature_headers(headers));
        assert_eq!(server.ask(&asked).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn the_default_identity_is_the_portal_and_changes_at_once() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let headers = json!({"X-Ptl-Id": "{{ portal.id }}", "X-Ptl-Domain": "{{ portal.domain }}"});
        sample.add_app("notes", &json!({"": {"access": "public", "headers": headers}})).await;
        let server = Nightporter::of(&sample).await;
        let response = server.auth("notes.x", "/").await;
        let id = id_of(&BOX_KEY);
        assert_eq!(response.text("x-ptl-id"), Some(&*id));
        assert_eq!(response.text("x-ptl-domain"), Some(&*format!("{}.{ZONE}", &id[..6])));
        sample.set_identity(&OTHER_KEY).await;
        let other = id_of(&OTHER_KEY);
        poll("the new identity", SOON, async || {
            server.auth("notes.x", "/").await.text("x-ptl-id") == Some(&*other)
        })
        .await;
    }
}

#[tokio::test]
async fn uses_are_written_behind_the_request_and_denials_only_for_the_terminal() {
    let sample = SampleBox::new(Store::Postgres).await;
    sample.add_app("granted", &json!({"": {"access": "private"}})).await;
    sample.add_app("denied", &json!({"": {"access": "peer"}})).await;
    sample.add_terminal("idle", "Idle").await;
    sample.add_terminal("second", "Second").await;
    let quick = "[touch]\nflush_interval = \"20ms\"\n";
    let server = Nightporter::with(&sample, quick).await;
    let second = sign::token(crate::support::boxes::TERMINAL_SECRET, "second");
    let granted = Request::auth("granted.x", "/").cookie(boxes::token());
    let denied = Request::auth("denied.x", "/").cookie(second);
    for _ in 0..50 {
        assert_eq!(server.ask(&granted).await.status, 200);
        assert_eq!(server.ask(&denied).await.status, 401);
    }
    let database = sample.database();
    let used = async |sql: &str| {
        let rows = database.client.query(sql, &[]).await.expect("a table");
        rows.into_iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let connected = "SELECT id FROM terminals WHERE last_connection > now() - interval '1 minute'
                     ORDER BY id";
    poll("both terminals", SOON, async || used(connected).await == ["phone1", "second"]).await;
    let accessed =
        "SELECT name FROM installed_apps WHERE last_access > now() - interval '1 minute'";
    poll("one app", SOON, async || used(accessed).await == ["granted"]).await;
}

#[tokio::test]
async fn a_missing_table_is_made_and_a_box_begins_empty() {
    use crate::support::postgres::Cluster;
    let database = Cluster::shared().database().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let toml = format!(
        "[store]\nkind = \"postgres\"\nurl = \"{}\"\ninstalled_apps_dir = \"{}\"\n",
        database.url(),
        folder.path().display()
    );
    let server = Nightporter::start(crate::support::server::config(&toml));
    server.ready().await;
    assert_eq!(server.auth("notes.x", "/").await.status, 404);
    for table in ["installed_apps", "identities", "terminals", "peers", "kv_store"] {
        let rows = database.client.query(&format!("SELECT * FROM {table}"), &[]).await;
        assert!(rows.expect("the table").is_empty(), "{table}");
    }
    database.insert_app("notes", "running").await;
    server.until(503, &Request::auth("notes.x", "/")).await;
}
