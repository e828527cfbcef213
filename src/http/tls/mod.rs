//! TLS on the gate's listener, and with it, by ALPN, HTTP/2.
//!
//! The files are read again while running. New ones that do not work leave
//! those in force that did.

mod self_signed;
mod validity;

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
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};
use validity::Validity;

use crate::config::{self, Certificate};

/// How often the files are looked at.
const CHECK: Duration = Duration::from_secs(5);

/// How often trouble with them that goes on is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Protocols, in the order of preference.
type Alpn = &'static [&'static [u8]];

const ALPN: Alpn = &[b"h2", b"http/1.1"];
const HTTP1: Alpn = &[b"http/1.1"];

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
    alpn: Alpn,
    offered: ArcSwap<ServerConfig>,
    /// What is offered, as it was read.
    in_force: Mutex<(Material, Validity)>,
    /// What was told last of what is wrong, and when.
    told: Mutex<Option<(String, Instant)>>,
}

/// What came of looking at the files.
#[derive(Debug)]
enum Looked {
    Unchanged,
    Taken,
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

/// What is to be told of the files.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Trouble(String),
    Over,
}

impl Tls {
    /// Reads the files; makes them first where they are ours to make. A certificate that
    /// is not valid now is offered, since there is no other: the clock may be wrong.
    pub(crate) fn load(files: &config::Tls) -> Result<Self, TlsError> {
        Self::offering(files, ALPN)
    }

    /// The same without HTTP/2, whose connections outlast what they were opened for.
    pub(crate) fn load_for_http1(files: &config::Tls) -> Result<Self, TlsError> {
        Self::offering(files, HTTP1)
    }

    fn offering(files: &config::Tls, alpn: Alpn) -> Result<Self, TlsError> {
        let now = wall_clock();
        let (material, problem) = Material::read(files, now)?;
        let (config, validity) = material.server_config(files, alpn)?;
        let tls = Self {
            files: files.clone(),
            alpn,
            offered: ArcSwap::from_pointee(config),
            in_force: Mutex::new((material, validity)),
            told: Mutex::default(),
        };
        if let Some(problem) = problem.or_else(|| tls.invalid(validity, now)) {
            error!(%problem, "the gate's certificate needs attention");
        }
        Ok(tls)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.offered.load_full())
    }

    /// Follows the files as long as the process runs.
    pub(crate) async fn follow(self: Arc<Self>) -> Infallible {
        loop {
            tokio::time::sleep(CHECK).await;
            self.refresh(false).await;
        }
    }

    /// Takes the files in force if they have changed and work. `asked` has all that is
    /// wrong told, told before or not.
    pub(crate) async fn refresh(self: &Arc<Self>, asked: bool) {
        let tls = Arc::clone(self);
        // It waits for a lock that another process may hold.
        let refreshed = tokio::task::spawn_blocking(move || tls.try_refresh(wall_clock()));
        let Ok((looked, problem)) = refreshed.await else {
            error!("looking at the certificate files panicked");
            return;
        };
        if matches!(looked, Looked::Taken) {
            info!("certificate files read again; new connections use them");
        }
        let problem = problem.map(|problem| problem.to_string());
        match self.news(problem, Instant::now(), asked) {
            Some(News::Trouble(problem)) => {
                error!(%problem, "certificate files not as they should be; what is in force stays");
            }
            Some(News::Over) => info!("the certificate files are as they should be again"),
            None => {}
        }
    }

    /// What is to be told: a problem that is new, or goes on since long; or that there is
    /// none any more.
    fn news(&self, problem: Option<String>, now: Instant, asked: bool) -> Option<News> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            return told.take().map(|_| News::Over);
        };
        let is_old = told
            .as_ref()
            .is_some_and(|(before, at)| *before == problem && now.duration_since(*at) < TOLD_AGAIN);
        if is_old && !asked {
            return None;
        }
        *told = Some((problem.clone(), now));
        Some(News::Trouble(problem))
    }

    fn try_refresh(&self, now: SystemTime) -> (Looked, Option<TlsError>) {
        match self.look(now) {
            Ok(looked) => looked,
            Err(error) => (Looked::Unchanged, Some(error)),
        }
    }

    fn look(&self, now: SystemTime) -> Result<(Looked, Option<TlsError>), TlsError> {
        let (material, problem) = Material::read(&self.files, now)?;
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if in_force.0 == material {
            return Ok((Looked::Unchanged, problem.or_else(|| self.invalid(in_force.1, now))));
        }
        let (config, validity) = material.server_config(&self.files, self.alpn)?;
        if let Some(invalid) = self.invalid(validity, now) {
            return Err(invalid);
        }
        *in_force = (material, validity);
        self.offered.store(Arc::new(config));
        Ok((Looked::Taken, problem))
    }

    /// Why a certificate cannot be used now, if it cannot.
    fn invalid(&self, validity: Validity, now: SystemTime) -> Option<TlsError> {
        let (certificate, _) = files_of(&self.files);
        validity.problem(now).map(|problem| unusable(&certificate, problem))
    }
}

/// Where the certificate and its key are.
fn files_of(files: &config::Tls) -> (PathBuf, PathBuf) {
    match &files.certificate {
        Certificate::Given { certificate, key } => (certificate.clone(), key.clone()),
        Certificate::SelfSigned { directory, .. } => self_signed::leaf_files(directory),
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are made and end by the wall clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

impl Material {
    /// The files as they are, and what is wrong with them although they can be used.
    fn read(files: &config::Tls, now: SystemTime) -> Result<(Self, Option<TlsError>), TlsError> {
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        let ((certificate, key), problem) = match &files.certificate {
            Certificate::Given { certificate, key } => ((read(certificate)?, read(key)?), None),
            Certificate::SelfSigned { directory, names } => {
                self_signed::ensure_or_stored(directory, names, now)?
            }
        };
        Ok((Self { certificate, key, client_ca }, problem))
    }

    fn server_config(
        &self,
        files: &config::Tls,
        alpn: Alpn,
    ) -> Result<(ServerConfig, Validity), TlsError> {
        let (certificate, key) = files_of(files);
        let chain = certificates(&self.certificate, &certificate)?;
        let validity = chain.first().map(Validity::of).unwrap_or_default();
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
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        // Without it a proxy that reconnects for every other request pays for a
        // whole handshake each time.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok((config, validity))
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

#[cfg(test)]
mod tests;
