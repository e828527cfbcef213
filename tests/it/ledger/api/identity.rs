//! What belongs to a box is not changed before it is known which box that is.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_an_identity_no_job_is_made_due_and_no_token_is_added() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    let (identity, away) = (sample.folder().join("identity.toml"), sample.folder().join("away"));
    std::fs::rename(&identity, &away).expect("moved");
    let toml = sample.store_config() + "[jobs]\nretention = \"1h\"\n";
    let porter = Nightporter::start(config(&toml));
    let recorded = Recorded { sample, porter };
    let run = "/v1/jobs/retention/run";
    let mut response = recorded.post(run).await;
    poll("it is refused", PATIENCE, async || {
        response = recorded.post(run).await;
        response.status == 503 && response.body().contains("no identity")
    })
    .await;
    let refused = problem(&response, 503);
    assert_eq!(response.text("retry-after"), Some("1"));
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.contains("`nightporter check` says what is missing"), "{detail}");
    assert_eq!(recorded.post("/v1/jobs/nothing/run").await.status, 404, "whoever the box is");
    let add = async |tenant: Option<&str>| {
        let body = json!({"name": "x", "rights": ["read"], "tenant": tenant}).to_string();
        let request =
            Request::new("POST", "/v1/tokens").header("Content-Length", body.len().to_string());
        let connection = crate::support::client::Connection::open(recorded.porter.ops).await;
        let bytes = [request.bytes(), body.into_bytes()].concat();
        connection.expect("it listens").ask_bytes(&bytes).await.expect("an answer")
    };
    assert!(problem(&add(None).await, 503)["detail"].as_str().is_some_and(|text| text == detail));
    problem(&add(Some("otherbox")).await, 503);
    poll("a token of all boxes is added", PATIENCE, async || add(Some("*")).await.status == 201)
        .await;

    std::fs::rename(&away, &identity).expect("moved");
    poll("it is due", PATIENCE, async || recorded.post(run).await.status == 202).await;
    poll("it is run for the box", PATIENCE, async || {
        let jobs = recorded.json("/v1/jobs").await;
        let jobs = jobs["jobs"].as_array().expect("a list");
        let job = jobs.iter().find(|job| job["name"] == "retention").expect("listed");
        job["last_run"]["ended"].is_string()
    })
    .await;
}
