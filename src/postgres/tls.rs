//! TLS to the server, with `sslmode` and `sslrootcert` as in libpq
//! (its manual, section "SSL Support").
//!
//! There are two differences: only the `subjectAltName` of a certificate is compared with
//! the host, and `verify-*` without `sslrootcert` is refused instead of reading a file in
//! the home directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::ConfigError;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// libpq's `sslrootcert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    File(PathBuf),
    /// The roots that the operating system trusts.
    System,
}

/// Whether to use TLS and which certificates to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientTls {
    mode: SslMode,
    roots: Option<Roots>,
}

impl ClientTls {
    pub(super) fn parse(mode: Option<&str>, roots: Option<&str>) -> Result<Self, ConfigError> {
        let refuse = |reason: &str| Err(ConfigError::new(reason));
        let roots = match roots {
            None | Some("") => None,
            Some("system") => Some(Roots::System),
            Some(path) => Some(Roots::File(path.into())),
        };
        let mode = match mode {
            None if roots == Some(Roots::System) => SslMode::VerifyFull,
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("allow") => SslMode::Allow,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(_) => {
                return refuse(
                    "`sslmode` must be one of disable, allow, prefer, require, verify-ca, verify-full",
                );
            }
        };
        match (mode, &roots) {
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => refuse(
                "`sslmode=verify-ca` and `verify-full` need `sslrootcert`: a PEM file or `system`",
            ),
            (mode, Some(Roots::System)) if mode != SslMode::VerifyFull => {
                refuse("`sslrootcert=system` needs `sslmode=verify-full`")
            }
            _ => Ok(Self { mode, roots }),
        }
    }

    /// Returns the modes to try, in order; each is tried only if the server refused the
    /// one before.
    pub(super) fn attempts(&self) -> &'static [tokio_postgres::config::SslMode] {
        use tokio_postgres::config::SslMode::{Disable, Prefer, Require};
        match self.mode {
            SslMode::Disable => &[Disable],
            SslMode::Allow => &[Disable, Require],
            SslMode::Prefer => &[Prefer, Disable],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Require],
        }
    }

    /// Creates a connector. Reads the roots each time, so that a renewed file needs no
    /// restart.
    pub(super) async fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let tls = self.clone();
        let config = tokio::task::spawn_blocking(move || tls.client_config());
        config.await.map_err(|error| error.to_string())?.map(MakeRustlsConnect::new)
    }

    fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (roots, pinned) = match &self.roots {
            _ if self.mode == SslMode::Disable => (None, Vec::new()),
            None => (None, Vec::new()),
            Some(Roots::File(path)) => {
                let (roots, certificates) = roots_from_file(path)
                    .map_err(|error| format!("sslrootcert {}: {error}", path.display()))?;
                (Some(roots), certificates)
            }
            Some(Roots::System) => (Some(system_roots()?), Vec::new()),
        };
        let match_name = self.mode == SslMode::VerifyFull;
        let verifier = Verifier { provider: Arc::clone(&provider), roots, pinned, match_name };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(config)
    }
}

type Certificates = Vec<CertificateDer<'static>>;

fn roots_from_file(path: &Path) -> Result<(RootCertStore, Certificates), String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let certificates: Certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("contains no PEM certificate".into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok((roots, certificates))
}

fn system_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added > 0 {
        return Ok(roots);
    }
    let reason = loaded.errors.first().map_or("no certificates found".into(), ToString::to_string);
    Err(format!("sslrootcert=system: {reason}"))
}

/// Verifies the server's certificate as strictly as `sslmode` requires.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` trusts every certificate, as `sslmode=require` without a root does.
    roots: Option<RootCertStore>,
    /// Certificates that may be the server's own: a self-signed certificate is its own root.
    pinned: Certificates,
    match_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            verify_validity(end_entity, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.match_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let bad = |reason| Err(Error::InvalidCertificate(reason));
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return bad(CertificateError::BadEncoding);
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return bad(CertificateError::NotValidYet);
    }
    if now > parsed.validity().not_after.timestamp() {
        return bad(CertificateError::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_modes_with_system_roots_and_verification_without_roots_are_refused() {
        for (mode, roots) in [
            (Some("require"), Some("system")),
            (Some("verify-full"), None),
            (Some("verify-ca"), Some("")),
            (Some("REQUIRE"), None),
        ] {
            ClientTls::parse(mode, roots).expect_err("refused");
        }
        let defaults = |roots| ClientTls::parse(None, roots).expect("valid").mode;
        assert_eq!(defaults(None), SslMode::Prefer);
        assert_eq!(defaults(Some("/root.pem")), SslMode::Prefer);
        assert_eq!(defaults(Some("system")), SslMode::VerifyFull);
    }
}
