//! Boxes that run: two with one database, and one whose identity changes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{PATIENCE, parsed, run};
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::server::{Nightporter, config};
use crate::support::sign::{BOX_KEY, OTHER_KEY};

/// A box with the app `notes`, which runs.
struct Running {
    sample: SampleBox,
    porter: Nightporter,
    toml: PathBuf,
}

impl Running {
    /// `ledger` is more of that section.
    async fn start(sample: SampleBox, ledger: &str) -> Self {
        sample.add_app("notes", &json!({"": {"access": "private"}})).await;
        let quick = format!("[ledger]\ncheckpoint_interval = \"1s\"\n{ledger}");
        let mut toml = sample.store_config().replace("[ledger]\n", &quick);
        toml += "[jobs]\nintegrity = \"200ms\"\n";
        let porter = Nightporter::start(config(&toml));
        porter.ready().await;
        let file = sample.folder().join("np.toml");
        write!(toml, "[ops]\nlisten = \"{}\"\n", porter.ops).expect("text");
        std::fs::write(&file, toml).expect("written");
        Self { sample, porter, toml: file }
    }

    async fn get(&self, path: &str) -> Response {
        ask(self.porter.ops, &Request::new("GET", path)).await
    }

    async fn visits(&self) -> Vec<Value> {
        let page = self.get("/v1/requests?kind=visit&limit=500").await;
        if page.status != 200 {
            return Vec::new();
        }
        parsed(&page)["requests"].as_array().expect("a list").clone()
    }

    /// Has a stranger come, and waits until a checkpoint covers that.
    async fn visited(&self, path: &str) {
        assert_eq!(self.porter.auth("notes.localhost", path).await.status, 401);
        poll(path, PATIENCE, async || {
            let visits = self.visits().await;
            let Some(visit) = visits.iter().find(|visit| visit["path"] == path) else {
                return false;
            };
            let id = visit["id"].as_str().expect("an id");
            self.get(&format!("/v1/audit/{id}")).await.status == 200
        })
        .await;
    }

    /// Asserts that everything is proved to be unaltered.
    fn is_proved(&self) {
        let (code, out, err) = run(&["ledger", "verify"], &self.toml);
        assert!(code == 0 && out.starts_with("unaltered since"), "{code}: {out}{err}");
    }

    async fn run_job(&self, name: &str) {
        let path = format!("/v1/jobs/{name}/run");
        let asked = ask(self.porter.ops, &Request::new("POST", &path)).await;
        assert!(matches!(asked.status, 200 | 202), "{}", asked.body());
    }
}

fn paths(visits: &[Value]) -> Vec<&str> {
    visits.iter().filter_map(|visit| visit["path"].as_str()).collect()
}

fn key_of(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("ledger.key")).expect("a key")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_boxes_with_one_database_touch_nothing_of_each_other() {
    let first = SampleBox::new(Store::Postgres).await;
    let url = first.database().url();
    let second = SampleBox::new(Store::Files).await;
    second.set_identity(&OTHER_KEY).await;
    let first = Running::start(first, "").await;
    let shared = format!("kind = \"postgres\"\nurl = \"{url}\"\n");
    let second = Running::start(second, &shared).await;
    for n in 0..3 {
        first.visited(&format!("/of-the-first/{n}")).await;
        second.visited(&format!("/of-the-second/{n}")).await;
    }
    for (own, other, name) in
        [(&first, &second, "/of-the-first/"), (&second, &first, "/of-the-second/")]
    {
        let visits = own.visits().await;
        assert!(visits.len() >= 3 && paths(&visits).iter().all(|path| path.starts_with(name)));
        // What is the other's is not there, whoever asks for it here.
        let id = other.visits().await[0]["id"].as_str().expect("an id").to_owned();
        for path in [format!("/v1/requests/{id}"), format!("/v1/audit/{id}")] {
            assert_eq!(own.get(&path).await.status, 404, "{path}");
        }
        own.is_proved();
        let acts = parsed(&own.get("/v1/requests?kind=act").await);
        assert_eq!(acts["requests"], json!([]));
    }
    assert_ne!(key_of(&first.sample.ledger()), key_of(&second.sample.ledger()));
    // The second keeps visits for a second only from now on, and the first for weeks.
    let Running { sample, porter, toml: _ } = second;
    drop(porter);
    let second = Running::start(sample, &format!("{shared}keep_visits = \"1s\"\n")).await;
    poll("visits are removed", PATIENCE, async || {
        // A job that is asked for before the box is known is run for nobody.
        second.run_job("retention").await;
        let page = second.get("/v1/requests?kind=visit").await;
        page.status == 200 && parsed(&page)["requests"] == json!([])
    })
    .await;
    assert!(first.visits().await.len() >= 3);
    first.visited("/of-the-first/after").await;
    first.is_proved();
    second.is_proved();
    let cuts = |running: &Running| {
        let ops = running.porter.ops;
        async move {
            let cuts = ask(ops, &Request::new("GET", "/v1/requests?kind=cut")).await;
            parsed(&cuts)["requests"].as_array().expect("a list").len()
        }
    };
    assert_eq!(cuts(&first).await, 0);
    poll("the cut is recorded", PATIENCE, async || cuts(&second).await >= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_with_another_identity_begins_anew_and_keeps_what_was() {
    for store in Store::BOTH {
        let running = Running::start(SampleBox::new(store).await, "").await;
        running.visited("/before").await;
        running.is_proved();
        running.sample.set_identity(&OTHER_KEY).await;
        poll("another tenant", PATIENCE, async || {
            let _ = running.porter.auth("notes.localhost", "/during").await;
            let visits = running.visits().await;
            !visits.is_empty() && visits.iter().all(|visit| visit["tenant"] == id_of(&OTHER_KEY))
        })
        .await;
        running.visited("/after").await;
        assert!(!paths(&running.visits().await).contains(&"/before"));
        running.is_proved();
        // The old records are there, under the old name.
        let earlier = format!("/v1/requests?kind=visit&limit=500&tenant={}", id_of(&BOX_KEY));
        let earlier = parsed(&running.get(&earlier).await);
        let earlier = earlier["requests"].as_array().expect("a list").clone();
        assert!(paths(&earlier).contains(&"/before"), "{earlier:?}");
        // With its first identity it goes on where it was.
        running.sample.set_identity(&BOX_KEY).await;
        poll("the first tenant", PATIENCE, async || {
            paths(&running.visits().await).contains(&"/before")
        })
        .await;
        running.visited("/again").await;
        running.is_proved();
    }
}
