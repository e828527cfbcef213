//! Credentials as their real issuers create them: peers sign with the Python
//! package that `FreeShard` uses, terminals have tokens.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::{hmac, rsa};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

/// An RSA key pair as PEM text.
#[derive(Debug, Clone)]
pub struct RsaKey {
    /// PKCS8.
    pub private_pem: String,
    /// SPKI.
    pub public_pem: String,
}

impl RsaKey {
    /// 2,048 bits: as good as 4,096 for a test, in a tenth of the time.
    pub fn generate() -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("random");
        let private = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).expect("DER");
        let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key())
            .expect("DER");
        Self {
            private_pem: pem_text("PRIVATE KEY", private.as_ref()),
            public_pem: pem_text("PUBLIC KEY", public.as_ref()),
        }
    }
}

fn pem_text(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

/// The box's own key.
pub static BOX_KEY: LazyLock<RsaKey> = LazyLock::new(RsaKey::generate);
/// The key of the peer that is known to boxes.
pub static PEER_KEY: LazyLock<RsaKey> = LazyLock::new(RsaKey::generate);
/// An unknown key.
pub static OTHER_KEY: LazyLock<RsaKey> = LazyLock::new(RsaKey::generate);

/// The headers of a signed request.
pub type Signed = BTreeMap<String, String>;

/// What to sign; the defaults are what `FreeShard` sends.
pub fn order(key: &RsaKey, keyid: &str, url: &str) -> Value {
    json!({ "key": key.private_pem, "keyid": keyid, "url": url })
}

/// Signs all of them with requests-http-signature, in one run of Python.
pub fn sign(orders: &[Value]) -> Vec<Signed> {
    let mut python = Command::new(python())
        .args(["-c", include_str!("sign.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python with requests-http-signature; `tests/run` makes target/venv");
    let mut input = python.stdin.take().expect("piped");
    input.write_all(&serde_json::to_vec(orders).expect("JSON")).expect("read by the script");
    drop(input);
    let output = python.wait_with_output().expect("runs");
    assert!(output.status.success(), "the signing script failed, see above");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The virtual environment's Python: `TESTS_VENV`, or `target/venv`.
pub fn python() -> PathBuf {
    let venv = std::env::var_os("TESTS_VENV")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv").into(), PathBuf::from);
    venv.join("bin/python")
}

/// The only headers of a signed request that the gate needs.
pub fn signature_headers(signed: &Signed) -> impl Iterator<Item = (&str, &str)> {
    let needed = ["date", "signature", "signature-input", "content-digest"];
    let all = signed.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    all.filter(move |(name, _)| needed.contains(&name.to_ascii_lowercase().as_str()))
}

/// How a token is signed.
#[derive(Debug, Clone, Copy)]
pub enum Mac {
    Sha256,
    Sha384,
    Sha512,
}

/// A compact JWS of exactly this header and these claims.
pub fn jws(mac: Mac, key: &[u8], header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let algorithm = match mac {
        Mac::Sha256 => hmac::HMAC_SHA256,
        Mac::Sha384 => hmac::HMAC_SHA384,
        Mac::Sha512 => hmac::HMAC_SHA512,
    };
    let tag = hmac::sign(&hmac::Key::new(algorithm, key), signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

/// A valid HS256 token of any claims.
pub fn token_of(secret: &str, claims: &Value) -> String {
    jws(Mac::Sha256, secret.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), claims)
}

/// The token that `shard_core` issues for a terminal.
pub fn token(secret: &str, terminal: &str) -> String {
    token_of(secret, &json!({"sub": terminal, "iat": unix_now() - 60}))
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "credentials are made for now")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Nanoseconds since 1970, as programs in containers and browsers report their times.
#[expect(clippy::disallowed_methods, reason = "compared with other programs' clocks")]
pub fn unix_nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos()
}
