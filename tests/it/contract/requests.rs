//! What the core takes and what it refuses, both ways, row by row: descriptions, keys of
//! paths, tokens, signatures, header templates.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

use crate::support::boxes::{self, SampleBox, Store, TERMINAL, TERMINAL_SECRET, app_meta, id_of};
use crate::support::client::{Request, ask};
use crate::support::server::Nightporter;
use crate::support::sign::{self, Mac, PEER_KEY, jws, order, signature_headers, unix_now};

const HOST: &str = "notes.box.example";

/// An app that is read or is not: 200 or 503.
#[tokio::test]
async fn an_app_meta_is_read_as_the_core_reads_it() {
    let lifecycle = |key: &str, value: Value| ("lifecycle", json!({ key: value }));
    let port = |value: Value| {
        let entry =
            json!({"container_name": "a", "container_port": value, "entrypoint_port": "http"});
        ("entrypoints", json!([entry]))
    };
    let rows = [
        (200, port(json!("80"))),
        (200, port(json!(80.0))),
        (503, port(json!("http"))),
        (503, port(json!(80.5))),
        (503, port(Value::Null)),
        (200, lifecycle("always_on", json!("yes"))),
        (200, lifecycle("always_on", json!(1))),
        (200, lifecycle("always_on", json!("off"))),
        (503, lifecycle("always_on", json!("maybe"))),
        (503, lifecycle("always_on", json!(2))),
        (503, lifecycle("always_on", Value::Null)),
        (200, lifecycle("idle_for_stop", json!("60"))),
        (200, lifecycle("idle_for_stop", json!(60.0))),
        (200, lifecycle("idle_for_stop", Value::Null)),
        (503, lifecycle("idle_for_stop", json!("1m"))),
        (503, lifecycle("idle_for_stop", json!("4"))),
        (200, ("minimum_portal_size", json!("xl"))),
        (503, ("minimum_portal_size", json!("XL"))),
        (503, ("minimum_portal_size", Value::Null)),
        (503, ("v", json!(1.3))),
        (503, ("v", Value::Null)),
        (503, ("app_version", json!(1))),
        (503, ("icon", Value::Null)),
        (503, ("entrypoints", json!({}))),
        (200, ("wake", json!({"every": "day"}))),
        (200, ("wake", json!("sometimes"))),
        // Keys of others, whatever is in them and wherever they stand.
        (200, ("oidc", json!({"client": []}))),
        (200, ("oidc", json!({"redirect_uris": ["/auth/callback"], "public_client": false}))),
        (200, ("oidc", json!("on"))),
        (200, ("oidc", Value::Null)),
        (200, ("activity", json!({"days": 30}))),
        (200, ("activity", json!(true))),
        (200, ("cors_preflight", json!(["https://a.example"]))),
        (200, ("store_info", json!({"hint": ["one", "two"], "is_featured": null}))),
        (200, ("Paths", json!([]))),
        (200, lifecycle("oidc", json!({"keep": "session"}))),
        (200, lifecycle("idle_time_for_shutdown", json!("never"))),
        (200, ("paths", json!({"": {"access": "public", "oidc": {"scopes": ["openid"]}}}))),
        (
            200,
            (
                "entrypoints",
                json!([{"container_name": "a", "container_port": 80, "entrypoint_port": "http",
                        "oidc": true, "path": ["/"]}]),
            ),
        ),
        // They stand for none of the core's.
        (503, ("paths", json!({"": {"Access": "public"}}))),
        (503, ("paths", json!({"": {"oidc": "public"}}))),
        (503, ("paths", json!({"": {"access": "oidc"}}))),
        (503, ("entrypoints", json!([{"oidc": "http"}]))),
        (503, ("paths", json!({"": {"access": "Public"}}))),
        (503, ("paths", json!({"": {"access": "public", "headers": {"X-Ptl-A": 1}}}))),
    ];
    let required = ["v", "app_version", "icon", "entrypoints", "name", "pretty_name", "paths"];
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let mut asked = Vec::new();
        let public = json!({"": {"access": "public"}});
        for (at, (status, (key, value))) in rows.iter().enumerate() {
            let name = format!("row{at}");
            let mut meta = app_meta(&name, &public);
            meta[*key] = value.clone();
            sample.add_app_bytes(&name, meta.to_string().as_bytes()).await;
            asked.push((name, *status, format!("{key}: {value}")));
        }
        for key in required {
            let name = format!("without-{}", key.replace('_', "-"));
            let mut meta = app_meta(&name, &public);
            meta.as_object_mut().expect("an object").remove(key);
            sample.add_app_bytes(&name, meta.to_string().as_bytes()).await;
            asked.push((name, 503, format!("without {key}")));
        }
        let server = Nightporter::of(&sample).await;
        for (name, status, row) in asked {
            let response = server.auth(&format!("{name}.x"), "/").await;
            assert_eq!(response.status, status, "{store:?} {row}");
        }
    }
}

