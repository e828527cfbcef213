//! Which containers are an app's, and in which order they are started.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{LONG, NO_SLEEP, Stage, order, program, served, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Request, ask, poll};
use crate::support::docker::apps::Plan;
use crate::support::server::Nightporter;

pub(super) const PROJECT: &str = "com.docker.compose.project";
pub(super) const SERVICE: &str = "com.docker.compose.service";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub(super) const APP: &str = "nightporter.app";

/// Makes a container by hand, of the image that is given or else of the app's.
pub(super) async fn create(
    stage: &Stage,
    name: &str,
    labels: &[(&str, &str)],
    env: &[&str],
    image: Option<&str>,
) {
    let mut args: Vec<String> = ["create", "--name", name].map(Into::into).into();
    args.extend(stage.apps.membership());
    args.extend(
        labels.iter().flat_map(|(key, value)| ["--label".into(), format!("{key}={value}")]),
    );
    args.extend(env.iter().flat_map(|word| ["--env".into(), (*word).into()]));
    args.push(image.unwrap_or(stage.apps.engine.image().await).into());
    stage.apps.engine.docker(args).await;
}

pub(super) async fn state_of(stage: &Stage, container: &str) -> String {
    let state = stage.apps.engine.inspect(container, "{{.State.Status}}").await;
    state.expect("it is there")
}

#[tokio::test]
async fn a_container_is_an_apps_by_its_name_or_its_label_and_nobody_elses() {
    for store in Store::BOTH {
        let stage = Stage::new(store).await;
        let named = stage.apps.install(&stage.sample, Plan::new("named")).await;
        create(&stage, &named.name, &[], &[], None).await;
        let labelled = stage.apps.install(&stage.sample, Plan::new("labelled")).await;
        let anything = format!("anything-{}", labelled.name);
        create(&stage, &anything, &[(APP, &labelled.name)], &[], None).await;
        // Of others: a service called as the entrypoint is, in another project; one in
        // the app's own project that a label takes away from it; and a longer name.
        let foreign = format!("foreign-{}", named.name);
        create(&stage, &foreign, &[(PROJECT, "foreign"), (SERVICE, &named.name)], &[], None).await;
        let taken = format!("taken-{}", labelled.name);
        let labels = [(APP, "another"), (PROJECT, &*labelled.name), (SERVICE, "web")];
        create(&stage, &taken, &labels, &[], None).await;
        let longer = format!("{}-2", named.name);
        create(&stage, &longer, &[], &[], None).await;
        let others = [foreign, taken, longer];

        let porter = stage.porter("throttle = \"1ms\"\n", NO_SLEEP).await;
        let ours = [(&named, &named.name), (&labelled, &anything)];
        for (app, container) in ours {
            until_state(&porter, app, "stopped", LONG).await;
            until_granted(&porter, &program(app)).await;
            assert_eq!(state_of(&stage, container).await, "running");
            for (operation, expected) in
                [("pause", "paused"), ("wake", "running"), ("sleep", "exited"), ("wake", "running")]
            {
                let done = order(&porter, app, operation).await;
                assert_eq!(done.status, 200, "{done:?}");
                assert_eq!(state_of(&stage, container).await, expected);
            }
        }
        for other in &others {
            assert_eq!(state_of(&stage, other).await, "created", "{other}");
            stage.apps.engine.docker(["start", other]).await;
        }
        for (app, _) in ours {
            for operation in ["pause", "sleep"] {
                assert_eq!(order(&porter, app, operation).await.status, 200);
            }
        }
        for other in &others {
            assert_eq!(state_of(&stage, other).await, "running", "{other}");
        }
    }
}

async fn order_all(porter: &Nightporter, name: &str) {
    for operation in ["wake", "pause", "sleep"] {
        let request = Request::new("POST", &format!("/v1/apps/{name}/{operation}"));
        ask(porter.ops, &request).await;
    }
}

