//! Header templates.

use serde_json::json;

use crate::support::boxes::{self, SampleBox, Store, ZONE, id_of};
use crate::support::client::{Request, Response};
use crate::support::server::Nightporter;
use crate::support::sign::BOX_KEY;

/// The names of the headers an answer has for the app.
fn for_the_app(response: &Response) -> Vec<&str> {
    let names = response.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with("x-ptl-")).collect()
}

#[tokio::test]
async fn values_are_rendered_from_client_and_portal() {
    let id = id_of(&BOX_KEY);
    assert_eq!(id.len(), 103);
    let (short, key) = (&id[..6], &BOX_KEY.public_pem);
    let domain = format!("{short}.{ZONE}");
    // A template, then its value for an anonymous client and for the terminal.
    let cases = [
        ("{{ auth.client_type }}", "anonymous", "terminal"),
        ("{{ auth.client_id }}", "", "phone1"),
        ("{{ auth.client_id[:3] }}", "", "pho"),
        ("{{ portal.id }}", &id, &id),
        ("{{ portal.short_id }}", short, short),
        ("{{ portal.domain }}", &domain, &domain),
        (
            "{{ portal.id[:6] }}@example.com",
            &format!("{short}@example.com"),
            &format!("{short}@example.com"),
        ),
        ("admin@{{ portal.domain }}", &format!("admin@{domain}"), &format!("admin@{domain}")),
        ("a literal", "a literal", "a literal"),
        ("", "", ""),
        ("{{ nothing }}", "", ""),
        ("{{ auth.nothing }}", "", ""),
        ("one newline\n", "one newline", "one newline"),
        ("{{ '<&\"' }}", "<&\"", "<&\""),
        ("{{ portal.public_key_pem | length }}", &key.len().to_string(), &key.len().to_string()),
        ("{% if auth.client_id %}yes{% else %}no{% endif %}", "no", "yes"),
    ];
    let headers: serde_json::Map<_, _> = cases
        .iter()
        .enumerate()
        .map(|(n, (template, ..))| (format!("X-Ptl-Case-{n}"), json!(template)))
        .collect();
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "public", "headers": headers}})).await;
        let server = Nightporter::of(&sample).await;
        let anonymous = Request::auth("notes.x", "/");
        let as_anonymous = server.ask(&anonymous).await;
        let as_terminal = server.ask(&anonymous.cookie(boxes::token())).await;
        for (n, (template, anonymous, terminal)) in cases.iter().enumerate() {
            let name = format!("x-ptl-case-{n}");
            assert_eq!(as_anonymous.text(&name), Some(*anonymous), "{store:?} {template}");
            assert_eq!(as_terminal.text(&name), Some(*terminal), "{store:?} {template}");
        }
    }
}

#[tokio::test]
async fn no_headers_null_and_empty_are_the_same() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample
            .add_app(
                "notes",
                &json!({
                    "/none": {"access": "public"}, "/null": {"access": "public", "headers": null},
                    "/empty": {"access": "public", "headers": {}},
                    "/value": {"access": "public", "headers": {"X-Ptl-Empty": ""}},
                }),
            )
            .await;
        let server = Nightporter::of(&sample).await;
        for uri in ["/none", "/null", "/empty"] {
            let response = server.auth("notes.x", uri).await;
            assert_eq!(response.status, 200);
            assert_eq!(for_the_app(&response), Vec::<&str>::new(), "{uri}");
        }
        let response = server.auth("notes.x", "/value").await;
        assert_eq!(response.header("x-ptl-empty"), Some(&b""[..]), "present and empty");
    }
}

#[tokio::test]
async fn names_go_out_as_latin_1_and_cannot_break_a_header() {
    // A terminal's name, and the bytes its header has.
    let cases: [(&str, &[u8]); 6] = [
        ("Büro", b"B\xfcro"),
        ("a\nb", b"a b"),
        ("a\r\nX-Ptl-Admin: 1", b"a  X-Ptl-Admin: 1"),
        ("Handy 📱", b"Handy ?"),
        ("a\u{7f}b\u{0001}c", b"a b c"),
        ("Ω", b"?"),
    ];
    let headers = json!({"X-Ptl-Client-Name": "{{ auth.client_name }}"});
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "private", "headers": headers}})).await;
        for (n, (name, _)) in cases.iter().enumerate() {
            sample.add_terminal(&format!("t{n}"), name).await;
        }
        let server = Nightporter::of(&sample).await;
        for (n, (name, bytes)) in cases.iter().enumerate() {
            let token = crate::support::sign::token(
                crate::support::boxes::TERMINAL_SECRET,
                &format!("t{n}"),
            );
            let response = server.ask(&Request::auth("notes.x", "/").cookie(token)).await;
            assert_eq!(response.status, 200, "{name:?}");
            assert_eq!(response.header("x-ptl-client-name"), Some(*bytes), "{store:?} {name:?}");
            assert_eq!(for_the_app(&response), ["x-ptl-client-name"], "{name:?}");
        }
        let utf8 = Nightporter::with(&sample, "[gate]\nheader_encoding = \"utf8\"\n").await;
        let token = crate::support::sign::token(crate::support::boxes::TERMINAL_SECRET, "t3");
        let response = utf8.ask(&Request::auth("notes.x", "/").cookie(token)).await;
        assert_eq!(response.text("x-ptl-client-name"), Some("Handy 📱"));
    }
}

#[tokio::test]
async fn the_headers_are_those_of_the_raw_readings_rule() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let with = |rule: &str| json!({"access": "public", "headers": {"X-Ptl-Rule": rule}});
        sample.add_app("notes", &json!({"": with("all"), "/pub": with("pub")})).await;
        let server = Nightporter::of(&sample).await;
        for (uri, rule) in [("/", "all"), ("/pub", "pub"), ("/pub/../x", "pub"), ("/%70ub", "all")]
        {
            let response = server.auth("notes.x", uri).await;
            assert_eq!(response.text("x-ptl-rule"), Some(rule), "{uri}");
        }
    }
}

#[tokio::test]
async fn a_client_cannot_name_itself() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let headers = json!({"X-Ptl-Client-Id": "{{ auth.client_id }}"});
        sample.add_app("notes", &json!({"": {"access": "public", "headers": headers}})).await;
        let server = Nightporter::of(&sample).await;
        let asked = Request::auth("notes.x", "/")
            .header("X-Ptl-Client-Id", "admin")
            .header("X-Ptl-Client-Type", "terminal");
        let response = server.ask(&asked).await;
        assert_eq!(response.text("x-ptl-client-id"), Some(""));
        assert_eq!(for_the_app(&response), ["x-ptl-client-id"]);
    }
}
