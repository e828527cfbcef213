//! What is shown once is in no stored answer, and is repeated to its caller all the same.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::server::{Nightporter, config};

const PATIENCE: Duration = Duration::from_secs(120);

/// `ops.token`; the one after it was changed.
const ROOT: &str = "a-root-token-of-some-length";
const NEXT_ROOT: &str = "another-root-token-of-some-length";

async fn started(sample: &SampleBox, root: Option<&str>) -> Nightporter {
    let token = root.map(|root| format!("[ops]\ntoken = \"{root}\"\n")).unwrap_or_default();
    let hooks = "[webhooks]\nallow = [\"127.0.0.0/8\"]\n";
    let porter = Nightporter::start(config(&format!("{}{token}{hooks}", sample.store_config())));
    let mut ready = Request::new("GET", "/readyz");
    if let Some(root) = root {
        ready = ready.header("Authorization", format!("Bearer {root}"));
    }
    poll("it is ready", PATIENCE, async || ask(porter.ops, &ready).await.status == 200).await;
    porter
}

async fn post(
    porter: &Nightporter,
    token: Option<&str>,
    path: &str,
    key: Option<&str>,
    body: &Value,
) -> Response {
    let body = body.to_string();
    let mut request = Request::new("POST", path).header("Content-Length", body.len().to_string());
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    if let Some(key) = key {
        request = request.header("Idempotency-Key", format!("\"{key}\""));
    }
    let mut connection = Connection::open(porter.ops).await.expect("it listens");
    let bytes = [request.bytes(), body.into_bytes()].concat();
    connection.ask_bytes(&bytes).await.expect("it answers")
}

fn text(response: &Response, field: &str) -> String {
    assert!(response.status < 300, "{}", response.body());
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    body[field].as_str().unwrap_or_else(|| panic!("no {field} in {body}")).to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text");
        text
    })
}

/// Returns the rows of each table as text, binary columns in hexadecimal digits.
async fn rows(sample: &SampleBox, store: Store) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    match store {
        Store::Files => {
            let file = sample.ledger().join("ledger.db");
            let file = rusqlite::Connection::open(file).expect("opens");
            let mut names =
                file.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").expect("SQL");
            let names: Vec<String> = names
                .query_map([], |row| row.get(0))
                .expect("reads")
                .collect::<Result<_, _>>()
                .expect("names");
            for name in names {
                let mut all = file.prepare(&format!("SELECT * FROM \"{name}\"")).expect("SQL");
                let columns = all.column_count();
                let mut found = all.query([]).expect("reads");
                while let Some(row) = found.next().expect("reads") {
                    let cells: Vec<String> = (0..columns)
                        .map(|at| match row.get_ref(at).expect("a column") {
                            rusqlite::types::ValueRef::Text(text) => {
                                String::from_utf8_lossy(text).into_owned()
                            }
                            rusqlite::types::ValueRef::Blob(bytes) => hex(bytes),
                            _ => String::new(),
                        })
                        .collect();
                    rows.push((name.clone(), cells.join(" ")));
                }
            }
        }
        Store::Postgres => {
            let client = sample.database().connect().await;
            let names = "SELECT quote_ident(nspname) || '.' || quote_ident(relname)
                FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
                WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema)'";
            for name in client.query(names, &[]).await.expect("reads") {
                let name: String = name.get(0);
                let sql = format!("SELECT t::text FROM {name} AS t");
                for row in client.query(&sql, &[]).await.expect(&sql) {
                    rows.push((name.clone(), row.get(0)));
                }
            }
        }
    }
    rows
}

