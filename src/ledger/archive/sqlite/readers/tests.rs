use std::path::PathBuf;
use std::thread::sleep;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const SCAN: Duration = Duration::from_millis(900);

fn readers(readers: usize) -> (TempDir, Arc<Readers>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path: PathBuf = folder.path().join("ledger.db");
    file::open_writer(&path, SCAN).expect("opens");
    let limits = Limits { readers, ..Limits::default() };
    (folder, Arc::new(Readers::new(path.into(), limits)))
}

/// A scan that waits for its rows, as if each came from a slow disk.
fn scan(connection: &Connection) -> Result<u32, Fault> {
    const ROWS: u32 = 10;
    let sql = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?)
               SELECT n FROM n";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([ROWS])?;
    let mut count = 0;
    while rows.next()?.is_some() {
        sleep(SCAN / ROWS);
        count += 1;
    }
    Ok(count)
}

/// Runs four scans; returns how long they took together.
async fn four_scans(readers: &Arc<Readers>) -> Duration {
    let begin = Instant::now();
    let mut scans = JoinSet::new();
    for _ in 0..4 {
        let readers = Arc::clone(readers);
        scans.spawn(async move {
            let permit = readers.permit().await.expect("in time");
            let mut reader = readers.open(permit).await.expect("opens");
            let rows = reader.run(scan).await.expect("scans");
            reader.give_back();
            rows
        });
    }
    assert_eq!(scans.join_all().await, [10; 4]);
    begin.elapsed()
}

#[tokio::test]
async fn scans_overlap() {
    let (_folder, many) = readers(16);
    let together = four_scans(&many).await;
    assert!((SCAN..SCAN * 5 / 3).contains(&together), "{together:?}");
    // The same scans take four times as long if they must wait for each other.
    let (_folder, one) = readers(1);
    let in_line = four_scans(&one).await;
    assert!(in_line >= SCAN * 4, "{in_line:?}");
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let (_folder, readers) = readers(16);
    let mut reader = readers.open(readers.permit().await.expect("in time")).await.expect("opens");
    let write = |connection: &Connection| {
        Ok(connection.execute_batch("INSERT INTO tenants (name) VALUES ('box')")?)
    };
    reader.run(write).await.expect_err("refused");
}

#[tokio::test]
async fn few_connections_stay_open() {
    let (_folder, readers) = readers(16);
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(readers.open(readers.permit().await.expect("in time")).await.expect("opens"));
    }
    assert_eq!(readers.permits.available_permits(), 0);
    open.into_iter().for_each(Reader::give_back);
    assert_eq!(lock(&readers.idle).len(), MAX_IDLE);
    assert_eq!(readers.permits.available_permits(), 16);
}

#[tokio::test]
async fn a_long_read_is_less_urgent_than_a_short_one() {
    let (_folder, readers) = readers(16);
    let usual = rustix::process::getpriority_process(None).expect("allowed");
    let mut reader = readers.open(readers.permit().await.expect("in time")).await.expect("opens");
    for rows in [1, 100_000] {
        let (before, after) = reader
            .run(move |connection| {
                let before = rustix::process::getpriority_process(None);
                let sql = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n
                           LIMIT ?) SELECT count(*) FROM n";
                let mut statement = connection.prepare(sql)?;
                let mut count = 0;
                // However fast the machine is, this takes longer than a short read.
                let end = Instant::now() + if rows > 1 { 10 * LONG } else { Duration::ZERO };
                while Instant::now() < end {
                    count += statement.query_row([rows], |row| row.get::<_, i64>(0))?;
                }
                assert!(count > 0 || rows == 1);
                Ok((before.ok(), rustix::process::getpriority_process(None).ok()))
            })
            .await
            .expect("reads");
        assert_eq!(before, Some(usual));
        assert_eq!(after, Some(if rows > 1 { NICENESS } else { usual }));
    }
}
