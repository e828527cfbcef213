//! The whole process over its sockets: listeners, TLS, probes, reload, drain.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nightporter::config::{Config, Environment, ListenAddr, load};
use nightporter::{Listeners, RunError, Signal, run};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request};

const PATIENCE: Duration = Duration::from_secs(120);

/// A process in this one.
struct Running {
    sample: SampleBox,
    folder: TempDir,
    gate: ListenAddr,
    ops: ListenAddr,
    signals: mpsc::Sender<Signal>,
    task: JoinHandle<Result<(), RunError>>,
}

fn config(sample: &SampleBox, folder: &Path, sections: &str) -> Arc<Config> {
    let file = folder.join("nightporter.toml");
    std::fs::write(&file, format!("{}{sections}", sample.store_config())).unwrap();
    match load(Some(&file), &Environment::new()) {
        Ok(config) => Arc::new(config),
        Err(findings) => panic!("{findings}"),
    }
}

impl Running {
    /// Serves a box with one public app, `notes`; `sections` may use `{folder}`.
    async fn new(sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::beside(folder, sections).await
    }

    async fn beside(folder: TempDir, sections: &str) -> Self {
        let sample = SampleBox::new(Store::Files).await;
        sample.add_app("notes", &json!({"": {"access": "public"}})).await;
        let sections = sections.replace("{folder}", &folder.path().display().to_string());
        let config = config(&sample, folder.path(), &sections);
        let listeners = Listeners::bind(&config).unwrap();
        let (gate, ops) = (listeners.gate.addr().clone(), listeners.ops.addr().clone());
        let (signals, receiver) = mpsc::channel(4);
        let task = tokio::spawn(run(config, listeners, receiver));
        Self { sample, folder, gate, ops, signals, task }
    }

    fn gate(&self) -> SocketAddr {
        tcp(&self.gate)
    }

    async fn ended(self) -> Result<(), RunError> {
        timeout(PATIENCE, self.task).await.expect("ends in time").expect("no panic")
    }
}

