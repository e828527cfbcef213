//! The server that nightporter is compared with: hyper with a constant response.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The constant response, copied from nightporter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    /// Without the headers that hyper adds.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// The settings of this server.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    pub answer: Answer,
    /// Certificate and key in PEM; if set, the server speaks HTTP/2 over TLS.
    pub tls: Option<(String, String)>,
}

struct Prepared {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Prepared {
    fn response(&self) -> Response<Full<Bytes>> {
        // Room for the two headers that hyper adds.
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 2);
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

pub fn serve(settings: &Path) {
    let settings = std::fs::read(settings).expect("settings");
    let Settings { answer, tls } = serde_json::from_slice(&settings).expect("settings");
    let headers = answer
        .headers
        .iter()
        .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
    let prepared = Arc::new(Prepared {
        status: StatusCode::from_u16(answer.status).expect("a status"),
        headers: headers.collect(),
        body: answer.body.into(),
    });
    let tls = tls.map(|(certificate, key)| acceptor(&certificate, &key));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("listening on {}", listener.local_addr().expect("bound"));
        // Accept on a worker thread, as nightporter does, not on the thread that blocks here.
        let accepting = tokio::spawn(accept(listener, prepared, tls));
        accepting.await.expect("no panic");
    });
}

async fn accept(listener: TcpListener, prepared: Arc<Prepared>, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (prepared, tls) = (Arc::clone(&prepared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => drive(stream, false, prepared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drive(stream, true, prepared).await;
                    }
                }
            }
        });
    }
}

async fn drive<IO>(stream: IO, multiplexed: bool, prepared: Arc<Prepared>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |_request| {
        let response = prepared.response();
        async { Ok::<_, Infallible>(response) }
    });
    let stream = TokioIo::new(stream);
    // An error only means that the client has disconnected.
    if multiplexed {
        http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await.ok();
    } else {
        http1::Builder::new().serve_connection(stream, service).await.ok();
    }
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
