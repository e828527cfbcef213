//! Two boxes in one database: no token of one sees anything of the other.

use nightporter::operator_routes;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Home, OTHER, PATIENCE, marked, parsed};
use crate::support::boxes::Store;
use crate::support::client::{Request, poll};

/// Is in every record of this box, and in none of the other.
const OURS: &str = "OURSECRET";
const THEIRS: &str = "theirrow";

/// Returns a home whose database holds records of both, as well as what of its own must never
/// be seen by the other.
async fn two_boxes(store: Store) -> (Home, Vec<String>) {
    let home = Home::new(store).await;
    home.write(&Home::tenant(), (501..=530).map(|seq| marked(seq, OURS)).collect()).await;
    home.write(OTHER, (101..=130).map(|seq| marked(seq, THEIRS)).collect()).await;
    let mut ours = vec![OURS.to_owned(), Home::tenant()];
    poll("ours have positions", PATIENCE, async || {
        let page = parsed(&home.get("/v1/requests?limit=500", None).await);
        let records = page["requests"].as_array().expect("a list").clone();
        let text = |record: &Value| record["id"].as_str().expect("an id").to_owned();
        ours.extend(records.iter().map(text));
        records.len() >= 30 && records.iter().all(|record| record["position"].is_i64())
    })
    .await;
    ours.sort_unstable();
    ours.dedup();
    (home, ours)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_box_sees_only_that_box() {
    for store in Store::BOTH {
        let (home, ours) = Box::pin(two_boxes(store)).await;
        let token = home.token(OTHER, "read,pii,operate").await;
        let token = Some(&*token);
        let page = parsed(&home.get("/v1/requests?limit=500", token).await);
        let records = page["requests"].as_array().expect("a list");
        assert_eq!(records.len(), 30, "{page}");
        assert!(records.iter().all(|record| record["tenant"] == OTHER));
        assert_eq!(page["left_out"], serde_json::json!({"rolled_up": 0}), "only this box's own");

        let our_record = &**ours.iter().find(|text| text.contains('-')).expect("an id");
        let parameters = [
            String::new(),
            "limit=1".into(),
            "limit=500&order=asc".into(),
            "after=p5".into(),
            "after=p1000000&order=desc".into(),
            "after=u0.0000000000000009-1&order=asc".into(),
            format!("after=u1000000.{our_record}&order=desc"),
            format!("client={OURS}-id"),
            "app=notes".into(),
            "kind=visit&verdict=deny".into(),
            "reason=no_credential&from=0&to=9000000000".into(),
            "masked=true".into(),
        ];
        // What is answered about what is not there, whoever asks.
        let absent = "00000000000000ff-1";
        let unknown = [home.get("/v1/nothing", token).await, home.get("/nothing", token).await];
        for (method, pattern) in operator_routes() {
            if pattern == "/v1/events" {
                continue;
            }
            for query in &parameters {
                let at = |id: &str| {
                    let path = pattern.replace("{id}", id).replace("{name}", "notes");
                    format!("{path}?{query}")
                };
                let path = at(our_record);
                let answer = home.ask(Request::new(method, &path), token).await;
                let whole =
                    format!("{:?}{}", answer.headers, String::from_utf8_lossy(&answer.body));
                // The id that was asked for may be repeated.
                let whole = whole.replace(our_record, "");
                for secret in &ours {
                    assert!(
                        !whole.contains(secret.as_str()),
                        "{method} {path}: {secret} in {whole}"
                    );
                }
                let other = home.ask(Request::new(method, &at(absent)), token).await;
                let text = |body: &[u8]| {
                    String::from_utf8_lossy(body).replace(our_record, "").replace(absent, "")
                };
                assert_eq!(
                    (answer.status, text(&answer.body)),
                    (other.status, text(&other.body)),
                    "{method} {path}"
                );
                let is_of_box = ["/v1/apps", "/v1/jobs", "/v1/deadletter", "/metrics", "/healthz"];
                if is_of_box.iter().any(|start| pattern.starts_with(start)) {
                    let unknown = &unknown[usize::from(!pattern.starts_with("/v1/"))];
                    assert_eq!(
                        (answer.status, &answer.body, &answer.headers[..2]),
                        (unknown.status, &unknown.body, &unknown.headers[..2]),
                        "{method} {path}"
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_of_all_tenants_selects_one() {
    for store in Store::BOTH {
        let (home, _) = Box::pin(two_boxes(store)).await;
        let (all, own) = (home.token("*", "read,pii").await, home.token(OTHER, "read").await);
        let theirs = format!("/v1/requests?limit=500&tenant={OTHER}");
        for token in [None, Some(&*all)] {
            let page = parsed(&home.get(&theirs, token).await);
            assert_eq!(page["requests"].as_array().expect("a list").len(), 30);
            let nobody = parsed(&home.get("/v1/requests?tenant=nobody", token).await);
            assert_eq!(nobody["requests"], serde_json::json!([]));
            let record =
                parsed(&home.get("/v1/requests?limit=1", token).await)["requests"][0].clone();
            assert_eq!(record["tenant"], *Home::tenant());
            let path = format!("/v1/requests/{}", record["id"].as_str().expect("an id"));
            assert_eq!(home.get(&path, token).await.status, 200);
            assert_eq!(home.get(&format!("{path}?tenant={OTHER}"), token).await.status, 404);
            assert_eq!(home.get("/v1/apps?tenant=x", token).await.status, 400);
        }
        for tenant in [OTHER, &Home::tenant(), "*", "", "%27%20OR%20true"] {
            let answer = home.get(&format!("/v1/requests?tenant={tenant}"), Some(&own)).await;
            assert_eq!((answer.status, &parsed(&answer)["parameter"]), (400, &"tenant".into()));
        }
    }
}

/// Gives positions to the other box's records, as its own process would.
async fn place_theirs(home: &Home) {
    let archive = home.archive();
    let mut transaction = archive.begin().await.expect("begins");
    let unplaced = transaction.unplaced(OTHER, 100).await.expect("reads");
    let ids: Vec<_> = unplaced.iter().map(|unplaced| unplaced.id).collect();
    transaction.place(OTHER, 0, &ids).await.expect("placed");
    transaction.set_tree_size(OTHER, 30).await.expect("set");
    transaction.commit().await.expect("committed");
}

/// Asks for events and reads until there are `count`, or the answer is another one.
async fn events(home: &Home, request: Request, token: &str, count: usize) -> String {
    let request = request.header("Authorization", format!("Bearer {token}")).bytes();
    let mut text = String::new();
    // A token may have few streams, and one that was left ends a moment later.
    poll("a free stream", PATIENCE, async || {
        text = events_now(home, &request, count).await;
        !text.starts_with("HTTP/1.1 503")
    })
    .await;
    text
}

async fn events_now(home: &Home, request: &[u8], count: usize) -> String {
    let mut stream = TcpStream::connect(home.porter.ops).await.expect("listens");
    stream.write_all(request).await.expect("sent");
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while text.matches("\ndata: ").count() < count || !text.contains("\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
        let read = read.expect("in time").expect("open");
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
        if !text.starts_with("HTTP/1.1 2") && text.contains("\r\n\r\n") {
            break;
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_is_one_tenants() {
    for store in Store::BOTH {
        let (home, ours) = Box::pin(two_boxes(store)).await;
        place_theirs(&home).await;
        for rights in ["read,pii", "read"] {
            let token = home.token(OTHER, rights).await;
            let is_masked = rights == "read";
            let whole = events(&home, Request::new("GET", "/v1/events?after=-1"), &token, 30).await;
            // A client that comes back names the last event that it has seen.
            let resumed = Request::new("GET", "/v1/events").header("Last-Event-ID", "19");
            let rest = events(&home, resumed, &token, 10).await;
            for (text, first) in [(&whole, 0), (&rest, 20)] {
                let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
                let ids: Vec<i64> = ids.map(|id| id.trim().parse().expect("a number")).collect();
                assert_eq!(ids, (first..30).collect::<Vec<_>>());
                assert_eq!(text.contains(THEIRS), !is_masked, "{rights}: {text}");
                assert_eq!(text.contains("x-pii-masked: true"), is_masked, "{rights}: {text}");
                for secret in &ours {
                    assert!(!text.contains(secret.as_str()), "{secret} in {text}");
                }
            }
            for wrong in
                ["x", "-2", "1.5", "1 2", "0x10", "9223372036854775808", "\u{661}", "p5", "'"]
            {
                let request = Request::new("GET", "/v1/events").header("Last-Event-ID", wrong);
                let refused = events(&home, request, &token, 0).await;
                assert!(refused.starts_with("HTTP/1.1 400"), "{wrong}: {refused}");
            }
            for future in ["30", "1000000", "9223372036854775807"] {
                let request = Request::new("GET", "/v1/events").header("Last-Event-ID", future);
                let answer = events(&home, request, &token, 0).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{future}: {answer}");
            }
        }
    }
}
