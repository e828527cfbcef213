//! Receivers behind TLS: whose certificates are accepted, and what is said of the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nightporter::webhooks::deliveries::Attempt;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::receiver::{Received, Receiver};
use super::site::{PATIENCE, SECRET, Site, event};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::poll;

/// An authority of the test's own.
struct Authority {
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { pem: params.self_signed(&key).expect("a certificate").pem(), key }
    }

    fn sign(&self, certificate: &Certificate) -> (String, String) {
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).expect("an issuer");
        let key = KeyPair::generate().expect("a key");
        let signed = certificate.params().signed_by(&key, &issuer).expect("a certificate");
        (signed.pem(), key.serialize_pem())
    }
}

/// A certificate for names, which is valid from and until a day, counted from today.
struct Certificate(&'static [&'static str], i64, i64);

impl Certificate {
    #[expect(clippy::disallowed_methods, reason = "certificates are valid by the clock")]
    fn params(&self) -> CertificateParams {
        let Self(names, from, until) = self;
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        let now = time::OffsetDateTime::from(std::time::SystemTime::now());
        params.not_before = now + time::Duration::days(*from);
        params.not_after = now + time::Duration::days(*until);
        params
    }

    /// Signed by its own key, which is no authority's.
    fn self_signed(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        (self.params().self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    }
}

/// TLS before a receiver; it ends when it is dropped.
struct Front {
    address: SocketAddr,
    task: AbortHandle,
}

impl Front {
    async fn new(receiver: &Receiver, (chain, key): &(String, String)) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let receiver = receiver.address;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                    let mut tcp = TcpStream::connect(receiver).await.expect("it listens");
                    tokio::io::copy_bidirectional(&mut tls, &mut tcp).await.ok();
                });
            }
        });
        Self { address, task: task.abort_handle() }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/", self.address.port())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn endpoint(name: &str, url: &str) -> String {
    format!(
        "[[endpoint]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n\
         allow = [\"localhost\", \"127.0.0.1\"]\n"
    )
}

/// Waits for the first attempt to send an event to an endpoint.
async fn attempt(site: &Site, id: &str, event: &str) -> Attempt {
    let mut found = None;
    poll(&format!("{event} is sent to {id}"), PATIENCE, async || {
        let mut log = site.log(id).await.into_iter();
        found = log.rfind(|attempt| attempt.event == event && attempt.outcome != "running");
        found.is_some()
    })
    .await;
    found.expect("an attempt")
}

fn ids(receiver: &Receiver) -> Vec<String> {
    let id = |received: &Received| received.header("webhook-id").to_owned();
    receiver.received().iter().map(id).collect()
}

