use http::HeaderValue;
use jsonwebtoken::Header;
use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_795_251_867;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs()) + Duration::from_millis(500)
}

fn secret() -> Secret {
    Secret::new("c2VjcmV0LWluLWJhc2U2NC1idXQtbm90LWRlY29kZWQ=")
}

fn key() -> TokenKey {
    TokenKey::new(&secret())
}

/// Returns a token with the given header and payload and a valid signature.
fn signed(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let key = EncodingKey::from_secret(secret().expose().as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signs");
    format!("{message}.{signature}")
}

fn verdict(payload: &str) -> Result<Claims, TokenError> {
    verify(&signed(HEADER, payload), &key(), now())
}

fn cookies(values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(COOKIE, HeaderValue::from_bytes(value).expect("header"));
    }
    headers
}

fn token_of(values: &[&[u8]]) -> Option<String> {
    token(&cookies(values)).map(Cow::into_owned)
}

#[test]
fn a_token_of_pyjwt_verifies() {
    // jwt.encode({"sub": "dev1ce", "iat": 1795251867}, "shared secret", algorithm="HS256")
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
                 eyJzdWIiOiJkZXYxY2UiLCJpYXQiOjE3OTUyNTE4Njd9.\
                 vgBQHkCmGn1gJq3yN5YjkYxnHRw1T1oJT2FeY-tZ5Q0";
    let key = TokenKey::new(&Secret::new("shared secret"));
    let claims = verify(token, &key, now()).expect("verifies");
    assert_eq!(&*claims.sub, "dev1ce");
    assert_eq!(claims.expires, None);
}

#[test]
fn an_issued_token_verifies_and_has_the_form_of_pairing() {
    let token = issue(&secret(), "abc", now()).expect("issues");
    assert_eq!(&*verify(&token, &key(), now()).expect("verifies").sub, "abc");
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64"));
    assert_eq!(parts.next().as_deref(), Some(HEADER.as_bytes()));
    let claims: Value = serde_json::from_slice(&parts.next().expect("claims")).expect("json");
    assert_eq!(claims, json!({"sub": "abc", "iat": NOW}));
    assert_eq!(issue(&Secret::new(""), "abc", now()), Err(TokenError::NoKey));
    assert_eq!(
        cookie("t.o.k", "abcdef.example.org", now()),
        "authorization=t.o.k; Domain=abcdef.example.org; expires=Wed, 20 Aug 2036 09:04:27 GMT; \
         HttpOnly; Path=/; SameSite=lax; Secure"
    );
}

#[test]
fn the_last_authorization_cookie_counts() {
    for (values, expected) in [
        (&[b"authorization=a.b.c".as_slice()][..], Some("a.b.c")),
        (&[b"x=1; authorization=a; y=2"], Some("a")),
        (&[b"authorization=a; authorization=b"], Some("b")),
        (&[b"authorization=a", b"x=1", b"authorization=b", b"y=2"], Some("b")),
        (&[b"authorization=\"a\""], Some("a")),
        (&[b"authorization=Bearer a"], Some("a")),
        (&[b"authorization=\"Bearer a\""], Some("a")),
        (&[b"authorization=Bearer Bearer a"], Some("Bearer a")),
        (&[b"authorization=bearer a"], Some("bearer a")),
        (&[b"authorization=a=b"], Some("a=b")),
        (&[b"  authorization\t=\ta  ;"], Some("a")),
        (&[b"authorization="], Some("")),
        (&[b"authorization=a; authorization="], Some("")),
        (&[b"authorization=\""], Some("\"")),
        (&[b"authorization=\"a"], Some("\"a")),
        (&[b"Authorization=a"], None),
        (&[b"AUTHORIZATION=a; x_authorization=b; authorization2=c"], None),
        (&[b"authorization"], None),
        (&[b"=authorization"], None),
        (&[b""], None),
        (&[b"\xff=\xfe; authorization=a; \xfd"], Some("a")),
        (&[b"authorization=\xff"], Some("\u{fffd}")),
        (&[], None),
    ] {
        assert_eq!(token_of(values).as_deref(), expected, "{values:?}");
    }
}

#[test]
fn an_authorization_header_is_no_token() {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer a.b.c"));
    assert_eq!(token(&headers), None);
}

#[test]
fn a_plain_token_is_borrowed() {
    let headers = cookies(&[b"x=\xff; authorization=\"Bearer a.b.c\""]);
    assert!(matches!(token(&headers), Some(Cow::Borrowed("a.b.c"))));
}

