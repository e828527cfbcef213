//! The shipped file beside the one that FreeShard's core writes, in the folder where the
//! core's Traefik reads both.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{ANONYMOUS, answers, assert_granted, passes};
use super::{House, STARTING, decides, is_ready, navigating, notes, try_ask};
use crate::support::client::{ask, poll};
use crate::support::programs::{Program, free_address, install, traefik};

/// What the core writes at each start, with one app.
fn written_by_the_core(folder: &Path, app: &str) {
    let text = format!(
        "http:
  middlewares:
    app-error:
      errors:
        query: /internal/app_error/{{status}}
        service: shard_core
        status:
        - 500-599
        - 400-499
    auth:
      forwardAuth:
        address: http://shard_core/internal/auth
        authResponseHeadersRegex: ^X-Ptl-.*
    auth-management:
      forwardAuth:
        address: http://shard_core/internal/authenticate_management
    auth-private:
      forwardAuth:
        address: http://shard_core/internal/authenticate_terminal
        authResponseHeaders:
        - X-Ptl-Client-Type
        - X-Ptl-Client-Id
        - X-Ptl-Client-Name
    strip:
      stripPrefix:
        prefixes:
        - /core/
  routers:
    notes_http:
      entryPoints:
      - http
      middlewares:
      - app-error
      - auth
      rule: Host(`notes.box.example`)
      service: notes_http
    shard_core_private:
      entryPoints:
      - http
      middlewares:
      - strip
      - auth-private
      rule: PathPrefix(`/core/protected`)
      service: notes_http
  services:
    notes_http:
      loadBalancer:
        servers:
        - url: http://{app}
    shard_core:
      loadBalancer:
        servers:
        - url: http://shard_core:80/
"
    );
    fs::write(folder.join("traefik_dyn.yml"), text).expect("writable");
}

#[tokio::test]
async fn a_file_beside_the_cores_puts_the_gate_in_its_place() {
    let house = House::open(false).await;
    let folder = house.path().join("traefik_dyn");
    fs::create_dir(&folder).expect("writable");
    written_by_the_core(&folder, &house.app.to_string());
    let public = free_address();
    let configuration = house.path().join("traefik.yml");
    let text = format!(
        "entryPoints:\n  http:\n    address: \"{public}\"\n\
         providers:\n  file:\n    directory: \"{}\"\n    watch: true\n",
        folder.display()
    );
    fs::write(&configuration, text).expect("writable");
    let mut command = Command::new(traefik());
    command.arg(format!("--configfile={}", configuration.display()));
    let _traefik = Program::start(&mut command, house.path());
    // The core's own gate does not answer here: that is how the two are told apart.
    let status = async || try_ask(public, &notes("/shared/")).await.map(|answer| answer.status);
    poll("the core is asked", STARTING, async || status().await == Some(500)).await;

    let gate = [("http://nightporter:8400", format!("http://{}", house.gate))];
    install("freeshard/00-nightporter.yml", &folder, &gate);
    is_ready(public).await;
    decides(public).await;
    answers::every_answer_of_an_app_is_the_apps(public).await;
    assert_granted(&passes(public, &notes("/shared/")).await, &ANONYMOUS);
    let core = |request| ask(public, request);
    assert_eq!(core(&notes("/core/protected/x")).await.status, 401);

    // A new app, and one that does not answer.
    written_by_the_core(&folder, &free_address().to_string());
    let is_page = async || {
        let answer = try_ask(public, &navigating(notes("/shared/"))).await;
        answer.is_some_and(|answer| answer.status == 502 && answer.body().contains("data-state"))
    };
    poll("the gate shows its page", STARTING, is_page).await;
}