fn tcp(addr: &ListenAddr) -> SocketAddr {
    match addr {
        ListenAddr::Tcp(addr) => *addr,
        ListenAddr::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

const PLAIN: &str = "
[gate]
listen = \"127.0.0.1:0\"
[ops]
listen = \"127.0.0.1:0\"
";

async fn get(addr: SocketAddr, request: &Request) -> crate::support::client::Response {
    Connection::open(addr).await.unwrap().ask(request).await.unwrap()
}

/// Asks until the answer is as it should be.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

async fn ready(addr: SocketAddr) {
    until("ready and live", async || {
        let answer = get(addr, &Request::new("GET", "/readyz")).await;
        answer.status == 200 && answer.body() == r#"{"state":"live"}"#
    })
    .await;
}

#[tokio::test]
async fn both_listeners_answer_what_they_should_and_nothing_else() {
    let process = Running::new(PLAIN).await;
    let (gate, ops) = (process.gate(), tcp(&process.ops));
    ready(gate).await;
    ready(ops).await;

    let grant = get(gate, &Request::auth("notes.box.test", "/")).await;
    assert_eq!((grant.status, grant.body()), (200, "null"));
    assert_eq!(grant.text("content-type"), Some("application/json"));
    assert_eq!(grant.text("cache-control"), Some("no-store"));
    for path in ["/", "/internal", "/internal/auth/", "/metrics", "/internal/app_error/"] {
        let answer = get(gate, &Request::new("GET", path)).await;
        assert_eq!((answer.status, answer.body()), (404, r#"{"detail":"Not Found"}"#), "{path}");
    }
    let page = Request::new("GET", "/internal/app_error/502").without("host");
    let page = get(gate, &page.header("Host", "notes.box.test")).await;
    assert_eq!(page.status, 502);
    assert_eq!(page.text("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.body().contains("notes"), "{}", page.body());

    for addr in [gate, ops] {
        assert_eq!(get(addr, &Request::new("GET", "/livez")).await.status, 200);
        let health = get(addr, &Request::new("GET", "/healthz")).await;
        let health: Value = serde_json::from_str(health.body()).unwrap();
        assert_eq!(health["state"], "live");
        assert_eq!(health["listener"], "live");
        assert_eq!(health["store"]["problems"], json!([]));
        assert!(health["ages"]["verified_seconds"].as_f64().unwrap() < 60.0, "{health}");
    }
    assert_eq!(get(ops, &Request::auth("notes.box.test", "/")).await.status, 404);
}

#[tokio::test]
async fn metrics_count_verdicts_and_need_the_token_where_there_is_one() {
    let sections = format!("{PLAIN}token = \"0123456789abcdef0123\"\n");
    let process = Running::new(&sections).await;
    ready(process.gate()).await;
    get(process.gate(), &Request::auth("notes.box.test", "/")).await;
    get(process.gate(), &Request::auth("nothere.box.test", "/")).await;

    let ops = tcp(&process.ops);
    let ask = async |authorization: Option<&str>| {
        let request = Request::new("GET", "/metrics");
        get(ops, &request.headers(authorization.map(|value| ("Authorization", value)))).await
    };
    for wrong in
        [None, Some("Bearer 0123456789abcdef0124"), Some("Bearer "), Some("0123456789abcdef0123")]
    {
        let answer = ask(wrong).await;
        assert_eq!(answer.status, 401, "{wrong:?}");
        assert_eq!(answer.text("www-authenticate"), Some("Bearer"));
    }
    let metrics = ask(Some("Bearer 0123456789abcdef0123")).await;
    assert_eq!(metrics.status, 200);
    for (metric, at_least) in [
        (r#"nightporter_verdicts_total{endpoint="auth",reason="grant"}"#, 1.0),
        (r#"nightporter_verdicts_total{endpoint="auth",reason="unknown_app"}"#, 1.0),
        (r#"nightporter_request_duration_seconds_count{endpoint="auth"}"#, 2.0),
        (r#"nightporter_connections{listener="ops"}"#, 1.0),
        (r#"nightporter_cache_loads_total{cache="app_names"}"#, 1.0),
        (r#"nightporter_app_verdicts_total{app="notes",rule="",verdict="grant"}"#, 1.0),
        ("nightporter_reconciler_queue_length", 0.0),
        ("nightporter_reconciler_queue_age_seconds", 0.0),
        ("nightporter_start_queue_age_seconds", 0.0),
        ("nightporter_store_live", 1.0),
        ("nightporter_store_verified_age_seconds", 0.0),
    ] {
        let line = metrics.body().lines().find_map(|line| line.strip_prefix(metric));
        let value: f64 = line.expect(metric).trim().parse().unwrap();
        assert!(value >= at_least, "{metric}: {value}");
    }
}

#[tokio::test]
async fn socket_files_serve_both_listeners() {
    let process = Running::new(
        "[gate]\nlisten = \"unix:{folder}/gate.sock\"\n[ops]\nlisten = \"unix:{folder}/ops.sock\"\n",
    )
    .await;
    let paths = [&process.gate, &process.ops].map(|addr| match addr {
        ListenAddr::Unix(path) => path.clone(),
        ListenAddr::Tcp(addr) => panic!("{addr}"),
    });
    for path in &paths {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    process.signals.send(Signal::Shutdown).await.unwrap();
    process.task.await.unwrap().unwrap();
    assert!(paths.iter().all(|path| !path.exists()), "left behind");
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_and_ends_well() {
    // Longer than anybody waits here.
    let patient = PLAIN.replace("[ops]", "drain_timeout = \"1h\"\n[ops]");
    let process = Running::new(&patient).await;
    let gate = process.gate();
    let mut idle = Connection::open(gate).await.unwrap();
    idle.ask(&Request::new("GET", "/livez")).await.unwrap();
    process.signals.send(Signal::Shutdown).await.unwrap();
    assert!(process.ended().await.is_ok());
    assert!(idle.ask(&Request::new("GET", "/livez")).await.is_err());
    assert!(TcpStream::connect(gate).await.is_err());
}

/// An authority of the test's own.
struct Authority {
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { pem: params.self_signed(&key).unwrap().pem(), key }
    }

    /// A certificate for `localhost` and its key, in PEM.
    fn sign(&self) -> (String, String) {
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Who connects over TLS.
struct Client<'a> {
    trusts: &'a [u8],
    certificate: Option<&'a (String, String)>,
    alpn: &'a [&'a [u8]],
}

impl Client<'_> {
    async fn connect(&self, addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trusts).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect(addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The status of `/livez`, by whatever protocol was agreed on.
    async fn livez(&self, addr: SocketAddr) -> Result<u16, Box<dyn std::error::Error>> {
        let stream = timeout(PATIENCE, self.connect(addr)).await??;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let request = http::Request::get("https://localhost/livez")
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())?;
        let asking = async {
            let response = if http2 {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            } else {
                let (mut sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            };
            let status = response.status().as_u16();
            response.into_body().collect().await?;
            Ok::<_, hyper::Error>(status)
        };
        Ok(timeout(PATIENCE, asking).await??)
    }
}

fn tls(more: &str) -> String {
    let mut sections = PLAIN.to_owned();
    write!(sections, "[gate.tls]\n{more}").unwrap();
    sections
}

#[tokio::test]
async fn a_self_signed_gate_speaks_http2_and_http1_to_whoever_has_its_authority() {
    let process = Running::new(&tls(
        "self_signed = true\ndirectory = \"{folder}/tls\"\nnames = [\"localhost\", \"127.0.0.1\"]\n",
    ))
    .await;
    let path = process.folder.path().join("tls/cert.pem");
    until("a certificate is made", async || path.exists()).await;
    let authority = std::fs::read(path.with_file_name("ca.pem")).unwrap();
    for (alpn, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[&b"http/1.1"[..]][..], Some(b"http/1.1")),
        (&[][..], None),
    ] {
        let client = Client { trusts: &authority, certificate: None, alpn };
        let stream = client.connect(process.gate()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected);
        assert_eq!(client.livez(process.gate()).await.unwrap(), 200);
    }
    let stranger = Authority::new();
    let client = Client { trusts: stranger.pem.as_bytes(), certificate: None, alpn: &[] };
    assert!(client.livez(process.gate()).await.is_err());
}

fn given(folder: &Path, (certificate, key): &(String, String)) -> [PathBuf; 2] {
    let paths = ["cert.pem", "key.pem"].map(|name| folder.join(name));
    std::fs::write(&paths[0], certificate).unwrap();
    std::fs::write(&paths[1], key).unwrap();
    paths
}

const GIVEN: &str = "certificate = \"{folder}/cert.pem\"\nkey = \"{folder}/key.pem\"\n";

#[tokio::test]
async fn with_a_client_authority_only_its_clients_get_in() {
    let (server, clients) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    given(folder.path(), &server.sign());
    std::fs::write(folder.path().join("clients.pem"), &clients.pem).unwrap();
    let sections = tls(&format!("{GIVEN}client_ca = \"{{folder}}/clients.pem\"\n"));
    let process = Running::beside(folder, &sections).await;

    let (proxy, stranger) = (clients.sign(), server.sign());
    for alpn in [&[&b"h2"[..]][..], &[]] {
        let client = |certificate| Client { trusts: server.pem.as_bytes(), certificate, alpn };
        assert_eq!(client(Some(&proxy)).livez(process.gate()).await.unwrap(), 200);
        assert!(client(None).livez(process.gate()).await.is_err());
        assert!(client(Some(&stranger)).livez(process.gate()).await.is_err());
    }
}

/// The certificate that is offered now.
async fn offered(process: &Running, authority: &Authority) -> Vec<u8> {
    let client = Client { trusts: authority.pem.as_bytes(), certificate: None, alpn: &[] };
    let stream = client.connect(process.gate()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let (first, second, third) = (authority.sign(), authority.sign(), authority.sign());
    let folder = tempfile::tempdir().unwrap();
    let paths = given(folder.path(), &first);
    let process = Running::beside(folder, &tls(GIVEN)).await;
    assert_eq!(offered(&process, &authority).await, der(&first.0));

    given(process.folder.path(), &second);
    until("the second is offered, unasked", async || {
        offered(&process, &authority).await == der(&second.0)
    })
    .await;

    // At a reload it is looked at before the reload is over.
    std::fs::write(&paths[1], "broken").unwrap();
    let sections = tls(GIVEN).replace("{folder}", &process.folder.path().display().to_string());
    let same = config(&process.sample, process.folder.path(), &sections);
    for _ in 0..3 {
        process.signals.send(Signal::Reload(Arc::clone(&same))).await.unwrap();
        assert_eq!(offered(&process, &authority).await, der(&second.0));
    }
    given(process.folder.path(), &third);
    process.signals.send(Signal::Reload(same)).await.unwrap();
    until("the third is offered", async || offered(&process, &authority).await == der(&third.0))
        .await;
}

#[tokio::test]
async fn a_silent_tls_client_does_not_keep_others_waiting() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    given(folder.path(), &authority.sign());
    let process = Running::beside(folder, &tls(GIVEN)).await;
    let _silent: Vec<_> =
        futures_util::future::join_all((0..50).map(|_| TcpStream::connect(process.gate()))).await;
    let client = Client { trusts: authority.pem.as_bytes(), certificate: None, alpn: &[b"h2"] };
    assert_eq!(client.livez(process.gate()).await.unwrap(), 200);
}
