//! The archive in a file: what happens to the file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nightporter::ledger::archive::sqlite::{Limits, Sqlite};
use nightporter::ledger::archive::{Archive, ArchiveError, JobRow};
use nightporter::ledger::history::{Filter, Order, PageRequest};
use nightporter::ledger::record::{Kind, Micros, Note, Record};
use rusqlite::Connection;
use tempfile::TempDir;

use super::archive::Database;
use super::samples::{TENANT, all_ids, bare, id, pages, place, record, records, request};
use crate::support::client::poll;
use crate::support::disk::SmallDisk;

const LONG: Duration = Duration::from_secs(60);

/// A folder with a database.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Neither the file nor its folder is there at first.
    pub fn file(&self) -> PathBuf {
        self.0.path().join("ledger/ledger.db")
    }

    /// Opens it as a test does that looks at what is inside, or changes it.
    fn open(&self) -> Connection {
        Connection::open(self.file()).expect("opens")
    }

    fn execute(&self, sql: &str) {
        self.open().execute_batch(sql).expect("is done");
    }
}

impl Database for Folder {
    fn archive(&self) -> Archive {
        at(&self.file())
    }
}

fn at(path: &Path) -> Archive {
    Archive::Sqlite(Sqlite::new(path.to_owned(), Limits::default()))
}

/// The text of a problem that may pass, and that the archive shows.
async fn problem_of(archive: &Archive) -> String {
    let error = archive.write(&records(7, [1])).await.expect_err("fails");
    let ArchiveError::Unavailable(text) = error else { panic!("{error:?}") };
    assert_eq!(archive.problem().as_deref(), Some(&*text));
    archive.page(&request(1)).await.expect_err("fails as well");
    text.to_string()
}

async fn works(archive: &Archive) {
    archive.write(&records(7, [1])).await.expect("writes");
    assert!(archive.find(TENANT, id(7, 1)).await.expect("reads").is_some());
    assert_eq!(archive.problem(), None);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let folder = Folder::new();
    let archive = folder.archive();
    assert!(!folder.file().parent().expect("a folder").exists(), "nothing is opened too early");
    works(&archive).await;
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(folder.file().parent().expect("a folder")), 0o700);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&folder.file().with_extension(format!("db{suffix}"))), 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_as_it_is() {
    let folder = Folder::new();
    let archive = folder.archive();
    fs::create_dir(folder.file().parent().expect("a folder")).expect("writable");
    for content in [&b"not a database, but longer than a header"[..], &[0xff; 8192]] {
        fs::write(folder.file(), content).expect("writable");
        let problem = problem_of(&archive).await;
        assert!(problem.contains("ledger.db`") && problem.contains("damaged"), "{problem}");
        assert_eq!(fs::read(folder.file()).expect("readable"), content);
    }
    // Moved away, a new one is begun, without a restart.
    fs::rename(folder.file(), folder.file().with_extension("damaged")).expect("renamed");
    works(&archive).await;
}

#[tokio::test]
async fn damage_inside_the_file_is_named() {
    let folder = Folder::new();
    folder.archive().write(&records(7, 1..=2_000)).await.expect("writes");
    folder.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut content = fs::read(folder.file()).expect("readable");
    // All but the first pages, on which the schema is.
    content[20 * 4096..].fill(0x5a);
    fs::write(folder.file(), content).expect("writable");
    let archive = folder.archive();
    let error = archive.write(&records(8, 1..=100)).await.expect_err("fails");
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(archive.problem().is_some());
}

#[tokio::test]
async fn an_impossible_place_is_a_problem_until_it_is_possible() {
    let folder = Folder::new();
    let parent = folder.file().parent().expect("a folder").to_owned();
    fs::write(&parent, "a file where a folder should be").expect("writable");
    let archive = folder.archive();
    let problem = problem_of(&archive).await;
    assert!(problem.contains("ledger.db`"), "{problem}");
    fs::remove_file(&parent).expect("removed");
    works(&archive).await;

    let folder = Folder::new();
    fs::create_dir_all(folder.file()).expect("writable");
    problem_of(&folder.archive()).await;
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.file().parent().expect("a folder")).expect("writable");
    folder.execute("CREATE TABLE theirs (id)");
    let before = fs::read(folder.file()).expect("readable");
    let problem = problem_of(&folder.archive()).await;
    assert!(problem.contains("a database of another program"), "{problem}");
    assert_eq!(fs::read(folder.file()).expect("readable"), before);
}

