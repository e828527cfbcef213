//! The database's file: how it is created, opened and recognised.
//!
//! Nothing else in the process may open the file: POSIX drops all locks that a process has
//! on a file when it closes any descriptor of that file, SQLite's locks included.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tracing::warn;

use super::fault::Fault;
use super::schema;

/// Marks a file as a ledger: "nplg" read as a number.
const APPLICATION: i32 = 0x6e70_6c67;

/// How long to wait before a mode is set again that another process is about to set.
const PAUSE: Duration = Duration::from_millis(10);

/// Which file a path leads to: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn read(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }
}

/// Which files a path leads to: the database, and beside it the write-ahead log and the log's
/// index, which are there as long as somebody has the database open to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Files {
    database: FileId,
    beside: [Option<FileId>; 2],
}

impl Files {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let beside = |suffix| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            FileId::read(Path::new(&name)).ok()
        };
        Ok(Self { database: FileId::read(path)?, beside: ["-wal", "-shm"].map(beside) })
    }
}

/// A connection, and the files that it was opened on.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) files: Files,
}

impl Opened {
    /// Returns whether the path still leads to the files of this connection. SQLite would go
    /// on writing to files that were deleted.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        Files::read(path).is_ok_and(|files| files == self.files)
    }

    /// Moves into the database what only this connection can see, if somebody has removed the
    /// write-ahead log or its index: whoever opens the database now makes new ones. Nothing
    /// needs to be moved if the database itself was removed.
    pub(super) fn save_log(&self, path: &Path) -> Result<(), Fault> {
        if !Files::read(path).is_ok_and(|files| files.database == self.files.database) {
            return Ok(());
        }
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        if self.connection.query_row(sql, [], |row| row.get(0))? {
            return Err(Fault::LostLog);
        }
        let path = path.display();
        warn!("`{path}-wal` or `{path}-shm` was removed while in use; what they held is saved");
        Ok(())
    }
}

/// Opens the file to write, after creating it if it is missing, and brings its schema up to
/// date. Waits up to `busy` for other processes, now and in later calls.
pub(super) fn open_writer(path: &Path, busy: Duration) -> Result<Opened, Fault> {
    create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (mut connection, file) = open(path, flags, busy)?;
    if !is_ledger(&mut connection)? {
        // Counts only in a new file, before anything is written.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    write_ahead(&connection, busy)?;
    // FULL: a commit is on the disk when it returns. 4,000 pages are 16 MiB: more than a
    // batch, so that not every commit copies the write-ahead log into the database.
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -4096;
         PRAGMA wal_autocheckpoint = 4000;
         PRAGMA journal_size_limit = 33554432;",
    )?;
    schema::migrate(&mut connection, APPLICATION)?;
    opened(connection, file, path)
}

/// Opens the file to read.
pub(super) fn open_reader(path: &Path, busy: Duration) -> Result<Opened, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (connection, file) = open(path, flags, busy)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    opened(connection, file, path)
}

fn opened(connection: Connection, file: FileId, path: &Path) -> Result<Opened, Fault> {
    let files = Files::read(path)?;
    if files.database != file {
        return Err(replaced());
    }
    Ok(Opened { connection, files })
}

fn replaced() -> Fault {
    Fault::Unusable("the file was replaced just now".to_owned())
}

fn open(path: &Path, flags: OpenFlags, busy: Duration) -> Result<(Connection, FileId), Fault> {
    // A relative path could lead elsewhere later, and SQLite gives `:memory:` a meaning.
    let absolute: PathBuf = std::path::absolute(path)?;
    let before = FileId::read(path)?;
    let connection = Connection::open_with_flags(absolute, flags)?;
    connection.busy_timeout(busy)?;
    if FileId::read(path)? != before {
        return Err(replaced());
    }
    Ok((connection, before))
}

/// Creates the folder and the file, for the owner only; SQLite gives the files that it puts
/// beside it the same mode.
fn create(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

/// Returns whether the file is a ledger, or `false` if it is empty. Changes nothing, since
/// it may be the database of another program.
fn is_ledger(connection: &mut Connection) -> Result<bool, Fault> {
    let transaction = connection.transaction()?;
    let number = |sql| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    if number("PRAGMA application_id")? == i64::from(APPLICATION) {
        return Ok(true);
    }
    if number("SELECT count(*) FROM sqlite_schema")? == 0 {
        return Ok(false);
    }
    Err(Fault::Unusable("a database of another program".to_owned()))
}

/// Sets the write-ahead mode, which stays with the file. SQLite does not wait for its lock
/// here, so this does.
fn write_ahead(connection: &Connection, busy: Duration) -> Result<(), Fault> {
    let begin = Instant::now();
    let mode: String = loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Ok(mode) => break mode,
            Err(error) => {
                let fault = Fault::from(error);
                if !fault.is_busy() || begin.elapsed() > busy {
                    return Err(fault);
                }
                std::thread::sleep(PAUSE);
            }
        }
    };
    if mode == "wal" {
        return Ok(());
    }
    Err(Fault::Unusable(format!(
        "the file system does not support a write-ahead log (the journal's mode is `{mode}`)"
    )))
}
