//! What the archive in Postgres has to do besides what both archives have.

mod faults;
mod jobs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nightporter::config::{self, Secret};
use nightporter::ledger::archive::postgres::Postgres;
use nightporter::ledger::archive::{
    Archive, ArchiveError, Changes, JobRow, StoredCheckpoint, TileKey, UnplacedFilter,
};
use nightporter::ledger::history::{Filter, Order, PageRequest};
use nightporter::ledger::record::{Kind, Micros, Note, Personal, Record, RecordId, Step, WriterId};
use tokio::time::timeout;

use crate::ledger::samples::readable;
use crate::support::client::poll;
use crate::support::pooler::Pooler;
use crate::support::postgres::{Cluster, Database};

/// What anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

impl super::archive::Database for Database {
    fn archive(&self) -> Archive {
        Archive::Postgres(archive(&self.url()))
    }
}

fn archive(url: &str) -> Postgres {
    archive_with(url, Duration::from_secs(30))
}

fn archive_with(url: &str, query_timeout: Duration) -> Postgres {
    let config = config::Postgres {
        url: Secret::new(url),
        pool_size: 20,
        pool_timeout: LONG,
        connect_timeout: Duration::from_secs(30),
        query_timeout,
        create_tables: false,
    };
    Postgres::new(&config).expect("a valid connection string")
}

fn id(writer: i64, seq: i64) -> RecordId {
    RecordId { writer: WriterId(writer), seq }
}

/// A denied visit with three steps and a note.
fn record(tenant: &str, id: RecordId) -> Record {
    let step = |name: &'static str, outcome: &'static str| Step {
        name: name.into(),
        duration: Micros(7),
        outcome: outcome.into(),
    };
    Record {
        id,
        tenant: tenant.into(),
        kind: Kind::Visit,
        at: Micros(1_700_000_000_000_000 + id.seq),
        app: Some("notes".into()),
        host: Some("notes.box.example".into()),
        path: Some("/a/page".into()),
        rule: Some("/a".into()),
        client: Some("terminal".into()),
        client_id: Some(Personal::Clear(format!("t{}", id.seq % 7).into())),
        client_name: Some(Personal::Clear("Phone".into())),
        address: Some(Personal::Clear("192.0.2.1".into())),
        verdict: Some("deny".into()),
        reason: Some("private".into()),
        trace: Some("0af7651916cd43dd8448eb211c80319c".into()),
        duration: Micros(21),
        count: 1,
        steps: vec![step("app", "ok"), step("client", "ok"), step("decide", "denied")],
        notes: vec![Note { topic: "client".into(), text: "the token is too old".into() }],
        salt: Some([7; 16]),
        leaf: [9; 32],
        seal: [5; 16],
    }
}

fn records(tenant: &str, writer: i64, seqs: std::ops::Range<i64>) -> Vec<Record> {
    seqs.map(|seq| record(tenant, id(writer, seq))).collect()
}

fn all_of(tenant: &str) -> PageRequest {
    PageRequest {
        tenant: tenant.into(),
        filter: Filter::default(),
        order: Order::OldestFirst,
        after: None,
        limit: 1_000_000,
        with_unplaced: true,
    }
}

async fn count(database: &Database, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM nightporter_ledger.{table}");
    database.client.query_one(&sql, &[]).await.expect("answers").get(0)
}

