//! What is put into the database, and what is left alone.

use futures_util::future::join_all;

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
    let applied: Vec<_> = applied.into_iter().flat_map(|names| names.expect("comes up")).collect();
    assert_eq!(applied, ["V1__notifications"], "each migration is applied once");

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
    assert_eq!(store.postgres.migrate().await.expect("in place"), Vec::<String>::new());

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
