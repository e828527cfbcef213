use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::streams::Streams;
use super::*;
use crate::ledger::archive::sqlite::{Limits, Sqlite};
use crate::ledger::record::{Kind, Micros, Record, RecordId, WriterId};

const PATIENCE: Duration = Duration::from_secs(20);

/// An archive in a folder of its own.
struct Bench {
    archive: Arc<Archive>,
    registry: Arc<Registry>,
    tenant: Arc<Tenant>,
    _folder: tempfile::TempDir,
}

/// What a client receives.
struct Client {
    pieces: mpsc::Receiver<Bytes>,
    text: String,
    task: JoinHandle<()>,
}

fn record(seq: i64, app: &str) -> Record {
    Record {
        id: RecordId { writer: WriterId(1), seq },
        tenant: "box".into(),
        kind: Kind::Visit,
        at: Micros(seq),
        app: Some(app.into()),
        host: None,
        path: None,
        rule: None,
        client: None,
        client_id: None,
        client_name: None,
        address: None,
        verdict: None,
        reason: None,
        trace: None,
        duration: Micros(0),
        count: 1,
        steps: Vec::new(),
        notes: Vec::new(),
        salt: None,
        leaf: [0; 32],
        seal: [0; 16],
    }
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ledger.db");
        let archive = Arc::new(Archive::Sqlite(Sqlite::new(file, Limits::default())));
        archive.prepare().await.expect("a new database");
        let (registry, _commands) = Registry::new();
        let tenant = Arc::new(Tenant::default());
        tenant.set("box");
        Self { archive, registry, tenant, _folder: folder }
    }

    async fn write(&self, records: &[Record]) {
        self.archive.write(records).await.expect("written");
    }

    async fn place(&self, first: i64, records: &[Record]) {
        let ids: Vec<_> = records.iter().map(|record| record.id).collect();
        let mut transaction = self.archive.begin().await.expect("begins");
        assert!(transaction.try_lock("integrity").await.expect("answers"));
        transaction.place("box", first, &ids).await.expect("placed");
        transaction.commit().await.expect("committed");
    }

    fn follow(&self, after: Option<i64>, filter: Filter) -> Client {
        self.stream(after, filter, OnIdentityChange::Follow, Viewer::clear())
    }

    fn stream(
        &self,
        after: Option<i64>,
        filter: Filter,
        on_identity_change: OnIdentityChange,
        viewer: Viewer,
    ) -> Client {
        let (out, pieces) = mpsc::channel(1);
        let streams = Arc::new(Streams::default());
        let stream = EventStream {
            token: None,
            archive: Arc::clone(&self.archive),
            changes: self.archive.changes(),
            jobs: None,
            registry: Arc::clone(&self.registry),
            tenant: self.tenant.get(),
            own_tenant: Arc::clone(&self.tenant),
            on_identity_change,
            filter,
            viewer,
            after,
            is_known: false,
            out,
            _slot: streams.open(&"root".into()).expect("free"),
        };
        Client { pieces, text: String::new(), task: tokio::spawn(stream.run()) }
    }
}

impl Client {
    /// Reads until so many events have arrived, and returns their ids.
    async fn ids(&mut self, count: usize) -> Vec<String> {
        let reading = async {
            loop {
                let ids = self.text.lines().filter_map(|line| line.strip_prefix("id: "));
                let ids: Vec<_> = ids.map(str::to_owned).collect();
                if ids.len() >= count {
                    return ids;
                }
                let piece = self.pieces.recv().await.expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
            }
        };
        timeout(PATIENCE, reading).await.expect("in time")
    }

    /// Reads to the end.
    async fn end(mut self) {
        let ended = async {
            while self.pieces.recv().await.is_some() {}
            self.task.await.expect("no panic");
        };
        timeout(PATIENCE, ended).await.expect("in time");
    }
}

