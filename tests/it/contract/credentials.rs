//! Terminal tokens and peer signatures.

use serde_json::{Value, json};

use crate::support::boxes::{self, SampleBox, Store, TERMINAL, TERMINAL_SECRET, id_of};
use crate::support::client::Request;
use crate::support::server::Nightporter;
use crate::support::sign::{
    self, Mac, OTHER_KEY, PEER_KEY, RsaKey, Signed, jws, order, signature_headers, token_of,
    unix_now,
};

const HOST: &str = "notes.box.example";

async fn notes(store: Store) -> (SampleBox, Nightporter) {
    let sample = SampleBox::new(store).await;
    let who = json!({"X-Ptl-Client-Type": "{{ auth.client_type }}",
        "X-Ptl-Client-Id": "{{ auth.client_id }}", "X-Ptl-Client-Name": "{{ auth.client_name }}"});
    let rule = |access: &str| json!({"access": access, "headers": who});
    let paths = json!({"": rule("private"), "/peer": rule("peer"), "/pub": rule("public")});
    sample.add_app("notes", &paths).await;
    let server = Nightporter::of(&sample).await;
    (sample, server)
}

/// Who the gate takes the sender of a request for a public path for.
async fn who(server: &Nightporter, request: Request) -> String {
    let response = server.ask(&request).await;
    assert_eq!(response.status, 200, "{request:?}");
    response.text("x-ptl-client-type").expect("a header").to_owned()
}

#[tokio::test]
async fn tokens_are_judged_by_every_rule() {
    let now = unix_now();
    let good = json!({"sub": TERMINAL, "iat": now - 5});
    let hs256 = json!({"alg": "HS256", "typ": "JWT"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token_of(TERMINAL_SECRET, &claims)
    };
    let key = TERMINAL_SECRET.as_bytes();
    let without_iat = token_of(TERMINAL_SECRET, &json!({"sub": TERMINAL}));
    let cases = [
        ("honest", true, token_of(TERMINAL_SECRET, &good)),
        ("no iat", true, without_iat),
        ("no typ", true, jws(Mac::Sha256, key, &json!({"alg": "HS256"}), &good)),
        ("exp ahead", true, with("exp", json!(now + 3600))),
        ("exp past", false, with("exp", json!(now - 1))),
        ("iat ahead", false, with("iat", json!(now + 3600))),
        ("aud", false, with("aud", json!("notes"))),
        ("aud list", false, with("aud", json!(["notes"]))),
        ("no sub", false, token_of(TERMINAL_SECRET, &json!({"iat": now}))),
        ("sub null", false, with("sub", Value::Null)),
        ("sub number", false, with("sub", json!(1))),
        ("no such terminal", false, with("sub", json!("stranger"))),
        ("sub in other case", false, with("sub", json!(TERMINAL.to_uppercase()))),
        ("other key", false, token_of("another-secret-of-the-same-length-abcdefg", &good)),
        ("HS384", false, jws(Mac::Sha384, key, &json!({"alg": "HS384", "typ": "JWT"}), &good)),
        ("HS512", false, jws(Mac::Sha512, key, &json!({"alg": "HS512", "typ": "JWT"}), &good)),
        ("said to be HS384", false, jws(Mac::Sha256, key, &json!({"alg": "HS384"}), &good)),
        ("none", false, jws(Mac::Sha256, key, &json!({"alg": "none"}), &good)),
        ("header of another", false, jws(Mac::Sha256, key, &json!({"alg": "RS256"}), &good)),
        ("base64 of the key", false, jws(Mac::Sha256, b"cmVhbGx5", &hs256, &good)),
    ];
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        for (case, valid, token) in &cases {
            let asked = Request::auth(HOST, "/").cookie(token);
            let expected = if *valid { 200 } else { 401 };
            assert_eq!(server.ask(&asked).await.status, expected, "{store:?} {case}");
            let endpoint = Request::new("GET", "/internal/authenticate_terminal").cookie(token);
            assert_eq!(server.ask(&endpoint).await.status, expected, "{store:?} {case}");
        }
    }
}

