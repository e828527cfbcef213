//! What an operator asks for is recorded first, or not done.

use super::*;

/// Puts something in the way of the database, which root could not be kept from by a mode.
fn block(sample: &SampleBox) {
    std::fs::create_dir_all(sample.ledger().join("ledger.db")).expect("a folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_recorded_before_it_is_carried_out() {
    for store in Store::BOTH {
        let recorded = Recorded::new(store).await;
        // An app is known when it has been asked for.
        recorded.is_denied("/").await;
        // Nothing is woken: wake.enabled is false.
        for operation in ["wake", "sleep", "pause"] {
            assert_eq!(recorded.post(&format!("/v1/apps/notes/{operation}")).await.status, 409);
            // It was committed before the answer: there is nothing to wait for.
            let query = format!("kind=act&reason={operation}&verdict=accepted");
            let acts = recorded.records(&query).await;
            assert_eq!(acts.len(), 1, "{operation}");
            assert_eq!(
                (&acts[0]["app"], &acts[0]["client"]),
                (&json!("notes"), &json!("operator"))
            );
            // What came of it is said afterwards.
            let query = format!("kind=act&reason={operation}&verdict=failed");
            let outcome = recorded.until(1, &query).await;
            let whole = format!("/v1/requests/{}", outcome[0]["id"].as_str().expect("an id"));
            let note = recorded.json(&whole).await["notes"][0]["text"].clone();
            let expected =
                format!("the act of record {} failed: ", acts[0]["id"].as_str().unwrap());
            assert!(note.as_str().expect("a text").starts_with(&expected), "{note}");
        }
        assert_eq!(recorded.post("/v1/apps/nothere/wake").await.status, 404);
        let asked = recorded.records("kind=act&verdict=accepted").await;
        assert_eq!(asked.len(), 3, "nothing was asked of an app");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_recorded_is_not_carried_out() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    block(&sample);
    let recorded = Recorded::of(sample, "", "").await;
    recorded.is_denied("/").await;
    let refused = problem(&recorded.post("/v1/apps/notes/wake").await, 503);
    let detail = refused["detail"].as_str().expect("a text");
    let expected = "not done, because it cannot be recorded: `/healthz` tells the operator why";
    assert_eq!(detail, expected);
    // Whoever asks learns nothing of the database, with an idempotency key neither.
    let path = recorded.sample.ledger().display().to_string();
    let keyed = Request::new("POST", "/v1/apps/notes/wake").header("Idempotency-Key", "\"a\"");
    let keyed = ask(recorded.porter.ops, &keyed).await;
    assert_eq!(problem(&keyed, 503)["detail"], expected);
    let read = recorded.get("/v1/requests").await;
    let expected = "the ledger's archive cannot answer; `/healthz` tells the operator why";
    assert_eq!(problem(&read, 503)["detail"], expected);
    assert!(!keyed.body().contains(&path) && !read.body().contains(&path));
    // The operator does.
    poll("the problem is said", PATIENCE, async || {
        let health = recorded.json("/healthz").await;
        health["ledger"]["problems"].to_string().contains(&path)
    })
    .await;
    // The gate goes on.
    recorded.is_denied("/").await;
    std::fs::remove_dir(recorded.sample.ledger().join("ledger.db")).expect("empty");
    poll("it can be recorded again", PATIENCE, async || {
        recorded.post("/v1/apps/notes/wake").await.status == 409
    })
    .await;
}
