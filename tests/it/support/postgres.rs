//! Real Postgres: a cluster of the test process's own, and a fresh database per test.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

/// A running cluster. It ends when this value is dropped or the process ends.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    port: u16,
    /// The keeper watches its standard input.
    _alive: ChildStdin,
    _keeper: Child,
}

impl Cluster {
    /// The cluster for tests that do not break the server.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::own)
    }

    /// A cluster for a test that restarts or kills it.
    pub fn own() -> Self {
        const ATTEMPTS: usize = 5;
        // Another process may take the free port before Postgres does.
        (0..ATTEMPTS)
            .find_map(|_| Self::start_on(free_port()))
            .expect("Postgres starts on one of several free ports; its log is above")
    }

    fn start_on(port: u16) -> Option<Self> {
        let mut keeper = as_owner("sh")
            .args(["-c", include_str!("cluster.sh"), "cluster"])
            .arg(programs())
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let alive = keeper.stdin.take().expect("piped");
        let mut dir = String::new();
        BufReader::new(keeper.stdout.take().expect("piped")).read_line(&mut dir).expect("readable");
        let dir = PathBuf::from(dir.trim_end());
        dir.is_absolute().then_some(Self { dir, port, _alive: alive, _keeper: keeper })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Creates a fresh, empty database, with `pg_stat_statements`.
    pub async fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("box_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let server = connect(&url(self.address(), "postgres")).await;
        server.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a new database");
        let client = connect(&url(self.address(), &name)).await;
        client.batch_execute("CREATE EXTENSION pg_stat_statements").await.expect("contrib");
        Database { name, address: self.address(), client }
    }

    /// Stops the server at once, as a crash would, and does not restart it.
    pub async fn crash(&self) {
        self.control(&["-m", "immediate", "stop"]).await;
    }

    /// Kills the server with everything that it has started, as the kernel does when memory
    /// runs out.
    pub async fn kill(&self) {
        let file = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).expect("runs");
        let server = file.lines().next().expect("a process id").to_owned();
        let script = "kill -STOP $1; kill -9 $1 $(ps -o pid= --ppid $1)";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &server]).stderr(Stdio::null());
        let killed = tokio::task::spawn_blocking(move || command.status());
        killed.await.expect("no panic").expect("a shell starts");
    }

    /// Starts the server after [`Self::kill`]. What is left of it may still be ending.
    pub async fn start_again(&self) {
        for _ in 0..100 {
            if self.try_control(&["-w", "start"]).await.success() {
                return;
            }
        }
        panic!("Postgres does not start again");
    }

    pub async fn start(&self) {
        self.control(&["-w", "start"]).await;
    }

    pub async fn restart(&self) {
        self.control(&["-w", "-m", "fast", "restart"]).await;
    }

    async fn control(&self, args: &[&str]) {
        let status = self.try_control(args).await;
        assert!(status.success(), "pg_ctl {args:?}: {status}");
    }

    async fn try_control(&self, args: &[&str]) -> ExitStatus {
        let mut command = as_owner(programs().join("pg_ctl"));
        command
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("-l")
            .arg(self.dir.join("log"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let status = tokio::task::spawn_blocking(move || command.status());
        status.await.expect("no panic").expect("pg_ctl starts")
    }
}

/// One box's database.
#[derive(Debug)]
pub struct Database {
    pub name: String,
    address: SocketAddr,
    /// The test's own connection, without any proxy.
    pub client: Client,
}

/// The FreeShard tables, as `shard_core` creates them.
pub const FREESHARD_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS installed_apps (
        name TEXT PRIMARY KEY, installation_reason TEXT, status TEXT, last_access TIMESTAMPTZ);
    CREATE TABLE IF NOT EXISTS identities (
        id TEXT PRIMARY KEY, name TEXT, email TEXT, description TEXT, private_key TEXT,
        is_default BOOLEAN);
    CREATE TABLE IF NOT EXISTS terminals (
        id TEXT PRIMARY KEY, name TEXT, icon TEXT, last_connection TIMESTAMPTZ);
    CREATE TABLE IF NOT EXISTS peers (
        id TEXT PRIMARY KEY, name TEXT, public_bytes_b64 TEXT, is_reachable BOOLEAN);
    CREATE TABLE IF NOT EXISTS kv_store (key TEXT PRIMARY KEY, value JSONB);
";

impl Database {
    pub fn server_address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// The URL of the same database through a proxy.
    pub fn url_at(&self, address: SocketAddr) -> String {
        url(address, &self.name)
    }

    /// Opens the same database anew, after its server was restarted.
    pub async fn again(cluster: &Cluster, known: &Self) -> Self {
        let (name, address) = (known.name.clone(), cluster.address());
        let client = connect(&url(address, &name)).await;
        Self { name, address, client }
    }

    /// Opens one more connection.
    pub async fn connect(&self) -> Client {
        connect(&self.url()).await
    }

    pub async fn create_freeshard_tables(&self) {
        self.batch(FREESHARD_TABLES).await;
    }

    pub async fn batch(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs one statement; returns the number of rows it touched.
    pub async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> u64 {
        let done = self.client.execute(sql, params).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    pub async fn insert_app(&self, name: &str, status: &str) {
        let sql = "INSERT INTO installed_apps VALUES ($1, 'custom', $2, NULL)";
        self.execute(sql, &[&name, &status]).await;
    }

    pub async fn insert_terminal(&self, id: &str, name: &str) {
        let sql = "INSERT INTO terminals VALUES ($1, $2, 'unknown', NULL)";
        self.execute(sql, &[&id, &name]).await;
    }

    pub async fn insert_peer(&self, id: &str, name: &str, public_key_pem: Option<&str>) {
        let sql = "INSERT INTO peers VALUES ($1, $2, $3, true)";
        self.execute(sql, &[&id, &name, &public_key_pem]).await;
    }

    pub async fn insert_identity(&self, id: &str, private_key_pem: &str, is_default: bool) {
        let sql = "INSERT INTO identities VALUES ($1, 'Sample', NULL, NULL, $2, $3)";
        self.execute(sql, &[&id, &private_key_pem, &is_default]).await;
    }

    /// Sets a `kv_store` key to a JSON string.
    pub async fn set_secret(&self, key: &str, secret: &str) {
        let sql = "INSERT INTO kv_store VALUES ($1, to_jsonb($2::text))
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.execute(sql, &[&key, &secret]).await;
    }

    /// The statements this database has run since [`Self::forget_statements`]
    /// and how often, without the test's own, which mark themselves `test:`.
    pub async fn statements(&self) -> Vec<(String, i64)> {
        let sql = "SELECT /* test: */ query, calls FROM pg_stat_statements
                   WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND query NOT LIKE '%/* test: */%' ORDER BY calls DESC, query";
        let rows = self.client.query(sql, &[]).await.expect("pg_stat_statements");
        rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    pub async fn forget_statements(&self) {
        let sql = "SELECT /* test: */ pg_stat_statements_reset(
                   0, (SELECT oid FROM pg_database WHERE datname = current_database()), 0)";
        self.client.query(sql, &[]).await.expect("pg_stat_statements");
    }

    /// Ends every other connection, as an administrator would.
    pub async fn terminate_backends(&self) -> u64 {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.client.query(sql, &[]).await.expect("superuser").len() as u64
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.unwrap_or_else(|e| panic!("{url}: {e:?}"));
    // Ends with the client, or with the server.
    tokio::spawn(async move { connection.await.ok() });
    client
}

fn url(address: SocketAddr, database: &str) -> String {
    let mut url = String::new();
    write!(url, "postgresql://postgres@{address}/{database}").expect("text");
    url
}

/// A free port, below the range of outgoing connections.
fn free_port() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let start = u16::try_from(random % 10_000).expect("small");
    (0..10_000)
        .map(|offset| 20_000 + (start + offset) % 10_000)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}

/// The folder of `initdb`, `pg_ctl` and `postgres`: Debian's newest, or that in the path.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let has_initdb = |dir: &PathBuf| dir.join("initdb").is_file();
        let version = |dir: &PathBuf| -> u32 {
            let version = dir.parent().and_then(Path::file_name).and_then(|name| name.to_str());
            version.and_then(|version| version.parse().ok()).unwrap_or(0)
        };
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        debian
            .map(|entry| entry.path().join("bin"))
            .filter(has_initdb)
            .max_by_key(version)
            .or_else(|| {
                std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                    .find(has_initdb)
            })
            .expect("the Postgres server's programs; on Debian: apt-get install postgresql")
    })
}

/// A command as a user that Postgres accepts: it refuses root.
fn as_owner(program: impl AsRef<std::ffi::OsStr>) -> Command {
    static IS_ROOT: OnceLock<bool> = OnceLock::new();
    let is_root = *IS_ROOT.get_or_init(|| {
        let id = Command::new("id").arg("-u").output().expect("id starts");
        id.stdout.trim_ascii() == b"0"
    });
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(program.as_ref());
        command
    } else {
        Command::new(program)
    };
    // The terminal's interrupt must not reach it: it has to outlive the tests to clean up.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.current_dir("/");
    command
}
