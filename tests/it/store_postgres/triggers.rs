//! Which writes are told of.

use nightporter::store::Table::{
    self, AppMeta, AppNames, Apps, Identity, ManagementSecret, Peers, TerminalSecret, Terminals,
};

use super::{Store, until};
use crate::support::postgres::{Cluster, Database};

/// A box with a row in each table, and a store that follows it.
async fn followed() -> (Database, Store) {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    database.insert_app("notes", "running").await;
    database.insert_terminal("t", "Phone").await;
    database.insert_peer("p", "Friend", None).await;
    database.insert_identity("i", "key", true).await;
    database.set_secret("terminal_jwt_secret", "s").await;
    database.set_secret("freeshard_controller_shared_key", "m").await;
    let store = Store::live(&database.url()).await;
    (database, store)
}

/// Runs a write to other tables than `installed_apps` and tells what it
/// outdated of the keys `notes`, `t` and the singles.
async fn outdated_by(database: &Database, store: &Store, sql: &str) -> Vec<Table> {
    let origins = Table::ALL.map(|table| {
        let key = match table {
            Apps => "notes",
            Terminals => "t",
            _ => "",
        };
        (table, store.origin(table, key))
    });
    // An app that comes afterwards shows that all before it has been heard.
    let mark = store.origin(AppNames, "");
    database.batch(sql).await;
    database.insert_app(&format!("after {sql}"), "running").await;
    until("the mark is heard", async || !store.is_current(&mark)).await;
    origins
        .iter()
        .filter(|(table, origin)| *table != AppNames && !store.is_current(origin))
        .map(|(table, _)| *table)
        .collect()
}

/// As [`outdated_by`], for writes to `installed_apps`, whose mark must not be one.
async fn outdated_by_app_write(database: &Database, store: &Store, sql: &str) -> Vec<Table> {
    let keys = [(AppNames, store.origin(AppNames, "")), (Apps, store.origin(Apps, "notes"))];
    let mark = store.origin(ManagementSecret, "");
    database.batch(sql).await;
    database.set_secret("freeshard_controller_shared_key", sql).await;
    until("the mark is heard", async || !store.is_current(&mark)).await;
    keys.iter().filter(|(_, origin)| !store.is_current(origin)).map(|(table, _)| *table).collect()
}

#[tokio::test]
async fn writes_to_what_the_gate_reads_are_heard_and_no_others() {
    let (database, store) = followed().await;
    for (sql, tables) in [
        ("UPDATE terminals SET name = 'Tablet'", &[Terminals][..]),
        ("UPDATE terminals SET last_connection = now(), icon = 'x'", &[]),
        ("UPDATE terminals SET name = name", &[]),
        ("UPDATE terminals SET id = 'u' WHERE id = 't'", &[Terminals]),
        ("UPDATE terminals SET id = 't' WHERE id = 'u'", &[Terminals]),
        ("DELETE FROM terminals", &[Terminals]),
        ("INSERT INTO terminals VALUES ('t')", &[Terminals]),
        ("TRUNCATE terminals", &[Terminals]),
        ("UPDATE identities SET name = 'x', email = 'y', description = 'z'", &[]),
        ("UPDATE identities SET is_default = false", &[Identity]),
        ("UPDATE identities SET private_key = 'other'", &[Identity]),
        ("INSERT INTO identities (id) VALUES ('j')", &[Identity]),
        ("DELETE FROM identities WHERE id = 'j'", &[Identity]),
        ("TRUNCATE identities", &[Identity]),
        ("UPDATE peers SET is_reachable = false", &[]),
        ("UPDATE peers SET name = 'Foe'", &[Peers]),
        ("UPDATE peers SET public_bytes_b64 = 'x'", &[Peers]),
        ("DELETE FROM peers", &[Peers]),
        ("INSERT INTO peers VALUES ('p')", &[Peers]),
        ("TRUNCATE peers", &[Peers]),
        ("UPDATE kv_store SET value = '\"n\"' WHERE key LIKE 'terminal%'", &[TerminalSecret]),
        ("UPDATE kv_store SET value = '\"n\"' WHERE key LIKE 'free%'", &[ManagementSecret]),
        ("INSERT INTO kv_store VALUES ('profile', '{}'), ('other', '1')", &[]),
        ("UPDATE kv_store SET key = 'old' WHERE key LIKE 'terminal%'", &[TerminalSecret]),
        ("UPDATE kv_store SET key = 'terminal_jwt_secret' WHERE key = 'old'", &[TerminalSecret]),
        ("DELETE FROM kv_store WHERE key LIKE 'terminal%'", &[TerminalSecret]),
        ("TRUNCATE kv_store", &[TerminalSecret, ManagementSecret]),
        (
            "SET session_replication_role = replica; UPDATE terminals SET name = 'x'; \
             INSERT INTO terminals VALUES ('t', 'y'); RESET session_replication_role",
            &[Terminals],
        ),
    ] {
        assert_eq!(outdated_by(&database, &store, sql).await, tables, "{sql}");
    }
    assert!(store.is_live());
}

