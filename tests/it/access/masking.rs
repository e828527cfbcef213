//! Whoever lacks the right `pii` sees nothing that identifies a person, wherever they look.

use std::marker::PhantomData;

use nightporter::access::{Private, Viewer};
use nightporter::ledger::key::SigningKey;
use nightporter::ledger::proof::Proof;
use nightporter::ledger::record::{Entry, Note, Personal, Record, RecordRow, Stored};
use nightporter::ledger::spool::Spool;
use nightporter::operator_routes;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Home, PATIENCE, marked, parsed};
use crate::ledger::samples;
use crate::support::boxes::{Store, TERMINAL, TERMINAL_NAME, token};
use crate::support::client::{Request, poll};

/// Is in every personal value of every record.
const MARKER: &str = "MARKER";

/// The addresses and ids that requests leave behind.
const SEEN: [&str; 5] = [MARKER, TERMINAL, TERMINAL_NAME, "192.0.2.77", "/private-path"];

struct Marked {
    home: Home,
    letter: String,
    record: String,
}

async fn marked_home(store: Store) -> Marked {
    let home = Home::new(store).await;
    home.write(&Home::tenant(), (1..=10).map(|seq| marked(seq, MARKER)).collect()).await;
    // What the gate itself records.
    let request = Request::auth("notes.localhost", "/private-path?token=MARKER")
        .header("X-Forwarded-For", "192.0.2.77")
        .header("User-Agent", "MARKER-agent");
    assert_eq!(home.porter.ask(&request).await.status, 401);
    assert_eq!(home.porter.ask(&request.cookie(token())).await.status, 200);
    // What the database did not take, and quotes.
    let refused = Record {
        path: Some("/MARKER\0".into()),
        tenant: Home::tenant().into(),
        ..samples::record(7, 1)
    };
    let spool = Spool::new(home.sample.ledger().join("spool"), 1 << 30);
    let letter = spool.put(&[refused], Some("refused: MARKER"), |_| {}).expect("written");
    let mut record = String::new();
    poll("records have positions", PATIENCE, async || {
        let page = parsed(&home.get("/v1/requests?limit=500", None).await);
        let records = page["requests"].as_array().expect("a list");
        let found = records.iter().find(|record| record.to_string().contains(MARKER));
        record = found.map_or_else(String::new, |record| record["id"].as_str().expect("id").into());
        let is_placed = |record: &Value| record["position"].is_i64();
        // Grants are counted for some seconds before they are written.
        let has_grants = records.iter().any(|record| record.to_string().contains(TERMINAL));
        has_grants && records.iter().all(is_placed) && found.is_some()
    })
    .await;
    poll("a checkpoint covers them", PATIENCE, async || {
        home.get(&format!("/v1/audit/{record}"), None).await.status == 200
    })
    .await;
    Marked { home, letter, record }
}