#[tokio::test]
async fn two_boxes_in_one_database_see_nothing_of_each_other() {
    let database = Cluster::shared().database().await;
    let (one, other) = (archive(&database.url()), archive(&database.url()));
    let written = records("one", 1, 1..11);
    one.write(&written).await.expect("written");
    other.write(&records("other", 2, 1..6)).await.expect("written");

    let mut transaction = one.begin().await.expect("begins");
    let unplaced = transaction.unplaced_of("one", UnplacedFilter::default(), 100).await;
    let unplaced = unplaced.expect("read");
    let ids: Vec<_> = unplaced.iter().map(|unplaced| unplaced.id).collect();
    assert_eq!(ids, written.iter().map(|record| record.id).collect::<Vec<_>>());
    transaction.place("one", 0, &ids).await.expect("placed");
    transaction.set_tree_size("one", 10).await.expect("set");
    let key = TileKey { level: 0, number: 0 };
    transaction.put_tiles("one", &[(key, vec![1])]).await.expect("put");
    let checkpoint = StoredCheckpoint { size: 10, at: Micros(1), note: "signed".into() };
    transaction.put_checkpoint("one", &checkpoint).await.expect("put");
    let row = JobRow {
        name: "integrity".into(),
        due: Micros(1),
        started: None,
        ended: None,
        outcome: None,
        by: Some(1),
    };
    transaction.put_job("one", &row).await.expect("put");
    transaction.commit().await.expect("committed");

    let page = other.page(&all_of("other")).await.expect("read");
    assert_eq!(page.records.len(), 5);
    assert!(page.records.iter().all(|stored| stored.position.is_none()));
    assert!(page.records.iter().all(|stored| &*stored.record.tenant == "other"));
    assert_eq!(other.find("other", id(1, 1)).await.expect("read"), None);
    assert_eq!(other.page(&all_of("nobody")).await.expect("read").records, []);
    let mut transaction = other.begin().await.expect("begins");
    assert_eq!(transaction.tree_size("other").await.expect("read"), 0);
    assert_eq!(transaction.tiles("other", &[key]).await.expect("read"), []);
    assert_eq!(transaction.checkpoint("other").await.expect("read"), None);
    assert_eq!(transaction.job("other", "integrity").await.expect("read"), None);
    let (far, all) = (Micros(i64::MAX), i64::MAX);
    let oldest = transaction.oldest_after("other", Kind::Visit, far, all, None, 100).await;
    assert_eq!(oldest.expect("read"), [], "it has no record with a position");
    transaction.remove("other", &[id(2, 1)]).await.expect("nothing of its own");
    let refused = transaction.place("one", 10, &[id(2, 1)]).await.expect_err("another box's");
    assert!(matches!(refused, ArchiveError::Content(_)), "{refused}");
    transaction.roll_back().await.expect("rolled back");

    let mut snapshot = one.snapshot().await.expect("begins");
    let read = readable(snapshot.records("one", 0, 100).await.expect("read"));
    assert_eq!(read.iter().map(|stored| stored.record.clone()).collect::<Vec<_>>(), written);
    let places: Vec<_> = read.iter().map(|stored| stored.position).collect();
    assert_eq!(places, (0..10).map(Some).collect::<Vec<_>>());
    assert_eq!(snapshot.checkpoints("one").await.expect("read"), [checkpoint]);
    assert_eq!(snapshot.jobs("one").await.expect("read"), [row]);
}

