//! What happens to containers, and what a stranger gets meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use super::{House, LONG, host, shown, status, until};
use crate::support::boxes::{Store, token};
use crate::support::client::{Request, poll};
use crate::support::docker::engine::Engine;
use crate::support::soak::LABEL_CHANGES;

#[tokio::test]
async fn a_label_is_all_that_an_app_needs() {
    for store in Store::BOTH {
        let house = House::with(store).await;
        let app = house.name("plain");
        let porter = house.porter().await;
        assert_eq!(status(&porter, &host(&app), "/").await, 404);
        house.container(&app, &[("app", &app), ("port", "80")]).await;
        if store == Store::Postgres {
            // Beside FreeShard's tables, its core alone says which apps there are. A second
            // app's row is woken by its label: the container was seen.
            let known = house.name("known");
            let paths = serde_json::json!({"": {"access": "public"}});
            house.sample.add_app(&known, &paths).await;
            house.container(&known, &[("app", &known)]).await;
            until(&porter, &host(&known), "/", 200).await;
            poll("it is seen", LONG, async || {
                shown(&porter, &known).await["containers"].to_string().contains(&known)
            })
            .await;
            assert_eq!(status(&porter, &host(&app), "/").await, 404);
            continue;
        }
        until(&porter, &host(&app), "/", 401).await;
        let paired = Request::auth(host(&app), "/").cookie(token());
        assert_eq!(porter.ask(&paired).await.status, 200);
        poll("it is woken", LONG, async || {
            house.apps.engine.inspect(&app, "{{.State.Status}}").await.as_deref() == Some("running")
        })
        .await;
    }
}

#[tokio::test]
async fn an_app_is_what_its_labels_say_whatever_happens_to_its_container() {
    let house = House::new().await;
    let (app, porter) = (house.name("notes"), house.porter().await);
    let (h, engine) = (host(&app), &house.apps.engine);
    let labels: &[_] = &[("app", &*app), ("public", "/shared/"), ("port", "80"), ("name", "Ours")];
    house.container(&app, labels).await;
    until(&porter, &h, "/shared/x", 200).await;
    assert_eq!(status(&porter, &h, "/").await, 401);
    poll("it runs", LONG, async || {
        engine.inspect(&app, "{{.State.Status}}").await.as_deref() == Some("running")
    })
    .await;
    engine.docker(["stop", "--time=1", &app]).await;
    let renamed = format!("renamed-{app}");
    engine.docker(["rename", &app, &renamed]).await;
    for _ in 0..20 {
        assert_eq!(status(&porter, &h, "/shared/x").await, 200);
        assert_eq!(status(&porter, &h, "/").await, 401);
    }
    // Created again with other labels.
    house.remove(&renamed).await;
    house.container(&app, &[("app", &app), ("public", "/other/")]).await;
    until(&porter, &h, "/other/x", 200).await;
    assert_eq!(status(&porter, &h, "/shared/x").await, 401);
    // Removed for good.
    house.remove(&app).await;
    until(&porter, &h, "/other/x", 404).await;
    poll("it is not shown", LONG, async || shown(&porter, &app).await.is_null()).await;
}

#[tokio::test]
async fn mistakes_and_contradictions_are_503_and_are_told() {
    let house = House::new().await;
    let (app, porter) = (house.name("wrong"), house.porter().await);
    let (h, second) = (host(&app), house.name("second"));
    for (mistake, part) in [
        (("pirvate", "/admin/"), "is unknown"),
        (("port", "http"), "invalid port"),
        (("private", "/admin/*"), "not allowed"),
    ] {
        house.container(&app, &[("app", &app), ("public", "/"), mistake]).await;
        until(&porter, &h, "/", 503).await;
        let problems = shown(&porter, &app).await["problems"].to_string();
        assert!(problems.contains(part) && problems.contains(&app), "{problems}");
        house.remove(&app).await;
        house.container(&app, &[("app", &app), ("public", "/"), ("port", "80")]).await;
        until(&porter, &h, "/", 200).await;
        poll("nothing is wrong", LONG, async || {
            shown(&porter, &app).await["problems"] == serde_json::json!([])
        })
        .await;
        house.remove(&app).await;
    }
    house.container(&app, &[("app", &app), ("public", "/"), ("port", "80")]).await;
    house.container(&second, &[("app", &app)]).await;
    until(&porter, &h, "/", 200).await;
    house.remove(&second).await;
    house.container(&second, &[("app", &app), ("private", "/")]).await;
    until(&porter, &h, "/", 503).await;
    let problems = shown(&porter, &app).await["problems"].to_string();
    assert!(problems.contains("contradicts"), "{problems}");
    house.remove(&second).await;
    until(&porter, &h, "/", 200).await;
}

