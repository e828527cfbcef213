//! What is put into the database, and what is left alone.

use futures_util::future::join_all;

use nightporter::postgres::{MigrationLimits, MigrationReport, Migrations, Server};
use nightporter::store::Table;

use super::{Store, settings};
use crate::support::postgres::{Cluster, Database};

const TABLES: &str = "SELECT string_agg(concat_ws(' ', table_name, column_name, data_type, \
    column_default, is_nullable), ', ' ORDER BY table_name, ordinal_position) \
    FROM information_schema.columns WHERE table_schema = 'public' \
    AND table_name IN ('installed_apps', 'identities', 'terminals', 'peers', 'kv_store')";

async fn text(database: &Database, sql: &str) -> String {
    database.client.query_one(sql, &[]).await.expect(sql).get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_processes_start_at_once_on_an_empty_database() {
    let database = Cluster::shared().database().await;
    let stores: Vec<_> = (0..32).map(|_| Store::open(&settings(&database.url()))).collect();
    let applied = join_all(stores.iter().map(|store| store.postgres.migrate())).await;
    let applied: Vec<_> =
        applied.into_iter().flat_map(|report| report.expect("comes up").applied).collect();
    assert_eq!(applied, ["V1__notifications", "V2__invitations"], "each migration is applied once");

    let created = text(&database, TABLES).await;
    let shard_core = Cluster::shared().database().await;
    shard_core.create_freeshard_tables().await;
    assert_eq!(created, text(&shard_core, TABLES).await, "the shape shard_core makes");
}

#[tokio::test]
async fn tables_that_exist_are_left_as_they_are() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    database.batch("ALTER TABLE terminals ADD COLUMN extra int DEFAULT 7; DROP TABLE peers").await;
    database.insert_terminal("t", "Phone").await;
    let files = "SELECT string_agg(concat(relname, relfilenode), ',' ORDER BY relname) \
        FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
        AND relname <> 'peers'";
    let before = text(&database, files).await;
    let store = Store::open(&settings(&database.url()));
    store.postgres.migrate().await.expect("migrates");
    assert_eq!(text(&database, files).await, before);
    assert_eq!(
        text(&database, "SELECT concat(id, name, icon, extra) FROM terminals").await,
        "tPhoneunknown7"
    );
    assert_eq!(text(&database, "SELECT to_regclass('peers')::text").await, "peers");
}

#[tokio::test]
async fn a_missing_table_is_named_where_none_may_be_created() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    database.batch("DROP TABLE terminals").await;
    let mut settings = settings(&database.url());
    settings.create_tables = false;
    let store = Store::watch(&settings);
    let error = store.postgres.migrate().await.expect_err("refused").to_string();
    assert!(error.contains("`terminals`") && error.contains("store.create_tables"), "{error}");
    super::until("the problem is told", async || {
        store.postgres.health().problems.iter().any(|problem| problem.contains("`terminals`"))
    })
    .await;
    // The process lives, and goes on as soon as the table is there.
    database.create_freeshard_tables().await;
    store.until_live().await;
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_role_that_may_only_read_needs_nothing_once_all_is_in_place() {
    let database = Cluster::shared().database().await;
    let owner = Store::open(&settings(&database.url()));
    owner.postgres.migrate().await.expect("migrates");
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
    assert_eq!(store.postgres.migrate().await.expect("in place"), MigrationReport::default());

    database.batch("DROP TRIGGER nightporter_insert ON peers").await;
    super::until("the problem is told", async || {
        let problems = store.postgres.health().problems;
        problems.iter().any(|problem| {
            problem.contains("must be owner") || problem.contains("permission denied")
        })
    })
    .await;
    owner.postgres.migrate().await.expect("put back");
    store.until_live().await;
    database.batch(&format!("DROP OWNED BY {role}; ")).await;
}

#[tokio::test]
async fn a_table_in_use_is_not_held_up_for_its_triggers() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    database.insert_app("notes", "running").await;
    let mut writer = database.connect().await;
    let open = writer.transaction().await.expect("begins");
    open.execute("UPDATE installed_apps SET status = 'stopped'", &[]).await.expect("writes");
    let store = Store::open(&settings(&database.url()));
    let error = store.postgres.migrate().await.expect_err("the table is in use").to_string();
    assert!(error.contains("installed_apps") && error.contains("lock timeout"), "{error}");
    open.commit().await.expect("commits");
    store.postgres.migrate().await.expect("migrates");
}