#[tokio::test]
async fn a_role_that_may_not_create_a_schema_is_told_what_it_lacks() {
    let database = Cluster::shared().database().await;
    let role = format!("porter_of_{}", database.name);
    database.batch(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let archive = archive(&url);
    let refused = archive.write(&records("box", 1, 1..2)).await.expect_err("may not");
    assert!(matches!(refused, ArchiveError::Unavailable(_)), "{refused}");
    for part in ["permission denied", "privilege CREATE", "CREATE SCHEMA nightporter_ledger"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    assert_eq!(archive.problem(), Some(refused.to_string()));

    database.batch(&format!("CREATE SCHEMA nightporter_ledger AUTHORIZATION {role}")).await;
    archive.write(&records("box", 1, 1..2)).await.expect("written");
    assert_eq!(archive.problem(), None);
    // Another role's process finds the schema as it is to be, and creates nothing.
    let reader = format!("reader_of_{}", database.name);
    database
        .batch(&format!(
            "CREATE ROLE {reader} LOGIN; GRANT USAGE ON SCHEMA nightporter_ledger TO {reader};
             GRANT SELECT ON ALL TABLES IN SCHEMA nightporter_ledger TO {reader}"
        ))
        .await;
    let reader = self::archive(&database.url().replace("postgres@", &format!("{reader}@")));
    assert_eq!(reader.page(&all_of("box")).await.expect("read").records.len(), 1);
}

#[tokio::test]
async fn thirty_two_first_reads_of_a_cold_database_are_all_answered() {
    let database = Cluster::shared().database().await;
    let archive = archive(&database.url());
    let request = all_of("box");
    let pages = join_all((0..32).map(|_| archive.page(&request))).await;
    for page in pages {
        assert_eq!(page.expect("answered").records, []);
    }
}

#[tokio::test]
async fn a_schema_that_was_dropped_is_created_again() {
    let database = Cluster::shared().database().await;
    let archive = archive(&database.url());
    archive.write(&records("box", 1, 1..2)).await.expect("written");
    database.batch("DROP SCHEMA nightporter_ledger CASCADE").await;
    archive.write(&records("box", 1, 2..3)).await.expect_err("it is gone");
    archive.write(&records("box", 1, 2..3)).await.expect("it is there again");
    assert_eq!(count(&database, "requests").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reads_overlap_and_delay_no_write() {
    const SCAN: Duration = Duration::from_millis(1_500);
    let database = Cluster::shared().database().await;
    let archive = archive(&database.url());
    archive.write(&records("box", 1, 1..2)).await.expect("written");
    // Reading a row takes this long.
    database
        .batch(
            "ALTER TABLE nightporter_ledger.requests RENAME TO quick;
             CREATE VIEW nightporter_ledger.requests AS
                 SELECT * FROM nightporter_ledger.quick WHERE pg_sleep(1.5)::text = ''",
        )
        .await;
    let scan = async || archive.find("box", id(1, 1)).await.expect("read").expect("is there");
    join_all((0..4).map(|_| scan())).await;

    let start = Instant::now();
    join_all((0..4).map(|_| scan())).await;
    let together = start.elapsed();
    let start = Instant::now();
    for _ in 0..4 {
        scan().await;
    }
    let in_line = start.elapsed();
    assert!(together >= SCAN && in_line >= 4 * SCAN, "{together:?} and {in_line:?}");
    assert!(together < in_line / 2, "{together:?} together and {in_line:?} one after the other");

    let reads = join_all((0..16).map(|_| scan()));
    let write = async {
        let start = Instant::now();
        let mut transaction = archive.begin().await.expect("begins");
        transaction.set_tree_size("box", 1).await.expect("set");
        transaction.commit().await.expect("committed");
        start.elapsed()
    };
    let start = Instant::now();
    let (_, write) = tokio::join!(reads, write);
    assert!(write < start.elapsed() / 2, "{write:?}");
}

#[tokio::test]
async fn a_read_that_is_too_slow_is_ended_by_the_server() {
    let database = Cluster::shared().database().await;
    let archive = archive_with(&database.url(), Duration::from_secs(3));
    archive.write(&records("box", 1, 1..2)).await.expect("written");
    archive.find("box", id(1, 1)).await.expect("read");
    let mut owner = database.connect().await;
    let locked = owner.transaction().await.expect("begins");
    locked.batch_execute("LOCK TABLE nightporter_ledger.requests").await.expect("locks");
    let slow = archive.page(&all_of("box")).await.expect_err("locked");
    assert!(matches!(slow, ArchiveError::Unavailable(_)), "{slow}");
    assert!(slow.to_string().contains("57014"), "{slow}");
    locked.rollback().await.expect("unlocks");
    archive.page(&all_of("box")).await.expect("read");
    assert_eq!(archive.problem(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_any_process_is_heard_and_so_is_what_a_broken_link_has_missed() {
    let database = Cluster::shared().database().await;
    let (one, other) = (archive(&database.url()), archive(&database.url()));
    one.prepare().await.expect("prepared");
    let mut changes = one.changes();
    timeout(LONG, changes.changed()).await.expect("the connection is there");

    other.write(&records("box", 1, 1..2)).await.expect("written");
    timeout(LONG, changes.changed()).await.expect("the other's write");
    let mut changes = one.changes();
    one.write(&records("box", 1, 2..3)).await.expect("written");
    timeout(LONG, changes.changed()).await.expect("its own");
    let mut changes = one.changes();
    let mut transaction = other.begin().await.expect("begins");
    transaction.place("box", 0, &[id(1, 1)]).await.expect("placed");
    transaction.commit().await.expect("committed");
    timeout(LONG, changes.changed()).await.expect("a record that got its position");

    // A transaction that is rolled back is no change, and neither is a replay.
    let is_quiet = async |changes: &mut Changes| {
        timeout(Duration::from_millis(300), changes.changed()).await.is_err()
    };
    poll("all is heard", LONG, async || is_quiet(&mut one.changes()).await).await;
    let mut changes = one.changes();
    other.write(&records("box", 1, 1..3)).await.expect("nothing new");
    let mut transaction = other.begin().await.expect("begins");
    transaction.write(&records("box", 1, 3..4)).await.expect("written");
    transaction.roll_back().await.expect("rolled back");
    assert!(is_quiet(&mut changes).await, "nothing has changed");

    assert!(database.terminate_backends().await > 0);
    timeout(LONG, changes.changed()).await.expect("it is told after the break");
    let mut seq = 10;
    let is_heard = async || {
        let mut changes = one.changes();
        seq += 1;
        other.write(&[record("box", id(1, seq))]).await.ok();
        timeout(Duration::from_secs(1), changes.changed()).await.is_ok()
    };
    poll("a write is heard again", LONG, is_heard).await;
    poll("the problem is over", LONG, async || one.problem().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_records_are_kept_and_who_waits_for_changes_polls() {
    let database = Cluster::shared().database().await;
    let pooler = Pooler::before(&database, "transaction");
    let (archive, direct) = (archive(&pooler.url(&database)), archive(&database.url()));
    poll("it is up", LONG, async || archive.prepare().await.is_ok()).await;
    for seq in 1..20 {
        archive.write(&records("box", 1, seq..seq + 1)).await.expect("written");
        let page = archive.page(&all_of("box")).await.expect("read");
        assert_eq!(page.records.len(), usize::try_from(seq).unwrap());
    }
    let told = async || {
        timeout(LONG, archive.changes().changed()).await.expect("an attempt to connect");
        archive.problem().is_some_and(|problem| problem.contains("pool_mode"))
    };
    poll("the problem is told", LONG, told).await;
    let mut changes = archive.changes();
    direct.write(&records("box", 2, 1..2)).await.expect("written");
    timeout(LONG, changes.changed()).await.expect("it polls");
}

#[tokio::test]
async fn a_record_is_returned_as_it_was_written_and_an_altered_one_is_named() {
    let database = Cluster::shared().database().await;
    let archive = archive(&database.url());
    let mut erased = record("box", id(1, 2));
    erased.client_id = Some(Personal::Digest([1; 32]));
    erased.client_name = Some(Personal::Digest([2; 32]));
    erased.address = Some(Personal::Digest([3; 32]));
    erased.salt = None;
    let mut bare = record("box", id(1, 3));
    (bare.app, bare.host, bare.path, bare.rule) = (None, None, None, None);
    (bare.client, bare.client_id, bare.client_name, bare.address) = (None, None, None, None);
    (bare.verdict, bare.reason, bare.trace) = (None, Some("".into()), None);
    (bare.steps, bare.notes) = (vec![], vec![]);
    let written = [record("box", id(1, 1)), erased, bare];
    archive.write(&written).await.expect("written");
    for record in &written {
        let found = archive.find("box", record.id).await.expect("read").expect("is there");
        assert_eq!((&found.record, found.position), (record, None));
    }
    for (column, value) in [("kind", "'visits'"), ("leaf", "'\\x00'"), ("seal", "'\\x00'")] {
        let sql =
            format!("UPDATE nightporter_ledger.requests SET {column} = {value} WHERE seq = 2");
        let mut editor = database.connect().await;
        let edit = editor.transaction().await.expect("begins");
        edit.batch_execute(&sql).await.expect("edited");
        edit.commit().await.expect("committed");
        let error = archive.find("box", id(1, 2)).await.expect_err("altered");
        let text = error.to_string();
        assert!(text.contains(&id(1, 2).to_string()) && text.contains(column), "{error}");
        database.batch("DELETE FROM nightporter_ledger.requests WHERE seq = 2").await;
        archive.write(&written).await.expect("written again");
    }
}

#[tokio::test]
async fn the_number_of_a_tenant_is_given_once_by_many_writers() {
    let database = Cluster::shared().database().await;
    let archives: Vec<_> = (0..4).map(|_| Arc::new(archive(&database.url()))).collect();
    let write = async |writer: i64| {
        let archive = &archives[usize::try_from(writer % 4).unwrap()];
        let mut batch = records("one", writer, 1..4);
        batch.extend(records("other", writer, 4..7));
        archive.write(&batch).await.expect("written");
    };
    join_all((1..17).map(write)).await;
    assert_eq!(count(&database, "tenants").await, 2);
    for tenant in ["one", "other"] {
        let page = archives[0].page(&all_of(tenant)).await.expect("read");
        assert_eq!(page.records.len(), 16 * 3);
    }
}
