//! What FreeShard's branches prepare, and tables of other types, are survived.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nightporter::store::{Table, Terminal, Touched};

use super::{Store, settings, until};
use crate::support::postgres::{Cluster, Database};

async fn status(database: &Database) -> String {
    let sql = "SELECT status::text FROM installed_apps WHERE name = 'notes'";
    database.client.query_one(sql, &[]).await.expect("answers").get(0)
}

#[tokio::test]
async fn a_status_is_written_whatever_type_its_column_has() {
    for (made, column) in [
        ("", "text"),
        ("", "varchar(30)"),
        ("CREATE TYPE status AS ENUM ('error', 'running', 'stopped', 'down')", "status"),
        ("CREATE DOMAIN status AS text CHECK (VALUE <> 'paused')", "status"),
    ] {
        let database = Cluster::shared().database().await;
        let tables = format!(
            "{made}; CREATE TABLE installed_apps (name text PRIMARY KEY, \
             installation_reason text, status {column}, last_access timestamptz); \
             INSERT INTO installed_apps VALUES ('notes', 'custom', 'stopped', NULL)"
        );
        database.batch(&tables).await;
        let store = Store::open(&settings(&database.url()));
        for word in ["running", "running", "down", "stopped"] {
            store.postgres.write_status("notes", word).await.expect(column);
            assert_eq!(status(&database).await, word, "{column}");
        }
        assert_eq!(
            store.postgres.app("notes").await.expect("read").expect("there").status,
            "stopped"
        );
        // A word that the column does not take is told, and not tried for ever.
        store.postgres.write_status("notes", "paused").await.expect(column);
        let problems = store.postgres.health().problems;
        if column == "status" {
            assert!(problems.len() == 1 && problems[0].contains("`paused`"), "{problems:?}");
            assert_eq!(status(&database).await, "stopped");
        } else {
            assert_eq!((status(&database).await.as_str(), problems.len()), ("paused", 0));
        }
        store.postgres.write_status("notes", "running").await.expect(column);
        assert_eq!(store.postgres.health().problems, Vec::<String>::new());
        // Whoever installs or removes it has the word.
        database.batch("UPDATE installed_apps SET status = 'error'").await;
        store.postgres.write_status("notes", "running").await.expect(column);
        assert_eq!(status(&database).await, "error", "{column}");
    }
}

#[tokio::test]
async fn what_freeshards_branches_prepare_is_survived() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    database
        .batch(
            "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1); \
             ALTER TABLE terminals ADD COLUMN user_id int NOT NULL REFERENCES users; \
             ALTER TABLE installed_apps ADD COLUMN status_message text; \
             CREATE TABLE app_secrets (app text, key text, value text); \
             INSERT INTO kv_store VALUES ('traefik_secret', '\"hush\"'); \
             INSERT INTO terminals VALUES ('t', 'Phone', 'unknown', NULL, 1)",
        )
        .await;
    database.insert_app("notes", "running").await;
    let store = Store::live(&database.url()).await;
    assert_eq!(store.postgres.app_names().await.expect("read"), ["notes"]);
    assert_eq!(store.postgres.terminals().await.expect("read").len(), 1);
    store.postgres.write_status("notes", "stopped").await.expect("written");
    let uses = [(Arc::from("t"), UNIX_EPOCH + Duration::from_secs(1_700_000_000))];
    store.postgres.write_touches(Touched::Terminal, &uses).await.expect("written");

    let secrets = store.origin(Table::TerminalSecret, "");
    let terminal = store.origin(Table::Terminals, "t");
    database
        .batch(
            "UPDATE kv_store SET value = '\"other\"' WHERE key = 'traefik_secret'; \
             INSERT INTO app_secrets VALUES ('notes', 'k', 'v'); \
             UPDATE installed_apps SET status_message = 'x'; \
             UPDATE terminals SET name = 'Tablet'",
        )
        .await;
    until("heard", async || !store.is_current(&terminal)).await;
    assert!(store.is_current(&secrets), "another key's change");

    // Only the program that made the column knows what belongs there.
    let added = Terminal { id: "u".into(), name: "Laptop".into() };
    let error = store.postgres.add_terminal(&added).await.expect_err("refused").to_string();
    assert!(error.contains("`user_id`") && error.contains("pair"), "{error}");
    assert!(store.postgres.remove_terminal("t").await.expect("removed"));
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());
}