#[test]
fn claims_are_held_against_the_clock() {
    let at = |claim: &str, time: String| verdict(&format!(r#"{{"sub":"a","{claim}":{time}}}"#));
    for time in
        [NOW.to_string(), format!("{NOW}.9"), (NOW - 1).to_string(), "0".into(), "-1".into()]
    {
        assert!(at("iat", time.clone()).is_ok(), "{time}");
        assert!(at("nbf", time.clone()).is_ok(), "{time}");
        assert_eq!(at("exp", time.clone()), Err(TokenError::Expired), "{time}");
    }
    for time in
        [(NOW + 1).to_string(), format!("{}.0", NOW + 1), "1e300".into(), u64::MAX.to_string()]
    {
        assert_eq!(at("iat", time.clone()), Err(TokenError::Immature), "{time}");
        assert_eq!(at("nbf", time.clone()), Err(TokenError::Immature), "{time}");
        assert!(at("exp", time.clone()).is_ok(), "{time}");
    }
    for time in ["null", "true", "\"1\"", "[1]", "{}"] {
        for claim in ["iat", "nbf", "exp"] {
            assert_eq!(at(claim, time.into()), Err(TokenError::Claims), "{claim} {time}");
        }
    }
    assert!(at("exp", "1e999".into()).is_err());
}

#[test]
fn a_verified_token_expires_in_the_cache() {
    let claims = verdict(&format!(r#"{{"sub":"a","exp":{}}}"#, NOW + 10)).expect("verifies");
    let at = |offset: u64| UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs() + offset);
    assert!(claims.is_valid_at(at(9)));
    assert!(!claims.is_valid_at(at(10)));
    assert!(!claims.is_valid_at(at(11)));
    assert!(verdict(r#"{"sub":"a"}"#).expect("verifies").is_valid_at(at(1_000_000_000)));
}

#[test]
fn claims_of_another_shape_are_refused() {
    for (payload, error) in [
        (r"{}", TokenError::Subject),
        (r#"{"sub":""}"#, TokenError::Subject),
        (r#"{"sub":null}"#, TokenError::Subject),
        (r#"{"sub":1}"#, TokenError::Subject),
        (r#"{"sub":["a"]}"#, TokenError::Subject),
        (r#"{"Sub":"a"}"#, TokenError::Subject),
        (r#"{"sub":"a","jti":7}"#, TokenError::Claims),
        (r#"{"sub":"a","jti":null}"#, TokenError::Claims),
        (r#"{"sub":"a","jti":["x"]}"#, TokenError::Claims),
        (r#"{"sub":"a","aud":"b"}"#, TokenError::Audience),
        (r#"{"sub":"a","aud":""}"#, TokenError::Audience),
        (r#"{"sub":"a","aud":null}"#, TokenError::Audience),
        (r#"{"sub":"a","aud":[]}"#, TokenError::Audience),
        (r#"{"sub":"a","sub":"b"}"#, TokenError::Claims),
        (r#"{"sub":"a","exp":1,"exp":9999999999}"#, TokenError::Claims),
        (r#"["a"]"#, TokenError::Malformed),
        (r#""a""#, TokenError::Malformed),
        ("null", TokenError::Malformed),
        ("", TokenError::Malformed),
        (r#"{"sub":"a""#, TokenError::Claims),
        (r#"{"sub":"a"}x"#, TokenError::Claims),
    ] {
        assert_eq!(verdict(payload), Err(error), "{payload}");
    }
    assert!(verdict(r#" {"sub":"a","iss":7,"jti":"x","unknown":{"sub":"b"}} "#).is_ok());
}

#[test]
fn headers_of_another_kind_are_refused() {
    for (header, error) in [
        (r#"{"typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"none"}"#, TokenError::Algorithm),
        (r#"{"alg":"None"}"#, TokenError::Algorithm),
        (r#"{"alg":"hs256"}"#, TokenError::Algorithm),
        (r#"{"alg":"HS384"}"#, TokenError::Algorithm),
        (r#"{"alg":"HS512"}"#, TokenError::Algorithm),
        (r#"{"alg":"RS256"}"#, TokenError::Algorithm),
        (r#"{"alg":["HS256"]}"#, TokenError::Algorithm),
        (r#"{"alg":null}"#, TokenError::Algorithm),
        (r#"{"alg":"HS256","kid":7}"#, TokenError::KeyId),
        (r#"{"alg":"HS256","kid":null}"#, TokenError::KeyId),
        (r#"{"alg":"HS256","kid":["x"]}"#, TokenError::KeyId),
        (r#"{"alg":"HS256","crit":["exp"]}"#, TokenError::Critical),
        (r#"{"alg":"HS256","crit":null}"#, TokenError::Critical),
        (r#"{"alg":"HS256","b64":false}"#, TokenError::Critical),
        (r#"{"alg":"none","alg":"HS256"}"#, TokenError::Malformed),
        (r#"["HS256"]"#, TokenError::Malformed),
        ("HS256", TokenError::Malformed),
    ] {
        let token = signed(header, r#"{"sub":"a"}"#);
        assert_eq!(verify(&token, &key(), now()), Err(error), "{header}");
    }
    assert!(
        verify(&signed(r#"{"alg":"HS256","kid":"x"}"#, r#"{"sub":"a"}"#), &key(), now()).is_ok()
    );
}

#[test]
fn claims_that_are_no_utf_8_are_refused_even_where_nobody_reads_them() {
    for part in [&b"{\"sub\":\"a\",\"x\":\"\xff\"}"[..], b"{\"sub\":\"a\",\"\xff\":1}"] {
        let encoded = URL_SAFE_NO_PAD.encode(part);
        let header = URL_SAFE_NO_PAD.encode(HEADER);
        let key = EncodingKey::from_secret(secret().expose().as_bytes());
        let message = format!("{header}.{encoded}");
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signs");
        let token = format!("{message}.{signature}");
        assert_eq!(verify(&token, &self::key(), now()), Err(TokenError::Malformed));
    }
}

#[test]
fn other_algorithms_of_the_same_key_are_refused() {
    let encoding = EncodingKey::from_secret(secret().expose().as_bytes());
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let claims = json!({"sub": "a"});
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &encoding);
        assert_eq!(
            verify(&token.expect("signs"), &key(), now()),
            Err(TokenError::Algorithm),
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_signature_of_anything_else_is_refused() {
    let token = signed(HEADER, r#"{"sub":"a"}"#);
    let (message, signature) = token.rsplit_once('.').expect("parts");
    let other = signed(HEADER, r#"{"sub":"b"}"#);
    let (_, stolen) = other.rsplit_once('.').expect("parts");
    for wrong in [
        format!("{message}."),
        format!("{message}.{stolen}"),
        format!("{message}.{signature}="),
        format!("{message}.{signature}A"),
        format!("{message}.{}", &signature[1..]),
        format!("{message}.{}", signature.to_ascii_uppercase()),
        format!("{message}. {signature}"),
    ] {
        assert_eq!(verify(&wrong, &key(), now()), Err(TokenError::Signature), "{wrong}");
    }
    let base64_decoded = "secret-in-base64-but-not-decoded";
    for (other, error) in [
        (base64_decoded, TokenError::Signature),
        ("", TokenError::NoKey),
        ("other", TokenError::Signature),
    ] {
        assert_eq!(
            verify(&token, &TokenKey::new(&Secret::new(other)), now()),
            Err(error),
            "{other}"
        );
    }
}

#[test]
fn text_that_is_no_token_is_refused() {
    let whole = signed(HEADER, r#"{"sub":"a"}"#);
    for wrong in ["", ".", "..", "...", "a.b", "a.b.c.d", "Bearer a.b.c", "\u{fffd}.\u{fffd}.x"] {
        assert_eq!(verify(wrong, &key(), now()), Err(TokenError::Malformed), "{wrong}");
    }
    assert_eq!(verify(&format!(".{whole}"), &key(), now()), Err(TokenError::Malformed));
    assert!(verify(&format!("{whole}.x"), &key(), now()).is_err());
    assert!(verify(&format!("{whole} "), &key(), now()).is_err());
    let long = signed(HEADER, &json!({"sub": "a", "x": "y".repeat(MAX_LEN)}).to_string());
    assert_eq!(verify(&long, &key(), now()), Err(TokenError::TooLong));
}

#[test]
fn a_key_masks_itself() {
    assert_eq!(format!("{:?}", key()), "TokenKey(***)");
}

proptest! {
    #[test]
    fn any_cookie_bytes_are_survived(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4)) {
        let mut headers = HeaderMap::new();
        for value in values {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(COOKIE, value);
            }
        }
        if let Some(token) = token(&headers) {
            prop_assert!(verify(&token, &key(), now()).is_err());
        }
    }

    #[test]
    fn a_token_is_found_among_any_other_cookies(before in "[ -~&&[^;]]{0,40}", after in "[a-z]{1,20}=[ -~&&[^;]]{0,20}") {
        let line = format!("{before}; authorization=\"t.o.k\"; {after}");
        prop_assume!(!after.starts_with("authorization="));
        prop_assert_eq!(token_of(&[line.as_bytes()]), Some("t.o.k".to_owned()));
    }

    #[test]
    fn any_text_is_survived_and_refused(text in "\\PC{0,60}(\\.\\PC{0,60}){0,4}") {
        prop_assert!(verify(&text, &key(), now()).is_err());
    }

    #[test]
    fn any_signed_json_is_survived(header in "\\PC{0,40}", payload in "\\PC{0,80}") {
        prop_assert!(verify(&signed(&header, &payload), &key(), now()).is_err());
        let _ = verify(&signed(HEADER, &payload), &key(), now());
    }

    #[test]
    fn a_changed_byte_breaks_the_token(at in 0usize..150, byte in 0x21u8..0x7f) {
        let token = signed(HEADER, r#"{"sub":"terminal","iat":1}"#);
        let mut bytes = token.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).expect("ascii");
        prop_assert!(verify(&changed, &key(), now()).is_err());
    }
}