#[tokio::test]
async fn a_file_of_another_version_is_used_if_that_only_added_something() {
    let folder = Folder::new();
    let archive = folder.archive();
    works(&archive).await;
    let newer = "CREATE TABLE more (id); INSERT INTO migrations VALUES (99, 'more', 'x', 1);";
    folder.execute(newer);
    works(&folder.archive()).await;
    folder.execute("UPDATE migrations SET additive = 0 WHERE version = 99");
    let problem = problem_of(&folder.archive()).await;
    assert!(problem.contains("a newer version has changed it"), "{problem}");
    folder.execute("DELETE FROM migrations WHERE version = 99");
    folder.execute("UPDATE migrations SET checksum = 'y'");
    let problem = problem_of(&folder.archive()).await;
    assert!(problem.contains("V1__records"), "{problem}");
}

#[tokio::test]
async fn a_file_that_was_removed_is_created_anew() {
    let folder = Folder::new();
    let archive = folder.archive();
    archive.write(&records(7, 1..=5)).await.expect("writes");
    assert_eq!(all_ids(&archive).await.len(), 5);
    for suffix in ["", "-wal", "-shm"] {
        let file = folder.file().with_extension(format!("db{suffix}"));
        fs::remove_file(file).expect("removed");
    }
    // What is written now must not go to the file that nobody can find.
    archive.write(&records(8, 1..=3)).await.expect("writes");
    assert_eq!(all_ids(&archive).await.len(), 3);
    assert_eq!(all_ids(&folder.archive()).await.len(), 3);
}

impl Folder {
    /// A file of the database: itself, or what has this at the end of its name.
    fn with(&self, suffix: &str) -> PathBuf {
        self.file().with_extension(format!("db{suffix}"))
    }
}

