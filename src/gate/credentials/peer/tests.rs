use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA256, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::store;

mod limits;

const CREATED: u64 = 1_795_251_867;
const CREATED_I: i64 = 1_795_251_867;
const KEY_ID: &str = "ff1gfz";

static VECTORS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    [
        include_str!("../../../../tests/vectors/peers-0.7.json"),
        include_str!("../../../../tests/vectors/peers-2.0.json"),
    ]
    .map(|json| serde_json::from_str(json).expect("json"))
});

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn now() -> SystemTime {
    at(CREATED + 1)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// An id of full length that begins with a key id.
fn full_id(key_id: &str) -> String {
    format!("{key_id}{}", "a".repeat(97))
}

fn peer(id: &str, public_key_pem: &str) -> store::Peer {
    store::Peer { id: id.into(), name: "Peer".into(), public_key_pem: public_key_pem.into() }
}

fn keys_of(made: &Value) -> PeerKeys {
    let keys = made["keys"].as_object().expect("keys");
    let peers: Vec<_> =
        keys.iter().map(|(id, key)| peer(&full_id(id), text(key, "public"))).collect();
    PeerKeys::new(&peers)
}

fn public_key(key_id: &str) -> &'static str {
    text(&VECTORS[0]["keys"][key_id], "public")
}

fn key_pair(key_id: &str) -> RsaKeyPair {
    let pem = pem::parse(text(&VECTORS[0]["keys"][key_id], "private")).expect("pem");
    RsaKeyPair::from_pkcs8(pem.contents()).expect("key")
}

static KEY_PAIR: LazyLock<RsaKeyPair> = LazyLock::new(|| key_pair(KEY_ID));

/// A request that owns its parts, so that a test can change each of them.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    proto: String,
    host: String,
    uri: String,
    headers: HeaderMap,
}

impl Request {
    fn of_vector(vector: &Value) -> Self {
        let mut headers = HeaderMap::new();
        for header in vector["headers"].as_array().expect("headers") {
            let name = header[0].as_str().expect("name").parse::<HeaderName>().expect("name");
            let value = HeaderValue::from_str(header[1].as_str().expect("value")).expect("value");
            headers.append(name, value);
        }
        Self {
            method: text(vector, "method").into(),
            proto: text(vector, "proto").into(),
            host: text(vector, "host").into(),
            uri: text(vector, "uri").into(),
            headers,
        }
    }

    fn vector(name: &str) -> Self {
        let vectors = VECTORS[0]["vectors"].as_array().expect("vectors");
        let found = vectors.iter().find(|vector| vector["name"] == name);
        Self::of_vector(found.unwrap_or_else(|| panic!("no vector {name}")))
    }

    fn plain() -> Self {
        Self::vector("plain get")
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).expect("value"));
        self
    }

    fn input(&self) -> &str {
        self.headers["signature-input"].to_str().expect("text")
    }

    /// Changes the text of `Signature-Input`, leaving the signature as it was.
    fn edit_input(self, from: &str, to: &str) -> Self {
        let input = self.input().replace(from, to);
        assert_ne!(input, self.input(), "{from} does not occur");
        self.header("signature-input", &input)
    }

    fn verify_at(&self, now: SystemTime) -> Result<Verified, SignatureError> {
        // Keys of its own: how many texts are tried for a key in a second is bounded.
        self.verify_with(&keys_of(&VECTORS[0]), now)
    }

    fn verify_with(&self, keys: &PeerKeys, now: SystemTime) -> Result<Verified, SignatureError> {
        let Self { method, proto, host, uri, headers } = self;
        verify(&Signed { method, proto, host, uri, headers }, keys, now)
    }

    fn error(&self) -> SignatureError {
        self.verify_at(now()).expect_err("refused")
    }

    /// Creates a real signature for any components and parameters, so that a refusal
    /// is due to the rule under test and not to the signature.
    fn signed(self, components: &[(&str, &str)], parameters: &str) -> Self {
        self.signed_with(&KEY_PAIR, &RSA_PSS_SHA512, components, parameters)
    }

    fn signed_with(
        self,
        key: &RsaKeyPair,
        encoding: &'static dyn RsaEncoding,
        components: &[(&str, &str)],
        parameters: &str,
    ) -> Self {
        let names: Vec<_> = components.iter().map(|(name, _)| *name).collect();
        let input = format!("({}){parameters}", names.join(" "));
        let mut lines: Vec<_> =
            components.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        lines.push(format!("\"@signature-params\": {input}"));
        let base = lines.join("\n");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(encoding, &SystemRandom::new(), base.as_bytes(), &mut signature).expect("signs");
        self.header("signature-input", &format!("sig={input}"))
            .header("signature", &format!("sig=:{}:", STANDARD.encode(signature)))
    }
}

