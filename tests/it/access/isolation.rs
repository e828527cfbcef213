//! The second wall: the database itself shows a reader the rows of one tenant.

use std::time::Duration;

use nightporter::config::{self, Secret};
use nightporter::ledger::archive::UnplacedFilter;
use nightporter::ledger::archive::postgres::Postgres;
use nightporter::ledger::history::PageRequest;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Home, OTHER, PATIENCE, marked, parsed, run};
use crate::ledger::samples;
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};
use crate::support::postgres::{Cluster, Database};
use crate::support::server::Nightporter;

const OURS: &str = "OURSECRET";

/// A database with records of two boxes, in a cluster of its own: roles belong to clusters.
struct Shared {
    _cluster: Cluster,
    database: Database,
    archive: Postgres,
}

fn archive(url: &str) -> Postgres {
    let config = config::Postgres {
        url: Secret::new(url),
        pool_size: 8,
        pool_timeout: PATIENCE,
        connect_timeout: Duration::from_secs(30),
        query_timeout: Duration::from_secs(30),
        create_tables: false,
    };
    Postgres::new(&config).expect("a valid connection string")
}

async fn fill(archive: &Postgres) {
    let of = |tenant: &str, first: i64| -> Vec<_> {
        let records = (first..first + 5).map(|seq| marked(seq, &format!("{OURS}{tenant}")));
        records
            .map(|mut record| {
                record.tenant = tenant.into();
                record
            })
            .collect()
    };
    archive.write(&of("box", 1)).await.expect("written");
    archive.write(&of(OTHER, 11)).await.expect("written");
    let mut transaction = archive.begin().await.expect("begins");
    for tenant in ["box", OTHER] {
        transaction.set_tree_size(tenant, 5).await.expect("set");
    }
    transaction.commit().await.expect("committed");
}

impl Shared {
    async fn new() -> Self {
        let cluster = Cluster::own();
        let database = cluster.database().await;
        let archive = archive(&database.url());
        archive.prepare().await.expect("prepared");
        fill(&archive).await;
        Self { _cluster: cluster, database, archive }
    }
}

/// Returns how many rows of each table a session sees that takes on the reader's role.
async fn visible(client: &Client, tenant: Option<&str>) -> Vec<(String, i64)> {
    let sql = "SELECT relname FROM pg_class WHERE relnamespace = 'nightporter_ledger'::regnamespace
               AND relkind = 'r' AND has_table_privilege('nightporter_reader', oid, 'SELECT')
               ORDER BY relname";
    let tables = client.query(sql, &[]).await.expect("the catalog");
    client.batch_execute("BEGIN; SET LOCAL ROLE nightporter_reader").await.expect("may take it on");
    if let Some(tenant) = tenant {
        let sql = "SELECT set_config('nightporter.tenant', $1, true)";
        client.query(sql, &[&tenant]).await.expect("set");
    }
    let mut seen = Vec::new();
    for table in tables {
        let name: String = table.get(0);
        let count = format!("SELECT count(*) FROM nightporter_ledger.{name}");
        seen.push((name, client.query_one(&count, &[]).await.expect("counted").get(0)));
    }
    client.batch_execute("ROLLBACK").await.expect("rolled back");
    seen
}

