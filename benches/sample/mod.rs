//! A box in a folder, with as many apps and terminals as a benchmark needs,
//! and the credentials of its clients.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA512, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_SHA512};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use nightporter::config::Secret;
use nightporter::domain::identity::encode_id;
use nightporter::gate::credentials::terminal;
use serde_json::json;
use tempfile::TempDir;

const TERMINAL_SECRET: &str = "0b9c1f4e-terminal-secret-of-the-sample-box";

/// The headers of an app's private paths; real apps use all of them.
const PRIVATE_HEADERS: [(&str, &str); 4] = [
    ("X-Ptl-Client-Id", "{{ auth.client_id }}"),
    ("X-Ptl-Client-Name", "{{ auth.client_name }}"),
    ("X-Ptl-Client-Type", "{{ auth.client_type }}"),
    ("X-Ptl-User", "{{ portal.id[:6] }}@{{ portal.domain }}"),
];

/// A key of the maximum size for a peer.
const LARGE_KEY: &str = include_str!("../../tests/vectors/large-key.pem");

/// A box with apps `app0`, … and terminals `terminal0`, …, one peer that signs, and one with
/// a large key. In each app `/public/` is public, `/peer/` is for peers, and all other paths
/// are private.
pub struct SampleBox {
    folder: TempDir,
    peer: KeyPair,
    peer_id: String,
    large_key_id: String,
}

impl SampleBox {
    pub fn new(apps: usize, terminals: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // The key size that FreeShard uses.
        let peer = KeyPair::generate(KeySize::Rsa4096).expect("random");
        let peer_id = id_of(&public_pem(&peer));
        let large_key = pem::parse(LARGE_KEY).expect("PEM");
        let large_key = KeyPair::from_pkcs8(large_key.contents()).expect("a key");
        let large_key_id = id_of(&public_pem(&large_key));
        let sample = Self { folder, peer, peer_id, large_key_id };
        let own = public_pem(&KeyPair::generate(KeySize::Rsa2048).expect("random"));
        let id = id_of(&own);
        sample.write(
            "identity.toml",
            &format!(
                "id = \"{id}\"\ndomain = \"box.example\"\npublic_key_pem = \"\"\"\n{own}\"\"\"\n"
            ),
        );
        let row = |id: &str, key: &KeyPair| {
            let key = public_pem(key);
            format!(
                "[[peer]]\nid = \"{id}\"\nname = \"Peer\"\npublic_key_pem = \"\"\"\n{key}\"\"\"\n"
            )
        };
        let rows = [row(&sample.peer_id, &sample.peer), row(&sample.large_key_id, &large_key)];
        sample.write("peers.toml", &rows.concat());
        sample.write("terminal_jwt_secret", TERMINAL_SECRET);
        sample.write_terminals(terminals);
        for app in 0..apps {
            sample.write_app(&format!("app{app}"));
        }
        sample
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("writable");
    }

    fn write_terminals(&self, terminals: usize) {
        let mut text = String::new();
        for terminal in 0..terminals {
            write!(
                text,
                "[[terminal]]\nid = \"terminal{terminal}\"\nname = \"Phone {terminal}\"\n"
            )
            .expect("text");
        }
        self.write("terminals.toml", &text);
    }

    fn write_app(&self, name: &str) {
        let headers: serde_json::Map<_, _> = PRIVATE_HEADERS
            .map(|(name, value)| (name.to_owned(), value.into()))
            .into_iter()
            .collect();
        let meta = json!({
            "v": "1.3", "app_version": "1.0.0", "name": name, "pretty_name": name,
            "icon": "icon.svg", "lifecycle": {"always_on": false},
            "entrypoints": [
                {"container_name": name, "container_port": 80, "entrypoint_port": "http"}],
            "paths": {
                "": {"access": "private", "headers": headers},
                "/public/": {
                    "access": "public",
                    "headers": {"X-Ptl-Client-Type": "{{ auth.client_type }}"},
                },
                "/peer/": {"access": "peer", "headers": headers},
            },
        });
        let folder = self.path().join("installed_apps").join(name);
        std::fs::create_dir_all(&folder).expect("writable");
        std::fs::write(folder.join("app_meta.json"), meta.to_string()).expect("writable");
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a configuration file that serves the box on free ports; `more` is appended to
    /// its TOML.
    pub fn config(&self, more: &str) -> PathBuf {
        self.write_config(true, more)
    }

    /// Writes the same without a ledger.
    #[allow(dead_code, reason = "only one of the benchmarks compares the two")]
    pub fn config_without_ledger(&self) -> PathBuf {
        self.write_config(false, "")
    }

    fn write_config(&self, ledger: bool, more: &str) -> PathBuf {
        let folder = self.path().display();
        let listen = "listen = \"127.0.0.1:0\"";
        self.write(
            "nightporter.toml",
            &format!(
                "[gate]\n{listen}\n[ops]\n{listen}\n\
                 [ledger]\nenabled = {ledger}\npath = \"{folder}/ledger\"\n\
                 [store]\nkind = \"files\"\npath = \"{folder}\"\n{more}"
            ),
        );
        self.path().join("nightporter.toml")
    }

    /// Returns the cookie of a terminal; it is valid for every sample box.
    pub fn cookie(terminal: usize) -> String {
        let (secret, id) = (Secret::new(TERMINAL_SECRET), format!("terminal{terminal}"));
        #[expect(clippy::disallowed_methods, reason = "credentials are made for now")]
        let token = terminal::issue(&secret, &id, SystemTime::now()).expect("a secret");
        format!("authorization={token}")
    }

    /// Returns the key id in the peer's signatures.
    pub fn key_id(&self) -> &str {
        &self.peer_id[..6]
    }

    /// Returns the key id in signatures by the large key.
    #[allow(dead_code, reason = "not every benchmark uses it")]
    pub fn large_key_id(&self) -> &str {
        &self.large_key_id[..6]
    }

    /// Signs `GET https://{host}{uri}` as the peer; returns the values of
    /// `Signature-Input` and `Signature` (RFC 9421).
    pub fn signature(&self, host: &str, uri: &str) -> [String; 2] {
        #[expect(clippy::disallowed_methods, reason = "credentials are made for now")]
        let created = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let key_id = self.key_id();
        let parameters = format!(
            "(\"@method\" \"@authority\" \"@target-uri\");created={created};\
             keyid=\"{key_id}\";alg=\"rsa-pss-sha512\""
        );
        let base = format!(
            "\"@method\": GET\n\"@authority\": {host}\n\"@target-uri\": https://{host}{uri}\n\
             \"@signature-params\": {parameters}"
        );
        let mut signature = vec![0; self.peer.public_modulus_len()];
        self.peer
            .sign(&RSA_PSS_SHA512, &SystemRandom::new(), base.as_bytes(), &mut signature)
            .expect("signed");
        [format!("sig={parameters}"), format!("sig=:{}:", BASE64_STANDARD.encode(signature))]
    }
}

/// Returns the headers that a proxy sends for a browser's `GET https://{host}{uri}`.
pub fn forwarded(host: &str, uri: &str) -> Vec<(String, String)> {
    [
        ("host", "127.0.0.1"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-US,en;q=0.5"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded-host", host),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-uri", uri),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Returns the host of an app.
pub fn host(app: usize) -> String {
    format!("app{app}.box.example")
}

fn id_of(public_pem: &str) -> String {
    encode_id(digest(&SHA512, public_pem.as_bytes()).as_ref())
}

fn public_pem(key: &KeyPair) -> String {
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).expect("DER");
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("PUBLIC KEY", der.as_ref()), config)
}