const METHOD: (&str, &str) = (r#""@method""#, "GET");
const AUTHORITY: (&str, &str) = (r#""@authority""#, "tmpl.w2wqjf.freeshard.test");
const TARGET_URI: (&str, &str) =
    (r#""@target-uri""#, "https://tmpl.w2wqjf.freeshard.test/peer/foo?a=1");
const ALL: [(&str, &str); 3] = [METHOD, AUTHORITY, TARGET_URI];
const PARAMETERS: &str = r#";created=1795251867;keyid="ff1gfz""#;

#[test]
fn every_vector_verifies() {
    for made in VECTORS.iter() {
        let keys = keys_of(made);
        let vectors = made["vectors"].as_array().expect("vectors");
        assert!(vectors.len() >= 19);
        for vector in vectors {
            let request = Request::of_vector(vector);
            let verified = request
                .verify_with(&keys, now())
                .unwrap_or_else(|error| panic!("{}: {error}", vector["name"]));
            assert_eq!(*verified.peer.id, full_id(text(vector, "keyid")));
            assert_eq!(verified.nonce.as_deref(), vector["nonce"].as_str());
            assert_eq!(verified.times.created, CREATED_I);
        }
    }
}

#[test]
fn every_vector_is_refused_once_any_signed_part_changes() {
    for made in VECTORS.iter() {
        let keys = keys_of(made);
        for vector in made["vectors"].as_array().expect("vectors") {
            let request = Request::of_vector(vector);
            let name = &vector["name"];
            let refused = |what: &str, change: &dyn Fn(&mut Request)| {
                let mut changed = request.clone();
                change(&mut changed);
                let result = changed.verify_with(&keys, now());
                assert_eq!(result.err(), Some(SignatureError::Mismatch), "{name}: {what}");
            };
            refused("method", &|r| r.method.push('X'));
            refused("method case", &|r| r.method = r.method.to_lowercase());
            refused("proto", &|r| {
                r.proto = if r.proto == "http" { "https" } else { "http" }.into();
            });
            refused("host", &|r| r.host.insert(0, 'x'));
            refused("trailing dot", &|r| r.host = "tmpl.w2wqjf.freeshard.test.".into());
            refused("port", &|r| r.host = "tmpl.w2wqjf.freeshard.test:1".into());
            refused("path", &|r| r.uri = r.uri.replacen('/', "/x", 1));
            refused("slash", &|r| r.uri = r.uri.replacen('/', "//", 1));
            refused("query", &|r| r.uri.push_str(if r.uri.contains('?') { "&z" } else { "?z" }));
            for covered in
                ["date", "content-digest", "x-first", "accept", "x-empty", "authorization"]
            {
                if !request.input().contains(&format!("\"{covered}\"")) {
                    continue;
                }
                refused(covered, &|r| *r = r.clone().header(covered, "other"));
                refused(covered, &|r| {
                    r.headers.append(covered, HeaderValue::from_static("more"));
                });
                let mut without = request.clone();
                without.headers.remove(covered);
                let error = without.verify_with(&keys, now()).err();
                assert_eq!(error, Some(SignatureError::MissingHeader), "{name}: {covered}");
            }
        }
    }
}

#[test]
fn what_the_proxy_may_rewrite_still_verifies() {
    let mut request = Request::plain();
    request.host = "TMPL.W2WQJF.FreeShard.Test".into();
    request.proto = "HTTPS".into();
    request.uri = "/x/.././peer/%66oo?a=%31".into();
    assert!(request.verify_at(now()).is_ok());
    let request = request.header("x-other", "not covered");
    assert!(request.verify_at(now()).is_ok());
    let whitespace = Request::plain().edit_input("\"@method\" ", "  \"@method\"   ");
    assert!(whitespace.verify_at(now()).is_ok(), "the signature base uses the canonical form");
}

#[test]
fn covered_headers_are_joined_and_trimmed() {
    let mut request = Request::plain();
    for line in [" one\t", "", "two , three"] {
        request.headers.append("x-list", HeaderValue::from_str(line).expect("value"));
    }
    let components = [&[(r#""x-list""#, "one, , two , three")], &ALL[..]].concat();
    assert!(request.signed(&components, PARAMETERS).verify_at(now()).is_ok());

    let mut request = Request::plain();
    request.headers.insert("x-list", HeaderValue::from_bytes(b"caf\xe9").expect("value"));
    let components = [&[(r#""x-list""#, "caf?")], &ALL[..]].concat();
    assert_eq!(request.signed(&components, PARAMETERS).error(), SignatureError::HeaderValue);
}

#[test]
fn a_signature_has_its_time() {
    let request = Request::plain();
    let error = |seconds| request.verify_at(at(seconds)).err();
    assert_eq!(error(CREATED - 6), Some(SignatureError::Future));
    assert_eq!(error(CREATED - 5), None);
    assert_eq!(error(CREATED + 86_405), None);
    assert_eq!(error(CREATED + 86_406), Some(SignatureError::Old));
    assert_eq!(error(0), Some(SignatureError::Future));

    let request = Request::vector("expires");
    let error = |seconds| request.verify_at(at(seconds)).err();
    assert_eq!(error(CREATED + 65), None);
    assert_eq!(error(CREATED + 66), Some(SignatureError::Expired));
}

#[test]
fn every_rule_of_the_parameters_has_its_error() {
    use SignatureError::{Algorithm, Expired, Future, NoCreated, Old, Parameter, UnknownKey};
    for (parameters, error) in [
        (r#";keyid="ff1gfz""#, NoCreated),
        (r";created=1795251867", UnknownKey),
        (r#";created=1795251867;keyid="""#, UnknownKey),
        (r#";created=1795251867;keyid="ff1gf""#, UnknownKey),
        (r#";created=1795251867;keyid="ff1gfza""#, UnknownKey),
        (r#";created=1795251867;keyid="FF1GFZ""#, UnknownKey),
        (r#";created=1795251867;keyid="other0""#, UnknownKey),
        (r";created=1795251867;keyid=ff1gfz", Parameter),
        (r#";created="1795251867";keyid="ff1gfz""#, Parameter),
        (r#";created=1795251867.5;keyid="ff1gfz""#, Parameter),
        (r#";created;keyid="ff1gfz""#, Parameter),
        (r#";created=1795251867;keyid="ff1gfz";expires="x""#, Parameter),
        (r#";created=1795251867;keyid="ff1gfz";nonce=1"#, Parameter),
        (r#";created=1795251867;keyid="ff1gfz";tag=app"#, Parameter),
        (r#";created=1795251867;keyid="ff1gfz";other="x""#, Parameter),
        (r#";created=1795251867;keyid="ff1gfz";alg=rsa-pss-sha512"#, Parameter),
        (r#";created=1795251867;keyid="ff1gfz";alg="rsa-v1_5-sha256""#, Algorithm),
        (r#";created=1795251867;keyid="ff1gfz";alg="hmac-sha256""#, Algorithm),
        (r#";created=1795251867;keyid="ff1gfz";alg="RSA-PSS-SHA512""#, Algorithm),
        (r#";created=1795251867;keyid="ff1gfz";alg="""#, Algorithm),
        (r#";created=1795251867;keyid="ff1gfz";expires=1795251800"#, Expired),
        (r#";created=1795251867;keyid="ff1gfz";expires=-1"#, Expired),
        (r#";created=1895251867;keyid="ff1gfz""#, Future),
        (r#";created=999999999999999;keyid="ff1gfz""#, Future),
        (r#";created=-999999999999999;keyid="ff1gfz""#, Old),
        (r#";created=1695251867;keyid="ff1gfz""#, Old),
    ] {
        assert_eq!(Request::plain().signed(&ALL, parameters).error(), error, "{parameters}");
    }
    for parameters in [
        PARAMETERS,
        r#";keyid="ff1gfz";created=1795251867;tag="app";nonce="n";alg="rsa-pss-sha512""#,
        r#";created=1795251867;keyid="ff1gfz";expires=999999999999999;nonce="""#,
    ] {
        let request = Request::plain().signed(&ALL, parameters);
        assert!(request.verify_at(now()).is_ok(), "{parameters}");
    }
}

#[test]
fn every_rule_of_the_components_has_its_error() {
    use SignatureError::{Component, Coverage, Mismatch, MissingHeader};
    let with = |extra: (&'static str, &'static str)| [&ALL[..], &[extra]].concat();
    for (components, error) in [
        (vec![], Coverage),
        (vec![METHOD, AUTHORITY], Coverage),
        (vec![METHOD, TARGET_URI], Coverage),
        (vec![AUTHORITY, TARGET_URI], Coverage),
        (with(METHOD), Component),
        (with((r#""@path""#, "/peer/fo")), Mismatch),
        (with((r#""@query""#, "a=1")), Mismatch),
        (with((r#""@scheme""#, "http")), Mismatch),
        (with((r#""@request-target""#, "/peer/foo?a=2")), Mismatch),
        (with((r#""@path";req"#, "/peer/foo")), Component),
        (with((r#""@query-param";name="a""#, "1")), Component),
        (with((r#""@status""#, "200")), Component),
        (with((r#""@signature-params""#, "x")), Component),
        (with((r#""@other""#, "x")), Component),
        (with((r#""""#, "x")), Component),
        (with((r#""Date""#, "Sat, 21 Nov 2026 09:04:27 GMT")), Component),
        (with((r#""a b""#, "x")), Component),
        (with(("date", "Sat, 21 Nov 2026 09:04:27 GMT")), Component),
        (with(("1", "x")), Component),
        (with((r#""date";sf"#, "Sat, 21 Nov 2026 09:04:27 GMT")), Component),
        (with((r#""date";bs"#, "Sat, 21 Nov 2026 09:04:27 GMT")), Component),
        (with((r#""date";req"#, "Sat, 21 Nov 2026 09:04:27 GMT")), Component),
        (with((r#""date";key="a""#, "x")), Component),
        (vec![METHOD, (r#""@authority";req"#, AUTHORITY.1), TARGET_URI], Component),
        (with((r#""x-missing""#, "")), MissingHeader),
    ] {
        let request = Request::plain().signed(&components, PARAMETERS);
        assert_eq!(request.error(), error, "{}", request.input());
    }
    for further in [
        (r#""@path""#, "/peer/foo"),
        (r#""@query""#, "?a=1"),
        (r#""@scheme""#, "https"),
        (r#""@request-target""#, "/peer/foo?a=1"),
        (r#""@request-target""#, "/peer/foo??a=1"),
    ] {
        let request = Request::plain().signed(&with(further), PARAMETERS);
        assert!(request.verify_at(now()).is_ok(), "{further:?}");
    }
    let date = (r#""date""#, "Sat, 21 Nov 2026 09:04:27 GMT");
    assert!(Request::plain().signed(&with(date), PARAMETERS).verify_at(now()).is_ok());
}

#[test]
fn there_is_exactly_one_signature() {
    let plain = Request::plain;
    let signature = plain().headers["signature"].to_str().expect("text").to_owned();
    let input = plain().input().to_owned();

    let mut without = plain();
    without.headers.remove("signature");
    assert_eq!(without.error(), SignatureError::Unsigned);
    let mut without = plain();
    without.headers.remove("signature-input");
    assert_eq!(without.error(), SignatureError::Unsigned);

    let labels = plain().edit_input("pyhms=", "other=");
    assert_eq!(labels.error(), SignatureError::Label);

    for second in ["other", "pyhms"] {
        let more = input.replacen("pyhms", second, 1);
        let several = plain().header("signature-input", &format!("{input}, {more}"));
        assert_eq!(several.error(), SignatureError::Several, "{second}");
        let more = signature.replacen("pyhms", second, 1);
        let several = plain().header("signature", &format!("{signature}, {more}"));
        assert_eq!(several.error(), SignatureError::Several, "{second}");
    }
    for name in ["signature", "signature-input"] {
        let mut twice = plain();
        twice.headers.append(name, twice.headers[name].clone());
        assert_eq!(twice.error(), SignatureError::Oversized, "{name}");
        let long = plain().header(name, &format!("pyhms=\"{}\"", "x".repeat(MAX_FIELD)));
        assert_eq!(long.error(), SignatureError::Oversized, "{name}");
    }
    let quoted =
        Request::plain().signed(&ALL, r#";created=1795251867;keyid="ff1gfz";nonce="a, b\", c""#);
    assert!(quoted.verify_at(now()).is_ok(), "a comma in a string separates nothing");
}

#[test]
fn fields_of_another_shape_are_refused() {
    for signature in [
        "",
        "pyhms",
        "pyhms=",
        "pyhms=1",
        "pyhms=\"AAAA\"",
        "pyhms=AAAA",
        "pyhms=(:AAAA:)",
        "pyhms=:AAAA:;x",
        "pyhms=:AA*A:",
        "pyhms=:AAAA",
        "pyhms=?1",
        ":AAAA:",
        "=:AAAA:",
    ] {
        let request = Request::plain().header("signature", signature);
        assert_eq!(request.error(), SignatureError::Malformed, "{signature}");
    }
    for input in [
        "",
        "pyhms",
        "pyhms=\"@method\"",
        "pyhms=(",
        "pyhms=()x",
        "(\"@method\")",
        "pyhms=:AAAA:",
        "pyhms=(@method)",
        "pyhms=(\"ü\")",
    ] {
        let mut request = Request::plain();
        request
            .headers
            .insert("signature-input", HeaderValue::from_bytes(input.as_bytes()).expect("value"));
        assert_eq!(request.error(), SignatureError::Malformed, "{input}");
    }
    let date_type = Request::plain().edit_input("created=", "created=@");
    assert_eq!(date_type.error(), SignatureError::Malformed);
}

#[test]
fn a_damaged_signature_is_refused() {
    let signature = Request::plain().headers["signature"].to_str().expect("text").to_owned();
    let bytes =
        STANDARD.decode(signature.trim_start_matches("pyhms=").trim_matches(':')).expect("base64");
    let with = |bytes: &[u8]| {
        Request::plain().header("signature", &format!("pyhms=:{}:", STANDARD.encode(bytes)))
    };
    assert!(with(&bytes).verify_at(now()).is_ok());
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    for damaged in [
        &[][..],
        &bytes[1..],
        &bytes[..255],
        &[&[0], &bytes[..]].concat(),
        &[&bytes[..], &[0]].concat(),
        &flipped,
        &[0; 256],
        &[255; 256],
    ] {
        assert_eq!(with(damaged).error(), SignatureError::Mismatch);
    }
}

#[test]
fn another_key_or_digest_is_refused() {
    let other = key_pair("big4k0");
    let request = Request::plain().signed_with(&other, &RSA_PSS_SHA512, &ALL, PARAMETERS);
    assert_eq!(request.error(), SignatureError::Mismatch);
    let request = Request::plain().signed_with(&KEY_PAIR, &RSA_PSS_SHA256, &ALL, PARAMETERS);
    assert_eq!(request.error(), SignatureError::Mismatch);
    let request = Request::plain().signed_with(
        &KEY_PAIR,
        &aws_lc_rs::signature::RSA_PKCS1_SHA512,
        &ALL,
        PARAMETERS,
    );
    assert_eq!(request.error(), SignatureError::Mismatch);
    let request = Request::plain().edit_input("ff1gfz", "big4k0");
    assert_eq!(request.error(), SignatureError::Mismatch);
}

#[test]
fn peers_that_share_a_key_id_are_told_apart_by_their_keys() {
    let first = peer(&format!("{KEY_ID}{}", "x".repeat(97)), public_key("big4k0"));
    let second = peer(&full_id(KEY_ID), public_key(KEY_ID));
    let bad = peer(&format!("{KEY_ID}bad"), "");
    for order in [[&first, &second, &bad], [&bad, &second, &first]] {
        let keys = PeerKeys::new(&order.map(Clone::clone));
        let verified = Request::plain().verify_with(&keys, now()).expect("verifies");
        assert_eq!(*verified.peer.id, full_id(KEY_ID));
    }
    let keys = PeerKeys::new(&[first, bad]);
    let error = Request::plain().verify_with(&keys, now()).err();
    assert_eq!(error, Some(SignatureError::Mismatch));
}

#[test]
fn a_request_that_makes_no_url_is_refused() {
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = Request::plain();
        change(&mut request);
        assert_eq!(request.error(), SignatureError::Target, "{request:?}");
    };
    refused(&|r| r.method.clear());
    refused(&|r| r.method = "GET\n\"@authority\": x".into());
    refused(&|r| r.proto.clear());
    refused(&|r| r.host.clear());
    refused(&|r| r.host.push('\n'));
    refused(&|r| r.uri.clear());
    refused(&|r| r.uri.push_str("#x"));
    refused(&|r| r.uri.push('%'));
    refused(&|r| r.uri.push('\n'));
}

proptest! {
    #[test]
    fn any_fields_are_survived(
        input in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut request = Request::plain();
        for (name, value) in [("signature-input", input), ("signature", signature)] {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request.headers.insert(name, value);
                prop_assert!(request.verify_at(now()).is_err());
            }
        }
    }

    #[test]
    fn almost_right_fields_are_survived(
        input in r#"[a-z*]{1,3}=\(("@?[a-z-]{0,12}"(;[a-z]{1,3}(=[0-9a-z"]{1,4})?)? ?){0,5}\)(;(created|keyid|nonce|alg|expires)=("[ -~]{0,8}"|-?[0-9]{1,16})){0,5}"#,
    ) {
        let request = Request::plain().header("signature-input", &input);
        prop_assert!(request.verify_at(now()).is_err());
    }

    #[test]
    fn a_changed_byte_of_the_fields_is_refused(at in 0usize..600, byte in 0x20u8..0x7f) {
        let request = Request::plain();
        let input = request.input().to_owned();
        let signature = request.headers["signature"].to_str().expect("text").to_owned();
        let (name, value) = if at < input.len() { ("signature-input", input) } else { ("signature", signature) };
        let mut bytes = value.into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        // Padding and the unused bits before it carry no information (RFC 8941 section 4.2.7).
        prop_assume!(name == "signature-input" || at < bytes.len() - 4);
        bytes[at] = byte;
        let mut changed = request.clone();
        changed.headers.insert(name, HeaderValue::from_bytes(&bytes).expect("ascii"));
        prop_assert!(changed.verify_at(now()).is_err());
    }

    #[test]
    fn any_request_line_is_survived(method in "\\PC{0,8}", proto in "\\PC{0,6}", host in "\\PC{0,12}", uri in "\\PC{0,24}") {
        let request = Request { method, proto, host, uri, ..Request::plain() };
        prop_assert!(request.verify_at(now()).is_err());
    }
}
