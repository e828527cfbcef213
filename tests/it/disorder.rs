//! Folders in disorder: what lies there is no file, or went away.

use std::process::Command;

use serde_json::json;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::Request;
use crate::support::server::Nightporter;

const HOST: &str = "notes.box.example";

#[tokio::test]
async fn a_pipe_in_place_of_a_file_keeps_nobody_waiting() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "public"}})).await;
        sample.add_app("pipe", &json!({"": {"access": "public"}})).await;
        let file = sample.folder().join("installed_apps/pipe/app_meta.json");
        std::fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let server = Nightporter::of(&sample).await;
        assert_eq!(server.auth("pipe.box.example", "/").await.status, 503);
        assert_eq!(server.auth(HOST, "/").await.status, 200);
        sample.edit_app("pipe", &json!({"": {"access": "public"}}));
        server.until(200, &Request::auth("pipe.box.example", "/")).await;
    }
}

#[tokio::test]
async fn apps_in_a_folder_that_went_away_are_not_granted_for_ever() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "public"}})).await;
        let times =
            "[cache]\nheartbeat = \"500ms\"\ndegraded_ttl = \"100ms\"\nmax_stale = \"2s\"\n";
        let server = Nightporter::with(&sample, times).await;
        let request = Request::auth(HOST, "/");
        server.until(200, &request).await;
        let (there, away) = ("installed_apps", "installed_apps.away");
        let [there, away] = [there, away].map(|name| sample.folder().join(name));
        std::fs::rename(&there, &away).unwrap();
        server.until(503, &request).await;
        std::fs::rename(&away, &there).unwrap();
        server.until(200, &request).await;
    }
}
