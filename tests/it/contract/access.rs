//! Endpoints, apps, path rules and access.

use serde_json::json;

use crate::support::boxes::{self, MANAGEMENT_SECRET, SampleBox, Store, app_meta};
use crate::support::client::{Request, Response};
use crate::support::server::Nightporter;

/// A status and the contract's body for it.
fn is(response: &Response, status: u16, case: &str) {
    assert_eq!(response.status, status, "{case}: {response:?}");
    let body = match status {
        200 => "null",
        401 => r#"{"detail":"Unauthorized"}"#,
        404 => r#"{"detail":"Not Found"}"#,
        _ => return,
    };
    assert_eq!(response.body(), body, "{case}");
    assert_eq!(response.text("content-type"), Some("application/json"), "{case}");
}

async fn notes(store: Store) -> (SampleBox, Nightporter) {
    let sample = SampleBox::new(store).await;
    sample
        .add_app(
            "notes",
            &json!({
                "": {"access": "private"}, "/pub": {"access": "public"},
                "/pub/inner": {"access": "private"}, "/peer": {"access": "peer"},
            }),
        )
        .await;
    let server = Nightporter::of(&sample).await;
    (sample, server)
}

#[tokio::test]
async fn the_endpoints_answer_as_the_contract_says() {
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
            let public = Request::new(method, "/internal/auth")
                .header("X-Forwarded-Host", "notes.x")
                .header("X-Forwarded-Uri", "/pub");
            is(&server.ask(&public).await, 200, method);
        }
        is(&server.auth("notes.x", "/").await, 401, "private");
        is(&server.auth("other.x", "/").await, 404, "unknown app");

        let terminal = Request::new("GET", "/internal/authenticate_terminal");
        is(&server.ask(&terminal).await, 401, "no terminal");
        let response = server.ask(&terminal.cookie(boxes::token())).await;
        is(&response, 200, "terminal");
        assert_eq!(response.text("x-ptl-client-type"), Some("terminal"));
        assert_eq!(response.text("x-ptl-client-id"), Some("phone1"));
        assert_eq!(response.header("x-ptl-client-name"), Some(&b"B\xfcro-Handy"[..]));

        let page = Request::new("GET", "/internal/app_error/502")
            .without("Host")
            .header("Host", "notes.box.example");
        let response = server.ask(&page).await;
        assert_eq!(response.status, 502);
        assert!(response.text("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        assert!(response.body().contains("notes"), "the page names the app of Host");
        is(&server.ask(&Request::new("GET", "/internal/nothing")).await, 404, "no endpoint");
    }
}

#[tokio::test]
async fn management_is_a_raw_secret_of_eight_characters_or_more() {
    for store in Store::BOTH {
        let (sample, server) = notes(store).await;
        let ask = Request::new("GET", "/internal/authenticate_management");
        is(&server.ask(&ask).await, 401, "no header");
        let with = |secret: &str| ask.clone().header("Authorization", secret);
        is(&server.ask(&with(MANAGEMENT_SECRET)).await, 200, "the secret");
        for wrong in [
            &format!("Bearer {MANAGEMENT_SECRET}"),
            &MANAGEMENT_SECRET.to_uppercase(),
            &MANAGEMENT_SECRET[1..],
            &format!("{MANAGEMENT_SECRET}x"),
            "",
            "null",
        ] {
            is(&server.ask(&with(wrong)).await, 401, wrong);
        }
        sample.set_management_secret("1234567").await;
        server.until(401, &with(MANAGEMENT_SECRET)).await;
        is(&server.ask(&with("1234567")).await, 401, "too short to be a secret");
        sample.set_management_secret("12345678").await;
        server.until(200, &with("12345678")).await;
    }
}

#[tokio::test]
async fn the_first_label_of_the_host_is_the_app() {
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        for (host, status) in [
            ("notes.box.example", 200),
            ("notes", 200),
            ("notes.", 200),
            ("NOTES.Box.Example", 200),
            ("notes.box.example:443", 200),
            ("notes.box.example.", 200),
            ("notes.box.example.:8443", 200),
            ("notes2.box.example", 404),
            ("note.box.example", 404),
            ("box.example", 404),
            ("www.notes.box.example", 404),
            ("127.0.0.1", 404),
            ("[::1]:443", 404),
        ] {
            is(&server.auth(host, "/pub").await, status, host);
        }
    }
}

#[tokio::test]
async fn with_a_domain_only_its_hosts_name_apps() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "public"}})).await;
        let server = Nightporter::with(&sample, "[gate]\ndomain = \"box.example\"\n").await;
        for (host, status) in [
            ("notes.box.example", 200),
            ("notes.BOX.example.:443", 200),
            ("notes", 404),
            ("notes.evil.example", 404),
            ("notes.box.example.evil.example", 404),
            ("notes.evil.box.example", 404),
            ("box.example", 404),
        ] {
            is(&server.auth(host, "/").await, status, host);
        }
    }
}

