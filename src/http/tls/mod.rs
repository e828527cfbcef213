//! TLS on the gate's listener, and with it, by ALPN, HTTP/2.
//!
//! The files are read again while running. New ones that do not work leave
//! those in force that did.

mod self_signed;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::config::{self, Certificate};

/// How often the files are looked at.
const CHECK: Duration = Duration::from_secs(5);

/// In the order of preference.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path}: {problem}")]
    Unusable { path: PathBuf, problem: String },
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// What the listener offers to those who connect.
#[derive(Debug)]
pub(crate) struct Tls {
    files: config::Tls,
    offered: ArcSwap<ServerConfig>,
    /// The files' contents as last looked at, working or not.
    seen: Mutex<Material>,
}

/// The files' contents.
#[derive(PartialEq, Eq)]
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material")
    }
}

impl Tls {
    /// Reads the files; makes them first where they are ours to make.
    pub(crate) fn load(files: &config::Tls) -> Result<Self, TlsError> {
        let material = Material::read(files, wall_clock())?;
        let offered = ArcSwap::from_pointee(material.server_config(files)?);
        Ok(Self { files: files.clone(), offered, seen: Mutex::new(material) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.offered.load_full())
    }

    /// Follows the files as long as the process runs.
    pub(crate) async fn follow(self: Arc<Self>) -> Infallible {
        loop {
            tokio::time::sleep(CHECK).await;
            self.refresh().await;
        }
    }

    /// Takes the files in force if they have changed and work.
    pub(crate) async fn refresh(self: &Arc<Self>) {
        let tls = Arc::clone(self);
        // It waits for a lock that another process may hold.
        let refreshed = tokio::task::spawn_blocking(move || tls.try_refresh(wall_clock()));
        let Ok(refreshed) = refreshed.await else {
            error!("looking at the certificate files panicked");
            return;
        };
        match refreshed {
            Ok(true) => info!("certificate files read again; new connections use them"),
            Ok(false) => {}
            Err(error) => error!(%error, "certificate files not taken; the former stay in force"),
        }
    }

    fn try_refresh(&self, now: SystemTime) -> Result<bool, TlsError> {
        let material = Material::read(&self.files, now)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == material {
            return Ok(false);
        }
        let config = material.server_config(&self.files);
        *seen = material;
        self.offered.store(Arc::new(config?));
        Ok(true)
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are made and end by the wall clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

impl Material {
    fn read(files: &config::Tls, now: SystemTime) -> Result<Self, TlsError> {
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        let (certificate, key) = match &files.certificate {
            Certificate::Given { certificate, key } => (read(certificate)?, read(key)?),
            Certificate::SelfSigned { directory, names } => {
                self_signed::ensure(directory, names, now)?
            }
        };
        Ok(Self { certificate, key, client_ca })
    }

    fn server_config(&self, files: &config::Tls) -> Result<ServerConfig, TlsError> {
        let (certificate, key) = match &files.certificate {
            Certificate::Given { certificate, key } => (certificate.clone(), key.clone()),
            Certificate::SelfSigned { directory, .. } => self_signed::leaf_files(directory),
        };
        let chain = certificates(&self.certificate, &certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable(&key, format!("no private key in PEM: {error}")))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                builder.with_client_cert_verifier(client_verifier(pem, path, provider)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&certificate, error.to_string()))?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        // Without it a proxy that reconnects for every other request pays for a
        // whole handshake each time.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(config)
    }
}

fn client_verifier(
    pem: &[u8],
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|error| unusable(path, error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| unusable(path, error.to_string()))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| unusable(path, format!("not valid PEM: {error}")))?;
    if found.is_empty() {
        return Err(unusable(path, "no certificate in PEM".into()));
    }
    Ok(found)
}

fn unusable(path: &Path, problem: String) -> TlsError {
    TlsError::Unusable { path: path.into(), problem }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.into(), source })
}