#[tokio::test]
async fn the_cookie_is_found_as_the_core_finds_it() {
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        let token = boxes::token();
        let bad = "x.y.z";
        for (case, status, cookies) in [
            ("plain", 200, vec![format!("authorization={token}")]),
            ("Bearer", 200, vec![format!("authorization=Bearer {token}")]),
            ("two Bearers", 401, vec![format!("authorization=Bearer Bearer {token}")]),
            ("bearer", 401, vec![format!("authorization=bearer {token}")]),
            ("quoted", 200, vec![format!("authorization=\"{token}\"")]),
            ("quoted Bearer", 200, vec![format!("authorization=\"Bearer {token}\"")]),
            ("among others", 200, vec![format!("a=1; authorization={token}; b=2")]),
            ("the last wins", 200, vec![format!("authorization={bad}; authorization={token}")]),
            ("the last loses", 401, vec![format!("authorization={token}; authorization={bad}")]),
            (
                "across headers",
                200,
                vec![format!("authorization={bad}"), format!("authorization={token}")],
            ),
            (
                "across headers, last bad",
                401,
                vec![format!("authorization={token}"), format!("authorization={bad}")],
            ),
            ("other case", 401, vec![format!("Authorization={token}")]),
            ("other name", 401, vec![format!("xauthorization={token}")]),
            ("empty", 401, vec!["authorization=".to_owned()]),
        ] {
            let cookies = cookies.into_iter().map(|cookie| ("Cookie", cookie));
            let asked = Request::auth(HOST, "/").headers(cookies);
            assert_eq!(server.ask(&asked).await.status, status, "{store:?} {case}");
        }
        let header = Request::auth(HOST, "/").header("Authorization", format!("Bearer {token}"));
        assert_eq!(server.ask(&header).await.status, 401, "an Authorization header is no token");
    }
}

#[tokio::test]
async fn deleting_the_row_revokes_at_once_and_a_new_secret_all() {
    for store in Store::BOTH {
        let (sample, server) = notes(store).await;
        sample.add_terminal("second", "Second").await;
        let first = Request::auth(HOST, "/").cookie(boxes::token());
        let second = Request::auth(HOST, "/").cookie(sign::token(TERMINAL_SECRET, "second"));
        server.until(200, &second).await;
        sample.remove_terminal("second").await;
        server.until(401, &second).await;
        assert_eq!(server.ask(&first).await.status, 200, "the other stays");
        sample.set_terminal_secret("a-new-secret-for-every-terminal-of-the-box").await;
        server.until(401, &first).await;
    }
}

/// A request for a URL with the headers of its signature.
fn signed(uri: &str, signed: &Signed) -> Request {
    Request::auth(HOST, uri).headers(signature_headers(signed))
}

fn url(uri: &str) -> String {
    format!("https://{HOST}{uri}")
}

/// What the sample peer calls itself.
fn keyid(key: &RsaKey) -> String {
    id_of(key)[..6].to_owned()
}

#[tokio::test]
async fn a_signature_made_by_the_real_package_verifies() {
    let peer = keyid(&PEER_KEY);
    let plain = |uri: &str| order(&PEER_KEY, &peer, &url(uri));
    let with = |uri: &str, name: &str, value: Value| {
        let mut order = plain(uri);
        order[name] = value;
        order
    };
    let cases = [
        ("/peer/foo?a=1", plain("/peer/foo?a=1")),
        ("/peer", plain("/peer")),
        ("/peer/a%20b", plain("/peer/a%20b")),
        ("/peer/label", with("/peer/label", "label", json!("other"))),
        ("/peer/no-alg", with("/peer/no-alg", "include_alg", json!(false))),
        ("/peer/expires", with("/peer/expires", "expires_in", json!(600))),
        ("/peer/nonce", with("/peer/nonce", "nonce", json!(true))),
        ("/peer/day", with("/peer/day", "created_ago", json!(86_000))),
        ("/peer/body", with("/peer/body", "body", json!("hello"))),
        (
            "/peer/order",
            with("/peer/order", "components", json!(["@target-uri", "@authority", "@method"])),
        ),
    ];
    let orders: Vec<Value> = cases.iter().map(|(_, order)| order.clone()).collect();
    let made = sign::sign(&orders);
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        for ((uri, _), headers) in cases.iter().zip(&made) {
            let response = server.ask(&signed(uri, headers)).await;
            assert_eq!(response.status, 200, "{store:?} {uri} {headers:?}");
            assert_eq!(response.text("x-ptl-client-type"), Some("peer"), "{uri}");
            assert_eq!(response.text("x-ptl-client-id"), Some(&*id_of(&PEER_KEY)), "{uri}");
            assert_eq!(response.text("x-ptl-client-name"), Some("Friendly Box"), "{uri}");
        }
        // A terminal goes before a peer, and a peer gets to no private path.
        let both = signed("/peer", &made[1]).cookie(boxes::token());
        assert_eq!(server.ask(&both).await.status, 401);
        let private = sign::sign(&[order(&PEER_KEY, &peer, &url("/private"))]);
        assert_eq!(server.ask(&signed("/private", &private[0])).await.status, 401);
    }
}

