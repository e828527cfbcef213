//! TLS on the gate's listener, and with it, by ALPN, HTTP/2.
//!
//! The files are read again while the process runs. If the new files are unusable, the
//! previous ones stay in use.

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

/// How often the files are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How often a problem with the files that persists is logged again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Protocols in order of preference.
type Alpn = &'static [&'static [u8]];

const ALPN: Alpn = &[b"h2", b"http/1.1"];
const HTTP1: Alpn = &[b"http/1.1"];

/// The reason why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path}: {problem}")]
    Unusable { path: PathBuf, problem: String },
    #[error("cannot create a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The listener's certificate and TLS settings.
#[derive(Debug)]
pub(crate) struct ServerTls {
    files: config::Tls,
    alpn: Alpn,
    config: ArcSwap<ServerConfig>,
    /// The file contents that `config` was made from.
    active: Mutex<(CertificateFiles, Validity)>,
    /// The problem that was logged last, and when.
    last_problem: Mutex<Option<(String, Instant)>>,
}

/// The outcome of reading the files again.
#[derive(Debug)]
enum Refresh {
    Unchanged,
    Replaced,
}

/// The files' contents.
#[derive(PartialEq, Eq)]
struct CertificateFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for CertificateFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateFiles")
    }
}

/// A change in the state of the files that is to be logged.
#[derive(Debug, PartialEq, Eq)]
enum Report {
    Problem(String),
    Resolved,
}

impl ServerTls {
    /// Reads the files, and creates them first if they are self-signed. A certificate that
    /// is not valid now is used all the same, since there is no other: the clock may be
    /// wrong.
    pub(crate) fn load(files: &config::Tls) -> Result<Self, TlsError> {
        Self::with_alpn(files, ALPN)
    }

    /// Does the same without offering HTTP/2, whose connections outlive their requests.
    pub(crate) fn load_for_http1(files: &config::Tls) -> Result<Self, TlsError> {
        Self::with_alpn(files, HTTP1)
    }

    fn with_alpn(files: &config::Tls, alpn: Alpn) -> Result<Self, TlsError> {
        let now = wall_clock();
        let (contents, problem) = CertificateFiles::read(files, now)?;
        let (config, validity) = contents.server_config(files, alpn)?;
        let tls = Self {
            files: files.clone(),
            alpn,
            config: ArcSwap::from_pointee(config),
            active: Mutex::new((contents, validity)),
            last_problem: Mutex::default(),
        };
        if let Some(problem) = problem.or_else(|| tls.invalid(validity, now)) {
            error!(%problem, "the gate's certificate needs attention");
        }
        Ok(tls)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Returns when the active certificate ends; `None` if that cannot be read.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).1.end()
    }

    /// Checks the files for changes for as long as the process runs.
    pub(crate) async fn follow(self: Arc<Self>) -> Infallible {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            self.refresh(false).await;
        }
    }

    /// Reads the files again and uses them if they have changed and are usable. If
    /// `on_request`, every problem is logged, even if it was logged before.
    pub(crate) async fn refresh(self: &Arc<Self>, on_request: bool) {
        let tls = Arc::clone(self);
        // This waits for a lock that another process may hold.
        let refreshed = tokio::task::spawn_blocking(move || tls.try_refresh(wall_clock()));
        let Ok((refresh, problem)) = refreshed.await else {
            error!("reading the certificate files panicked");
            return;
        };
        if matches!(refresh, Refresh::Replaced) {
            info!("certificate files read again; new connections use them");
        }
        let problem = problem.map(|problem| problem.to_string());
        match self.report(problem, Instant::now(), on_request) {
            Some(Report::Problem(problem)) => {
                error!(%problem, "bad certificate files; the active certificate stays in use");
            }
            Some(Report::Resolved) => info!("the problem with the certificate files is resolved"),
            None => {}
        }
    }

    /// Returns what is to be logged: a problem that is new or has persisted for long, or
    /// that the last problem is resolved.
    fn report(&self, problem: Option<String>, now: Instant, on_request: bool) -> Option<Report> {
        let mut last = self.last_problem.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            return last.take().map(|_| Report::Resolved);
        };
        let is_known = last.as_ref().is_some_and(|(before, at)| {
            *before == problem && now.duration_since(*at) < REMINDER_INTERVAL
        });
        if is_known && !on_request {
            return None;
        }
        *last = Some((problem.clone(), now));
        Some(Report::Problem(problem))
    }

    fn try_refresh(&self, now: SystemTime) -> (Refresh, Option<TlsError>) {
        match self.reload(now) {
            Ok(outcome) => outcome,
            Err(error) => (Refresh::Unchanged, Some(error)),
        }
    }

    fn reload(&self, now: SystemTime) -> Result<(Refresh, Option<TlsError>), TlsError> {
        let (contents, problem) = CertificateFiles::read(&self.files, now)?;
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.0 == contents {
            return Ok((Refresh::Unchanged, problem.or_else(|| self.invalid(active.1, now))));
        }
        let (config, validity) = contents.server_config(&self.files, self.alpn)?;
        if let Some(invalid) = self.invalid(validity, now) {
            return Err(invalid);
        }
        *active = (contents, validity);
        self.config.store(Arc::new(config));
        Ok((Refresh::Replaced, problem))
    }

    /// Returns why a certificate is not valid now, if it is not.
    fn invalid(&self, validity: Validity, now: SystemTime) -> Option<TlsError> {
        let (certificate, _) = files_of(&self.files);
        validity.problem(now).map(|problem| unusable(&certificate, problem))
    }
}

/// Returns the paths of the certificate and its key.
fn files_of(files: &config::Tls) -> (PathBuf, PathBuf) {
    match &files.certificate {
        Certificate::Files { certificate, key } => (certificate.clone(), key.clone()),
        Certificate::SelfSigned { directory, .. } => self_signed::leaf_files(directory),
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are made and end by the wall clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

impl CertificateFiles {
    /// Reads the files. Also returns a problem with them that does not prevent their use.
    fn read(files: &config::Tls, now: SystemTime) -> Result<(Self, Option<TlsError>), TlsError> {
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        let ((certificate, key), problem) = match &files.certificate {
            Certificate::Files { certificate, key } => ((read(certificate)?, read(key)?), None),
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
        let validity = chain.first().map(Validity::from_certificate).unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable(&key, format!("no PEM private key found: {error}")))?;
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
        // Without session tickets, a proxy that reconnects often would pay for a full
        // handshake each time.
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
    let found = found.map_err(|error| unusable(path, format!("invalid PEM: {error}")))?;
    if found.is_empty() {
        return Err(unusable(path, "no PEM certificate found".into()));
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
