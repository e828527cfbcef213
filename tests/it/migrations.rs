//! Migrations of a schema against a real server: who applies them, when they fail, and
//! processes of two versions with one database.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nightporter::postgres::{MigrationError, MigrationLimits, MigrationReport, Migrations, Server};

use crate::support::postgres::{Cluster, Database};

const LONG: Duration = Duration::from_secs(120);

const V1: (&str, &str) = ("V1__notes", "CREATE TABLE diary.notes (id int PRIMARY KEY)");
const V2: (&str, &str) = ("V2__words", "ALTER TABLE diary.notes ADD COLUMN words text");

const OLD: Migrations =
    Migrations { schema: "diary", history: "pages", list: &[V1], limits: MigrationLimits::DEFAULT };
const NEW: Migrations = Migrations { list: &[V1, V2], ..OLD };

fn server(database: &Database) -> Server {
    Server::parse(&database.url(), LONG, LONG).expect("a valid connection string")
}

async fn run(migrations: Migrations, database: &Database) -> MigrationReport {
    migrations.run(&server(database), &()).await.expect("applies")
}

fn report(applied: &[&str], newer: &[&str]) -> MigrationReport {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    MigrationReport { applied: owned(applied), newer: owned(newer) }
}

/// Whether a table or a column of it exists.
async fn exists(database: &Database, sql: &str) -> bool {
    let sql = format!("SELECT EXISTS ({sql})");
    database.client.query_one(&sql, &[]).await.expect("answers").get(0)
}

const SCHEMA: &str = "SELECT FROM pg_namespace WHERE nspname = 'diary'";
const WORDS: &str = "SELECT FROM information_schema.columns WHERE table_schema = 'diary' \
                     AND table_name = 'notes' AND column_name = 'words'";

#[tokio::test]
async fn a_schema_comes_from_nothing_and_from_any_version() {
    let database = Cluster::shared().database().await;
    assert_eq!(run(NEW, &database).await, report(&["V1__notes", "V2__words"], &[]));
    assert_eq!(run(NEW, &database).await, report(&[], &[]));
    assert!(exists(&database, WORDS).await);

    let database = Cluster::shared().database().await;
    assert_eq!(run(OLD, &database).await, report(&["V1__notes"], &[]));
    assert!(!exists(&database, WORDS).await);
    assert_eq!(run(NEW, &database).await, report(&["V2__words"], &[]));
    assert!(exists(&database, WORDS).await);
}

