//! The table of keys, on both databases.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use nightporter::idempotency::answer::{Answer, KeyName};
use nightporter::idempotency::fingerprint::{Payload, Scope};
use nightporter::idempotency::key::{IDEMPOTENCY_KEY, Key};
use nightporter::idempotency::table::{
    Caller, Claim, ClaimError, Execution, KeyedRequest, Keys, sweep,
};
use nightporter::idempotency::{KEEP, LEASE, MAX_KEYS};
use nightporter::ledger::archive::Archive;
use nightporter::ledger::archive::sqlite::{Limits, Sqlite};
use tempfile::TempDir;

use crate::ledger::archive::Database as _;
use crate::support::postgres::{Cluster, Database};

/// A database of one test.
enum Place {
    Sqlite(TempDir),
    Postgres(Database),
}

impl Place {
    async fn both() -> [Self; 2] {
        let folder = tempfile::tempdir().expect("a folder");
        [Self::Sqlite(folder), Self::Postgres(Cluster::shared().database().await)]
    }

    /// Opens it as one more process would.
    fn archive(&self) -> Arc<Archive> {
        Arc::new(match self {
            Self::Sqlite(folder) => {
                Archive::Sqlite(Sqlite::new(folder.path().join("ledger.db"), Limits::default()))
            }
            Self::Postgres(database) => database.archive(),
        })
    }

    fn keys(&self) -> Keys {
        Keys::new(self.archive())
    }

    /// Runs SQL as somebody else would; `{table}` and `{now}` stand for the table and the time.
    async fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(folder) => {
                let now = "(CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000)";
                let sql = sql.replace("{table}", "idempotency_keys").replace("{now}", now);
                let file = folder.path().join("ledger.db");
                let connection = rusqlite::Connection::open(file).expect("opens");
                connection.execute_batch(&sql).expect(&sql);
            }
            Self::Postgres(database) => {
                let now = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
                let table = "nightporter_ledger.idempotency_keys";
                database.batch(&sql.replace("{table}", table).replace("{now}", now)).await;
            }
        }
    }

    fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

fn key(text: &str) -> Key {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("\"{text}\"")).expect("a value");
    headers.insert(IDEMPOTENCY_KEY, value);
    Key::from_headers(&headers).expect("valid").expect("there")
}

/// A request; another one differs in some of it.
struct Sent {
    tenant: &'static str,
    token: &'static str,
    secret: Option<&'static str>,
    route: &'static str,
    body: &'static [u8],
}

const SENT: Sent =
    Sent { tenant: "box", token: "root", secret: Some("s"), route: "POST /v1/x", body: b"{}" };

impl Sent {
    fn scope(&self) -> Scope {
        Scope::new(self.tenant, self.token, self.route).expect("no separator")
    }

    fn keyed(&self, name: &str) -> KeyedRequest {
        let caller = Caller { token: &self.token.into(), secret: self.secret.map(str::as_bytes) };
        let payload = Payload::new("POST", "/v1/x", self.body);
        let keyed =
            KeyedRequest::new(&self.tenant.into(), caller, self.scope(), &key(name), payload);
        keyed.expect("derives")
    }
}

fn keyed(name: &str) -> KeyedRequest {
    SENT.keyed(name)
}

/// Returns by what a key is found in the table, as SQL.
fn named(name: &str) -> String {
    format!("key = '{}'", KeyName::new(&SENT.scope(), &key(name)).as_str())
}