/// A key governs what is sent in its own spelling, and nothing that is read otherwise.
#[tokio::test]
async fn a_key_of_paths_governs_the_senders_spelling() {
    let rows = [
        ("/caf%C3%A9", 200),
        ("/caf%C3%A9/menu?day=1", 200),
        ("/caf%c3%a9", 401),
        ("/café", 401),
        ("/caf%25C3%25A9", 401),
        ("/caf%C3%A9/../x", 401),
        ("/caf%C3%A9%2f..%2fx", 401),
        ("/two%20words", 200),
        ("/two words", 400),
        ("/a%2Fb", 401),
    ];
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let paths = json!({
            "": {"access": "private"}, "/caf%C3%A9": {"access": "public"},
            "/two%20words": {"access": "public"}, "/a%2Fb": {"access": "public"},
        });
        sample.add_app("notes", &paths).await;
        let server = Nightporter::of(&sample).await;
        for (uri, status) in rows {
            assert_eq!(server.auth(HOST, uri).await.status, status, "{store:?} {uri}");
        }
    }
}

/// An app whose rules all say the same is never ambiguous, however its path is written.
#[tokio::test]
async fn an_app_with_one_rule_is_never_ambiguous() {
    let spaces = format!("/{}", "%20".repeat(3400));
    let endless = format!("/{}", "a%252f..%2f\\..%5c;x%3by/%252e%252e;%253b//".repeat(150));
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("one", &json!({"": {"access": "public"}})).await;
        let two = json!({"": {"access": "public"}, "/admin": {"access": "private"}});
        sample.add_app("two", &two).await;
        let server = Nightporter::of(&sample).await;
        for (host, uri, status) in [
            ("one.x", &spaces, 200),
            ("one.x", &endless, 200),
            ("two.x", &spaces, 200),
            ("two.x", &endless, 400),
            ("nobody.x", &endless, 404),
        ] {
            assert_eq!(server.auth(host, uri).await.status, status, "{store:?} {host}");
        }
    }
}

#[tokio::test]
async fn a_token_is_judged_as_the_core_judges_it() {
    let key = TERMINAL_SECRET.as_bytes();
    let header = |more: Value| {
        let mut header = json!({"alg": "HS256", "typ": "JWT"});
        header.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("one"));
        header
    };
    let claims = |more: Value| {
        let mut claims = json!({"sub": TERMINAL, "iat": unix_now() - 5});
        claims.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("one"));
        claims
    };
    let with = |head: Value, more: Value| jws(Mac::Sha256, key, &header(head), &claims(more));
    let none = || json!({});
    let not_utf8 = {
        let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let head = part(header(none()).to_string().as_bytes());
        let body = part(&[br#"{"sub":""#, TERMINAL.as_bytes(), b"\",\"note\":\"\xff\"}"].concat());
        let tag = aws_lc_rs::hmac::sign(
            &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key),
            format!("{head}.{body}").as_bytes(),
        );
        format!("{head}.{body}.{}", part(tag.as_ref()))
    };
    let rows = [
        ("plain", 200, with(none(), none())),
        ("jti text", 200, with(none(), json!({"jti": "x"}))),
        ("jti number", 401, with(none(), json!({"jti": 7}))),
        ("jti null", 401, with(none(), json!({"jti": null}))),
        ("kid text", 200, with(json!({"kid": "x"}), none())),
        ("kid number", 401, with(json!({"kid": 7}), none())),
        ("kid null", 401, with(json!({"kid": null}), none())),
        ("aud", 401, with(none(), json!({"aud": ["notes"]}))),
        ("future iat", 401, with(none(), json!({"iat": unix_now() + 600}))),
        ("past exp", 401, with(none(), json!({"exp": unix_now() - 1}))),
        ("not UTF-8", 401, not_utf8),
    ];
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "private"}})).await;
        let server = Nightporter::of(&sample).await;
        for (row, status, token) in &rows {
            let asked = Request::auth(HOST, "/").cookie(token);
            assert_eq!(server.ask(&asked).await.status, *status, "{store:?} {row}");
        }
        let good = boxes::token();
        for (row, status, cookies) in [
            (
                "the last of two headers",
                200,
                vec!["authorization=x".to_owned(), format!("authorization={good}")],
            ),
            (
                "the first of two headers",
                401,
                vec![format!("authorization={good}"), "authorization=x".to_owned()],
            ),
            ("quoted", 200, vec![format!("authorization=\"Bearer {good}\"")]),
            ("two prefixes", 401, vec![format!("authorization=Bearer Bearer {good}")]),
        ] {
            let cookies = cookies.into_iter().map(|cookie| ("Cookie", cookie));
            let asked = Request::auth(HOST, "/").headers(cookies);
            assert_eq!(server.ask(&asked).await.status, status, "{store:?} {row}");
        }
    }
}

