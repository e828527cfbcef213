//! Pages, snapshots and first reads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};

use nightporter::ledger::archive::Archive;
use nightporter::ledger::history::{Filter, Order, PageRequest};
use nightporter::ledger::record::{Kind, Micros, Personal, Record, RecordId, Stored};
use tokio::task::JoinSet;

use super::Database;
use crate::ledger::samples::{
    TENANT, all_ids, bare, id, ids, pages, place, readable, record, records, request,
};
use crate::support::soak::WALKED;

pub async fn records_with_a_position_come_first_or_last(database: &impl Database) {
    let archive = database.archive();
    assert_eq!(pages(&archive, &request(10), async || ()).await, []);
    archive.write(&records(9, 1..=5)).await.expect("writes");
    place(&archive, 5).await;
    archive.write(&records(3, 6..=8)).await.expect("writes");
    let placed: Vec<_> = (1..=5).map(|seq| id(9, seq)).collect();
    let unplaced: Vec<_> = (6..=8).map(|seq| id(3, seq)).collect();
    for limit in [1, 2, 3, 5, 8, 9] {
        for with_unplaced in [true, false] {
            let mut expected = placed.clone();
            if with_unplaced {
                expected.extend(&unplaced);
            }
            let mut request =
                PageRequest { order: Order::OldestFirst, with_unplaced, ..request(limit) };
            assert_eq!(ids(&pages(&archive, &request, async || ()).await), expected, "{limit}");
            request.order = Order::NewestFirst;
            expected.reverse();
            assert_eq!(ids(&pages(&archive, &request, async || ()).await), expected, "{limit}");
        }
    }
    let exact = archive.page(&request(8)).await.expect("a page");
    assert_eq!(exact.next, None, "there is no empty last page");
}

/// A mix of values, so that each filter matches some records.
fn mixed() -> Vec<Record> {
    let kinds = [Kind::Visit, Kind::Visit, Kind::Grants, Kind::Act];
    let pick = |seq: i64, words: &[&'static str]| {
        let n = usize::try_from(seq).expect("positive") % (words.len() + 1);
        words.get(n).copied()
    };
    (1..=60)
        .map(|seq| {
            let n = usize::try_from(seq).expect("positive");
            Record {
                at: Micros(1_000 - 7 * (seq % 20)),
                app: pick(seq, &["notes", "wiki", "it's"]).map(Into::into),
                client_id: pick(seq / 2, &["a", "b"]).map(|id| Personal::Clear(id.into())),
                verdict: pick(seq / 3, &["grant", "deny"]).map(Into::into),
                reason: pick(seq / 5, &["no_credential"]).map(Into::into),
                ..bare(kinds[n % kinds.len()], 7 + seq % 2, seq)
            }
        })
        .collect()
}

fn matches(filter: &Filter, record: &Record) -> bool {
    let is = |wanted: &Option<String>, value: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
    };
    let client = match &record.client_id {
        Some(Personal::Clear(id)) => Some(&**id),
        _ => None,
    };
    is(&filter.app, record.app.as_deref())
        && is(&filter.client, client)
        && is(&filter.verdict, record.verdict.as_deref())
        && is(&filter.reason, record.reason.as_deref())
        && filter.kind.is_none_or(|kind| kind == record.kind)
        && filter.from.is_none_or(|from| record.at >= from)
        && filter.to.is_none_or(|to| record.at < to)
}

/// All combinations of one or several filters.
fn filters() -> Vec<Filter> {
    let text = |text: &str| Some(text.to_owned());
    (0..1_u32 << 7)
        .map(|bits| {
            let has = |bit: u32| bits >> bit & 1 == 1;
            Filter {
                app: text(if has(1) { "it's" } else { "notes" }).filter(|_| has(0)),
                client: text("b").filter(|_| has(1)),
                kind: Some(Kind::Visit).filter(|_| has(2)),
                verdict: text("deny").filter(|_| has(3)),
                reason: text("no_credential").filter(|_| has(4)),
                from: Some(Micros(900)).filter(|_| has(5)),
                to: Some(Micros(965)).filter(|_| has(6)),
            }
        })
        .collect()
}

pub async fn every_filter_finds_what_it_should(database: &impl Database) {
    let archive = database.archive();
    archive.write(&mixed()).await.expect("writes");
    place(&archive, 40).await;
    let all = pages(&archive, &request(1_000), async || ()).await;
    assert_eq!(all.len(), 60);
    let mut found = 0;
    for filter in filters() {
        let mut expected = all.clone();
        expected.retain(|stored| matches(&filter, &stored.record));
        found += usize::from(!expected.is_empty());
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let request = PageRequest { filter: filter.clone(), order, ..request(7) };
            assert_eq!(pages(&archive, &request, async || ()).await, expected, "{request:?}");
            expected.reverse();
        }
    }
    assert!(found > 60, "{found} filters match something");
    let nobody = Filter { app: Some("nobody".to_owned()), ..Filter::default() };
    let request = PageRequest { filter: nobody, ..request(7) };
    assert_eq!(pages(&archive, &request, async || ()).await, []);
}

