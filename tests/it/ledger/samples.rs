//! Records to write. Their leaves and seals are not those of a sealer: an archive does not
//! look at them.

use std::collections::BTreeSet;

use nightporter::ledger::archive::{Archive, Transaction};
use nightporter::ledger::history::{Cursor, Filter, Order, PageRequest};
use nightporter::ledger::record::{
    Kind, Micros, Note, Personal, Record, RecordId, RecordRow, Step, Stored, WriterId,
};

pub const TENANT: &str = "box";

pub fn id(writer: i64, seq: i64) -> RecordId {
    RecordId { writer: WriterId(writer), seq }
}

/// A record with steps and notes.
pub fn record(writer: i64, seq: i64) -> Record {
    let number = |n: i64| u8::try_from(seq.wrapping_add(n).rem_euclid(251)).expect("small");
    Record {
        id: id(writer, seq),
        tenant: TENANT.into(),
        kind: Kind::Visit,
        at: Micros(1_700_000_000_000_000_i64.saturating_add(seq)),
        app: Some("notes".into()),
        host: Some("notes.example.org".into()),
        path: Some("/a/path".into()),
        rule: Some("/a".into()),
        client: Some("terminal".into()),
        client_id: Some(Personal::Clear("terminal-1".into())),
        client_name: Some(Personal::Clear("Télé 📱".into())),
        address: Some(Personal::Clear("2001:db8::1".into())),
        verdict: Some("deny".into()),
        reason: Some("no_credential".into()),
        trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        duration: Micros(1_234),
        count: 1,
        steps: vec![
            Step { name: "app".into(), duration: Micros(3), outcome: "ok".into() },
            Step { name: "client".into(), duration: Micros(5), outcome: "unknown".into() },
        ],
        notes: vec![Note { topic: "wake".into(), text: "it's \"late\"".into() }],
        salt: Some([number(0); 16]),
        leaf: [number(1); 32],
        seal: [number(2); 16],
    }
}

pub fn records(writer: i64, seqs: impl IntoIterator<Item = i64>) -> Vec<Record> {
    seqs.into_iter().map(|seq| record(writer, seq)).collect()
}

/// A record of which only the necessary is known.
pub fn bare(kind: Kind, writer: i64, seq: i64) -> Record {
    Record {
        kind,
        app: None,
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
        steps: Vec::new(),
        notes: Vec::new(),
        salt: None,
        ..record(writer, seq)
    }
}

/// A page of everything, from the newest.
pub fn request(limit: usize) -> PageRequest {
    PageRequest {
        tenant: TENANT.to_owned(),
        filter: Filter::default(),
        order: Order::NewestFirst,
        after: None,
        limit,
        with_unplaced: true,
    }
}

/// Reads all pages; `between` runs after each.
pub async fn pages(
    archive: &Archive,
    request: &PageRequest,
    mut between: impl AsyncFnMut(),
) -> Vec<Stored> {
    let mut request = request.clone();
    let mut all = Vec::new();
    loop {
        let page = archive.page(&request).await.expect("a page");
        assert!(page.records.len() <= request.limit);
        all.extend(page.records);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return all,
        }
        assert!(matches!(request.after, Some(Cursor::Position(_) | Cursor::Unplaced { .. })));
        between().await;
    }
}

/// Returns the records of rows all of which can be read.
pub fn readable(rows: Vec<RecordRow>) -> Vec<Stored> {
    rows.into_iter().map(|row| row.into_stored().expect("a readable record")).collect()
}

pub fn ids(stored: &[Stored]) -> Vec<RecordId> {
    stored.iter().map(|stored| stored.record.id).collect()
}

/// The ids of all records, each of which occurs once.
pub async fn all_ids(archive: &Archive) -> BTreeSet<RecordId> {
    let all = ids(&pages(archive, &request(1_000), async || ()).await);
    let set: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(set.len(), all.len(), "nothing twice");
    set
}

/// Gives positions to what has none, as the integrity job does.
pub async fn place(archive: &Archive, limit: usize) -> usize {
    let mut transaction = archive.begin().await.expect("begins");
    let placed = place_in(&mut transaction, limit).await;
    transaction.commit().await.expect("commits");
    placed
}

pub async fn place_in(transaction: &mut Transaction<'_>, limit: usize) -> usize {
    let unplaced = transaction.unplaced(TENANT, limit).await.expect("reads");
    let ids: Vec<_> = unplaced.iter().map(|unplaced| unplaced.id).collect();
    let first = transaction.tree_size(TENANT).await.expect("reads");
    transaction.place(TENANT, first, &ids).await.expect("places");
    let size = first + i64::try_from(ids.len()).expect("few");
    transaction.set_tree_size(TENANT, size).await.expect("writes");
    ids.len()
}
