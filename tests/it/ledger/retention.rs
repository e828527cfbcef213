//! Retention: what is removed, what stays, and what can be proved afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nightporter::config::{self, ArchiveKind, Config, Environment};
use nightporter::jobs::{Integrity, Job, Retention};
use nightporter::ledger::Ledger;
use nightporter::ledger::archive::{Archive, StoredCheckpoint};
use nightporter::ledger::direct::DirectWriter;
use nightporter::ledger::key::SigningKey;
use nightporter::ledger::ranges::Ranges;
use nightporter::ledger::record::{Entry, Kind, Micros, Note, RecordId, Stored, WriterId};
use nightporter::ledger::references::{
    CUT_POSITIONS, CUT_RECORDS, cut_positions, notes, numbers, referenced,
};
use nightporter::ledger::verify::{Evidence, verify};
use rusqlite::Connection;

use super::jobs::{Instance, Place, settings, until_runs};
use super::samples::{TENANT, readable};
use crate::support::client::poll;

const LONG: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_millis(300);
const HOUR: Duration = Duration::from_secs(3600);

/// A ledger on an archive, with all ages set to years.
fn configured(place: &Place, folder: &std::path::Path) -> config::Ledger {
    let mut env = Environment::new();
    env.insert("NIGHTPORTER_LEDGER__PATH".into(), folder.display().to_string());
    let Config { ledger, .. } = config::load(None, &env).expect("a configuration");
    let year = 365 * 24 * HOUR;
    let archive = match place {
        Place::Sqlite(_) => ArchiveKind::Sqlite,
        Place::Postgres(database) => ArchiveKind::Postgres(settings(&database.url())),
    };
    config::Ledger {
        archive,
        checkpoint_interval: Duration::from_millis(1),
        keep_visits: year,
        keep_grants: year,
        keep_wakes: year,
        keep_acts: year,
        keep_jobs: year,
        ..ledger
    }
}

/// The folder of the key, and of the database if it is a file.
fn folder(place: &Place) -> (std::path::PathBuf, Option<tempfile::TempDir>) {
    match place {
        Place::Sqlite(folder) => (folder.path().to_owned(), None),
        Place::Postgres(_) => {
            let folder = tempfile::tempdir().expect("a folder");
            (folder.path().to_owned(), Some(folder))
        }
    }
}

/// Writes entries of a kind that began so long ago.
async fn write(ledger: &Ledger, writer: i64, kind: Kind, ago: Duration, count: i64) {
    write_for(TENANT, ledger, writer, kind, ago, count).await;
}

async fn write_for(
    tenant: &str,
    ledger: &Ledger,
    writer: i64,
    kind: Kind,
    ago: Duration,
    count: i64,
) {
    let mut transaction = ledger.archive.begin().await.expect("begins");
    let now = transaction.now().await.expect("a time").0;
    transaction.roll_back().await.expect("rolled back");
    let ago = i64::try_from(ago.as_micros()).expect("small");
    let mut sealer = ledger.sealer().await.expect("a key");
    let records = (1..=count).map(|seq| {
        let mut entry = Entry::new(kind, Micros(now - ago + seq));
        entry.app = Some("notes".into());
        entry.path = Some("/a/path/of/some/length/as/they/have".into());
        sealer.seal(RecordId { writer: WriterId(writer), seq }, &tenant.into(), entry)
    });
    let records: Vec<_> = records.collect();
    ledger.archive.write(&records).await.expect("written");
}

async fn all(archive: &Archive) -> Vec<Stored> {
    let (mut all, mut from) = (Vec::new(), 0);
    let mut snapshot = archive.snapshot().await.expect("a snapshot");
    loop {
        let page = snapshot.records(TENANT, from, 1000).await.expect("records");
        let Some(last) = page.last() else { return all };
        from = last.position.expect("a position") + 1;
        all.extend(readable(page));
    }
}

/// Waits until the only job of an instance has been run so often; runs that find nothing to do
/// are not in the log.
async fn until_run_again(instance: &Instance, times: usize) {
    let mut last = None;
    for _ in 0..times {
        poll("it is run again", LONG, async || {
            let jobs = instance.jobs.list().await.expect("answers");
            let started = jobs[0].row.as_ref().and_then(|row| row.started);
            let is_new = started > last;
            last = last.max(started);
            is_new
        })
        .await;
    }
}

fn counts(records: &[Stored]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for stored in records {
        *counts.entry(stored.record.kind.as_str()).or_default() += 1;
    }
    counts
}