#[tokio::test]
async fn a_file_counts_and_the_labels_beside_it_do_not() {
    let house = House::new().await;
    let (app, porter) = (house.name("both"), house.porter().await);
    let h = host(&app);
    house.container(&app, &[("app", &app), ("public", "/"), ("port", "80")]).await;
    until(&porter, &h, "/", 200).await;
    house.sample.add_app(&app, &serde_json::json!({"": {"access": "private"}})).await;
    until(&porter, &h, "/", 401).await;
    poll("it is told", LONG, async || {
        shown(&porter, &app).await["problems"].to_string().contains("app_meta.json counts")
    })
    .await;
    house.sample.write_app_meta(&app, b"{");
    until(&porter, &h, "/", 503).await;
    house.sample.remove_app(&app).await;
    until(&porter, &h, "/", 200).await;
}

/// A private path stays private while its container is created again with other labels, and
/// what the new labels say is in force soon after the engine's event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_labels_is_looser_in_between() {
    let house = House::new().await;
    let (app, porter) = (house.name("forced"), Arc::new(house.porter().await));
    let (h, secret) = (host(&app), "/secret/x");
    let all: [&[(&str, &str)]; 2] =
        [&[("public", "/"), ("private", "/secret/")], &[("public", "/open/")]];
    let labels = |turn: usize| [&[("app", &*app), ("port", "80")], all[turn]].concat();
    house.container(&app, &labels(0)).await;
    until(&porter, &h, "/page", 200).await;
    let (is_done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let stranger = tokio::spawn({
        let (porter, h) = (Arc::clone(&porter), h.clone());
        let (is_done, asked) = (Arc::clone(&is_done), Arc::clone(&asked));
        async move {
            let mut connection = porter.connect().await;
            while !is_done.load(Ordering::Relaxed) {
                let answer = connection.ask(&Request::auth(&h, secret)).await.expect("an answer");
                assert!(matches!(answer.status, 401 | 503), "{answer:?}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut took = Vec::new();
    for round in 1..=LABEL_CHANGES.count() {
        let turn = usize::try_from(round % 2).expect("0 or 1");
        house.remove(&app).await;
        house.container(&app, &labels(turn)).await;
        let began = Instant::now();
        until(&porter, &h, "/page", if turn == 0 { 200 } else { 401 }).await;
        took.push(began.elapsed());
        assert!(!stranger.is_finished(), "let in");
    }
    is_done.store(true, Ordering::Relaxed);
    stranger.await.expect("never let in");
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "{} changes, {} requests: median {median:?}, longest {longest:?} after `docker create`",
        took.len(),
        asked.load(Ordering::Relaxed)
    );
    assert!(asked.load(Ordering::Relaxed) > LABEL_CHANGES.count());
}

#[tokio::test]
async fn what_compose_makes_is_found_and_made_again_without_a_gap() {
    let house = House::new().await;
    let (app, porter) = (house.name("composed"), house.porter().await);
    let (h, engine): (_, &Engine) = (host(&app), &house.apps.engine);
    let folder = tempfile::tempdir().expect("a folder");
    let [_, network, _, test] = house.apps.membership();
    let (test, mark) = test.split_once('=').expect("a label");
    let image = engine.image().await;
    let write = |public: &str| {
        let web = serde_json::json!({
            "image": image, "networks": ["box"], "restart": "no",
            "labels": {"nightporter.app": app, "nightporter.public": public,
                       "nightporter.port": "80", test: mark},
        });
        let side = serde_json::json!({
            "image": image, "networks": ["box"], "restart": "no",
            "labels": {"nightporter.app": app, test: mark},
        });
        let file = serde_json::json!({
            "services": {"web": web, "side": side},
            "networks": {"box": {"external": true, "name": network}},
        });
        std::fs::write(folder.path().join("docker-compose.yml"), file.to_string())
            .expect("writable");
    };
    write("/a/");
    engine.try_compose(folder.path(), &app, &["up", "--detach"]).await.expect("up");
    until(&porter, &h, "/a/", 200).await;
    write("/b/");
    engine.try_compose(folder.path(), &app, &["up", "--detach"]).await.expect("up");
    until(&porter, &h, "/b/", 200).await;
    assert_eq!(status(&porter, &h, "/a/").await, 401);
    // A container of `run` says nothing, although it has its service's labels.
    let run = ["run", "--detach", "--label", "nightporter.public=/c/", "web"];
    engine.try_compose(folder.path(), &app, &run).await.expect("run");
    poll("all are seen", LONG, async || status(&porter, &h, "/b/").await == 200).await;
    engine.try_compose(folder.path(), &app, &["down", "--timeout=1"]).await.expect("down");
    until(&porter, &h, "/b/", 404).await;
}
