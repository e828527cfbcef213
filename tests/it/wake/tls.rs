//! An engine on another machine: over TCP, with certificates on both sides.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{LONG, NO_SLEEP, Stage, order, program, state, until_granted, until_state};
use crate::support::boxes::Store;
use crate::support::client::{Request, ask};
use crate::support::docker::apps::Plan;
use crate::support::docker::engine::Engine;
use crate::support::programs::free_address;
use crate::support::server::Nightporter;

/// What `openssl` does for an authority and those it vouches for.
struct Authority {
    folder: TempDir,
}

fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl").current_dir(folder).args(args).output();
    let output = output.expect("openssl; `tests/run` installs it");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let new =
            ["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let named =
            ["-subj", "/CN=engines", "-days", "2", "-keyout", "ca-key.pem", "-out", "ca.pem"];
        openssl(folder.path(), &[&new[..], &named].concat());
        Self { folder }
    }

    /// A folder with `ca.pem`, `cert.pem` and `key.pem`, as Docker's client has it.
    fn vouch(&self, name: &str, usage: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a new folder");
        let extensions =
            format!("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\n");
        std::fs::write(folder.join("extensions"), extensions).expect("writable");
        let subject = format!("/CN={name}");
        let new = ["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let named = ["-subj", &subject, "-keyout", "key.pem", "-out", "request.pem"];
        openssl(&folder, &[&new[..], &named].concat());
        let signed = [
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-CA",
            "../ca.pem",
            "-CAkey",
            "../ca-key.pem",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            "cert.pem",
        ];
        openssl(&folder, &signed);
        std::fs::copy(self.folder.path().join("ca.pem"), folder.join("ca.pem")).expect("there");
        folder
    }
}

async fn is_followed(porter: &Nightporter) -> bool {
    let metrics = ask(porter.ops, &Request::new("GET", "/metrics")).await;
    metrics.body().lines().any(|line| line == "nightporter_engine_live 1")
}

#[tokio::test]
async fn an_engine_with_certificates_is_followed_and_one_with_others_is_not() {
    let authority = Authority::new();
    let server = authority.vouch("engine", "serverAuth");
    let client = authority.vouch("nightporter", "clientAuth");
    let address = free_address();
    let file = |name: &str| server.join(name).display().to_string();
    let engine = Engine::own_with(&[
        format!("--host=tcp://{address}"),
        "--tlsverify".into(),
        format!("--tlscacert={}", file("ca.pem")),
        format!("--tlscert={}", file("cert.pem")),
        format!("--tlskey={}", file("key.pem")),
    ])
    .await;
    let stage = Stage::on(&engine, Store::Postgres).await;
    let app = stage.stopped(Plan::new("far")).await;
    let made = stage.apps.install(&stage.sample, Plan::new("made")).await;
    let wake = |certificates: &Path| {
        format!("docker_certificates = \"{}\"\nthrottle = \"1ms\"\n", certificates.display())
    };
    let config = |certificates: &Path| {
        Stage::config_at(&format!("tcp://{address}"), &wake(certificates), NO_SLEEP)
    };
    let porter = Nightporter::with(&stage.sample, &config(&client)).await;
    until_state(&porter, &app, "stopped", LONG).await;
    assert!(is_followed(&porter).await);
    until_granted(&porter, &program(&app)).await;
    assert!(app.answers().await);
    for (operation, expected) in [("pause", "paused"), ("wake", "running"), ("sleep", "exited")] {
        assert_eq!(order(&porter, &app, operation).await.status, 200);
        assert_eq!(app.state().await, expected);
    }
    // Compose finds the same engine with the same certificates.
    until_state(&porter, &made, "missing", LONG).await;
    let done = order(&porter, &made, "wake").await;
    assert_eq!(done.status, 200, "{done:?}");
    assert!(made.answers().await);
    assert!(stage.proxy.all_calls().is_empty(), "nothing went by way of the socket");
    drop(porter);

    // By another authority, and with a certificate of another one: as where there is
    // no engine, every app is awake.
    let other = Authority::new();
    let stranger = other.vouch("stranger", "clientAuth");
    let unknown = other.vouch("unknown", "clientAuth");
    std::fs::copy(client.join("ca.pem"), unknown.join("ca.pem")).expect("there");
    for certificates in [stranger, unknown] {
        let porter = Nightporter::with(&stage.sample, &config(&certificates)).await;
        for app in [&app, &made] {
            let answer = porter.ask(&program(app)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(state(&porter, app).await, "awake");
        }
        assert!(!is_followed(&porter).await);
        assert_eq!(app.state().await, "exited");
        let ordered = order(&porter, &app, "sleep").await;
        assert_eq!(ordered.status, 503, "there is no engine to order it of: {ordered:?}");
    }
}
