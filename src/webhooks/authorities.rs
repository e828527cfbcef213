//! The authorities by which receivers' certificates are verified: those of the system, and
//! those that the operator adds by `webhooks.ca_file`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio::task::spawn_blocking;

/// Why no certificate can be verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAuthorities {
    #[error("no certificates to verify receivers by: {0}")]
    System(String),
    #[error("{} (`webhooks.ca_file`): {error}", path.display())]
    File { path: PathBuf, error: String },
}

/// The authorities, and what was made of them.
#[derive(Debug)]
pub(super) struct Authorities {
    file: Option<PathBuf>,
    made: Mutex<Option<LoadedAuthorities>>,
}

/// A configuration of TLS, and the content of the file that it was made of.
#[derive(Debug, Clone)]
struct LoadedAuthorities {
    pem: Vec<u8>,
    config: Arc<ClientConfig>,
}

impl Authorities {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, made: Mutex::default() }
    }

    /// Returns the configuration for one connection. The file is read each time, so that
    /// another one in its place needs no restart.
    pub(super) async fn client_config(&self) -> Result<Arc<ClientConfig>, NoAuthorities> {
        let known = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let file = self.file.clone();
        let made = spawn_blocking(move || make(file.as_deref(), known)).await;
        let made = made.map_err(|error| NoAuthorities::System(error.to_string()))??;
        let config = Arc::clone(&made.config);
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(config)
    }
}

fn make(
    file: Option<&Path>,
    known: Option<LoadedAuthorities>,
) -> Result<LoadedAuthorities, NoAuthorities> {
    let of_file = |path: &Path, error| NoAuthorities::File { path: path.to_owned(), error };
    let pem = match file {
        Some(path) => std::fs::read(path).map_err(|error| of_file(path, error.to_string()))?,
        None => Vec::new(),
    };
    if let Some(known) = known.filter(|known| known.pem == pem) {
        return Ok(known);
    }
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        add(&mut roots, &pem).map_err(|error| of_file(path, error))?;
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let error = system.errors.first().map_or("none found".to_owned(), ToString::to_string);
        return Err(NoAuthorities::System(error));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NoAuthorities::System(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(LoadedAuthorities { pem, config: Arc::new(config) })
}

/// Adds all certificates of a PEM file, of which there is one at least.
fn add(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it contains no PEM certificate".to_owned()) } else { Ok(()) }
}

/// Returns why a handshake failed and what helps, worded for the operator.
pub(super) fn explain(error: &io::Error) -> String {
    let source = error.get_ref().and_then(|source| source.downcast_ref::<Error>());
    let Some(Error::InvalidCertificate(problem)) = source else { return error.to_string() };
    let text = match problem {
        // Another authority of the same name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate was issued by an authority that is not known here; if it is your \
             own, name the file of its certificate by `webhooks.ca_file`"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; is the clock of this machine right?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority; have the authority issue one for the host"
        }
        _ => return error.to_string(),
    };
    text.to_owned()
}