#[tokio::test]
async fn two_schemas_have_two_histories_and_do_not_wait_for_each_other() {
    const OTHER: Migrations = Migrations {
        schema: "ledger",
        list: &[("V1__records", "CREATE TABLE ledger.records (id int)")],
        ..OLD
    };
    let database = Cluster::shared().database().await;
    let mut held = database.connect().await;
    let held = held.transaction().await.expect("begins");
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('diary.pages', $1))";
    held.execute(lock, &[&0x6d69_6772_6174_696f_i64]).await.expect("free");
    assert_eq!(run(OTHER, &database).await, report(&["V1__records"], &[]));
    let limits = MigrationLimits { total: Duration::from_secs(1), ..OLD.limits };
    let error = Migrations { limits, ..OLD }.run(&server(&database), &()).await.expect_err("waits");
    assert!(error.to_string().contains("timeout") || error.to_string().contains("not finished"));
    held.commit().await.expect("ends");
    assert_eq!(run(OLD, &database).await, report(&["V1__notes"], &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_processes_that_start_at_once_applies_a_migration() {
    let database = Cluster::shared().database().await;
    run(OLD, &database).await;
    let servers: Vec<_> = (0..3).map(|_| server(&database)).collect();
    let reports = join_all(servers.iter().map(|server| NEW.run(server, &()))).await;
    let mut applied: Vec<_> =
        reports.into_iter().flat_map(|report| report.unwrap().applied).collect();
    assert_eq!(applied.pop().as_deref(), Some("V2__words"));
    assert_eq!(applied, Vec::<String>::new());
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    const BROKEN: Migrations = Migrations {
        list: &[
            V1,
            ("V2__broken", "CREATE TABLE diary.more (id int); SELECT 1 / 0; CREATE TABLE x ()"),
        ],
        ..OLD
    };
    let database = Cluster::shared().database().await;
    let error = BROKEN.run(&server(&database), &()).await.expect_err("fails").to_string();
    for word in ["V2__broken", "division by zero", "22012"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!exists(&database, SCHEMA).await);
    assert_eq!(run(OLD, &database).await, report(&["V1__notes"], &[]));
    BROKEN.run(&server(&database), &()).await.expect_err("fails again");
    assert!(!exists(&database, "SELECT FROM pg_class WHERE relname = 'more'").await);
    assert_eq!(run(NEW, &database).await, report(&["V2__words"], &[]), "put right");
}

#[tokio::test]
async fn a_migration_that_is_blocked_gives_up_in_time_and_succeeds_when_tried_again() {
    let database = Cluster::shared().database().await;
    run(OLD, &database).await;
    let mut writer = database.connect().await;
    let writing = writer.transaction().await.expect("begins");
    writing.execute("INSERT INTO diary.notes VALUES (1)", &[]).await.expect("writes");
    let began = Instant::now();
    let error =
        NEW.run(&server(&database), &()).await.expect_err("the table is in use").to_string();
    assert!(error.contains("lock timeout"), "{error}");
    assert!(began.elapsed() < MigrationLimits::DEFAULT.statement, "{:?}", began.elapsed());
    // Others can write again.
    database.batch("INSERT INTO diary.notes VALUES (2)").await;
    writing.commit().await.expect("commits");
    assert_eq!(run(NEW, &database).await, report(&["V2__words"], &[]));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_by_the_server() {
    const SLOW: Migrations = Migrations {
        list: &[V1, ("V2__slow", "SELECT pg_sleep(3600)")],
        limits: MigrationLimits { statement: Duration::from_secs(2), ..OLD.limits },
        ..OLD
    };
    let database = Cluster::shared().database().await;
    let error = SLOW.run(&server(&database), &()).await.expect_err("too slow").to_string();
    assert!(error.contains("V2__slow") && error.contains("statement timeout"), "{error}");
    assert!(!exists(&database, SCHEMA).await);
}

#[tokio::test]
async fn an_older_process_accepts_what_a_newer_one_has_applied() {
    let database = Cluster::shared().database().await;
    run(OLD, &database).await;
    run(NEW, &database).await;
    let before = "SELECT string_agg(concat(p, xmin), ',') FROM diary.pages p";
    let history: String = database.client.query_one(before, &[]).await.unwrap().get(0);
    assert_eq!(run(OLD, &database).await, report(&[], &["V2__words"]), "the newer is named");
    let after: String = database.client.query_one(before, &[]).await.unwrap().get(0);
    assert_eq!(history, after);

    let database = Cluster::shared().database().await;
    run(NEW, &database).await;
    assert_eq!(run(OLD, &database).await, report(&[], &["V2__words"]));
    assert_eq!(run(NEW, &database).await, report(&[], &[]));
}

#[tokio::test]
async fn a_history_that_does_not_fit_is_refused_and_named() {
    const V3: (&str, &str) = ("V3__marks", "ALTER TABLE diary.notes ADD COLUMN marks int");
    const SKIPPING: Migrations = Migrations { list: &[V1, V3], ..OLD };
    const ALL: Migrations = Migrations { list: &[V1, V2, V3], ..OLD };
    const OTHER_V1: Migrations =
        Migrations { list: &[("V1__notes", "CREATE TABLE diary.other ()"), V2], ..OLD };
    let database = Cluster::shared().database().await;
    run(SKIPPING, &database).await;
    let error = ALL.run(&server(&database), &()).await.expect_err("V2 was skipped");
    assert!(matches!(error, MigrationError::Gap { .. }), "{error}");
    for word in ["diary.pages", "V2__words", "V3__marks"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let database = Cluster::shared().database().await;
    run(OLD, &database).await;
    let error = OTHER_V1.run(&server(&database), &()).await.expect_err("another V1").to_string();
    assert!(error.contains("V1__notes") && error.contains("not the one"), "{error}");
    assert!(!exists(&database, WORDS).await);
    // Nor if there is nothing to apply.
    for change in ["name = 'words'", "checksum = '1'", "checksum = 'none'"] {
        let database = Cluster::shared().database().await;
        run(OLD, &database).await;
        database.batch(&format!("UPDATE diary.pages SET {change}")).await;
        let error = OLD.run(&server(&database), &()).await.expect_err(change);
        assert!(matches!(error, MigrationError::Divergent { .. }), "{change}: {error}");
    }
}

#[tokio::test]
async fn a_role_that_may_only_read_needs_nothing_if_nothing_is_missing() {
    let database = Cluster::shared().database().await;
    run(NEW, &database).await;
    let role = format!("reader_of_diary_in_{}", database.name);
    database
        .batch(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA diary TO {role}; \
             GRANT SELECT ON diary.pages TO {role}"
        ))
        .await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let reader = Server::parse(&url, LONG, LONG).expect("a valid connection string");
    assert_eq!(NEW.run(&reader, &()).await.expect("in place"), report(&[], &[]));
    assert_eq!(OLD.run(&reader, &()).await.expect("in place"), report(&[], &["V2__words"]));
    database.batch(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