fn rows(seen: &[(String, i64)], table: &str) -> i64 {
    seen.iter().find(|(name, _)| name == table).unwrap_or_else(|| panic!("{table}: {seen:?}")).1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_one_tenant_and_without_one_nothing() {
    let shared = Shared::new().await;
    assert_eq!(shared.archive.isolation_problem(), None);
    let client = &shared.database.client;
    let all: i64 = client
        .query_one("SELECT count(*) FROM nightporter_ledger.requests", &[])
        .await
        .expect("counted")
        .get(0);
    assert_eq!(all, 10, "as the owner");
    // A setting of the session does not outlive the transaction's own.
    for session in ["", "SET nightporter.tenant = ''", "SET nightporter.tenant = 'nobody'"] {
        client.batch_execute(session).await.expect("set");
        for tenant in [None, Some(""), Some("nobody"), Some("*"), Some("' OR true --")] {
            let seen = visible(client, tenant).await;
            assert!(seen.len() >= 9, "{seen:?}");
            assert!(seen.iter().all(|(_, count)| *count == 0), "{tenant:?}: {seen:?}");
        }
        for tenant in ["box", OTHER] {
            let seen = visible(client, Some(tenant)).await;
            assert_eq!(rows(&seen, "requests"), 5);
            assert_eq!((rows(&seen, "steps"), rows(&seen, "notes")), (10, 5));
            assert_eq!((rows(&seen, "tenants"), rows(&seen, "trees")), (1, 1));
        }
    }
    client.batch_execute("RESET nightporter.tenant").await.expect("reset");
    // The reader writes nothing, and does not see tokens.
    for statement in [
        "SELECT * FROM nightporter_ledger.tokens",
        "DELETE FROM nightporter_ledger.requests",
        "INSERT INTO nightporter_ledger.trees VALUES ('x', 1)",
        "UPDATE nightporter_ledger.jobs SET due = 0",
        "TRUNCATE nightporter_ledger.notes",
    ] {
        client.batch_execute("BEGIN; SET LOCAL ROLE nightporter_reader").await.expect("begins");
        let refused = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(refused.code().map(SqlState::code), Some("42501"), "{statement}");
        client.batch_execute("ROLLBACK").await.expect("rolled back");
    }
    // What is read through the archive is the same as without the wall.
    let page = PageRequest { tenant: OTHER.into(), ..samples::request(100) };
    assert_eq!(shared.archive.page(&page).await.expect("read").records.len(), 5);
    let found = shared.archive.find(OTHER, samples::id(9, 11)).await.expect("read").expect("there");
    assert_eq!((found.record.steps.len(), found.record.notes.len()), (2, 1));
    assert_eq!(shared.archive.find(OTHER, samples::id(9, 1)).await.expect("read"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_part_has_the_tokens_of_single_tenants_refused() {
    const ROLE: &str = "nightporter_reader";
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let sample = SampleBox::in_database(Store::Postgres, Some(database)).await;
    let home = Home::of(sample, "").await;
    home.write(&Home::tenant(), (1..=5).map(|seq| marked(seq, OURS)).collect()).await;
    home.write(OTHER, (11..=15).map(|seq| marked(seq, "theirs")).collect()).await;
    let database = home.sample.database();
    let requests = "nightporter_ledger.requests";
    // The part, whether it still closes the leak at the reader, and how it is mended if not by
    // `nightporter migrate`.
    let parts = [
        (format!("ALTER TABLE {requests} DISABLE ROW LEVEL SECURITY"), false, ""),
        (format!("ALTER TABLE {requests} NO FORCE ROW LEVEL SECURITY"), true, ""),
        (format!("DROP POLICY nightporter_reader ON {requests}"), true, ""),
        (format!("DROP POLICY nightporter_tenant ON {requests}"), true, ""),
        (format!("ALTER POLICY nightporter_reader ON {requests} USING (true)"), true, ""),
        (format!("ALTER POLICY nightporter_tenant ON {requests} USING (true)"), true, ""),
        (format!("ALTER POLICY nightporter_others ON {requests} USING (true)"), true, ""),
        ("ALTER TABLE nightporter_ledger.steps DISABLE ROW LEVEL SECURITY".into(), true, ""),
        ("DROP POLICY nightporter_tenant ON nightporter_ledger.checkpoints".into(), true, ""),
        (format!("ALTER ROLE {ROLE} SUPERUSER"), false, ""),
        (format!("ALTER ROLE {ROLE} BYPASSRLS"), false, ""),
        (format!("ALTER ROLE {ROLE} LOGIN"), true, ""),
        (
            format!("CREATE ROLE friend; GRANT friend TO {ROLE}"),
            true,
            "REVOKE friend FROM nightporter_reader",
        ),
        (
            format!(
                "CREATE VIEW nightporter_ledger.all_requests AS SELECT * FROM {requests};
                     GRANT SELECT ON nightporter_ledger.all_requests TO {ROLE}"
            ),
            true,
            "DROP VIEW nightporter_ledger.all_requests",
        ),
        (format!("GRANT DELETE ON {requests} TO {ROLE}"), true, ""),
        (format!("DROP OWNED BY {ROLE}; DROP ROLE {ROLE}"), true, ""),
    ];
    let (theirs, all) = (home.token(OTHER, "read,pii").await, home.token("*", "read,pii").await);
    let path = format!("/v1/requests?tenant={OTHER}&limit=500");
    for (part, is_closed, mended) in parts {
        let before = home.get("/v1/requests?limit=500", Some(&theirs)).await;
        assert_eq!(before.status, 200, "before {part}: {}", before.body());
        database.batch(&part).await;
        let has_role = !part.contains("DROP ROLE");
        if has_role && is_closed {
            let seen = visible(&database.client, Some(OTHER)).await;
            assert!(rows(&seen, "requests") <= 5, "{part}: {seen:?}");
            let nothing = visible(&database.client, None).await;
            let leaks = nothing.iter().any(|(name, count)| *count > 0 && name != "steps");
            assert!(!leaks, "{part}: {nothing:?}");
        }
        poll(&part, PATIENCE, async || {
            let answer = home.get("/v1/requests?limit=500", Some(&theirs)).await;
            // Until it is noticed, the statement's own condition keeps tenants apart.
            assert!(!answer.body().contains(OURS), "{part}: {}", answer.body());
            // A role that went away between two looks is the database's to refuse.
            answer.status == 503 && answer.body().contains("/healthz")
        })
        .await;
        let health = parsed(&home.get("/healthz", None).await);
        let problems = health["ledger"]["problems"].to_string();
        assert!(problems.contains("nightporter migrate"), "{part}: {problems}");
        // The rest goes on, and a token of all tenants still sees one at a time.
        for token in [None, Some(&*all)] {
            let mut page = home.get(&path, token).await;
            if page.status != 200 {
                // The role went away between two looks.
                page = home.get(&path, token).await;
            }
            let records = parsed(&page)["requests"].as_array().map_or(0, Vec::len);
            assert_eq!((page.status, records), (200, 5), "{part}: {}", page.body());
            assert!(!page.body().contains(OURS), "{part}");
        }
        home.write(&Home::tenant(), vec![marked(1, OURS)]).await;
        database.batch(mended).await;
        poll("it is mended", PATIENCE, async || {
            // The tables are in use: a run may give up waiting for a lock.
            let (code, out, err) = home.run(&["migrate"]);
            assert_eq!(code, 0, "{part}: {out}{err}");
            !out.contains("not kept apart")
        })
        .await;
        poll("accepted again", PATIENCE, async || {
            home.get("/v1/requests", Some(&theirs)).await.status == 200
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_not_create_roles_keeps_its_ledger() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let name = &database.name;
    database
        .batch(&format!(
            "CREATE ROLE plain LOGIN; CREATE ROLE maker LOGIN CREATEROLE;
             GRANT CREATE ON DATABASE {name} TO plain, maker"
        ))
        .await;
    let url = |user: &str| database.url().replace("postgres@", &format!("{user}@"));
    let plain = archive(&url("plain"));
    plain.prepare().await.expect("the schema is made");
    fill(&plain).await;
    let problem = plain.isolation_problem().expect("there is no role");
    assert!(problem.contains("the role `nightporter_reader` does not exist"), "{problem}");
    let page = PageRequest { tenant: OTHER.into(), ..samples::request(100) };
    assert_eq!(plain.page(&page).await.expect("read").records.len(), 5, "as the owner");

    // An administrator makes the role, and the owner puts the rest in place.
    database.batch("CREATE ROLE nightporter_reader").await;
    let report = plain.migrate().await.expect("migrates");
    assert!(report.applied.is_empty());
    let problem = plain.isolation_problem().expect("the role is not granted");
    assert!(problem.contains("was not granted to `plain`"), "{problem}");
    database.batch("GRANT nightporter_reader TO plain").await;
    plain.check_isolation().await.expect("looks");
    assert_eq!(plain.isolation_problem(), None);
    assert_eq!(plain.page(&page).await.expect("read").records.len(), 5, "as the reader");
    // The owner is no superuser, so FORCE holds for it, and it works as before.
    fill(&plain).await;
    let mut transaction = plain.begin().await.expect("begins");
    let ids: Vec<_> =
        transaction.unplaced_of("box", UnplacedFilter::default(), 10).await.expect("reads");
    let ids: Vec<_> = ids.iter().map(|unplaced| unplaced.id).collect();
    transaction.place("box", 0, &ids).await.expect("placed");
    transaction.commit().await.expect("committed");
    assert_eq!(ids.len(), 5);
    let owner = cluster_client(&url("plain")).await;
    for (setting, expected) in [("", 10_i64), ("box", 5), ("nobody", 0)] {
        let sql = "SELECT set_config('nightporter.tenant', $1, false)";
        owner.query(sql, &[&setting]).await.expect("set");
        let count = "SELECT count(*) FROM nightporter_ledger.requests";
        let seen: i64 = owner.query_one(count, &[]).await.expect("counted").get(0);
        assert_eq!(seen, expected, "the owner, after choosing {setting:?}");
    }
    // Whoever is a member of the reader's role, as its owner is, is not bound by its policies.
    database.batch("DROP SCHEMA nightporter_ledger CASCADE; DROP OWNED BY nightporter_reader; DROP ROLE nightporter_reader").await;
    let maker = archive(&url("maker"));
    maker.prepare().await.expect("the schema is made");
    assert_eq!(maker.isolation_problem(), None, "it makes the role itself");
    fill(&maker).await;
    assert_eq!(maker.page(&page).await.expect("read").records.len(), 5);
}

async fn cluster_client(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(async move { connection.await.ok() });
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_says_what_it_may_not_put_in_place() {
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let name = database.name.clone();
    let sample = SampleBox::in_database(Store::Postgres, Some(database)).await;
    let grant = format!("CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE {name} TO plain");
    sample.database().batch(&grant).await;
    let url = sample.database().url().replace("postgres@", "plain@");
    let toml = format!("{}[wake]\nenabled = false\n", sample.store_config());
    let toml =
        toml.replace("[ledger]\n", &format!("[ledger]\nkind = \"postgres\"\nurl = \"{url}\"\n"));
    let file = sample.folder().join("np.toml");
    std::fs::write(&file, toml).expect("written");
    let (code, out, err) = run(&["migrate"], &file);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("applied V7__alert_counts to the ledger"), "{out}");
    assert!(out.contains("`nightporter_reader` does not exist"), "{out}");
    assert!(out.contains("CREATE ROLE nightporter_reader NOLOGIN"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_a_request_looks_at_once_and_names_no_problem() {
    let home = Home::new(Store::Postgres).await;
    let idle = Nightporter::start(home.config.clone());
    idle.ready().await;
    poll("it has looked", PATIENCE, async || {
        let health = parsed(&ask(idle.ops, &Request::new("GET", "/healthz")).await);
        health["ledger"]["problems"] == serde_json::json!([])
    })
    .await;
}