/// A newer version of the store's migrations.
const NEWER: Migrations = Migrations {
    schema: "nightporter",
    history: "migrations",
    list: &[
        (
            "V1__notifications",
            include_str!("../../../src/store/postgres/migrations/V1__notifications.sql"),
        ),
        (
            "V2__invitations",
            include_str!("../../../src/store/postgres/migrations/V2__invitations.sql"),
        ),
        ("V3__more", "CREATE TABLE nightporter.more (id int)"),
    ],
    limits: MigrationLimits::DEFAULT,
};

/// Whether a store is told of a change, and goes on being told.
async fn is_told_of_changes(database: &Database, store: &Store) {
    store.until_live().await;
    for name in ["Phone", "Tablet"] {
        let origin = store.origin(Table::Terminals, "t");
        let sql = "INSERT INTO terminals VALUES ('t', $1, 'unknown', NULL) \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name";
        database.execute(sql, &[&name]).await;
        super::until("told", async || !store.is_current(&origin)).await;
    }
}

#[tokio::test]
async fn during_an_upgrade_both_versions_serve_whichever_comes_first() {
    for newer_first in [false, true] {
        let database = Cluster::shared().database().await;
        let server = Server::parse(&database.url(), super::PATIENCE, super::PATIENCE);
        let server = server.expect("a valid connection string");
        let mut early = None;
        if !newer_first {
            let store = Store::live(&database.url()).await;
            is_told_of_changes(&database, &store).await;
            early = Some(store);
        }
        let applied = NEWER.run(&server, &()).await.expect("upgrades").applied;
        assert_eq!(applied.last().map(String::as_str), Some("V3__more"), "{applied:?}");
        if let Some(store) = &early {
            is_told_of_changes(&database, store).await;
        }
        let late = Store::live(&database.url()).await;
        is_told_of_changes(&database, &late).await;
        let report = late.postgres.migrate().await.expect("in place");
        assert_eq!(report.newer, ["V3__more"]);
        assert_eq!(report.applied, Vec::<String>::new());
        assert_eq!(NEWER.run(&server, &()).await.expect("in place"), MigrationReport::default());
    }
}

#[tokio::test]
async fn a_function_of_a_newer_version_stays_when_the_other_is_missing() {
    const BODIES: &str = "SELECT string_agg(p.proname || (p.prosrc LIKE '%newer%'), ' ' ORDER BY \
        p.proname) FROM pg_proc p WHERE p.pronamespace = 'nightporter'::regnamespace";
    let database = Cluster::shared().database().await;
    let server = Server::parse(&database.url(), super::PATIENCE, super::PATIENCE);
    NEWER.run(&server.expect("a valid connection string"), &()).await.expect("upgrades");
    let store = Store::live(&database.url()).await;
    database
        .batch(
            "CREATE OR REPLACE FUNCTION nightporter.notify_row() RETURNS trigger \
             LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \
             'BEGIN /* newer */ RETURN NULL; END'; \
             DROP FUNCTION nightporter.notify_table() CASCADE",
        )
        .await;
    store.postgres.migrate().await.expect("repairs");
    assert_eq!(text(&database, BODIES).await, "notify_rowtrue notify_tablefalse");
}

#[tokio::test]
async fn a_history_of_the_first_release_is_accepted() {
    let database = Cluster::shared().database().await;
    // As it was written by then.
    database
        .batch(
            "CREATE SCHEMA nightporter; \
             CREATE TABLE nightporter.migrations (version int4 PRIMARY KEY, name varchar(255), \
                applied_on varchar(255), checksum varchar(255)); \
             INSERT INTO nightporter.migrations VALUES (1, 'notifications', \
                '2026-01-02T03:04:05.678901234Z', '10727163625852215365')",
        )
        .await;
    let server = Server::parse(&database.url(), super::PATIENCE, super::PATIENCE);
    let report =
        NEWER.run(&server.expect("a valid connection string"), &()).await.expect("upgrades");
    assert_eq!(report.applied, ["V2__invitations", "V3__more"]);
}

#[tokio::test]
async fn a_repair_waits_for_no_table_and_is_tried_again_by_the_link() {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    let mut writer = database.connect().await;
    let open = writer.transaction().await.expect("begins");
    open.execute("LOCK TABLE peers IN ROW EXCLUSIVE MODE", &[]).await.expect("locks");
    let store = Store::watch(&settings(&database.url()));
    super::until("the problem is told", async || {
        store.postgres.health().problems.iter().any(|problem| problem.contains("lock timeout"))
    })
    .await;
    open.commit().await.expect("commits");
    is_told_of_changes(&database, &store).await;
}
