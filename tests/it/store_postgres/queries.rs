//! Rows in, rows out.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use nightporter::store::{Terminal, Touched};

use super::{Store, settings};
use crate::support::boxes::id_of;
use crate::support::postgres::{Cluster, Database};
use crate::support::sign::{BOX_KEY, PEER_KEY};

async fn opened() -> (Database, Store) {
    let database = Cluster::shared().database().await;
    database.create_freeshard_tables().await;
    let store = Store::open(&settings(&database.url()));
    (database, store)
}

#[tokio::test]
async fn rows_are_read_as_they_are() {
    let (database, store) = opened().await;
    assert_eq!(store.postgres.app_names().await.expect("answers"), Vec::<String>::new());
    database.insert_app("notes", "running").await;
    database.batch("INSERT INTO installed_apps (name) VALUES ('bare')").await;
    let mut names = store.postgres.app_names().await.expect("answers");
    names.sort();
    assert_eq!(names, ["bare", "notes"]);
    let status = async |name| {
        let row = store.postgres.app(name).await.expect("answers");
        row.map(|row| row.status)
    };
    assert_eq!(status("notes").await.as_deref(), Some("running"));
    assert_eq!(status("bare").await.as_deref(), Some("unknown"));
    assert_eq!(status("Notes").await, None);
    assert_eq!(status("no\0tes").await, None);

    let terminal = |id: &str, name: &str| Terminal { id: id.into(), name: name.into() };
    database.batch("INSERT INTO terminals (id) VALUES ('bare')").await;
    let added = terminal("t", "Phone 🦉");
    assert!(store.postgres.add_terminal(&added).await.expect("answers"));
    assert!(!store.postgres.add_terminal(&terminal("t", "Thief")).await.expect("answers"));
    let all = store.postgres.terminals().await.expect("answers");
    assert_eq!(all, [terminal("bare", ""), added.clone()]);
    assert_eq!(store.postgres.terminal("t").await.expect("answers"), Some(added));
    assert!(store.postgres.remove_terminal("t").await.expect("answers"));
    assert!(!store.postgres.remove_terminal("t").await.expect("answers"));
    assert_eq!(store.postgres.terminal("t").await.expect("answers"), None);
}

#[tokio::test]
async fn a_box_is_its_default_identity() {
    let (database, store) = opened().await;
    assert_eq!(store.postgres.identity().await.expect("answers"), None);
    database.insert_identity("SPARE0rest", "no key", false).await;
    database.insert_identity("ABCdef0rest", &BOX_KEY.private_pem, true).await;
    let identity = store.postgres.identity().await.expect("answers").expect("is there");
    assert_eq!((&*identity.id, &*identity.domain), ("ABCdef0rest", "abcdef.box.example"));
    assert_eq!(identity.public_key_pem, openssl_public_key(&BOX_KEY.private_pem));
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());

    for key in
        ["'junk'", "NULL", "'-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n'"]
    {
        database.batch(&format!("UPDATE identities SET private_key = {key}")).await;
        let identity = store.postgres.identity().await.expect("answers").expect("is there");
        assert_eq!(identity.public_key_pem, "", "{key}");
        let problems = store.postgres.health().problems;
        assert!(problems.len() == 1 && problems[0].contains("identity"), "{problems:?}");
    }
}