/// Signed by the package that peers sign with: the URL they were given, what they cover,
/// and the host that reaches the proxy.
#[tokio::test]
async fn a_signature_is_judged_as_the_core_judges_it() {
    let peer = &id_of(&PEER_KEY)[..6];
    let all = |more: &str| json!(["@method", "@authority", "@target-uri", more]);
    let rows = [
        ("plain", "https://notes.box.example/p?a=1", Value::Null, HOST, 200),
        ("port signed, not sent", "https://notes.box.example:443/p", Value::Null, HOST, 200),
        (
            "port signed and sent",
            "https://notes.box.example:443/p",
            Value::Null,
            "notes.box.example:443",
            200,
        ),
        ("upper case", "https://Notes.Box.Example/p", Value::Null, "Notes.Box.Example", 200),
        ("other port", "https://notes.box.example:8443/p", Value::Null, HOST, 401),
        (
            "other port sent",
            "https://notes.box.example:8443/p",
            Value::Null,
            "notes.box.example:8443",
            200,
        ),
        ("@scheme", "https://notes.box.example/p?a=1", all("@scheme"), HOST, 200),
        ("@path", "https://notes.box.example/p/~b?a=1", all("@path"), HOST, 200),
        ("@query", "https://notes.box.example/p?a=1&b=%7E", all("@query"), HOST, 200),
        ("@query, none", "https://notes.box.example/p", all("@query"), HOST, 200),
        ("@request-target", "https://notes.box.example/p?a=1", all("@request-target"), HOST, 200),
        ("another host", "https://notes.box.example/p", Value::Null, "notes.other.example", 401),
    ];
    let orders: Vec<Value> = rows
        .iter()
        .map(|(_, url, components, ..)| {
            let mut order = order(&PEER_KEY, peer, url);
            order["components"] = components.clone();
            order
        })
        .collect();
    let made = sign::sign(&orders);
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "peer"}})).await;
        let server = Nightporter::of(&sample).await;
        for ((row, url, _, host, status), headers) in rows.iter().zip(&made) {
            let uri = url.splitn(4, '/').last().map(|path| format!("/{path}")).expect("a path");
            let asked = Request::auth(*host, uri).headers(signature_headers(headers));
            assert_eq!(server.ask(&asked).await.status, *status, "{store:?} {row}");
        }
        for (parameter, status) in [(";tag=\"a\"", 401), (";other=1", 401), (";nonce=7", 401)] {
            let mut headers = made[0].clone();
            headers.entry("Signature-Input".into()).and_modify(|input| input.push_str(parameter));
            let asked = Request::auth(HOST, "/p?a=1").headers(signature_headers(&headers));
            assert_eq!(server.ask(&asked).await.status, status, "{store:?} {parameter}");
        }
    }
}

/// A header whose template or name is refused takes its own paths along and no others.
#[tokio::test]
async fn a_refused_header_costs_its_own_paths_alone() {
    let rule =
        |access: &str, template: &str| json!({"access": access, "headers": {"X-Ptl-A": template}});
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let paths = json!({
            "": rule("public", "{{ auth.client_type|title }}"),
            "/items": rule("public", "{{ auth.items }}"),
            "/hop": {"access": "public", "headers": {"Transfer-Encoding": "chunked"}},
            "/own": rule("private", "{{ auth.client_id"),
        });
        sample.add_app("notes", &paths).await;
        let server = Nightporter::of(&sample).await;
        let response = server.auth(HOST, "/").await;
        assert_eq!((response.status, response.text("x-ptl-a")), (200, Some("Anonymous")));
        assert_eq!(server.auth(HOST, "/items").await.status, 503, "{store:?}");
        assert_eq!(server.auth(HOST, "/hop").await.status, 503, "{store:?}");
        assert_eq!(server.auth(HOST, "/own").await.status, 401, "a stranger learns nothing");
        let own = Request::auth(HOST, "/own").cookie(boxes::token());
        assert_eq!(server.ask(&own).await.status, 503, "{store:?}");
        let listed = ask(server.ops, &Request::new("GET", "/v1/apps")).await;
        let listed: Value = serde_json::from_str(listed.body()).expect("JSON");
        let problems = listed[0]["problems"].to_string();
        for key in ["/items", "/hop", "/own"] {
            assert!(problems.contains(&format!("paths.\\\"{key}\\\"")), "{problems}");
        }
    }
}