#[tokio::test]
async fn the_boxs_own_project_is_nobodys_app() {
    let stage = Stage::new(Store::Postgres).await;
    let own = stage.apps.install(&stage.sample, Plan::new("own")).await;
    let mut containers = Vec::new();
    for service in ["core", "web"] {
        let container = format!("{}-{service}", own.name);
        create(&stage, &container, &[(PROJECT, "core"), (SERVICE, service)], &[], None).await;
        containers.push(container);
    }
    // Idle for longer than they may be, were they apps.
    let sleep = "interval = \"1s\"\nhold_off = \"1s\"\nidle_for_stop = \"5s\"\npause = false\n";
    for name in ["core", "Core"] {
        stage.sample.add_app(name, &json!({"": {"access": "public"}})).await;
    }
    let short = json!({"always_on": false, "skip_pause": true, "idle_for_stop": 5});
    let idle = stage.running(Plan::new("idle").meta("lifecycle", short)).await;
    let porter = stage.porter("throttle = \"1ms\"\n", sleep).await;
    for name in ["core", "Core"] {
        // Nothing of it is seen: it counts as awake, as what runs elsewhere does.
        porter.until(200, &Request::auth(format!("{name}.box.example"), "/")).await;
        order_all(&porter, name).await;
    }
    for container in &containers {
        assert_eq!(state_of(&stage, container).await, "created");
        stage.apps.engine.docker(["start", container]).await;
    }
    for name in ["core", "Core"] {
        order_all(&porter, name).await;
    }
    // As long as it takes for an app to go to sleep beside it.
    until_state(&porter, &idle, "stopped", LONG).await;
    for container in &containers {
        assert_eq!(state_of(&stage, container).await, "running");
    }
}

#[tokio::test]
async fn what_a_container_depends_on_is_started_first_and_waited_for() {
    const WELL_AFTER: Duration = Duration::from_millis(1500);
    const DONE_AFTER: Duration = Duration::from_millis(700);
    let stage = Stage::new(Store::Postgres).await;
    let app = stage.apps.install(&stage.sample, Plan::new("chain")).await;
    let engine = &stage.apps.engine;
    let name = |service: &str| format!("{}-{service}", app.name);
    let labels = |service: &'static str| [(PROJECT, &*app.name), (SERVICE, service)];
    // Made first, and started last.
    let depends = "db:service_healthy:false,init:service_completed_successfully:false";
    let all = [&labels("web")[..], &[(DEPENDS_ON, depends)]].concat();
    create(&stage, &app.name, &all, &[], None).await;
    // The client has no words for a health check without a shell; an image may have one.
    let check = "HEALTHCHECK --interval=300ms --retries=20 CMD [\"/app\", \"healthcheck\"]";
    let checked = engine.docker(["commit", "--change", check, &*app.name]).await;
    let env = format!("HEALTH_AFTER_MS={}", WELL_AFTER.as_millis());
    create(&stage, &name("db"), &labels("db"), &[&env], Some(&checked)).await;
    let env = format!("EXIT_AFTER_MS={}", DONE_AFTER.as_millis());
    create(&stage, &name("init"), &labels("init"), &["EXIT_CODE=0", &env], None).await;

    let porter = stage.porter("", NO_SLEEP).await;
    until_state(&porter, &app, "stopped", LONG).await;
    assert_eq!(served(&porter, &program(&app)).await.status, 200);
    let time = async |container: &str, of: &str| -> SystemTime {
        let text = engine.inspect(container, &format!("{{{{.State.{of}}}}}")).await;
        humantime::parse_rfc3339(&text.expect("it is there")).expect("a time")
    };
    let began = time(&app.name, "StartedAt").await;
    let since = |earlier: SystemTime| began.duration_since(earlier).expect("earlier");
    assert!(since(time(&name("db"), "StartedAt").await) >= WELL_AFTER);
    assert!(since(time(&name("init"), "StartedAt").await) >= DONE_AFTER);
    since(time(&name("init"), "FinishedAt").await);

    // What has failed for good is named, and what depends on it is left alone.
    let sick = stage.apps.install(&stage.sample, Plan::new("sick")).await;
    let labels = |service: &'static str| [(PROJECT, &*sick.name), (SERVICE, service)];
    let depends = "init:service_completed_successfully:false";
    let all = [&labels("web")[..], &[(DEPENDS_ON, depends)]].concat();
    create(&stage, &sick.name, &all, &[], None).await;
    let init = format!("{}-init", sick.name);
    create(&stage, &init, &labels("init"), &["EXIT_CODE=4", "EXIT_AFTER_MS=300"], None).await;
    // An app of which a part is not known yet is completed by Compose.
    poll("both are known", LONG, async || {
        let known = super::known(&porter, &sick.name).await;
        known["containers"].as_array().is_some_and(|containers| containers.len() == 2)
    })
    .await;
    porter.until(503, &program(&sick).header("Sec-Fetch-Dest", "empty")).await;
    let known = super::known(&porter, &sick.name).await;
    // By now the next attempt may be under way.
    let reason = &known["last_failure"]["reason"];
    assert_eq!(*reason, format!("container {init} exited with code 4"), "{known}");
    assert_eq!(sick.state().await, "created", "it was started all the same");
}
