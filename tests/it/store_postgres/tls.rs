//! `sslmode` and `sslrootcert`, as in libpq, against a server with TLS.

use std::path::{Path, PathBuf};

use super::{Store, settings};
use crate::support::postgres::{Cluster, Database};

/// How a connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Encrypted,
    Plain,
    Not,
}
use Came::{Encrypted, Not, Plain};

/// A cluster with TLS and the certificates made for it.
struct Server {
    cluster: Cluster,
    database: Database,
    folder: tempfile::TempDir,
}

/// Makes, in the server's data folder: an authority and a certificate of it for
/// `localhost`; a self-signed certificate for `localhost` that is an authority
/// of its own, as `openssl req -x509` makes them; another authority.
const CERTIFICATES: &str = "set -e; \
    key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30'; \
    for name in ca other; do \
        openssl req -x509 $key -subj /CN=$name -keyout $name.key -out $name.pem; done; \
    openssl req -x509 $key -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout self.key -out self.pem; \
    openssl req $key -subj /CN=localhost -keyout server.key -out server.csr; \
    echo subjectAltName=DNS:localhost >extensions; \
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
        -extfile extensions -out server.pem; \
    chmod 600 *.key";

impl Server {
    async fn start() -> Self {
        let cluster = Cluster::own();
        let database = cluster.database().await;
        database.create_freeshard_tables().await;
        database.batch("CREATE ROLE guest LOGIN SUPERUSER").await;
        // The server itself makes them: it wants to own its key.
        let make = format!("( {CERTIFICATES} ) 2>certificates.log").replace('\'', "''");
        database.batch(&format!("COPY (SELECT 1) TO PROGRAM '{make}'")).await;
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["ca.pem", "other.pem", "self.pem"] {
            let sql = "SELECT pg_read_file($1)";
            let text: String = database.client.query_one(sql, &[&name]).await.expect("made").get(0);
            std::fs::write(folder.path().join(name), text).expect("writable");
        }
        let server = Self { cluster, database, folder };
        server.present("server").await;
        server
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn present(&self, name: &str) {
        self.set(&[
            ("ssl_cert_file", &format!("{name}.pem")),
            ("ssl_key_file", &format!("{name}.key")),
            ("ssl", "on"),
        ])
        .await;
    }

    /// Admits the store by `host`, `hostssl` or `hostnossl`, and the test as before.
    async fn admit(&self, kind: &str) {
        let sql = format!(
            "COPY (VALUES ('host all postgres 127.0.0.1/32 trust'), \
             ('{kind} all guest 127.0.0.1/32 trust')) TO PROGRAM 'cat >pg_hba.conf'"
        );
        self.database.batch(&sql).await;
    }

    async fn set(&self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            self.database.batch(&format!("ALTER SYSTEM SET {name} = '{value}'")).await;
        }
    }

    /// What was set takes effect.
    async fn restart(&mut self) {
        self.cluster.restart().await;
        self.database.client = self.database.connect().await;
    }

    /// Asks one question over a connection with these options.
    async fn came(&self, host: &str, options: &str) -> Came {
        let (port, name) = (self.database.server_address().port(), &self.database.name);
        let url = format!("postgres://guest@{host}:{port}/{name}?{options}");
        let store = Store::open(&settings(&url));
        if store.postgres.app_names().await.is_err() {
            return Not;
        }
        let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                   WHERE usename = 'guest' AND application_name = 'nightporter' ORDER BY backend_start DESC LIMIT 1";
        let row = self.database.client.query_one(sql, &[]).await.expect("connected");
        if row.get(0) { Encrypted } else { Plain }
    }
}

fn with(mode: &str, roots: &Path) -> String {
    format!("sslmode={mode}&sslrootcert={}", roots.display())
}

#[tokio::test]
async fn sslmode_means_what_it_means_in_libpq() {
    let mut server = Server::start().await;
    server.restart().await;
    let (ca, other) = (server.certificate("ca.pem"), server.certificate("other.pem"));
    let gone = server.certificate("gone.pem");
    for (host, options, expected) in [
        ("127.0.0.1", "sslmode=disable".into(), Plain),
        ("127.0.0.1", "sslmode=allow".into(), Plain),
        ("127.0.0.1", "sslmode=prefer".into(), Encrypted),
        ("127.0.0.1", String::new(), Encrypted),
        ("127.0.0.1", "sslmode=require".into(), Encrypted),
        ("127.0.0.1", with("require", &ca), Encrypted),
        ("127.0.0.1", with("require", &other), Not),
        ("127.0.0.1", with("prefer", &other), Plain),
        ("127.0.0.1", with("verify-ca", &ca), Encrypted),
        ("127.0.0.1", with("verify-ca", &other), Not),
        ("127.0.0.1", with("verify-full", &ca), Not),
        ("localhost", with("verify-full", &ca), Encrypted),
        ("localhost", with("verify-full", &other), Not),
        ("localhost", with("verify-full", &gone), Not),
        ("localhost", "sslrootcert=system".into(), Not),
    ] {
        assert_eq!(server.came(host, &options).await, expected, "{host} {options}");
    }

    server.present("self").await;
    server.restart().await;
    let own = server.certificate("self.pem");
    for (host, options, expected) in [
        ("localhost", with("verify-full", &own), Encrypted),
        ("127.0.0.1", with("verify-full", &own), Not),
        ("127.0.0.1", with("verify-ca", &own), Encrypted),
        ("127.0.0.1", with("verify-ca", &ca), Not),
    ] {
        assert_eq!(server.came(host, &options).await, expected, "{host} {options}");
    }

    for (kind, mode, expected) in [
        ("hostssl", "disable", Not),
        ("hostssl", "allow", Encrypted),
        ("hostssl", "prefer", Encrypted),
        ("hostnossl", "require", Not),
        ("hostnossl", "prefer", Plain),
        ("hostnossl", "allow", Plain),
    ] {
        server.admit(kind).await;
        server.restart().await;
        let options = format!("sslmode={mode}");
        assert_eq!(server.came("127.0.0.1", &options).await, expected, "{kind}, {mode}");
    }

    server.admit("host").await;
    server.set(&[("ssl", "off")]).await;
    server.restart().await;
    for (mode, expected) in [("require", Not), ("prefer", Plain), ("allow", Plain)] {
        let options = format!("sslmode={mode}");
        assert_eq!(server.came("127.0.0.1", &options).await, expected, "no TLS, {mode}");
    }
}
