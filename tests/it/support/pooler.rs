//! A connection pooler between a client and Postgres.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use super::postgres::Database;
use super::programs::free_address;

/// A real pgbouncer in front of a server.
#[derive(Debug)]
pub struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Pooler {
    /// `mode` is pgbouncer's `pool_mode`.
    pub fn before(database: &Database, mode: &str) -> Self {
        Self::with_size(database, mode, 20)
    }

    /// With at most `size` connections to the server.
    pub fn with_size(database: &Database, mode: &str, size: u32) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_address().port();
        let (server, name) = (database.server_address(), &database.name);
        let path = folder.path().join("pgbouncer.ini");
        let mut file = std::fs::File::create(&path).expect("writable");
        write!(
            file,
            "[databases]\n{name} = host={} port={} user=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\n",
            server.ip(),
            server.port()
        )
        .expect("writable");
        let readable = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path(), readable(0o755)).expect("mine");
        std::fs::set_permissions(&path, readable(0o644)).expect("mine");
        let is_root = Command::new("id").arg("-u").output().expect("id").stdout == b"0\n";
        let mut command = if is_root {
            // pgbouncer refuses root, as Postgres does.
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "pgbouncer"]);
            command
        } else {
            Command::new("pgbouncer")
        };
        command.arg("-q").arg(&path).current_dir("/").stderr(Stdio::null());
        let child = command.spawn().expect("pgbouncer; on Debian: apt-get install pgbouncer");
        Self { child, port, _folder: folder }
    }

    pub fn url(&self, database: &Database) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{}", self.port, database.name)
    }
}
