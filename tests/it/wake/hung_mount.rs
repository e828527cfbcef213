//! A mount that does not answer any more, with compose files on it.

use super::{LONG, NO_SLEEP, Stage};
use crate::store_files::hung_mount::Program;
use crate::support::boxes::Store;
use crate::support::client::{Connection, Request, ask, poll};
use crate::support::docker::apps::Plan;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compose_in_a_folder_that_hangs_does_not_stop_the_gate() {
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.apps.install(&stage.sample, Plan::new("made")).await;
    let other = stage.running(Plan::new("other")).await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let config = elsewhere.path().join("nightporter.toml");
    let listen = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                  [cache]\nmax_stale = \"1h\"\n";
    let wake = stage.config("data_dir = \"/\"\n", NO_SLEEP);
    let text = format!("{}{listen}{wake}", stage.sample.store_config());
    std::fs::write(&config, text).expect("written");
    let mut program = Program::start(&config, &stage.sample.folder().join("installed_apps"));
    let request = super::program(&other);
    poll("the gate answers", LONG, async || ask(program.gate, &request).await.status == 200).await;
    let apps = Request::new("GET", "/v1/apps");
    poll("what can be made is known", LONG, async || {
        ask(program.ops, &apps).await.body().contains("\"missing\"")
    })
    .await;

    program.hang();
    let (ops, wake) = (program.ops, Request::new("POST", &format!("/v1/apps/{}/wake", app.name)));
    let waking = tokio::spawn(async move { Connection::open(ops).await?.ask(&wake).await });
    poll("the wake ends", LONG, async || {
        assert_eq!(ask(program.gate, &request).await.status, 200, "{}", program.logged());
        waking.is_finished()
    })
    .await;
    let failed = waking.await.expect("no panic").expect("an answer");
    assert_eq!(failed.status, 503, "{failed:?}");
    assert!(failed.body().contains("did not answer within"), "{failed:?}");
    assert_eq!(ask(program.gate, &request).await.status, 200);
}