fn answer(body: &[u8]) -> Answer {
    Answer { status: 201, headers: r#"[["a","b"]]"#.into(), body: body.to_vec() }
}

#[track_caller]
fn claimed(claim: Claim) -> Execution {
    match claim {
        Claim::Claimed(execution) => execution,
        other => panic!("{other:?}"),
    }
}

async fn claim(keys: &Keys, keyed: KeyedRequest) -> Claim {
    keys.claim(keyed).await.expect("the archive answers")
}

/// Stores an answer; returns whether the lease was held.
async fn finish(keys: &Keys, execution: &Execution, answer: Answer) -> bool {
    let mut transaction = keys.begin().await.expect("begins");
    let is_held = execution.finish(&mut transaction, answer).await.expect("writes");
    transaction.commit().await.expect("commits");
    is_held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_writer_wins() {
    for place in Place::both().await {
        let processes = [Arc::new(place.keys()), Arc::new(place.keys())];
        for round in 0..20 {
            let claims = (0..16).map(|n| {
                let keys = Arc::clone(&processes[n % 2]);
                tokio::spawn(async move { claim(&keys, keyed(&format!("round {round}"))).await })
            });
            let mut won = 0;
            for claim in futures_util::future::join_all(claims).await {
                match claim.expect("no panic") {
                    Claim::Claimed(_) => won += 1,
                    Claim::Running => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(won, 1, "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_replayed_to_the_same_request_only() {
    for place in Place::both().await {
        let keys = place.keys();
        let execution = claimed(claim(&keys, keyed("a")).await);
        assert!(matches!(claim(&keys, keyed("a")).await, Claim::Running));
        let body: Vec<u8> = (0..=255).collect();
        assert!(finish(&keys, &execution, answer(&body)).await);
        assert!(!finish(&keys, &execution, answer(b"again")).await, "an answer is final");
        for _ in 0..2 {
            let Claim::Replay(stored) = claim(&place.keys(), keyed("a")).await else {
                panic!("it was done")
            };
            assert_eq!(stored, answer(&body));
        }
        let other = Sent { body: b"[]", ..SENT }.keyed("a");
        assert!(matches!(claim(&keys, other).await, Claim::Mismatch));
        // Keys are compared byte by byte.
        for other in ["A", "a ", " a", "b"] {
            claimed(claim(&keys, keyed(other)).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_in_another_scope_is_another_one() {
    for place in Place::both().await {
        let keys = place.keys();
        for (tenant, token, route) in [
            ("box", "root", "POST /v1/x"),
            ("box", "root", "POST /v1/y"),
            ("box", "root", "PUT /v1/x"),
            ("box", "t1", "POST /v1/x"),
            ("other", "root", "POST /v1/x"),
            ("BOX", "root", "POST /v1/x"),
        ] {
            claimed(claim(&keys, Sent { tenant, token, route, ..SENT }.keyed("a")).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_as_good_as_none_and_is_swept() {
    for place in Place::both().await {
        let keys = place.keys();
        for name in ["old", "new"] {
            let execution = claimed(claim(&keys, keyed(name)).await);
            assert!(finish(&keys, &execution, answer(name.as_bytes())).await);
        }
        let keep = KEEP.as_micros();
        // One second before it expires, and when it expires.
        place
            .execute(&format!(
                "UPDATE {{table}} SET expires_at = expires_at - {keep} + 10000000 WHERE {}",
                named("old")
            ))
            .await;
        assert!(matches!(claim(&keys, keyed("old")).await, Claim::Replay(_)));
        let expire =
            format!("UPDATE {{table}} SET expires_at = {{now}} - 1 WHERE {}", named("old"));
        place.execute(&expire).await;
        let other = Sent { body: b"[]", ..SENT }.keyed("old");
        let execution = claimed(claim(&keys, other.clone()).await);
        assert!(!execution.is_recorded());
        assert!(finish(&keys, &execution, answer(b"2")).await);
        let Claim::Replay(stored) = claim(&keys, other).await else { panic!("it was done") };
        assert_eq!(stored, answer(b"2"), "nothing of the first one is left");

        place.execute(&expire).await;
        let mut removed = Vec::new();
        for tenant in ["other", "box", "box"] {
            let mut transaction = keys.begin().await.expect("begins");
            removed.push(sweep(&mut transaction, tenant, 10).await.expect("writes"));
            transaction.commit().await.expect("commits");
        }
        assert_eq!(removed, [0, 1, 0]);
        // A key of a box that is gone is swept by another one, a day later.
        claimed(claim(&keys, Sent { tenant: "gone", ..SENT }.keyed("old")).await);
        for (age, expected) in [(keep - 60_000_000, 0), (keep, 1)] {
            let age =
                format!("UPDATE {{table}} SET expires_at = {{now}} - {age} WHERE tenant = 'gone'");
            place.execute(&age).await;
            let mut transaction = keys.begin().await.expect("begins");
            assert_eq!(sweep(&mut transaction, "box", 10).await.expect("writes"), expected);
            transaction.commit().await.expect("commits");
        }
        assert!(matches!(claim(&keys, keyed("new")).await, Claim::Replay(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ended_is_taken_over_once_and_the_late_one_commits_nothing() {
    for place in Place::both().await {
        let keys = place.keys();
        let late = claimed(claim(&keys, keyed("a")).await);
        let mut transaction = keys.begin().await.expect("begins");
        assert!(late.note_recorded(&mut transaction).await.expect("writes"));
        transaction.commit().await.expect("commits");
        // It is kept for as long as it is extended.
        let lease = LEASE.as_micros();
        place
            .execute(&format!("UPDATE {{table}} SET lease_until = lease_until - {lease} + 9000000"))
            .await;
        assert!(keys.extend(&late).await.expect("writes"));
        place
            .execute(&format!("UPDATE {{table}} SET lease_until = lease_until - {lease} + 9000000"))
            .await;
        assert!(matches!(claim(&keys, keyed("a")).await, Claim::Running));
        place.execute("UPDATE {table} SET lease_until = {now} - 1").await;
        let other = Sent { body: b"[]", ..SENT }.keyed("a");
        assert!(matches!(claim(&keys, other).await, Claim::Mismatch), "it may have had its effect");
        let next = claimed(claim(&place.keys(), keyed("a")).await);
        assert!(next.is_recorded(), "the act of the first one stands");
        assert!(matches!(claim(&keys, keyed("a")).await, Claim::Running));

        assert!(!keys.extend(&late).await.expect("writes"));
        let mut transaction = keys.begin().await.expect("begins");
        assert!(!late.note_recorded(&mut transaction).await.expect("writes"));
        assert!(!late.finish(&mut transaction, answer(b"late")).await.expect("writes"));
        transaction.roll_back().await.expect("ends");
        keys.release(&late).await.expect("writes");
        assert!(matches!(claim(&keys, keyed("a")).await, Claim::Running), "it is the next one's");
        assert!(finish(&keys, &next, answer(b"next")).await);
        let Claim::Replay(stored) = claim(&keys, keyed("a")).await else { panic!("it was done") };
        assert_eq!(stored, answer(b"next"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_transaction_of_another_one() {
    for place in Place::both().await {
        let (keys, other) = (place.keys(), place.keys());
        let execution = claimed(claim(&keys, keyed("a")).await);
        let mut transaction = keys.begin().await.expect("begins");
        assert!(execution.finish(&mut transaction, answer(b"1")).await.expect("writes"));
        // Neither in this process nor in another one: waiting would be for ever.
        for keys in [&keys, &other] {
            assert!(matches!(claim(keys, keyed("a")).await, Claim::Running));
        }
        transaction.roll_back().await.expect("ends");
        assert!(matches!(claim(&other, keyed("a")).await, Claim::Running), "nothing was committed");
        keys.release(&execution).await.expect("writes");
        claimed(claim(&other, keyed("a")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_so_many_keys_at_most() {
    for place in Place::both().await {
        let keys = place.keys();
        let execution = claimed(claim(&keys, keyed("first")).await);
        assert!(finish(&keys, &execution, answer(b"1")).await);
        place
            .execute(&format!(
                "INSERT INTO {{table}} (tenant, token, scope, key, payload, state, holder,
                     recorded, lease_until, expires_at)
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
                 SELECT tenant, token, scope, 'k' || i, payload, state, holder, recorded,
                     lease_until, expires_at - 3600000000 FROM {{table}}, n WHERE {}",
                MAX_KEYS - 1,
                named("first")
            ))
            .await;
        let Claim::Full(wait) = claim(&keys, keyed("one more")).await else {
            panic!("there is room")
        };
        let hour = Duration::from_secs(3600);
        assert!(wait + 2 * hour > KEEP && wait + hour <= KEEP, "{wait:?}");
        assert!(matches!(claim(&keys, keyed("first")).await, Claim::Replay(_)));
        claimed(claim(&keys, Sent { token: "t1", ..SENT }.keyed("one more")).await);
        place.execute("UPDATE {table} SET expires_at = {now} - 1 WHERE key = 'k7'").await;
        claimed(claim(&keys, keyed("one more")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_opened_for_its_caller_only_and_done_once_all_the_same() {
    for place in Place::both().await {
        let keys = place.keys();
        let execution = claimed(claim(&keys, keyed("a")).await);
        assert!(finish(&keys, &execution, answer(b"secret")).await);
        // The same token by its id, and another text: `ops.token` was changed.
        for secret in [Some("other"), None] {
            let found = claim(&keys, Sent { secret, ..SENT }.keyed("a")).await;
            assert!(matches!(found, Claim::Unreadable), "{found:?}");
        }
        // Whoever writes to the table can take an answer away, and not make another one of it.
        let other = claimed(claim(&keys, keyed("b")).await);
        assert!(finish(&keys, &other, answer(b"other")).await);
        let of_b = named("b");
        for altered in [
            format!("body = (SELECT body FROM {{table}} WHERE {of_b})"),
            "body = NULL".to_owned(),
            "status = 200".to_owned(),
            "status = NULL".to_owned(),
            "status = -1".to_owned(),
            "headers = '[]'".to_owned(),
            "headers = NULL".to_owned(),
        ] {
            let kept = "CREATE TABLE kept AS SELECT * FROM {table}";
            place.execute(kept).await;
            let alter = format!("UPDATE {{table}} SET {altered} WHERE {}", named("a"));
            place.execute(&alter).await;
            let found = claim(&keys, keyed("a")).await;
            assert!(matches!(found, Claim::Unreadable), "{altered}: {found:?}");
            let restore = "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept;
                           DROP TABLE kept";
            place.execute(restore).await;
            let Claim::Replay(opened) = claim(&keys, keyed("a")).await else { panic!("restored") };
            assert_eq!(opened, answer(b"secret"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_done_at_once_and_its_act_is_not_recorded_anew() {
    for place in Place::both().await {
        let keys = place.keys();
        let first = claimed(claim(&keys, keyed("a")).await);
        keys.release(&first).await.expect("writes");
        let second = claimed(claim(&keys, keyed("a")).await);
        assert!(!second.is_recorded());
        let mut transaction = keys.begin().await.expect("begins");
        assert!(second.note_recorded(&mut transaction).await.expect("writes"));
        transaction.commit().await.expect("commits");
        keys.release(&second).await.expect("writes");
        let other = Sent { body: b"[]", ..SENT }.keyed("a");
        assert!(matches!(claim(&keys, other).await, Claim::Mismatch), "the act is that of another");
        let third = claimed(claim(&keys, keyed("a")).await);
        assert!(third.is_recorded());
        // A late end of the first ones changes nothing.
        keys.release(&second).await.expect("writes");
        assert!(matches!(claim(&keys, keyed("a")).await, Claim::Running));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_shape_is_not_used() {
    let on_postgres: &[(&str, &str)] = &[
        (
            "ALTER TABLE {table} ALTER key TYPE text COLLATE \"en-x-icu\"",
            "the column key is text, expected text COLLATE \"C\"",
        ),
        (
            "ALTER TABLE {table} ALTER expires_at TYPE timestamp USING to_timestamp(0)::timestamp",
            "the column expires_at is timestamp without time zone, expected bigint",
        ),
        ("ALTER TABLE {table} ALTER payload TYPE text USING ''", "the column payload is text"),
        ("ALTER TABLE {table} ALTER holder DROP NOT NULL", "the column holder may be null"),
        ("ALTER TABLE {table} DROP body", "the column body is missing"),
        ("ALTER TABLE {table} ADD more text NOT NULL", "the unknown column more may not be null"),
        (
            "ALTER TABLE {table} DROP CONSTRAINT idempotency_keys_pkey;
          CREATE INDEX ON {table} (scope, key)",
            "it has no unique index on (scope, key) COLLATE \"C\"",
        ),
        (
            "ALTER TABLE {table} DROP CONSTRAINT idempotency_keys_pkey;
          CREATE UNIQUE INDEX ON {table} (scope, key) WHERE state = 'done'",
            "it has no unique index on (scope, key)",
        ),
        (
            "ALTER TABLE {table} DROP CONSTRAINT idempotency_keys_pkey;
          ALTER TABLE {table} ADD PRIMARY KEY (scope, key, token)",
            "it has no unique index on (scope, key)",
        ),
        ("DROP TABLE {table}", "it does not exist"),
    ];
    let columns = "tenant TEXT NOT NULL, token TEXT NOT NULL, scope TEXT NOT NULL,
         payload BLOB NOT NULL, state TEXT NOT NULL, holder INTEGER NOT NULL,
         recorded INTEGER NOT NULL, lease_until INTEGER NOT NULL, status INTEGER, headers TEXT,
         body BLOB, expires_at INTEGER NOT NULL";
    let made = |key: &str, index: &str| {
        format!("DROP TABLE {{table}}; CREATE TABLE {{table}} ({columns}, {key}); {index}")
    };
    let unique = "CREATE UNIQUE INDEX i ON {table} (scope, key)";
    let on_sqlite = [
        (made("key TEXT NOT NULL COLLATE NOCASE", unique), "it has no unique index"),
        (made("key TEXT NOT NULL", ""), "it has no unique index on (scope, key)"),
        (
            made("key TEXT NOT NULL", "CREATE UNIQUE INDEX i ON {table} (scope, key, token)"),
            "it has no unique index",
        ),
        (
            made("key TEXT NOT NULL", &format!("{unique} WHERE state = 'done'")),
            "it has no unique index",
        ),
        (made("key TEXT", unique), "the column key may be null"),
        (made("key BLOB NOT NULL", unique), "the column key is BLOB, expected TEXT"),
        (made("id TEXT", ""), "the column key is missing"),
    ];
    let on_sqlite: Vec<_> = on_sqlite.iter().map(|(sql, text)| (sql.as_str(), *text)).collect();
    for (changes, wants_postgres) in [(on_postgres, true), (&on_sqlite, false)] {
        for (sql, text) in changes {
            let [sqlite, postgres] = Place::both().await;
            let place = if wants_postgres { postgres } else { sqlite };
            assert_eq!(place.is_postgres(), wants_postgres);
            let keys = place.keys();
            keys.check().await.expect("as it was made");
            assert_eq!(keys.problem(), None);
            place.execute(sql).await;
            let Err(ClaimError::Shape(problem)) = keys.check().await else { panic!("{sql}") };
            assert!(problem.contains(text), "{sql}: {problem}");
            assert_eq!(keys.problem(), Some(problem));
            assert!(matches!(keys.claim(keyed("a")).await, Err(ClaimError::Shape(_))), "{sql}");
        }
    }
    // What disturbs nothing is allowed.
    for place in Place::both().await {
        let keys = place.keys();
        keys.check().await.expect("as it was made");
        place.execute("ALTER TABLE {table} ADD more text").await;
        place.execute("ALTER TABLE {table} ADD even_more text NOT NULL DEFAULT ''").await;
        claimed(claim(&keys, keyed("a")).await);
        keys.check().await.expect("it can be used");
    }
}