/// Reads events until there are `count`.
async fn events(home: &Home, token: &str, count: usize) -> String {
    let request = Request::new("GET", "/v1/events?after=-1")
        .header("Authorization", format!("Bearer {token}"));
    let mut stream = tokio::net::TcpStream::connect(home.porter.ops).await.expect("listens");
    stream.write_all(&request.bytes()).await.expect("sent");
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while text.matches("\ndata: ").count() < count {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
        let read = read.expect("in time").expect("open");
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    text
}

/// Asks every route with each of the ids; returns everything that came back.
async fn everything(marked: &Marked, token: &str) -> Vec<(String, String)> {
    let Marked { home, letter, record } = marked;
    let mut answers = vec![("events".to_owned(), events(home, token, 12).await)];
    for (method, pattern) in operator_routes() {
        if pattern == "/v1/events" {
            continue;
        }
        let mut paths = Vec::new();
        for id in [record, letter, "nothere"] {
            // Those who ask next want to see it too.
            if pattern.ends_with("/dismiss") && id == letter {
                continue;
            }
            let path = pattern.replace("{id}", id).replace("{name}", "notes");
            for query in ["", "?limit=500", "?limit=1&order=asc", "?masked=false", "?masked=true"] {
                paths.push(format!("{path}{query}"));
            }
        }
        paths.dedup();
        for path in paths {
            let answer = home.ask(Request::new(method, &path), Some(token)).await;
            let headers: Vec<_> = answer
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
                .collect();
            let body = String::from_utf8_lossy(&answer.body);
            let what = format!("{method} {path}");
            answers.push((what, format!("{}\n{}\n{body}", answer.status, headers.join("\n"))));
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_that_leaves_has_a_marker() {
    for store in Store::BOTH {
        let marked = Box::pin(marked_home(store)).await;
        let home = &marked.home;
        let clear = home.token(&Home::tenant(), "read,pii,operate").await;
        let seen = everything(&marked, &clear).await;
        for secret in SEEN {
            assert!(seen.iter().any(|(_, text)| text.contains(secret)), "{secret} is nowhere");
        }
        for part in ["id", "name", "address", "path", "note", "Outcome"] {
            let marker = format!("{MARKER}-{part}");
            assert!(seen.iter().any(|(_, text)| text.contains(&marker)), "{marker} is nowhere");
        }
        assert!(seen.iter().all(|(_, text)| !text.contains("x-pii-masked")));
        let from = |start: &str| {
            seen.iter().any(|(what, text)| what.starts_with(start) && text.contains(MARKER))
        };
        for start in [
            "events",
            "GET /v1/requests?",
            "GET /v1/requests/",
            "GET /v1/audit/",
            "GET /v1/deadletter/",
        ] {
            assert!(from(start), "{start} shows nothing to those who may see it");
        }
        for tenant in [Home::tenant(), "*".to_owned()] {
            let masked = home.token(&tenant, "read,operate").await;
            for (what, text) in everything(&marked, &masked).await {
                for secret in SEEN {
                    assert!(!text.contains(secret), "{what}: {secret} in\n{text}");
                }
                let of_anyone = ["/livez", "/readyz", "/v1/openapi.json"];
                let is_state = of_anyone.iter().any(|path| what.contains(path));
                assert_eq!(text.contains("x-pii-masked: true"), !is_state, "{what}\n{text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_masked_can_still_be_told_apart() {
    for store in Store::BOTH {
        let marked = Box::pin(marked_home(store)).await;
        let home = &marked.home;
        let token = home.token(&Home::tenant(), "read").await;
        let token = Some(&*token);
        let page = parsed(&home.get("/v1/requests?kind=visit&limit=500", token).await);
        let records = page["requests"].as_array().expect("a list");
        let ids: Vec<_> =
            records.iter().filter_map(|record| record["client_id"].as_str()).collect();
        assert!(ids.len() >= 10 && ids.iter().all(|id| id.starts_with('~')), "{ids:?}");
        let of_samples = records.iter().filter(|record| record["path"] == "/a…");
        let mut of_samples: Vec<_> = of_samples.map(|record| &record["client_id"]).collect();
        assert_eq!(of_samples.len(), 10);
        of_samples.dedup();
        assert_eq!(of_samples.len(), 1, "one client on one day");
        let denied = records.iter().find(|record| record["address"] == "192.0.2.0/24");
        let denied = denied.expect("the gate's own record");
        assert_eq!((&denied["path"], &denied["host"]), (&"/…".into(), &"notes.localhost".into()));

        for path in ["/v1/requests?client=x", "/v1/events?client=x"] {
            let refused = home.get(path, token).await;
            assert_eq!((refused.status, &parsed(&refused)["parameter"]), (403, &"client".into()));
        }
        // A word that is none of this program's would have to be hidden, and be proved.
        let odd = home.get(&format!("/v1/audit/{}", marked.record), token).await;
        assert_eq!(odd.status, 403, "{}", odd.body());
        // A masked proof shows that the record is in the tree, with what it says.
        let key = SigningKey::load(&home.sample.ledger().join("ledger.key")).expect("a key");
        let key = key.verifier(&Home::tenant());
        let record = parsed(&home.get("/v1/requests?kind=visit&order=desc&limit=500", None).await);
        let gates_own = record["requests"].as_array().expect("a list").iter();
        let gates_own = gates_own.filter(|record| record["app"] == "notes" && record["rule"] == "");
        let id = gates_own.map(|record| record["id"].as_str().expect("an id")).next();
        let path = format!("/v1/audit/{}", id.expect("one"));
        let mut proof = String::new();
        poll("a proof", PATIENCE, async || {
            let answer = home.get(&path, token).await;
            proof = answer.body().to_owned();
            answer.status == 200
        })
        .await;
        let proved = Proof::parse(&proof).expect("a proof").verify(&key).expect("valid");
        assert!(proved.texts.is_some() && proved.record.salt.is_none(), "{proof}");
        for (shown, other) in [("\"notes\"", "\"wiki\""), ("\"sha256\":\"", "\"sha256\":\"0")] {
            let altered = proof.replace(shown, other);
            assert!(altered != proof);
            let altered = Proof::parse(&altered).map(|proof| proof.verify(&key));
            assert!(!matches!(altered, Ok(Ok(_))), "{other}");
        }
        let moved = proof.replace(&format!("\"position\":{}", proved.position), "\"position\":0");
        assert!(
            proved.position == 0 || Proof::parse(&moved).expect("a proof").verify(&key).is_err()
        );
    }
}

/// What is wrong may quote what a database or a file holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_in_words_to_those_who_may_see_personal_values() {
    let home = Home::new(Store::Files).await;
    let broken = home.sample.folder().join("terminals.toml");
    std::fs::write(&broken, "[[is not\ncomplete = ").expect("written");
    let mut problems = Value::Null;
    poll("it is said", PATIENCE, async || {
        problems = parsed(&home.get("/healthz", None).await)["store"]["problems"].clone();
        problems[0].is_string()
    })
    .await;
    assert!(problems[0].as_str().expect("a text").contains("terminals.toml"), "{problems}");
    let is_hidden = |health: &Value| {
        let problems = health["store"]["problems"].as_array().expect("a list");
        !problems.is_empty() && problems.iter().all(|problem| problem == "…")
    };
    for (rights, hides) in [("read", true), ("read,operate", true), ("read,pii", false)] {
        let token = home.token(&Home::tenant(), rights).await;
        let health = parsed(&home.get("/healthz", Some(&token)).await);
        assert_eq!(is_hidden(&health), hides, "{rights}: {health}");
        assert_eq!(health.to_string().contains("terminals.toml"), !hides, "{rights}: {health}");
    }
    // Whoever asks the gate has shown no right to anything.
    let health = parsed(&home.porter.ask(&Request::new("GET", "/healthz")).await);
    assert!(is_hidden(&health) && !health.to_string().contains("terminals.toml"), "{health}");
}

/// Whether a type has `Serialize`.
struct Written<T: ?Sized>(PhantomData<T>);

trait Unwritten {
    const IS: bool = false;
}

impl<T: ?Sized> Unwritten for Written<T> {}

impl<T: Serialize + ?Sized> Written<T> {
    const IS: bool = true;
}

#[test]
fn no_type_with_a_personal_value_can_be_serialized() {
    const { assert!(Written::<Value>::IS, "the question is answered") };
    const {
        assert!(!Written::<Private<'static>>::IS);
        assert!(!Written::<Personal>::IS);
        assert!(!Written::<Record>::IS && !Written::<Stored>::IS && !Written::<Entry>::IS);
        assert!(!Written::<RecordRow>::IS);
        assert!(!Written::<Note>::IS && !Written::<Viewer>::IS);
    };
}