/// Asserts that no part of a secret is in a row, apart from those of one table.
async fn is_hidden(sample: &SampleBox, store: Store, secret: &str, but: Option<&str>) {
    const PART: usize = 8;
    let parts: Vec<_> = secret.as_bytes().windows(PART).collect();
    assert!(parts.len() > 20, "{secret}");
    let rows = rows(sample, store).await;
    let mut keys = 0;
    for (table, row) in &rows {
        keys += usize::from(table.ends_with("idempotency_keys"));
        if but.is_some_and(|but| table.ends_with(but)) {
            continue;
        }
        for part in &parts {
            let plain = std::str::from_utf8(part).expect("ASCII");
            assert!(!row.contains(plain) && !row.contains(&hex(part)), "{table}: {row}");
        }
    }
    assert!(keys > 0, "answers are stored");
    if store == Store::Files && but.is_none() {
        for name in ["ledger.db", "ledger.db-wal"] {
            let bytes = std::fs::read(sample.ledger().join(name)).unwrap_or_default();
            let is_in = |part: &&[u8]| bytes.windows(PART).any(|window| window == *part);
            assert!(!parts.iter().any(is_in), "{name} has {} bytes", bytes.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_row_and_is_repeated_to_its_caller() {
    let key = "6ecb2a7e-0b5a-44c5-9b53-2a1f0f1bd1c7";
    let token = json!({"name": "phone", "rights": ["read", "operate"]});
    for store in Store::BOTH {
        for root in [Some(ROOT), None] {
            let sample = SampleBox::new(store).await;
            let porter = started(&sample, root).await;
            let made = post(&porter, root, "/v1/tokens", Some(key), &token).await;
            let secret = text(&made, "token");
            is_hidden(&sample, store, &secret[3..], None).await;
            is_hidden(&sample, store, key, None).await;
            for _ in 0..2 {
                let again = post(&porter, root, "/v1/tokens", Some(key), &token).await;
                assert_eq!(again.text("idempotency-replayed"), Some("true"));
                assert_eq!((again.status, &again.body), (201, &made.body));
            }
            // A token that is a row has answers of its own.
            let endpoint = json!({"kind": "webhook", "url": "http://127.0.0.1:9/",
                                  "events": ["app.failed"]});
            let made = post(&porter, Some(&secret), "/v1/webhooks", Some(key), &endpoint).await;
            let (id, signing) = (text(&made, "id"), text(&made, "secret"));
            // Messages are signed with it, so the endpoint's row has it.
            is_hidden(&sample, store, &signing[6..], Some("endpoints")).await;
            let again = post(&porter, Some(&secret), "/v1/webhooks", Some(key), &endpoint).await;
            assert_eq!(again.body, made.body);
            let rotate = format!("/v1/webhooks/{id}/rotate");
            let made = post(&porter, Some(&secret), &rotate, Some(key), &Value::Null).await;
            is_hidden(&sample, store, &text(&made, "secret")[6..], Some("endpoints")).await;
            let again = post(&porter, Some(&secret), &rotate, Some(key), &Value::Null).await;
            assert_eq!(again.text("idempotency-replayed"), Some("true"));
            assert_eq!(again.body, made.body);
        }
    }
}

async fn tokens(sample: &SampleBox, store: Store) -> usize {
    let rows = rows(sample, store).await;
    rows.iter().filter(|(table, _)| table.ends_with("tokens")).count()
}

#[track_caller]
fn is_unreadable(answer: &Response) {
    assert_eq!(answer.status, 409, "{}", answer.body());
    assert_eq!(answer.text("content-type"), Some("application/problem+json"));
    assert_eq!(answer.text("retry-after"), None, "it does not pass");
    let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["type"], "/problems/idempotency-answer-unreadable", "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_opened_is_a_problem_and_nothing_is_done_again() {
    let token = json!({"name": "phone", "rights": ["read"]});
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let porter = started(&sample, Some(ROOT)).await;
        for key in ["a", "b"] {
            let made = post(&porter, Some(ROOT), "/v1/tokens", Some(key), &token).await;
            assert_eq!(made.status, 201, "{}", made.body());
        }
        assert_eq!(tokens(&sample, store).await, 2);
        drop(porter);
        let porter = started(&sample, Some(NEXT_ROOT)).await;
        let again = post(&porter, Some(NEXT_ROOT), "/v1/tokens", Some("a"), &token).await;
        is_unreadable(&again);
        drop(porter);

        let porter = started(&sample, Some(ROOT)).await;
        let again = post(&porter, Some(ROOT), "/v1/tokens", Some("a"), &token).await;
        assert_eq!((again.status, again.text("idempotency-replayed")), (201, Some("true")));
        for change in ["body = substr(body, 2)", "status = 200", "headers = '[]'", "body = NULL"] {
            match store {
                Store::Files => {
                    let file = rusqlite::Connection::open(sample.ledger().join("ledger.db"));
                    let sql = format!("UPDATE idempotency_keys SET {change}");
                    file.expect("opens").execute_batch(&sql).expect("written");
                }
                Store::Postgres => {
                    let sql = format!("UPDATE nightporter_ledger.idempotency_keys SET {change}");
                    sample.database().batch(&sql).await;
                }
            }
            is_unreadable(&post(&porter, Some(ROOT), "/v1/tokens", Some("a"), &token).await);
        }
        assert_eq!(tokens(&sample, store).await, 2);
    }
}
