//! Triggers and functions that are there and are not what they have to be.

use nightporter::postgres::MigrationReport;
use nightporter::store::Table;

use super::{Store, settings, until};
use crate::support::postgres::{Cluster, Database};

const SETTINGS: &str = "SELECT string_agg(concat(t.oid, ' ', t.xmin), ',' ORDER BY t.oid) \
    FROM pg_trigger t WHERE tgname LIKE 'nightporter%'";

async fn migrated() -> (Database, Store) {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    let store = Store::open(&settings(&database.url()));
    store.postgres.migrate().await.expect("migrates");
    (database, store)
}

async fn states(database: &Database) -> String {
    database.client.query_one(SETTINGS, &[]).await.expect("answers").get(0)
}

/// Triggers that look like ours and keep silent about some change.
const ALTERED: [(&str, &str); 7] = [
    (
        "has a different condition",
        "CREATE OR REPLACE TRIGGER nightporter_update AFTER UPDATE ON \
        terminals FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id) \
        EXECUTE FUNCTION nightporter.notify_row('terminals', 'id')",
    ),
    (
        "has a different condition",
        "CREATE OR REPLACE TRIGGER nightporter_insert AFTER INSERT ON \
        terminals FOR EACH ROW WHEN (false) \
        EXECUTE FUNCTION nightporter.notify_row('terminals', 'id')",
    ),
    (
        "has different events",
        "CREATE OR REPLACE TRIGGER nightporter_delete AFTER INSERT ON \
        terminals FOR EACH ROW EXECUTE FUNCTION nightporter.notify_row('terminals', 'id')",
    ),
    (
        "has different events",
        "CREATE OR REPLACE TRIGGER nightporter_update AFTER UPDATE OF icon ON \
        terminals FOR EACH ROW EXECUTE FUNCTION nightporter.notify_row('terminals', 'id')",
    ),
    (
        "calls a different function",
        "CREATE OR REPLACE TRIGGER nightporter_update AFTER UPDATE ON \
        terminals FOR EACH ROW \
        WHEN (OLD.id IS DISTINCT FROM NEW.id OR OLD.name IS DISTINCT FROM NEW.name) \
        EXECUTE FUNCTION nightporter.notify_row('elsewhere', 'id')",
    ),
    (
        "is a constraint trigger",
        "DROP TRIGGER nightporter_update ON terminals; \
        CREATE CONSTRAINT TRIGGER nightporter_update AFTER UPDATE ON terminals \
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
        EXECUTE FUNCTION nightporter.notify_row('terminals', 'id')",
    ),
    (
        "has a different body",
        "CREATE OR REPLACE FUNCTION nightporter.notify_row() RETURNS trigger \
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \
        'BEGIN RETURN NULL; END'",
    ),
];

#[tokio::test]
async fn a_definition_that_differs_is_made_anew_and_heard_again() {
    let (database, _) = migrated().await;
    database.insert_terminal("t", "Phone").await;
    for (fault, sql) in ALTERED {
        database.batch(&format!("{sql}; ")).await;
        let enable = "DO $$ DECLARE name text; BEGIN FOR name IN SELECT tgname FROM pg_trigger \
            WHERE tgrelid = 'terminals'::regclass AND tgname LIKE 'nightporter%' LOOP \
            EXECUTE format('ALTER TABLE terminals ENABLE ALWAYS TRIGGER %I', name); \
            END LOOP; END $$";
        database.batch(enable).await;
        let store = Store::live(&database.url()).await;
        for write in [
            "UPDATE terminals SET name = name || '!'",
            "DELETE FROM terminals",
            "INSERT INTO terminals (id, name) VALUES ('t', 'Phone')",
        ] {
            let origin = store.origin(Table::Terminals, "t");
            database.batch(write).await;
            until(&format!("{fault}: {write}"), async || !store.is_current(&origin)).await;
        }
    }
}

#[tokio::test]
async fn a_definition_that_is_changed_under_a_live_link_is_noticed() {
    let (database, _) = migrated().await;
    database.insert_terminal("t", "Phone").await;
    let store = Store::live(&database.url()).await;
    for (fault, sql) in ALTERED {
        let before = store.origin(Table::Terminals, "t");
        database.batch(sql).await;
        until(fault, async || !store.freshness.is_latest(&before)).await;
        store.until_live().await;
        let origin = store.origin(Table::Terminals, "t");
        database.batch("UPDATE terminals SET name = name || '!'").await;
        until(fault, async || !store.is_current(&origin)).await;
    }
}

#[tokio::test]
async fn definitions_in_order_are_left_alone_whatever_the_types_of_columns() {
    let (database, store) = migrated().await;
    let before = states(&database).await;
    assert_eq!(store.postgres.migrate().await.expect("in place"), MigrationReport::default());
    assert_eq!(states(&database).await, before);

    let other = Cluster::shared().database().await;
    other
        .batch(
            "CREATE TYPE app_status AS ENUM ('running', 'stopped', 'paused', 'down', 'error'); \
             CREATE DOMAIN short_text AS varchar(200); \
             CREATE TABLE installed_apps (name varchar PRIMARY KEY, installation_reason text, \
                status app_status, last_access timestamptz); \
             CREATE TABLE terminals (id varchar(40) PRIMARY KEY, name short_text, icon text, \
                last_connection timestamptz); \
             CREATE TABLE kv_store (key varchar(100) PRIMARY KEY, value jsonb)",
        )
        .await;
    let store = Store::open(&settings(&other.url()));
    store.postgres.migrate().await.expect("migrates");
    let before = states(&other).await;
    store.postgres.migrate().await.expect("in place");
    assert_eq!(states(&other).await, before, "made anew for the server's spelling");
}

#[tokio::test]
async fn a_role_that_may_not_mend_a_definition_names_it() {
    let (database, owner) = migrated().await;
    let role = format!("reader_of_{}", database.name);
    database
        .batch(&format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; \
             GRANT USAGE ON SCHEMA nightporter TO {role}; \
             GRANT SELECT ON nightporter.migrations TO {role}"
        ))
        .await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let store = Store::live(&url).await;
    let [(fault, sql), ..] = ALTERED;
    database.batch(sql).await;
    database.batch("ALTER TABLE terminals ENABLE ALWAYS TRIGGER nightporter_update").await;
    until("named", async || {
        let problems = store.postgres.health().problems;
        problems.iter().any(|problem| {
            ["nightporter_update", "terminals", fault, "nightporter migrate"]
                .iter()
                .all(|word| problem.contains(word))
        })
    })
    .await;
    assert!(!store.is_live());
    owner.postgres.migrate().await.expect("mended");
    store.until_live().await;
    drop(store);
    database.batch(&format!("DROP OWNED BY {role}")).await;
}