#[tokio::test]
async fn the_host_and_the_uri_of_a_signature_are_normalised() {
    let peer = keyid(&PEER_KEY);
    let made = sign::sign(&[
        order(&PEER_KEY, &peer, "https://notes.box.example/pub/~a/x?q=%7Ea"),
        order(&PEER_KEY, &peer, "https://notes.box.example:8443/pub/p"),
    ]);
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        let as_sent = |host: &str, uri: &str, made: &Signed| {
            Request::auth(host, uri).headers(signature_headers(made))
        };
        let case = as_sent("NOTES.Box.example", "/pub/~a/x?q=%7Ea", &made[0]);
        assert_eq!(who(&server, case).await, "peer", "the host's case does not matter");
        let port = as_sent("notes.box.example:8443", "/pub/p", &made[1]);
        assert_eq!(who(&server, port).await, "peer", "the port is kept");
        let no_port = as_sent("notes.box.example", "/pub/p", &made[1]);
        assert_eq!(who(&server, no_port).await, "anonymous", "the port is signed");
    }
}

#[tokio::test]
async fn every_tampering_is_refused() {
    let peer = keyid(&PEER_KEY);
    let plain = || order(&PEER_KEY, &peer, &url("/pub/foo?a=1"));
    let with = |name: &str, value: Value| {
        let mut order = plain();
        order[name] = value;
        order
    };
    let unknown_key = order(&OTHER_KEY, &keyid(&OTHER_KEY), &url("/pub/foo?a=1"));
    let borrowed_name = order(&OTHER_KEY, &peer, &url("/pub/foo?a=1"));
    let whole_id = order(&PEER_KEY, &id_of(&PEER_KEY), &url("/pub/foo?a=1"));
    let five = order(&PEER_KEY, &peer[..5], &url("/pub/foo?a=1"));
    let made = sign::sign(&[
        plain(),
        unknown_key,
        borrowed_name,
        whole_id,
        five,
        with("created_ago", json!(86_500)),
        with("created_ago", json!(-60)),
        with("expires_in", json!(-60)),
        with("components", json!(["@method", "@authority"])),
        with("components", json!(["@method", "@target-uri"])),
        with("components", json!(["@authority", "@target-uri"])),
        with("algorithm", json!("RSA_V1_5_SHA256")),
    ]);
    let whole = |made: &Signed| signed("/pub/foo?a=1", made);
    let good = &made[0];
    let input = &good["Signature-Input"];
    let signature = &good["Signature"];
    let changed = |name: &str, value: String| {
        let mut headers = good.clone();
        headers.insert(name.into(), value);
        whole(&headers)
    };
    let replace = |name: &str, value: &str| whole(good).without(name).header(name, value);
    let flipped = {
        let middle = signature.len() / 2;
        let other = if signature.as_bytes()[middle] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &signature[..middle], &signature[middle + 1..])
    };
    let mut cases = vec![
        ("method", replace("X-Forwarded-Method", "POST")),
        ("host", replace("X-Forwarded-Host", "notes.evil.example")),
        ("path", replace("X-Forwarded-Uri", "/pub/bar?a=1")),
        ("query", replace("X-Forwarded-Uri", "/pub/foo?a=2")),
        ("no query", replace("X-Forwarded-Uri", "/pub/foo")),
        ("scheme", replace("X-Forwarded-Proto", "http")),
        ("date", changed("Date", "Sat, 01 Jan 2000 00:00:00 GMT".into())),
        ("no date", whole(good).without("Date")),
        ("no method", whole(good).without("X-Forwarded-Method")),
        ("no scheme", whole(good).without("X-Forwarded-Proto")),
        ("no signature", whole(good).without("Signature")),
        ("no input", whole(good).without("Signature-Input")),
        ("flipped bit", changed("Signature", flipped)),
        ("other keyid", changed("Signature-Input", input.replace(&peer, "zzzzzz"))),
        (
            "other alg",
            changed("Signature-Input", input.replace("rsa-pss-sha512", "rsa-v1_5-sha256")),
        ),
        ("unknown parameter", changed("Signature-Input", format!("{input};admin=?1"))),
        ("component taken out", changed("Signature-Input", input.replace(r#" "date""#, ""))),
        ("other label", changed("Signature", signature.replace("pyhms=", "other="))),
        ("two signatures", {
            let second = input.replacen("pyhms=", "second=", 1);
            let both = format!("{input}, {second}");
            let signatures = format!("{signature}, {}", signature.replacen("pyhms=", "second=", 1));
            whole(good)
                .without("Signature-Input")
                .without("Signature")
                .header("Signature-Input", both)
                .header("Signature", signatures)
        }),
        ("empty signature", changed("Signature", "pyhms=::".into())),
        ("no bytes", changed("Signature", "pyhms=\"x\"".into())),
        ("garbage", changed("Signature", "!!".into())),
        ("garbage input", changed("Signature-Input", "pyhms=(".into())),
    ];
    let names = [
        "unknown key",
        "borrowed name",
        "whole id",
        "five characters",
        "too old",
        "ahead",
        "expired",
        "no target",
        "no authority",
        "no method covered",
        "PKCS#1 v1.5",
    ];
    cases.extend(names.into_iter().zip(made[1..].iter().map(whole)));
    for store in Store::BOTH {
        let (_sample, server) = notes(store).await;
        assert_eq!(who(&server, whole(good)).await, "peer", "{store:?}");
        for (case, request) in &cases {
            assert_eq!(who(&server, request.clone()).await, "anonymous", "{store:?} {case}");
        }
        assert_eq!(who(&server, whole(good)).await, "peer", "{store:?}, and again");
    }
}

#[tokio::test]
async fn a_replay_is_refused_where_a_nonce_shows_it_or_a_setting_asks() {
    let peer = keyid(&PEER_KEY);
    let mut nonce = order(&PEER_KEY, &peer, &url("/pub/n"));
    nonce["nonce"] = json!(true);
    let mut other = nonce.clone();
    other["expires_in"] = json!(60);
    let made = sign::sign(&[order(&PEER_KEY, &peer, &url("/pub/n")), nonce, other]);
    for store in Store::BOTH {
        let (sample, server) = notes(store).await;
        for expected in ["peer", "peer"] {
            assert_eq!(who(&server, signed("/pub/n", &made[0])).await, expected, "no nonce");
        }
        for headers in &made[1..] {
            for expected in ["peer", "anonymous", "anonymous"] {
                assert_eq!(who(&server, signed("/pub/n", headers)).await, expected, "{store:?}");
            }
        }
        let strict = Nightporter::with(&sample, "[gate]\nrefuse_replays = true\n").await;
        for expected in ["peer", "anonymous"] {
            assert_eq!(who(&strict, signed("/pub/n", &made[0])).await, expected, "{store:?}");
        }
    }
}

#[tokio::test]
async fn a_removed_peer_is_a_stranger() {
    let made = sign::sign(&[order(&PEER_KEY, &keyid(&PEER_KEY), &url("/peer"))]);
    for store in Store::BOTH {
        let (sample, server) = notes(store).await;
        server.until(200, &signed("/peer", &made[0])).await;
        sample.remove_peer(&id_of(&PEER_KEY)).await;
        server.until(401, &signed("/peer", &made[0])).await;
        // The id may be stored as its first six characters.
        sample.add_peer(&keyid(&PEER_KEY), "Friendly Box", &PEER_KEY.public_pem).await;
        server.until(200, &signed("/peer", &made[0])).await;
    }
}