#[tokio::test]
async fn events_come_in_the_order_of_positions_and_go_on_where_they_ended() {
    let bench = Bench::new().await;
    // More than one batch, in another order than that of their numbers.
    let mut records: Vec<_> = (1..=450).map(|seq| record(seq, "notes")).collect();
    records.reverse();
    bench.write(&records).await;
    let mut client = bench.follow(None, Filter::default());
    bench.place(0, &records[..300]).await;
    let expected = |ids: std::ops::Range<i64>| ids.map(|id| id.to_string()).collect::<Vec<_>>();
    assert_eq!(client.ids(300).await, expected(0..300));
    assert!(client.text.starts_with("retry: "), "{}", client.text);
    let data = client.text.lines().find(|line| line.starts_with("data: ")).expect("an event");
    assert!(data.contains(r#""id":"0000000000000001-450""#), "{data}");
    bench.place(300, &records[300..]).await;
    assert_eq!(client.ids(450).await, expected(0..450));

    let mut resumed = bench.follow(Some(447), Filter::default());
    assert_eq!(resumed.ids(2).await, expected(448..450));
    bench.registry.close();
    client.end().await;
    resumed.end().await;
}

#[tokio::test]
async fn a_position_of_an_earlier_ledger_keeps_back_nothing_new() {
    const MOST: i64 = 600;
    let bench = Bench::new().await;
    let place_one = async |position: i64| {
        let new = [record(position + 1, "notes")];
        bench.write(&new).await;
        bench.place(position, &new).await;
    };
    place_one(0).await;
    let mut next = 1;
    for after in [1_000, i64::MAX] {
        let mut client = bench.follow(Some(after), Filter::default());
        let mut text = String::new();
        while !text.contains("id: ") {
            assert!(next < MOST, "nothing arrives");
            place_one(next).await;
            next += 1;
            let piece = timeout(Duration::from_millis(100), client.pieces.recv()).await;
            if let Ok(piece) = piece {
                let piece = piece.expect("the stream goes on");
                text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
            }
        }
        // What was there before it began is not sent.
        assert!(!text.contains("id: 0\n"), "{text}");
    }
}

#[tokio::test]
async fn only_what_is_asked_for_is_sent() {
    let bench = Bench::new().await;
    let records: Vec<_> = ["notes", "wiki", "notes"].into_iter().zip(1..).collect();
    let records: Vec<_> = records.into_iter().map(|(app, seq)| record(seq, app)).collect();
    bench.write(&records).await;
    bench.place(0, &records).await;
    let filter = Filter { app: Some("notes".into()), ..Filter::default() };
    let mut client = bench.follow(None, filter);
    assert_eq!(client.ids(2).await, ["0", "2"]);
    // What does not match is not read again, and what follows is not missed.
    let more: Vec<_> = (4..).zip(["wiki", "wiki", "notes"]).collect();
    for (position, (seq, app)) in (3..).zip(more) {
        let record = [record(seq, app)];
        bench.write(&record).await;
        bench.place(position, &record).await;
    }
    assert_eq!(client.ids(3).await, ["0", "2", "5"]);
}

#[tokio::test]
async fn a_stream_without_a_client_ends() {
    let bench = Bench::new().await;
    let Client { pieces, task, .. } = bench.follow(None, Filter::default());
    drop(pieces);
    timeout(PATIENCE, task).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn a_box_that_gets_its_identity_is_followed_from_its_first_record() {
    let bench = Bench::new().await;
    bench.tenant.set("");
    let records = [record(1, "notes"), record(2, "notes")];
    bench.write(&records).await;
    bench.place(0, &records).await;
    let mut client = bench.follow(Some(7), Filter::default());
    bench.tenant.set("box");
    assert_eq!(client.ids(2).await, ["0", "1"]);
}

#[tokio::test]
async fn a_stream_of_one_tenant_ends_when_the_box_is_another() {
    for (on_identity_change, viewer) in [
        (OnIdentityChange::End, Viewer::clear()),
        (OnIdentityChange::End, Viewer::masked(None, "box")),
        (OnIdentityChange::Follow, Viewer::masked(None, "box")),
    ] {
        let bench = Bench::new().await;
        let records = [record(1, "notes"), Record { tenant: "other".into(), ..record(2, "wiki") }];
        bench.write(&records).await;
        bench.place(0, &records[..1]).await;
        let mut client = bench.stream(None, Filter::default(), on_identity_change, viewer);
        assert_eq!(client.ids(1).await, ["0"]);
        bench.tenant.set("other");
        client.end().await;
    }
    let bench = Bench::new().await;
    bench.tenant.set("other");
    let mut client = bench.follow(None, Filter::default());
    bench.tenant.set("box");
    let records = [record(1, "notes")];
    bench.write(&records).await;
    bench.place(0, &records).await;
    assert_eq!(client.ids(1).await, ["0"], "whoever sees all goes on with the box");
}

#[test]
fn only_those_who_see_all_and_name_no_tenant_go_on_with_another_box() {
    let on_identity_change = |scope: &str, tenant: &str, query: &str| {
        let principal = Principal { scope: Scope::parse(scope), ..Principal::root() };
        OnIdentityChange::new(&principal, tenant, Some(query), "own").expect("a query")
    };
    assert_eq!(on_identity_change("*", "own", ""), OnIdentityChange::Follow);
    assert_eq!(on_identity_change("*", "own", "tenant=own"), OnIdentityChange::End);
    assert_eq!(on_identity_change("*", "b", "tenant=b"), OnIdentityChange::Ignore);
    assert_eq!(on_identity_change("own", "own", "app=notes"), OnIdentityChange::End);
    assert_eq!(on_identity_change("b", "b", ""), OnIdentityChange::Ignore);
}