#[tokio::test]
async fn the_longest_prefix_governs_without_segment_boundaries() {
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        for (uri, anonymous, terminal) in [
            ("/", 401, 200),
            ("/pu", 401, 200),
            ("/pub", 200, 200),
            ("/public", 200, 200),
            ("/pub/x?y=1", 200, 200),
            ("/pub?next=/private", 200, 200),
            ("/pub/inner", 401, 200),
            ("/pub/innermost", 401, 200),
            ("/peer", 401, 401),
            ("/peerless", 401, 401),
            ("/x/pub", 401, 200),
            ("/PUB", 401, 200),
        ] {
            is(&server.auth("notes.x", uri).await, anonymous, uri);
            let asked = Request::auth("notes.x", uri).cookie(boxes::token());
            is(&server.ask(&asked).await, terminal, uri);
        }
    }
}

#[tokio::test]
async fn segment_matching_is_a_setting() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let paths = json!({"": {"access": "private"}, "/pub": {"access": "public"}});
        sample.add_app("notes", &paths).await;
        let server = Nightporter::with(&sample, "[gate]\npath_matching = \"segment\"\n").await;
        for (uri, status) in [("/pub", 200), ("/pub/x", 200), ("/pub?x", 200), ("/public", 401)] {
            is(&server.auth("notes.x", uri).await, status, uri);
        }
    }
}

#[tokio::test]
async fn the_strictest_reading_of_a_path_wins() {
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        for uri in [
            "/pub/../private",
            "/pub/..%2fprivate",
            "/pub/%2e%2e/private",
            "/pub/%2E%2E%2Fprivate",
            "/pub/%252e%252e%252fprivate",
            "/pub/..;/private",
            "/pub/..\\private",
            "/pub//../../private",
            "/pub/./inner",
            "/pub//inner",
            "/pub/%69nner",
            "/pub/%2finner",
            "//private",
            "/%2fprivate",
        ] {
            is(&server.auth("notes.x", uri).await, 401, uri);
            let asked = Request::auth("notes.x", uri).cookie(boxes::token());
            is(&server.ask(&asked).await, 200, uri);
        }
        // The core reads `/pub/../peer` as public; a terminal must not get to a peer's path either.
        let asked = Request::auth("notes.x", "/pub/../peer").cookie(boxes::token());
        is(&server.ask(&asked).await, 401, "peer behind public");
    }
}

#[tokio::test]
async fn what_the_core_answers_with_500_has_a_status_of_its_own() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("partly", &json!({"/pub": {"access": "public"}})).await;
        sample.add_app_bytes("broken", b"{ not JSON").await;
        let bad_template = json!({"": {"access": "public", "headers": {"X-Ptl-A": "{{ auth."}}});
        sample.add_app("badtemplate", &bad_template).await;
        sample.add_app("fine", &json!({"": {"access": "public"}})).await;
        let server = Nightporter::of(&sample).await;
        let whole = Request::auth("fine.x", "/");
        is(&server.ask(&whole).await, 200, "whole");
        is(&server.ask(&whole.clone().without("X-Forwarded-Host")).await, 400, "no host");
        is(&server.ask(&whole.clone().without("X-Forwarded-Uri")).await, 400, "no URI");
        let unsigned = whole.clone().without("X-Forwarded-Method").without("X-Forwarded-Proto");
        is(&server.ask(&unsigned).await, 200, "unsigned requests need neither");
        let read = ["Host", "Uri", "Method", "Proto"].map(|name| (name, 400));
        for (name, status) in read.into_iter().chain(["For", "Port"].map(|name| (name, 200))) {
            let name = format!("X-Forwarded-{name}");
            let twice = whole.clone().without(&name).header(&name, "/").header(&name, "/");
            is(&server.ask(&twice).await, status, &name);
        }
        is(&server.auth("partly.x", "/pub").await, 200, "a rule");
        is(&server.auth("partly.x", "/other").await, 403, "no rule");
        is(&server.auth("broken.x", "/").await, 503, "a broken app");
        is(&server.auth("badtemplate.x", "/").await, 503, "a broken template");
        is(&server.ask(&whole).await, 200, "the others go on");
        let mended = app_meta("broken", &json!({"": {"access": "public"}}));
        sample.write_app_meta("broken", mended.to_string().as_bytes());
        server.until(200, &Request::auth("broken.x", "/")).await;
    }
}

#[tokio::test]
async fn every_version_of_app_meta_is_read() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        for (name, version) in [("a", "1.0"), ("b", "1.1"), ("c", "1.2"), ("d", "1.3")] {
            let mut meta = app_meta(name, &json!({"": {"access": "public"}}));
            meta["v"] = version.into();
            if version == "1.0" {
                meta.as_object_mut().expect("an object").remove("pretty_name");
            }
            if version != "1.3" {
                meta["lifecycle"] = json!({"always_on": false, "idle_time_for_shutdown": 60});
            }
            sample.add_app_bytes(name, meta.to_string().as_bytes()).await;
        }
        let mut unknown = app_meta("e", &json!({"": {"access": "public"}}));
        unknown["v"] = "2.0".into();
        sample.add_app_bytes("e", unknown.to_string().as_bytes()).await;
        let server = Nightporter::of(&sample).await;
        for name in ["a", "b", "c", "d"] {
            is(&server.auth(&format!("{name}.x"), "/").await, 200, name);
        }
        is(&server.auth("e.x", "/").await, 503, "an unknown version");
    }
}