/// What another implementation makes of a private key.
fn openssl_public_key(private_pem: &str) -> String {
    let mut openssl = Command::new("openssl")
        .args(["pkey", "-pubout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl; on Debian: apt-get install openssl");
    openssl.stdin.take().expect("piped").write_all(private_pem.as_bytes()).expect("reads");
    String::from_utf8(openssl.wait_with_output().expect("ends").stdout).expect("PEM")
}

#[tokio::test]
async fn a_bad_peer_is_skipped_and_told() {
    let (database, store) = opened().await;
    let long_id = id_of(&PEER_KEY);
    database.insert_peer(&long_id, "Friend", Some(&PEER_KEY.public_pem)).await;
    database.insert_peer("keyless", "New", None).await;
    let peers = async || store.postgres.peers().await.expect("answers");
    assert_eq!(peers().await.len(), 1);
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());
    database.insert_peer("badrow-whole-id", "Odd", Some("-----BEGIN PUBLIC KEY-----")).await;
    database.insert_peer("empty", "Odd", Some("")).await;
    database.insert_peer("private", "Odd", Some(&PEER_KEY.private_pem)).await;
    database.insert_peer("strang", "Odd", Some(&PEER_KEY.public_pem)).await;
    let peers = peers().await;
    assert_eq!(peers.iter().map(|peer| &*peer.id).collect::<Vec<_>>(), [&*long_id]);
    assert_eq!(peers[0].public_key_pem, PEER_KEY.public_pem);
    let problems = store.postgres.health().problems;
    assert!(problems.len() == 1 && problems[0].contains("badrow"), "{problems:?}");
    assert!(!problems[0].contains("badrow-whole-id"), "{problems:?}");
    assert!(
        problems[0].contains("strang` is skipped: its public key does not hash"),
        "{problems:?}"
    );
    database.batch("DELETE FROM peers WHERE name = 'Odd'").await;
    store.postgres.peers().await.expect("answers");
    assert_eq!(store.postgres.health().problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_terminal_secret_is_made_however_many_ask() {
    let (database, store) = opened().await;
    assert_eq!(store.postgres.terminal_secret().await.expect("answers"), None);
    let stores: Vec<_> = (0..16).map(|_| Store::open(&settings(&database.url()))).collect();
    let made = join_all(stores.iter().map(|store| store.postgres.ensure_terminal_secret())).await;
    let kept = store.postgres.terminal_secret().await.expect("answers").expect("is there");
    assert_eq!(kept.expose().len(), 64);
    for secret in made {
        assert_eq!(secret.expect("answers").expose(), kept.expose());
    }
}

#[tokio::test]
async fn only_a_text_with_content_is_a_secret() {
    let (database, store) = opened().await;
    let set = async |value: &str| {
        let sql = "INSERT INTO kv_store VALUES ('terminal_jwt_secret', $1::text::jsonb), \
                   ('freeshard_controller_shared_key', $1::text::jsonb) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        database.execute(sql, &[&value]).await;
    };
    for value in ["\"\"", "null", "17", "{\"a\": 1}", "[\"x\"]"] {
        set(value).await;
        assert_eq!(store.postgres.terminal_secret().await.expect("answers"), None, "{value}");
        assert_eq!(store.postgres.management_secret().await.expect("answers"), None, "{value}");
        store.postgres.ensure_terminal_secret().await.expect_err("not replaced silently");
        assert_eq!(store.postgres.health().problems.len(), 2, "{value}");
    }
    set("\"s\\u00fc\\\"cret\"").await;
    let secret = store.postgres.management_secret().await.expect("answers").expect("is there");
    assert_eq!(secret.expose(), "sü\"cret");
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

async fn times(database: &Database, sql: &str) -> Vec<Option<f64>> {
    let rows = database.client.query(sql, &[]).await.expect(sql);
    rows.iter().map(|row| row.get(0)).collect()
}

const CONNECTIONS: &str = "SELECT extract(epoch FROM last_connection)::float8 - 1700000000 \
                           FROM terminals ORDER BY id";
const ACCESSES: &str = "SELECT extract(epoch FROM last_access)::float8 - 1700000000 \
                        FROM installed_apps ORDER BY name";

#[tokio::test]
async fn a_touch_never_moves_a_row_back_in_time() {
    let (database, store) = opened().await;
    database.insert_terminal("t", "Phone").await;
    database.insert_app("notes", "running").await;
    let touch = async |touched, key: &str, seconds| {
        let uses = [(Arc::from(key), at(seconds)), ("gone".into(), at(1)), ("\0".into(), at(1))];
        store.postgres.write_touches(touched, &uses).await.expect("written");
    };
    for (used, kept) in [(1000, 1000.0), (1001, 1001.0), (500, 1001.0), (1001, 1001.0)] {
        touch(Touched::Terminal, "t", used).await;
        assert_eq!(times(&database, CONNECTIONS).await, [Some(kept)], "{used}");
    }
    // An app's at most once in a minute, whoever wrote it last.
    for (used, kept) in [(1000, 1000.0), (1059, 1000.0), (1060, 1060.0), (900, 1060.0)] {
        touch(Touched::App, "notes", used).await;
        assert_eq!(times(&database, ACCESSES).await, [Some(kept)], "{used}");
    }
    store.postgres.write_touches(Touched::App, &[]).await.expect("nothing to do");
    let twice = [("t".into(), at(3000)), ("t".into(), at(2000))];
    store.postgres.write_touches(Touched::Terminal, &twice).await.expect("written");
    assert_eq!(times(&database, CONNECTIONS).await, [Some(3000.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_do_not_deadlock() {
    const ROUNDS: u64 = 40;
    const ROWS: u64 = 300;
    let (database, one) = opened().await;
    let two = Store::open(&settings(&database.url()));
    let sql =
        "INSERT INTO terminals SELECT 't' || n, 'x', 'x', NULL FROM generate_series(0, 299) n";
    database.batch(sql).await;
    let write = async |store: &Store, backwards: bool| {
        for round in 0..ROUNDS {
            let mut uses: Vec<(Arc<str>, SystemTime)> =
                (0..ROWS).map(|n| (format!("t{n}").into(), at(round * 1000 + n))).collect();
            if backwards {
                uses.reverse();
            }
            store.postgres.write_touches(Touched::Terminal, &uses).await.expect("no deadlock");
        }
    };
    tokio::join!(write(&one, false), write(&two, true));
    let sql = format!(
        "SELECT count(*) FILTER (WHERE extract(epoch FROM last_connection) \
         = 1700000000 + {} + substr(id, 2)::int)::float8 FROM terminals",
        (ROUNDS - 1) * 1000
    );
    assert_eq!(times(&database, &sql).await, [Some(300.0)]);
}

#[tokio::test]
async fn touches_are_one_statement() {
    let (database, store) = opened().await;
    database.insert_terminal("t1", "Phone").await;
    let uses: Vec<_> = (0..50).map(|n| (Arc::from(format!("t{n}")), at(n))).collect();
    database.forget_statements().await;
    store.postgres.write_touches(Touched::Terminal, &uses).await.expect("written");
    let statements = database.statements().await;
    assert!(statements.len() == 1 && statements[0].1 == 1, "{statements:?}");
}