#[tokio::test]
async fn an_app_that_comes_or_goes_outdates_the_names_and_a_status_does_not() {
    let (database, store) = followed().await;
    for (sql, tables) in [
        ("UPDATE installed_apps SET status = 'stopped'", &[Apps][..]),
        ("UPDATE installed_apps SET last_access = now(), installation_reason = 'x'", &[]),
        ("UPDATE installed_apps SET status = status", &[]),
        ("INSERT INTO installed_apps (name) VALUES ('wiki')", &[AppNames]),
        ("DELETE FROM installed_apps WHERE name = 'wiki'", &[AppNames]),
        ("UPDATE installed_apps SET name = 'memos' WHERE name = 'notes'", &[AppNames, Apps]),
        ("UPDATE installed_apps SET name = 'notes' WHERE name = 'memos'", &[AppNames, Apps]),
        ("BEGIN; DELETE FROM installed_apps; ROLLBACK", &[]),
        ("DELETE FROM installed_apps", &[AppNames, Apps]),
        ("TRUNCATE installed_apps", &[AppNames, Apps]),
    ] {
        assert_eq!(outdated_by_app_write(&database, &store, sql).await, tables, "{sql}");
    }
    let description = store.origin(AppMeta, "notes");
    assert!(store.is_current(&description));
}

#[tokio::test]
async fn keys_too_long_for_a_payload_do_not_fail_the_write() {
    let (database, store) = followed().await;
    let read = |key: &str| store.origin(Apps, key);
    for key in ["\u{1}".repeat(1000), "\u{1}".repeat(1001), "x".repeat(2500)] {
        let (own, another) = (read(&key), read("another"));
        database.insert_app(&key, "running").await;
        until("heard", async || !store.is_current(&own)).await;
        if key.len() > 1000 {
            until("told as a reset", async || !store.is_current(&another)).await;
        }
        assert!(store.postgres.app(&key).await.expect("answers").is_some());
    }
    assert!(store.is_live());
}

#[tokio::test]
async fn odd_names_are_heard_and_read() {
    let (database, store) = followed().await;
    for name in ["🦉", "a\"b\\c", "line\nbreak", "ü'; DROP TABLE peers; --", "{\"op\":1}", "", " "]
    {
        let own = store.origin(Apps, name);
        database.insert_app(name, "running").await;
        until(name, async || !store.is_current(&own)).await;
        let row = store.postgres.app(name).await.expect("answers").expect("is there");
        assert_eq!(&*row.name, name);
    }
    assert!(store.is_live());
}

#[tokio::test]
async fn a_table_that_is_dropped_and_made_anew_is_followed_again() {
    let (database, store) = followed().await;
    let before = store.origin(Terminals, "t");
    database.batch("DROP TABLE terminals").await;
    database.create_freeshard_tables().await;
    until("read again", async || !store.freshness.is_latest(&before)).await;
    store.until_live().await;
    let after = store.origin(Terminals, "t");
    database.insert_terminal("t", "Phone").await;
    until("heard", async || !store.is_current(&after)).await;
}

#[tokio::test]
async fn triggers_that_were_away_for_a_moment_are_noticed() {
    let (database, store) = followed().await;
    for (table, trigger) in
        [("terminals", "nightporter_delete"), ("kv_store", "nightporter_update")]
    {
        let before = store.origin(Terminals, "t");
        database
            .batch(&format!(
                "BEGIN; ALTER TABLE {table} DISABLE TRIGGER {trigger}; \
                 DELETE FROM terminals; UPDATE kv_store SET value = '\"x\"'; \
                 ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}; COMMIT"
            ))
            .await;
        until("read again", async || !store.freshness.is_latest(&before)).await;
        store.until_live().await;
    }
    for sql in [
        "ALTER TABLE peers DISABLE TRIGGER nightporter_insert",
        "ALTER TABLE peers ENABLE TRIGGER nightporter_insert",
        "DROP TRIGGER nightporter_truncate ON identities",
        "DROP FUNCTION nightporter.notify_row() CASCADE",
        "DROP SCHEMA nightporter CASCADE",
    ] {
        let before = store.origin(Peers, "");
        database.batch(sql).await;
        until(sql, async || !store.freshness.is_latest(&before)).await;
        store.until_live().await;
        let peers = store.origin(Peers, "");
        database.insert_peer(sql, "Friend", None).await;
        until(sql, async || !store.is_current(&peers)).await;
    }
}
