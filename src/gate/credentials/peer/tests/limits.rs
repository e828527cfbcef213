//! What a stranger can make the verification do is bounded: texts, checks and keys.

use super::super::keys::{KeyError, MAX_OTHER_TEXTS, parse_key};
use super::*;

#[test]
fn the_number_of_components_is_bounded() {
    let names: Vec<String> = (0..MAX_COMPONENTS).map(|n| format!("\"x-{n}\"")).collect();
    let mut request = Request::plain();
    for n in 0..MAX_COMPONENTS {
        let name: HeaderName = format!("x-{n}").parse().expect("name");
        request.headers.insert(name, HeaderValue::from_static("v"));
    }
    let mut components: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    components.truncate(MAX_COMPONENTS - ALL.len());
    components.extend(ALL);
    assert!(request.clone().signed(&components, PARAMETERS).verify_at(now()).is_ok());
    components.push((&names[MAX_COMPONENTS - 1], "v"));
    assert_eq!(request.signed(&components, PARAMETERS).error(), SignatureError::Component);
}

#[test]
fn what_is_hashed_for_a_stranger_is_bounded() {
    let path = |length: usize| format!("/peer/{}", "x".repeat(length - "/peer/".len()));
    let uri = |path: &str| format!("https://{}{path}", AUTHORITY.1);
    // The longest URL, and nearly the longest one whose path is signed as well.
    for (length, second) in [(MAX_TARGET, None), (6_000, Some(r#""@path""#))] {
        let mut request = Request::plain();
        request.uri = path(length);
        let [uri, long_uri] = [length, MAX_TARGET].map(|length| uri(&path(length)));
        let mut components = vec![METHOD, AUTHORITY, (TARGET_URI.0, &*uri)];
        let longest = path(length);
        components.extend(second.map(|name| (name, &*longest)));
        let verified = request.clone().signed(&components, PARAMETERS).verify_at(now());
        assert!(verified.is_ok(), "{length} {second:?}");
        if second.is_some() {
            components[2].1 = &long_uri;
            request.uri = path(MAX_TARGET);
            assert_eq!(request.signed(&components, PARAMETERS).error(), SignatureError::TooLong);
        }
    }

    let mut request = Request::plain();
    request.uri = path(MAX_TARGET + 1);
    let target_uri = uri(&request.uri);
    let components = [METHOD, AUTHORITY, (TARGET_URI.0, &*target_uri)];
    assert_eq!(request.signed(&components, PARAMETERS).error(), SignatureError::TooLong);

    // Escapes are three times as long as the characters they encode.
    let mut request = Request::plain();
    request.uri = path(MAX_TARGET).replace('x', "|");
    assert_eq!(request.error(), SignatureError::TooLong);

    let value = "v".repeat(MAX_TEXT);
    let request = Request::plain().header("x-long", &value);
    let components = [&[(r#""x-long""#, &*value)], &ALL[..]].concat();
    assert_eq!(request.signed(&components, PARAMETERS).error(), SignatureError::TooLong);
}

/// Returns the texts that are tried for a request that covers one more component.
fn texts_of(name: &str, host: &str, uri: &str, signature_len: usize) -> Vec<String> {
    let further = format!("\"@target-uri\" \"{name}\"");
    let Request { method, proto, headers, .. } =
        &Request::plain().edit_input("\"@target-uri\"", &further);
    let (input, _) = fields(headers).expect("well-formed");
    signed_texts(&Signed { method, proto, host, uri, headers }, &input, signature_len)
        .expect("can be signed")
}

#[test]
fn no_form_of_the_parts_is_tried_twice_or_that_no_sender_writes() {
    for (name, host, uri, count) in [
        ("@path", "a.example", "/p?a=1", 2),
        ("@path", "a.example:443", "/p?a=1", 2),
        ("@path", "a.example:8443", "/p?a=1", 1),
        ("@request-target", "a.example:8443", "/p", 2),
        ("@request-target", "a.example", "/p?a=1", 3),
        ("@request-target", "a.example:443", "/", 3),
    ] {
        let mut texts = texts_of(name, host, uri, MAX_MULTI_TEXT_KEY);
        assert_eq!(texts.len(), count, "{name} {host} {uri}");
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count, "{name} {host} {uri}");
    }
}

#[test]
fn long_texts_are_tried_in_fewer_forms() {
    let of_length = |length: usize| {
        let uri = format!("/{}", "x".repeat(length));
        texts_of("@request-target", "a.example", &uri, MAX_MULTI_TEXT_KEY)
    };
    for (length, count) in [(1, 3), (1_000, 3), (1_800, 3), (2_900, 2), (5_900, 1)] {
        let texts = of_length(length);
        let hashed: usize = texts.iter().map(String::len).sum();
        assert!(hashed <= MAX_HASHED, "{length}: {hashed}");
        assert_eq!(texts.len(), count, "{length}");
        assert!(texts[0].contains("\"@authority\": a.example\n"), "{length}: {}", texts[0]);
    }
}

#[test]
fn a_large_key_has_one_check() {
    let private = include_str!("../../../../../tests/vectors/large-key.pem");
    let private = pem::parse(private).expect("pem");
    let pair = RsaKeyPair::from_pkcs8(private.contents()).expect("a key");
    let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("a public key");
    let public = pem::encode(&pem::Pem::new("PUBLIC KEY", spki.as_ref()));
    let keys = PeerKeys::new(&[peer(&full_id(KEY_ID), &public)]);

    let with_port = "tmpl.w2wqjf.freeshard.test:443";
    let uri_with_port = format!("https://{with_port}/peer/foo?a=1");
    let port = [METHOD, (AUTHORITY.0, with_port), (TARGET_URI.0, &*uri_with_port)];
    let own = pair.public_modulus_len();
    assert!(own > MAX_MULTI_TEXT_KEY);
    for (components, is_first) in [(ALL, true), (port, false)] {
        let plain = Request::plain();
        let large = plain.clone().signed_with(&pair, &RSA_PSS_SHA512, &components, PARAMETERS);
        assert_eq!(large.verify_with(&keys, now()).is_ok(), is_first);
        assert!(plain.signed(&components, PARAMETERS).verify_at(now()).is_ok());
    }
    assert_eq!(texts_of("@request-target", "a.example", "/", own).len(), 1);

    let path = |length: usize| format!("/peer/{}", "x".repeat(length));
    for (length, is_valid) in [(3_000, true), (MAX_HASHED_LARGE_KEY, false)] {
        let mut request = Request::plain();
        request.uri = path(length);
        let uri = format!("https://{}{}", AUTHORITY.1, request.uri);
        let components = [METHOD, AUTHORITY, (TARGET_URI.0, &*uri)];
        let large = request.signed_with(&pair, &RSA_PSS_SHA512, &components, PARAMETERS);
        assert_eq!(large.verify_with(&keys, now()).is_ok(), is_valid, "{length}");
    }
}

#[test]
fn forged_signatures_cost_one_check_each_and_keep_no_sender_out() {
    let with_port = "tmpl.w2wqjf.freeshard.test:443";
    let uri_with_port = format!("https://{with_port}/peer/foo?a=1");
    let port = [METHOD, (AUTHORITY.0, with_port), (TARGET_URI.0, &*uri_with_port)];
    let first = Request::plain().signed(&ALL, PARAMETERS);
    let other = Request::plain().signed(&port, PARAMETERS);
    let forged = Request { uri: "/peer/other".into(), ..first.clone() };
    let flood = |keys: &PeerKeys| {
        for _ in 0..MAX_OTHER_TEXTS + 10 {
            forged.verify_with(keys, now()).expect_err("forged");
        }
        let choice = &keys.candidates(KEY_ID).expect("known")[0].choice;
        assert!(!choice.admits_another(now()), "forged ones use up the other texts");
    };
    let keys = keys_of(&VECTORS[0]);
    flood(&keys);
    first.verify_with(&keys, now()).expect("the likely text is always tried");
    other.verify_with(&keys, now()).expect_err("not in this second");
    other.verify_with(&keys, now() + Duration::from_secs(1)).expect("in the next");

    // What a sender has signed before is the likely text.
    let keys = keys_of(&VECTORS[0]);
    other.verify_with(&keys, now()).expect("none was tried yet");
    flood(&keys);
    other.verify_with(&keys, now()).expect("it is tried first now");
    first.verify_with(&keys, now()).expect_err("not in this second");
}

#[test]
fn unusable_keys_are_skipped() {
    let good = public_key(KEY_ID);
    let private = text(&VECTORS[0]["keys"][KEY_ID], "private");
    for (id, pem, error) in [
        (full_id(KEY_ID), good, None),
        (KEY_ID.to_owned(), good, None),
        ("ff1gf".to_owned(), good, Some(KeyError::Id)),
        (String::new(), good, Some(KeyError::Id)),
        (full_id(KEY_ID), "", Some(KeyError::Pem)),
        (full_id(KEY_ID), "not pem", Some(KeyError::Pem)),
        (full_id(KEY_ID), private, Some(KeyError::Pem)),
        (
            full_id(KEY_ID),
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            Some(KeyError::Key),
        ),
        (full_id(KEY_ID), public_key("old1k0"), Some(KeyError::Key)),
        // 8,192 bits.
        (
            full_id(KEY_ID),
            include_str!("../../../../../tests/vectors/too-large-key.pem"),
            Some(KeyError::Key),
        ),
    ] {
        let row = peer(&id, pem);
        assert_eq!(parse_key(&row).err(), error, "{id} {pem}");
        assert_eq!(PeerKeys::new(&[row]).is_empty(), error.is_some());
    }
    let elliptic = rcgen::KeyPair::generate().expect("key");
    let elliptic = pem::encode(&pem::Pem::new(
        "PUBLIC KEY",
        rcgen::PublicKeyData::subject_public_key_info(&elliptic),
    ));
    assert_eq!(parse_key(&peer(KEY_ID, &elliptic)).err(), Some(KeyError::Key));
}

#[test]
fn a_1024_bit_key_is_no_key() {
    // No signature is possible: its 128 bytes cannot hold digest and salt.
    let request = Request::plain().edit_input(KEY_ID, "old1k0");
    assert_eq!(request.error(), SignatureError::UnknownKey);
}