/// What is committed is in the write-ahead log at first, and a process that has it open can still
/// read it when somebody has removed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_ahead_log_that_was_removed_takes_nothing_with_it() {
    for removed in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        for is_read_first in [true, false] {
            let folder = Folder::new();
            let archive = folder.archive();
            archive.write(&records(7, 1..=5)).await.expect("writes");
            assert_eq!(all_ids(&archive).await.len(), 5);
            for suffix in removed {
                fs::remove_file(folder.with(suffix)).expect("removed");
            }
            if is_read_first {
                assert_eq!(all_ids(&archive).await.len(), 5, "{removed:?}");
            }
            archive.write(&records(8, 1..=3)).await.expect("writes");
            assert_eq!(all_ids(&archive).await.len(), 8, "{removed:?}");
            assert_eq!(archive.problem(), None);
            assert!(folder.with("-wal").exists() && folder.with("-shm").exists(), "{removed:?}");
            // As another process sees it, now and after this one has ended.
            assert_eq!(all_ids(&folder.archive()).await.len(), 8, "{removed:?}");
            drop(archive);
            assert_eq!(all_ids(&folder.archive()).await.len(), 8, "{removed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_log_is_saved_when_no_read_goes_on_and_until_then_that_is_said() {
    let folder = Folder::new();
    let limits = Limits { write: Duration::from_millis(300), ..Limits::default() };
    let archive = Archive::Sqlite(Sqlite::new(folder.file(), limits));
    archive.write(&records(7, 1..=5)).await.expect("writes");
    let mut snapshot = archive.snapshot().await.expect("begins");
    fs::remove_file(folder.with("-wal")).expect("removed");
    let error = archive.write(&records(8, [1])).await.expect_err("a read goes on");
    let text = error.to_string();
    assert!(text.contains("ledger.db`") && text.contains("removed while in use"), "{text}");
    assert_eq!(archive.problem(), Some(text));
    assert_eq!(snapshot.records(TENANT, 0, 10).await.expect("goes on"), []);
    assert_eq!(snapshot.unplaced(TENANT, None, 10).await.expect("goes on").len(), 5);
    drop(snapshot);
    poll("it is saved", LONG, async || archive.write(&records(8, [1])).await.is_ok()).await;
    assert_eq!(archive.problem(), None);
    assert_eq!(all_ids(&archive).await.len(), 6);
    drop(archive);
    assert_eq!(all_ids(&folder.archive()).await.len(), 6);
}

/// As a power failure and a careless hand leave the files.
#[tokio::test]
async fn a_log_or_an_index_that_is_missing_at_the_start_stops_nothing() {
    let folder = Folder::new();
    let archive = folder.archive();
    archive.write(&records(7, 1..=5)).await.expect("writes");
    folder.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    archive.write(&records(7, 6..=8)).await.expect("writes");
    // What is in the log alone goes with it.
    for (left, found) in [(&["", "-wal"][..], 8), (&["", "-shm"], 5), (&[""], 5)] {
        let other = Folder::new();
        fs::create_dir(other.file().parent().expect("a folder")).expect("writable");
        for suffix in left {
            fs::copy(folder.with(suffix), other.with(suffix)).expect("copied");
        }
        let archive = other.archive();
        assert_eq!(all_ids(&archive).await.len(), found, "{left:?}");
        archive.write(&records(8, 1..=3)).await.expect("writes");
        assert_eq!(all_ids(&archive).await.len(), found + 3, "{left:?}");
    }
}

#[tokio::test]
async fn a_full_disk_takes_no_half_of_a_batch_and_needs_only_space() {
    let disk = SmallDisk::of_kib(1_024);
    let path = disk.path().join("ledger.db");
    let archive = at(&path);
    let mut written = 0;
    let error = loop {
        match archive.write(&records(7, written + 1..=written + 100)).await {
            Ok(()) => written += 100,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk is small");
    };
    assert!(written > 0);
    let ArchiveError::Unavailable(text) = error else { panic!("{error:?}") };
    assert!(text.contains("no space is left"), "{text}");
    assert!(archive.problem().is_some());
    assert_eq!(i64::try_from(all_ids(&archive).await.len()).expect("few"), written);
    disk.resize(16 * 1_024);
    archive.write(&records(7, written + 1..=written + 100)).await.expect("writes");
    assert_eq!(archive.problem(), None);
    assert_eq!(i64::try_from(all_ids(&archive).await.len()).expect("few"), written + 100);
}

#[tokio::test]
async fn a_read_only_disk_is_a_problem_until_it_is_writable() {
    let disk = SmallDisk::of_kib(8 * 1_024);
    let archive = at(&disk.path().join("ledger/ledger.db"));
    disk.set_read_only(true);
    let problem = problem_of(&archive).await;
    assert!(problem.contains("Read-only file system"), "{problem}");
    disk.set_read_only(false);
    works(&archive).await;
}

/// Another process with the file open.
struct Neighbour(Child);

impl Neighbour {
    /// Starts one that holds the write lock.
    fn with_lock(path: &Path) -> Self {
        let script = "import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('BEGIN IMMEDIATE')
print('locked', flush=True)
time.sleep(600)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        assert_eq!(line, "locked\n");
        Self(child)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_another_process_counts_until_it_dies() {
    let folder = Folder::new();
    let limits = Limits {
        lock: Duration::from_millis(200),
        write: Duration::from_millis(400),
        ..Limits::default()
    };
    let hasty = Archive::Sqlite(Sqlite::new(folder.file(), limits));
    let patient = Archive::Sqlite(Sqlite::new(folder.file(), Limits { write: LONG, ..limits }));
    works(&hasty).await;
    works(&patient).await;
    let neighbour = Neighbour::with_lock(&folder.file());
    let mut transaction = hasty.begin().await.expect("begins");
    assert!(!transaction.try_lock("integrity").await.expect("answers"));
    // Once more: the answer is not an error that ends it.
    assert!(!transaction.try_lock("integrity").await.expect("answers"));
    drop(transaction);
    let error = hasty.write(&records(8, [1])).await.expect_err("does not wait for ever");
    assert!(matches!(&error, ArchiveError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(hasty.find(TENANT, id(7, 1)).await.expect("a read does not wait").is_some());

    let writing = tokio::spawn(async move { patient.write(&records(8, [1])).await });
    drop(neighbour);
    writing.await.expect("no panic").expect("writes as soon as it can");
    works(&hasty).await;
    let mut transaction = hasty.begin().await.expect("begins");
    assert!(transaction.try_lock("integrity").await.expect("answers"));
}

#[tokio::test]
async fn the_space_of_removed_records_is_given_back() {
    const BATCH: i64 = 2_000;
    let folder = Folder::new();
    let archive = folder.archive();
    let mut sizes = Vec::new();
    for round in 0..6 {
        let mut batch = records(7, round * BATCH + 1..=(round + 1) * BATCH);
        for record in &mut batch {
            record.notes.push(Note { topic: "long".into(), text: "x".repeat(500).into() });
        }
        archive.write(&batch).await.expect("writes");
        place(&archive, 10_000).await;
        let full = archive.size().await.expect("answers");
        let mut transaction = archive.begin().await.expect("begins");
        let removed =
            transaction.remove_before(TENANT, Kind::Visit, Micros(i64::MAX), i64::MAX, 10_000);
        assert_eq!(removed.await.expect("removes").len(), 2_000);
        transaction.commit().await.expect("commits");
        sizes.push((full, archive.size().await.expect("answers")));
    }
    let (first, last) = (sizes[0], sizes[5]);
    assert!(last.0 <= first.0 + first.0 / 10, "removed space is used again: {sizes:?}");
    assert!(sizes.iter().all(|(full, empty)| *empty < full / 4), "and given back: {sizes:?}");
    folder.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let file = fs::metadata(folder.file()).expect("is there").len();
    assert_eq!(file, last.1, "the file itself is as small as the archive says");
}

#[tokio::test]
async fn the_log_of_runs_is_bounded() {
    let folder = Folder::new();
    let archive = folder.archive();
    let mut transaction = archive.begin().await.expect("begins");
    for due in 1..=1_010 {
        for name in ["integrity", "retention"] {
            let row = JobRow {
                name: name.to_owned(),
                due: Micros(due),
                started: None,
                ended: None,
                outcome: None,
                by: None,
            };
            transaction.log_run(TENANT, &row).await.expect("writes");
        }
    }
    transaction.commit().await.expect("commits");
    let sql = "SELECT count(*), min(due) FROM job_runs GROUP BY name ORDER BY name";
    let connection = folder.open();
    let mut statement = connection.prepare(sql).expect("valid");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("runs");
    let counts: Vec<(i64, i64)> = rows.collect::<Result<_, _>>().expect("reads");
    assert_eq!(counts, [(1_000, 11); 2]);
}

#[tokio::test]
async fn a_row_that_was_edited_into_nonsense_is_named_and_blocks_no_page() {
    let folder = Folder::new();
    let archive = folder.archive();
    archive.write(&records(7, 1..=3)).await.expect("writes");
    folder.execute("UPDATE requests SET kind = 'nonsense' WHERE seq = 2");
    let page = archive.page(&request(10)).await.expect("the others are shown");
    assert_eq!((page.records.len(), page.unreadable), (2, 1));
    let error = archive.find(TENANT, id(7, 2)).await.expect_err("cannot be shown");
    assert!(error.to_string().contains(&id(7, 2).to_string()), "{error}");
    assert!(archive.find(TENANT, id(7, 3)).await.expect("reads").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_ends_at_its_limit_or_when_nobody_waits_for_it() {
    let folder = Folder::new();
    let batch: Vec<_> =
        (1..=20_000).map(|seq| Record { steps: vec![], ..record(7, seq) }).collect();
    folder.archive().write(&batch).await.expect("writes");
    let limits = Limits { read: Duration::from_millis(2), readers: 1, ..Limits::default() };
    let archive = Archive::Sqlite(Sqlite::new(folder.file(), limits));
    archive.prepare().await.expect("prepares");
    let error = archive.page(&request(20_000)).await.expect_err("takes longer");
    assert!(error.to_string().contains("longer than 2ms"), "{error}");
    assert_eq!(archive.problem(), None, "one slow read is no problem of the archive");

    let limits = Limits { read: LONG, readers: 1, ..Limits::default() };
    let archive = Archive::Sqlite(Sqlite::new(folder.file(), limits));
    for _ in 0..20 {
        let scan = request(20_000);
        let reading = archive.page(&scan);
        tokio::time::timeout(Duration::from_millis(1), reading).await.ok();
    }
    // The only connection is free at once, not after twenty scans.
    poll("a short read", LONG, async || archive.page(&request(1)).await.is_ok()).await;
}

/// Many records match each of two filters and one matches both: no page searches for long, and
/// together they find it.
#[tokio::test]
async fn a_search_among_many_is_done_in_pages() {
    const MANY: i64 = 12_000;
    let folder = Folder::new();
    let archive = folder.archive();
    let of = |seq: i64| {
        let is_first = seq == 1;
        let (of_app, is_revoked) = (seq % 2 == 0 || is_first, seq % 2 == 1);
        Record {
            app: of_app.then(|| "notes".into()),
            reason: is_revoked.then(|| "revoked".into()),
            verdict: Some("deny".into()),
            ..bare(Kind::Visit, 7, seq)
        }
    };
    for first in (1..=2 * MANY).step_by(4_000) {
        let batch: Vec<_> = (first..first + 4_000).map(of).collect();
        archive.write(&batch).await.expect("writes");
    }
    while place(&archive, 4_000).await > 0 {}
    let filter =
        Filter { app: Some("notes".into()), reason: Some("revoked".into()), ..Filter::default() };
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let (mut searched, mut found) = (0, Vec::new());
        let mut asked = PageRequest { filter: filter.clone(), order, ..request(50) };
        loop {
            let page = archive.page(&asked).await.expect("a page");
            searched += 1;
            found.extend(page.records.iter().map(|stored| stored.record.id));
            let Some(next) = page.next else { break };
            assert_ne!(asked.after.replace(next), Some(next), "it goes on");
        }
        assert_eq!(found, [id(7, 1)], "{order:?}");
        assert!((3..10).contains(&searched), "{order:?}: {searched} pages");
    }
    // Where the index has all that is asked for, a page is full.
    let asked = PageRequest {
        filter: Filter { app: Some("notes".into()), ..Filter::default() },
        ..request(500)
    };
    assert_eq!(archive.page(&asked).await.expect("a page").records.len(), 500);
    assert_eq!(pages(&archive, &asked, async || ()).await.len(), 12_001);
}