pub async fn pages_skip_and_repeat_nothing_while_records_are_placed(database: &impl Database) {
    let archive = database.archive();
    let writers = [5, 3, 9];
    let mut written: BTreeSet<RecordId> = BTreeSet::new();
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let begin = i64::try_from(written.len()).expect("few") / 3;
        for writer in writers {
            let batch = records(writer, begin + 1..=begin + 20);
            archive.write(&batch).await.expect("writes");
            written.extend(batch.iter().map(|record| record.id));
        }
        place(&archive, 25).await;
        // Between any two pages some more records get a position, and others arrive.
        let next = AtomicI64::new(1_000 * (begin + 1));
        let between = async || {
            place(&archive, 3).await;
            let seq = next.fetch_add(1, Ordering::Relaxed);
            archive.write(&[record(4, seq)]).await.expect("writes");
        };
        let all = pages(&archive, &PageRequest { order, ..request(4) }, between).await;
        let unique: BTreeSet<_> = ids(&all).into_iter().collect();
        assert_eq!(unique.len(), all.len(), "{order:?}: nothing twice");
        let missing: Vec<_> = written.difference(&unique).collect();
        assert!(missing.is_empty(), "{order:?}: {missing:?} are skipped");
        while place(&archive, 1_000).await > 0 {}
        written = ids(&pages(&archive, &request(1_000), async || ()).await).into_iter().collect();
    }
    // With positions alone, the order is exact.
    let all =
        pages(&archive, &PageRequest { with_unplaced: false, ..request(7) }, async || ()).await;
    let positions: Vec<_> = all.iter().filter_map(|stored| stored.position).collect();
    let expected: Vec<_> = (0..i64::try_from(all.len()).expect("few")).rev().collect();
    assert_eq!(positions, expected);
}

/// Removes records, as retention does.
async fn remove(archive: &Archive, ids: &[RecordId]) {
    let mut transaction = archive.begin().await.expect("begins");
    transaction.remove(TENANT, ids).await.expect("removes");
    transaction.commit().await.expect("commits");
}

/// Retention goes on while somebody reads thousands of pages: before the cursor, behind it, and
/// at it.
pub async fn pages_skip_and_repeat_nothing_while_records_are_removed(database: &impl Database) {
    const STEP: usize = 10;
    let archive = database.archive();
    let count = i64::from(WALKED.count());
    let mut begin = 0;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        for first in (begin + 1..=begin + count).step_by(1_000) {
            let last = (first + 999).min(begin + count);
            archive.write(&records(5, first..=last)).await.expect("writes");
        }
        begin += count;
        // Most have a position.
        place(&archive, usize::try_from(count - 200).expect("positive")).await;
        let existing = all_ids(&archive).await;
        let all: Vec<_> = existing.iter().copied().collect();
        let mut removed = BTreeSet::new();
        let mut request = PageRequest { order, ..request(2) };
        let (mut seen, mut read) = (Vec::new(), 0);
        // The same numbers in every run.
        let mut random: usize = 12_345;
        loop {
            let page = archive.page(&request).await.expect("a page");
            read += 1;
            seen.extend(ids(&page.records));
            let Some(next) = page.next else { break };
            request.after = Some(next);
            if read % STEP != 0 {
                continue;
            }
            let mut old: Vec<_> = ids(&page.records).last().copied().into_iter().collect();
            for _ in 0..3 {
                random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345) % (1 << 31);
                old.push(all[(random >> 8) % all.len()]);
            }
            remove(&archive, &old).await;
            removed.extend(old);
            if read % (2 * STEP) == 0 {
                place(&archive, 5).await;
            }
        }
        let unique: BTreeSet<_> = seen.iter().copied().collect();
        assert_eq!(unique.len(), seen.len(), "{order:?}: nothing twice");
        let stayed: BTreeSet<_> = existing.difference(&removed).copied().collect();
        let skipped: Vec<_> = stayed.difference(&unique).collect();
        assert!(skipped.is_empty(), "{order:?}: {skipped:?}");
        assert!(read >= usize::try_from(count / 3).expect("positive"), "{read} pages");
        assert!(removed.len() > read / STEP, "{} were removed", removed.len());
        while place(&archive, 1_000).await > 0 {}
    }
}

pub async fn first_reads_of_a_new_database_all_answer(database: &impl Database) {
    let archive = std::sync::Arc::new(database.archive());
    let mut reads = JoinSet::new();
    for _ in 0..32 {
        let archive = std::sync::Arc::clone(&archive);
        reads.spawn(async move { archive.page(&request(10)).await.map(|page| page.records) });
    }
    for answer in reads.join_all().await {
        assert_eq!(answer.expect("answers"), []);
    }
}

pub async fn a_snapshot_sees_one_state(database: &impl Database) {
    let archive = database.archive();
    let written = records(7, 1..=10);
    archive.write(&written).await.expect("writes");
    place(&archive, 6).await;
    let mut snapshot = archive.snapshot().await.expect("begins");
    // All of this comes too late for it.
    archive.write(&records(7, 11..=20)).await.expect("a snapshot holds up no write");
    place(&archive, 20).await;
    let mut transaction = archive.begin().await.expect("begins");
    let removed = transaction.remove_before(TENANT, Kind::Visit, Micros(i64::MAX), 5, 3);
    let removed = removed.await.expect("removes").into_iter().map(|placed| placed.position);
    assert_eq!(removed.collect::<Vec<_>>(), [0, 1, 2]);
    transaction.commit().await.expect("commits");

    assert_eq!(snapshot.tree_size(TENANT).await.expect("reads"), 6);
    let mut all = Vec::new();
    loop {
        let from = all.last().map_or(0, |last: &Stored| last.position.expect("placed") + 1);
        let chunk = snapshot.records(TENANT, from, 4).await.expect("reads");
        if chunk.is_empty() {
            break;
        }
        all.extend(readable(chunk));
    }
    all.extend(readable(snapshot.unplaced(TENANT, None, 100).await.expect("reads")));
    let expected: Vec<_> = written
        .into_iter()
        .zip(0_i64..)
        .map(|(record, n)| Stored { record, position: (n < 6).then_some(n) })
        .collect();
    assert_eq!(all, expected, "with steps and notes");
}
