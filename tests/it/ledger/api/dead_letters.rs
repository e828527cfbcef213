//! Batches that the database did not take.

use nightporter::ledger::record::Record;
use nightporter::ledger::spool::Spool;

use super::*;
use crate::ledger::samples::record;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_did_not_take_is_listed_and_written_when_it_works() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    let in_the_way = sample.ledger().join("ledger.db");
    std::fs::create_dir_all(&in_the_way).expect("a folder");
    let recorded = Recorded::of(sample, "", "").await;
    recorded.is_denied("/lost").await;
    let mut letters = Vec::new();
    poll("a dead letter", PATIENCE, async || {
        let list = recorded.json("/v1/deadletter").await;
        letters = list["dead_letters"].as_array().expect("a list").clone();
        !letters.is_empty()
    })
    .await;
    let stats = recorded.json("/v1/deadletter/stats").await;
    assert_eq!((&stats["letters"], &stats["problem"]), (&json!(letters.len()), &Value::Null));
    let id = letters[0]["id"].as_str().expect("an id");
    let letter = recorded.json(&format!("/v1/deadletter/{id}")).await;
    assert_eq!(letter["records"][0]["path"], "/lost", "{letter}");
    problem(&recorded.get("/v1/deadletter/nothere.letter").await, 404);
    problem(&recorded.post(&format!("/v1/deadletter/{id}/replay")).await, 503);
    // A dismissal is an act, which cannot be recorded now.
    problem(&recorded.post(&format!("/v1/deadletter/{id}/dismiss")).await, 503);

    std::fs::remove_dir(&in_the_way).expect("empty");
    poll("it is replayed", PATIENCE, async || {
        // It may also have been replayed by itself.
        recorded.post(&format!("/v1/deadletter/{id}/replay")).await;
        recorded.get("/v1/requests?kind=visit").await.body().contains(r#""path":"/lost""#)
    })
    .await;
    problem(&recorded.post(&format!("/v1/deadletter/{id}/replay")).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_stays_until_it_is_dismissed() {
    let recorded = Recorded::new(Store::Files).await;
    let refused = Record { path: Some("/a\0b".into()), ..record(7, 1) };
    let spool = Spool::new(recorded.sample.ledger().join("spool"), 1 << 30);
    let id = spool.put(&[refused], Some("refused before"), |_| {}).expect("written");
    // Why it was refused is known before anybody tries it again, also of another process.
    let list = recorded.json("/v1/deadletter").await;
    let errors: Vec<_> = list["dead_letters"].as_array().expect("a list").iter().collect();
    assert_eq!(errors[0]["error"], "refused before", "{list}");
    let replayed = recorded.post(&format!("/v1/deadletter/{id}/replay")).await;
    problem(&replayed, 409);
    let list = recorded.json("/v1/deadletter").await;
    assert_eq!(list["dead_letters"].as_array().map(Vec::len), Some(1));
    assert!(list["dead_letters"][0]["error"].is_string(), "{list}");

    let dismissed = recorded.post(&format!("/v1/deadletter/{id}/dismiss")).await;
    assert_eq!((dismissed.status, dismissed.body()), (200, r#"{"dismissed":1}"#));
    let acts = recorded.records("kind=act&reason=dismiss&verdict=accepted").await;
    assert_eq!(acts.len(), 1);
    // A record says what was lost.
    let losses = recorded.until(1, "kind=loss&reason=dismissed").await;
    assert_eq!(losses[0]["count"], 1);
    problem(&recorded.post(&format!("/v1/deadletter/{id}/dismiss")).await, 404);
    recorded.until(1, "kind=act&reason=dismiss&verdict=done").await;
    assert_eq!(recorded.records("kind=act&reason=dismiss&verdict=accepted").await.len(), 1);
}
