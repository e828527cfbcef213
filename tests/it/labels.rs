//! Apps that labels of containers describe: a real engine, and no file for any app.

mod changes;
mod commands;
mod hosts;
mod restart;
mod status;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};
use crate::support::docker::apps::Apps;
use crate::support::docker::engine::Engine;
use crate::support::docker::proxy::EngineProxy;
use crate::support::server::Nightporter;

/// What anything may take on a busy machine. Less than the five minutes after which the
/// engine is listed anew unasked: what is known within it is known by an event.
const LONG: Duration = Duration::from_secs(200);

/// A box without files of apps, and an engine with containers.
struct House {
    sample: SampleBox,
    apps: Apps,
    proxy: EngineProxy,
}

impl House {
    async fn new() -> Self {
        Self::with(Store::Files).await
    }

    async fn with(store: Store) -> Self {
        let engine: Arc<Engine> = Engine::shared();
        let (sample, apps) = (SampleBox::new(store).await, Apps::on(&engine).await);
        Self { sample, apps, proxy: EngineProxy::before(&engine).await }
    }

    /// Returns the name of an app or a container that no other test has.
    fn name(&self, label: &str) -> String {
        let [_, network, ..] = self.apps.membership();
        format!("{label}-{network}")
    }

    /// Creates a container with these labels, each without what all begin with.
    async fn container(&self, name: &str, labels: &[(&str, &str)]) {
        let mut args: Vec<String> = ["create", "--name", name].map(Into::into).into();
        args.extend(self.apps.membership());
        for (key, value) in labels {
            args.extend(["--label".into(), format!("nightporter.{key}={value}")]);
        }
        args.push(self.apps.engine.image().await.into());
        self.apps.engine.docker(args).await;
    }

    async fn remove(&self, container: &str) {
        self.apps.engine.docker(["rm", "--force", container]).await;
    }

    /// Nothing sleeps by itself here, and a granted request is told so at once.
    fn config(&self) -> String {
        format!(
            "[wake]\nenabled = true\nstrategy = \"pass\"\ndocker = \"{}\"\n\
             [sleep]\nenabled = false\n",
            self.proxy.host()
        )
    }

    async fn porter(&self) -> Nightporter {
        Nightporter::with(&self.sample, &self.config()).await
    }
}

fn host(app: &str) -> String {
    format!("{app}.box.example")
}

async fn status(porter: &Nightporter, host: &str, path: &str) -> u16 {
    porter.auth(host, path).await.status
}

/// Waits until a stranger gets this status.
async fn until(porter: &Nightporter, host: &str, path: &str, expected: u16) {
    let what = format!("{expected} for {host}{path}");
    poll(&what, LONG, async || status(porter, host, path).await == expected).await;
}

/// What the operator is shown of an app.
async fn shown(porter: &Nightporter, app: &str) -> Value {
    let response = ask(porter.ops, &Request::new("GET", "/v1/apps")).await;
    let apps: Value = serde_json::from_slice(&response.body).expect("JSON");
    let mut apps = apps.as_array().expect("an array").iter();
    apps.find(|shown| shown["name"] == app).cloned().unwrap_or_default()
}