/// Starts a server that answers whatever it is sent without TLS.
async fn without_tls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.ok();
            // The rest of what is sent is read, so that the answer is not lost by a reset.
            tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await.ok();
        }
    });
    address
}

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_certificate_of_a_known_authority_gets_messages() {
    let sample = SampleBox::new(Store::Files).await;
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let valid = || Certificate(LOCAL, -1, 30);
    let lonely = valid().self_signed();
    let file = sample.folder().join("ca.pem");
    std::fs::write(&file, format!("{}{}", own.pem, lonely.0)).expect("written");
    let receivers = futures_util::future::join_all([(); 8].map(|()| Receiver::start())).await;
    let own_as_server = (own.pem.clone(), own.key.serialize_pem());
    let cases: [(&str, (String, String), &str); 8] = [
        ("right", own.sign(&valid()), ""),
        ("self-signed", lonely, ""),
        ("unknown", other.sign(&valid()), "webhooks.ca_file"),
        // It has the name of the certificate in the file.
        ("impostor", valid().self_signed(), "webhooks.ca_file"),
        ("name", own.sign(&Certificate(&["ntfy.example"], -1, 30)), "another name"),
        ("expired", own.sign(&Certificate(LOCAL, -30, -1)), "has expired"),
        ("early", own.sign(&Certificate(LOCAL, 1, 30)), "not valid yet"),
        ("authority", own_as_server, "that of an authority"),
    ];
    let (mut fronts, mut toml) = (Vec::new(), String::new());
    for ((name, certificate, _), receiver) in cases.iter().zip(&receivers) {
        let front = Front::new(receiver, certificate).await;
        toml += &endpoint(name, &front.url("localhost"));
        fronts.push(front);
    }
    toml += &endpoint("by-address", &fronts[0].url("127.0.0.1"));
    let plain = without_tls().await;
    toml += &endpoint("plain", &format!("https://localhost:{}/", plain.port()));
    let settings = format!("[webhooks]\nca_file = \"{}\"\n", file.display());
    let site = Site::new(&sample, &format!("{settings}{toml}")).await;
    site.queue(&event("e1", "alert.firing")).await;
    for ((name, _, said), receiver) in cases.iter().zip(&receivers) {
        let attempt = attempt(&site, name, "e1").await;
        let detail = attempt.detail.as_deref().unwrap_or_default();
        if said.is_empty() {
            assert_eq!(attempt.outcome, "delivered", "{name}: {attempt:?}");
        } else {
            assert_eq!(attempt.outcome, "tls", "{name}: {attempt:?}");
            assert!(detail.contains(said) && detail.contains("localhost"), "{name}: {detail}");
            assert_eq!(ids(receiver), [""; 0], "{name}");
        }
    }
    assert_eq!(attempt(&site, "by-address", "e1").await.outcome, "delivered");
    assert_eq!(ids(&receivers[0]), ["e1", "e1"]);
    assert_eq!(attempt(&site, "plain", "e1").await.outcome, "tls");

    // The file is replaced while the process runs.
    std::fs::write(&file, &other.pem).expect("written");
    site.queue(&event("e2", "alert.firing")).await;
    assert_eq!(attempt(&site, "unknown", "e2").await.outcome, "delivered");
    assert_eq!(attempt(&site, "right", "e2").await.outcome, "tls");
    for (content, said) in [("", "no PEM certificate"), ("-----BEGIN CERTIFICATE-----\nx\n", "")] {
        std::fs::write(&file, content).expect("written");
        let id = format!("e-{}", content.len());
        site.queue(&event(&id, "alert.firing")).await;
        let attempt = attempt(&site, "unknown", &id).await;
        let detail = attempt.detail.expect("a reason");
        assert_eq!(attempt.outcome, "tls", "{detail}");
        assert!(detail.contains("`webhooks.ca_file`") && detail.contains(said), "{detail}");
    }
}

#[tokio::test]
async fn without_a_file_the_authorities_of_the_system_count() {
    let sample = SampleBox::new(Store::Files).await;
    let receiver = Receiver::start().await;
    let front = Front::new(&receiver, &Certificate(LOCAL, -1, 30).self_signed()).await;
    let site = Site::new(&sample, &endpoint("hook", &front.url("localhost"))).await;
    site.queue(&event("e1", "alert.firing")).await;
    let attempt = attempt(&site, "hook", "e1").await;
    let detail = attempt.detail.expect("a reason");
    assert!(detail.contains("not known here"), "{detail}");
    assert_eq!(ids(&receiver), [""; 0]);
}

/// A handshake that does not end costs the message its time, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_hangs_ends_with_the_attempt() {
    let sample = SampleBox::new(Store::Files).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://127.0.0.1:{}/", silent.local_addr().expect("bound").port());
    let site = Site::new(&sample, &endpoint("hook", &url)).await;
    site.queue(&event("e1", "alert.firing")).await;
    let _connection = silent.accept().await.expect("it is connected to");
    let attempt = attempt(&site, "hook", "e1").await;
    assert_eq!(attempt.outcome, "timeout", "{attempt:?}");
    let lasted = Duration::from_micros(attempt.duration.expect("known").unsigned_abs());
    assert!(lasted >= Duration::from_secs(15), "{lasted:?}");
}