/// Waits until all records have a position that a checkpoint covers.
async fn until_covered(archive: &Archive) {
    poll("all is covered", LONG, async || {
        let mut snapshot = archive.snapshot().await.expect("a snapshot");
        let unplaced = snapshot.unplaced(TENANT, None, 1).await.expect("records");
        let covered = snapshot.checkpoints(TENANT).await.expect("checkpoints");
        let size = snapshot.tree_size(TENANT).await.expect("a size");
        unplaced.is_empty() && size > 0 && covered.last().is_some_and(|last| last.size == size)
    })
    .await;
}

/// Checks that what is missing is explained, and all else is as it was.
async fn check_verified(archive: &Archive, key: &SigningKey, cut: u64) {
    let mut snapshot = archive.snapshot().await.expect("a snapshot");
    let evidence = Evidence {
        tenant: TENANT.into(),
        key: key.verifier(TENANT),
        signer: Some(key.clone()),
        kept: Vec::new(),
        spooled: BTreeMap::new(),
        now: Micros(i64::MAX),
    };
    let report = verify(&mut snapshot, evidence, |_, _| {}).await.expect("verified");
    assert!(report.unaltered_since().is_some(), "{report:?}");
    assert_eq!(report.cut, cut, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_for_long_enough_is_cut_in_batches_that_say_so() {
    for place in Place::both().await {
        let (path, _folder) = folder(&place);
        let config =
            config::Ledger { keep_visits: HOUR, keep_grants: HOUR, ..configured(&place, &path) };
        let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
        write(&ledger, 1, Kind::Grants, 2 * HOUR, 300).await;
        write(&ledger, 2, Kind::Visit, 2 * HOUR, 2500).await;
        write(&ledger, 3, Kind::Visit, Duration::from_secs(60), 100).await;
        write(&ledger, 4, Kind::Act, 2 * HOUR, 50).await;

        let retention = Retention::new(config, SOON, Arc::clone(&ledger));
        let cutting = Instance::start(&place, 7, vec![Job::Long(Box::new(retention))]);
        until_run_again(&cutting, 2).await;
        let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
        let waiting = snapshot.unplaced(TENANT, None, 10_000).await.expect("records").len();
        assert_eq!(waiting, 2950, "nothing that no checkpoint covers is removed");
        drop(snapshot);

        let integrity = Integrity::new(Arc::clone(&ledger), SOON);
        let _placing = Instance::start(&place, 8, vec![Job::Short(Box::new(integrity))]);
        poll("the old ones are cut", LONG, async || {
            let counts = counts(&all(&ledger.archive).await);
            counts.get("visit") == Some(&100) && !counts.contains_key("grants")
        })
        .await;
        until_covered(&ledger.archive).await;
        let left = all(&ledger.archive).await;
        assert_eq!(counts(&left)["act"], 50, "kept for longer");
        let cuts: Vec<_> = left.iter().filter(|stored| stored.record.kind == Kind::Cut).collect();
        // The largest kind first, at most 1,000 at once.
        let what: Vec<_> =
            cuts.iter().map(|cut| (&*cut.record.notes[0].text, cut.record.count)).collect();
        let visits: i64 = what.iter().filter(|(kind, _)| *kind == "visit").map(|cut| cut.1).sum();
        assert_eq!((what[0].0, visits), ("visit", 2500), "{what:?}");
        assert!(what.iter().all(|(_, count)| *count <= 1000), "{what:?}");
        // Exactly what is missing is named, in both senses.
        let mut positions = Ranges::default();
        let mut numbers = BTreeMap::<WriterId, u64>::new();
        for cut in &cuts {
            for (writer, ranges) in referenced(&cut.record) {
                *numbers.entry(writer).or_default() += ranges.count();
            }
            let ranges: Ranges = cut.record.notes[1].text.parse().expect("ranges");
            assert_eq!(i64::try_from(ranges.count()), Ok(cut.record.count));
            ranges.iter().for_each(|(first, last)| positions.insert_range(first, last));
        }
        assert_eq!(positions.count(), 2800);
        assert_eq!(numbers, [(WriterId(1), 300), (WriterId(2), 2500)].into());
        assert!(left.iter().all(|stored| !positions.contains(stored.position.expect("covered"))));
        drop(cutting);
        let key = SigningKey::load(&path.join("ledger.key")).expect("a key");
        check_verified(&ledger.archive, &key, 2800).await;

        // What somebody else removes is no cut.
        let position = left[0].position.expect("covered");
        match &place {
            Place::Sqlite(folder) => {
                let connection = Connection::open(folder.path().join("ledger.db")).expect("opens");
                connection.busy_timeout(LONG).expect("set");
                let sql = "DELETE FROM requests WHERE position = ?";
                connection.execute(sql, [position]).expect("removed");
            }
            Place::Postgres(database) => {
                let sql = "DELETE FROM nightporter_ledger.requests WHERE position = $1";
                assert_eq!(database.execute(sql, &[&position]).await, 1);
            }
        }
        let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
        let evidence = Evidence {
            tenant: TENANT.into(),
            key: key.verifier(TENANT),
            signer: Some(key),
            kept: Vec::new(),
            spooled: BTreeMap::new(),
            now: Micros(i64::MAX),
        };
        let report = verify(&mut snapshot, evidence, |_, _| {}).await.expect("verified");
        assert!(report.unaltered_since().is_none(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_too_large_loses_its_oldest_visits_and_says_so() {
    const MAX: u64 = 1_500_000;
    for place in Place::both().await {
        let (path, _folder) = folder(&place);
        let config = config::Ledger { max_size: MAX, ..configured(&place, &path) };
        let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
        write(&ledger, 1, Kind::Act, 3 * HOUR, 100).await;
        write(&ledger, 2, Kind::Visit, 2 * HOUR, 6000).await;
        let integrity = Integrity::new(Arc::clone(&ledger), SOON);
        let _placing = Instance::start(&place, 8, vec![Job::Short(Box::new(integrity))]);
        until_covered(&ledger.archive).await;
        let holdings = async || {
            let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
            snapshot.holdings(TENANT).await.expect("counted")
        };
        let before = holdings().await;
        assert!(before.bytes > MAX, "the test needs more: {before:?}");
        let retention = Retention::new(config, SOON, Arc::clone(&ledger));
        let cutting = Instance::start(&place, 7, vec![Job::Long(Box::new(retention))]);
        let runs = until_runs(&place, "retention", 1).await;
        assert!(runs[0].outcome.starts_with("done: removed "), "{runs:?}");
        poll("it is small enough", LONG, async || holdings().await.bytes <= MAX).await;
        // It stays so, and no more goes than has to.
        until_run_again(&cutting, 3).await;
        let after = holdings().await;
        assert!(after.bytes > MAX / 2 && after.bytes <= MAX, "{after:?}");
        let left = all(&ledger.archive).await;
        assert_eq!(counts(&left)["act"], 100);
        let visits = left.iter().filter(|stored| stored.record.kind == Kind::Visit);
        let mut seqs: Vec<_> = visits.map(|stored| stored.record.id.seq).collect();
        seqs.sort_unstable();
        let oldest = seqs[0];
        assert_eq!(seqs, (oldest..=6000).collect::<Vec<_>>(), "the oldest went first");
        assert!(oldest > 1);
        let problems = cutting.jobs.problems();
        assert!(problems.iter().any(|text| text.contains("ledger.max_size")), "{problems:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_explains_the_cuts_is_folded_and_old_checkpoints_are_thinned() {
    const DAY: i64 = 24 * 3600 * 1_000_000;
    for place in Place::both().await {
        let (path, _folder) = folder(&place);
        let config = config::Ledger { keep_visits: HOUR, ..configured(&place, &path) };
        let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
        write(&ledger, 1, Kind::Visit, 2 * HOUR, 2000).await;
        write(&ledger, 2, Kind::Act, HOUR, 3).await;
        // Retention in small steps, as over many days.
        let integrity = Integrity::new(Arc::clone(&ledger), SOON);
        let _placing = Instance::start(&place, 8, vec![Job::Short(Box::new(integrity))]);
        until_covered(&ledger.archive).await;
        let mut writer = DirectWriter::new(ledger.seal_key().await.expect("a key").clone());
        let writer = writer.as_mut().expect("random numbers");
        for _ in 0..40 {
            let mut transaction = ledger.archive.begin().await.expect("begins");
            let (far, all) = (Micros(i64::MAX), i64::MAX);
            let removed = transaction.remove_before(TENANT, Kind::Visit, far, all, 50).await;
            let removed = removed.expect("removed");
            let mut cut = Entry::new(Kind::Cut, Micros(1));
            let positions: Ranges = removed.iter().map(|placed| placed.position).collect();
            let numbers = numbers(removed.iter().map(|placed| placed.id));
            let text = positions.to_string().into();
            cut.notes = vec![Note { topic: CUT_POSITIONS.into(), text }];
            cut.notes.extend(notes(CUT_RECORDS, &numbers));
            transaction.write(&[writer.record(&TENANT.into(), cut)]).await.expect("written");
            transaction.commit().await.expect("committed");
        }
        // Checkpoints of a hundred days ago.
        let mut transaction = ledger.archive.begin().await.expect("begins");
        let now = transaction.now().await.expect("a time").0;
        for size in 1..=50 {
            let at = Micros(now - 100 * DAY + size);
            let checkpoint = StoredCheckpoint { size, at, note: "old".into() };
            transaction.put_checkpoint(TENANT, &checkpoint).await.expect("written");
        }
        transaction.commit().await.expect("committed");
        until_covered(&ledger.archive).await;

        let retention = Retention::new(config, SOON, Arc::clone(&ledger));
        let _cutting = Instance::start(&place, 7, vec![Job::Long(Box::new(retention))]);
        let left = async || all(&ledger.archive).await;
        poll("the cuts are folded", LONG, async || counts(&left().await).get("cut") == Some(&1))
            .await;
        let times = async || {
            let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
            let checkpoints = snapshot.checkpoints(TENANT).await.expect("read");
            checkpoints.iter().filter(|checkpoint| checkpoint.at.0 < now - DAY).count()
        };
        poll("the checkpoints are thinned", LONG, async || times().await <= 2).await;
        until_covered(&ledger.archive).await;
        let left = left().await;
        let folded = left.iter().find(|stored| stored.record.kind == Kind::Cut).expect("one");
        assert_eq!(folded.record.reason.as_deref(), Some("folded"));
        let referenced = referenced(&folded.record);
        assert_eq!(referenced[&WriterId(1)].to_string(), "1-2000");
        let positions = cut_positions(&folded.record);
        assert_eq!(positions.count(), 2040, "the folded records' own positions included");
        let size: usize = folded.record.notes.iter().map(|note| note.text.len()).sum();
        assert!(size < 200, "{folded:?}");
        // Of the old ones, one is left that nobody has signed.
        let mut transaction = ledger.archive.begin().await.expect("begins");
        let sizes: Vec<i64> = (1..=50).collect();
        transaction.remove_checkpoints(TENANT, &sizes).await.expect("removed");
        transaction.commit().await.expect("committed");
        let key = SigningKey::load(&path.join("ledger.key")).expect("a key");
        check_verified(&ledger.archive, &key, 2040).await;
    }
}

/// Returns the numbers of records of no tenant that remain, by writer and kind.
async fn without_tenant(archive: &Archive) -> BTreeMap<(i64, &'static str), usize> {
    let mut snapshot = archive.snapshot().await.expect("a snapshot");
    let all = snapshot.unplaced("", None, 100_000).await.expect("records");
    let mut counts = BTreeMap::new();
    for Stored { record, .. } in readable(all) {
        let writer = if record.kind == Kind::Cut { 0 } else { record.id.writer.0 };
        *counts.entry((writer, record.kind.as_str())).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_without_an_identity_keeps_its_records_no_longer() {
    for place in Place::both().await {
        let (path, _folder) = folder(&place);
        let config = config::Ledger { keep_visits: HOUR, ..configured(&place, &path) };
        let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
        write_for("", &ledger, 1, Kind::Visit, 2 * HOUR, 2500).await;
        write_for("", &ledger, 2, Kind::Visit, Duration::from_secs(60), 10).await;
        write_for("", &ledger, 3, Kind::Act, 2 * HOUR, 5).await;
        let mut expected: BTreeMap<_, _> =
            [((2, "visit"), 10), ((3, "act"), 5), ((0, "cut"), 3)].into();
        // Another box's, in a database that they share.
        let neighbour = tempfile::tempdir().expect("a folder");
        if matches!(place, Place::Postgres(_)) {
            let other = Ledger::new(&configured(&place, neighbour.path())).expect("a ledger");
            write_for("", &other, 4, Kind::Visit, 3 * HOUR, 1500).await;
            expected.insert((4, "visit"), 1500);
        }
        let retention = Retention::new(config, SOON, Arc::clone(&ledger));
        let jobs = vec![Job::Long(Box::new(retention))];
        let _cutting = Instance::start_for(&place, 7, "", jobs);
        poll("the old ones are removed", LONG, async || {
            without_tenant(&ledger.archive).await == expected
        })
        .await;

        // Once it has an identity, what is missing is explained.
        let integrity = Integrity::new(Arc::clone(&ledger), SOON);
        let _placing = Instance::start(&place, 8, vec![Job::Short(Box::new(integrity))]);
        poll("they are adopted", LONG, async || {
            !without_tenant(&ledger.archive).await.contains_key(&(3, "act"))
        })
        .await;
        until_covered(&ledger.archive).await;
        let key = SigningKey::load(&path.join("ledger.key")).expect("a key");
        check_verified(&ledger.archive, &key, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_without_an_identity_keeps_to_the_largest_size() {
    const MAX: u64 = 1_000_000;
    for place in Place::both().await {
        let (path, _folder) = folder(&place);
        let config = config::Ledger { max_size: MAX, ..configured(&place, &path) };
        let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
        write_for("", &ledger, 1, Kind::Visit, 2 * HOUR, 8000).await;
        let holdings = async || {
            let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
            snapshot.holdings("").await.expect("counted")
        };
        let before = holdings().await;
        assert!(before.bytes > MAX, "records without a position count: {before:?}");
        let retention = Retention::new(config, SOON, Arc::clone(&ledger));
        let jobs = vec![Job::Long(Box::new(retention))];
        let cutting = Instance::start_for(&place, 7, "", jobs);
        poll("it is small enough", LONG, async || holdings().await.bytes <= MAX).await;
        poll("the operator is warned", LONG, async || {
            cutting.jobs.problems().iter().any(|text| text.contains("ledger.max_size"))
        })
        .await;
        assert!(without_tenant(&ledger.archive).await[&(1, "visit")] > 1000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_while_the_integrity_job_fails() {
    for place in Place::both().await {
        let (path, _folder) = folder(&place);
        let config = config::Ledger { keep_visits: HOUR, ..configured(&place, &path) };
        let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
        write(&ledger, 1, Kind::Visit, 2 * HOUR, 200).await;
        let integrity = || Integrity::new(Arc::clone(&ledger), SOON);
        let placing = Instance::start(&place, 8, vec![Job::Short(Box::new(integrity()))]);
        until_covered(&ledger.archive).await;
        drop(placing);
        // Somebody has rewritten the tree.
        let mut transaction = ledger.archive.begin().await.expect("begins");
        transaction.set_tree_size(TENANT, 10).await.expect("set");
        transaction.commit().await.expect("committed");
        let _placing = Instance::start(&place, 9, vec![Job::Short(Box::new(integrity()))]);
        poll("the job fails", LONG, async || {
            let mut snapshot = ledger.archive.snapshot().await.expect("a snapshot");
            let (row, _) = snapshot.job(TENANT, "integrity").await.expect("a row");
            row.and_then(|row| row.outcome).is_some_and(|outcome| outcome.starts_with("failed"))
        })
        .await;
        let retention = Retention::new(config, SOON, Arc::clone(&ledger));
        let cutting = Instance::start(&place, 7, vec![Job::Long(Box::new(retention))]);
        poll("it says why it does nothing", LONG, async || {
            cutting.jobs.problems().iter().any(|text| text.contains("nothing is removed"))
        })
        .await;
        until_run_again(&cutting, 2).await;
        assert_eq!(counts(&all(&ledger.archive).await).get("visit"), Some(&200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_cuts_do_not_keep_later_ones_from_being_folded() {
    let [place, _] = Place::both().await;
    let (path, _folder) = folder(&place);
    let config = configured(&place, &path);
    let ledger = Arc::new(Ledger::new(&config).expect("a ledger"));
    let mut writer = DirectWriter::new(ledger.seal_key().await.expect("a key").clone());
    let writer = writer.as_mut().expect("random numbers");
    // More large ones than are read at once, each of which stays as it is.
    let numbers: Vec<_> = (0..5000).map(|number| format!("{} ", 1_000_000 + 2 * number)).collect();
    let large = numbers.concat();
    let cuts = (0..520).chain(1000..1020).map(|n| {
        let mut cut = Entry::new(Kind::Cut, Micros(1 + n));
        let text = if n < 520 { large.as_str() } else { "7" };
        cut.notes = vec![Note { topic: CUT_POSITIONS.into(), text: text.into() }];
        writer.record(&TENANT.into(), cut)
    });
    let cuts: Vec<_> = cuts.collect();
    for cuts in cuts.chunks(50) {
        ledger.archive.write(cuts).await.expect("written");
    }
    let integrity = Integrity::new(Arc::clone(&ledger), SOON);
    let _placing = Instance::start(&place, 8, vec![Job::Short(Box::new(integrity))]);
    until_covered(&ledger.archive).await;
    let retention = Retention::new(config, SOON, Arc::clone(&ledger));
    let _cutting = Instance::start(&place, 7, vec![Job::Long(Box::new(retention))]);
    poll("the small ones are folded", LONG, async || {
        counts(&all(&ledger.archive).await).get("cut") == Some(&521)
    })
    .await;
}
