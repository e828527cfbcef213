//! The box's own certificate authority, and the certificate that it signs for the gate.
//!
//! The proxy is configured with `ca.pem` once; the gate's certificate is renewed without
//! further action. All files are written under a lock, so that processes that start at the
//! same time agree on one authority.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use tracing::{info, warn};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, certificates, read, unusable};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = DAY.saturating_mul(3650);
const LEAF_LIFE: Duration = DAY.saturating_mul(90);

/// Certificates are valid from this long before they are issued, for proxies whose clock
/// is slow.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// Returns the paths of the certificate and its key.
pub(super) fn leaf_files(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("cert.pem"), directory.join("key.pem"))
}

/// A certificate and its key, in PEM.
type Pair = (Vec<u8>, Vec<u8>);

/// Does the same as [`ensure`]. If that fails and the stored certificate is still valid,
/// returns the stored one together with the error: the operator has time until it expires.
pub(super) fn ensure_or_stored(
    directory: &Path,
    names: &[String],
    now: SystemTime,
) -> Result<(Pair, Option<TlsError>), TlsError> {
    match ensure(directory, names, now) {
        Ok(pair) => Ok((pair, None)),
        Err(problem) => match stored_leaf(directory, now) {
            Some(pair) => Ok((pair, Some(problem))),
            None => Err(problem),
        },
    }
}

/// Returns the stored certificate and key if they match and are valid.
fn stored_leaf(directory: &Path, now: SystemTime) -> Option<Pair> {
    let (certificate, key) = leaf_files(directory);
    let (certificate, key) = (text(&certificate).ok()??, text(&key).ok()??);
    let leaf = Parsed::read(certificate.as_bytes())?;
    let pair = KeyPair::from_pem(&key).ok()?;
    let is_usable = leaf.public_key == pair.subject_public_key_info()
        && (leaf.not_before..=leaf.not_after).contains(&now);
    is_usable.then(|| (certificate.into_bytes(), key.into_bytes()))
}

/// Returns the certificate and its key in PEM, and creates or renews them if necessary.
fn ensure(directory: &Path, names: &[String], now: SystemTime) -> Result<Pair, TlsError> {
    fs::create_dir_all(directory).map_err(|source| cannot_write(directory, source))?;
    let _lock = lock(directory)?;
    let authority = match Authority::stored(directory, now)? {
        Some(authority) => authority,
        None => Authority::create(directory, now)?,
    };
    let (certificate, key) = leaf_files(directory);
    match reason_to_issue(&certificate, &key, &authority, names, now)? {
        Some(reason) => {
            info!(reason, "issuing a new certificate for the gate");
            issue(&certificate, &key, &authority, names, now)
        }
        None => Ok((read(&certificate)?, read(&key)?)),
    }
}

/// Locks the folder until the returned file is dropped.
fn lock(directory: &Path) -> Result<File, TlsError> {
    let path = directory.join(".lock");
    let open = || {
        let file = OpenOptions::new().create(true).append(true).mode(PRIVATE).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|source| cannot_write(&path, source))
}

/// The certificate authority.
struct Authority {
    key: KeyPair,
    certificate_pem: String,
    key_id: Vec<u8>,
}

impl Authority {
    fn files(directory: &Path) -> (PathBuf, PathBuf) {
        (directory.join("ca.pem"), directory.join("ca.key"))
    }

    /// Returns the authority in the folder; `None` if there is none, or if it would expire
    /// before a certificate that it signs.
    fn stored(directory: &Path, now: SystemTime) -> Result<Option<Self>, TlsError> {
        let (certificate, key) = Self::files(directory);
        // Replacing an authority cuts off every proxy that trusts it, so whatever is wrong
        // with it, that is left to the operator.
        let missing = |one: &Path, other: &Path| {
            let problem = format!(
                "the file is missing, and certificates cannot be signed without it; restore it, \
                 or remove {} too to create an authority that proxies do not trust yet",
                other.display()
            );
            Err(unusable(one, problem))
        };
        let (certificate_pem, key_pem) = match (text(&certificate)?, text(&key)?) {
            (Some(certificate_pem), Some(key_pem)) => (certificate_pem, key_pem),
            (None, None) => return Ok(None),
            (Some(_), None) => return missing(&key, &certificate),
            // The first start was interrupted: no proxy has seen that authority.
            (None, Some(_)) if !leaf_files(directory).0.exists() => return Ok(None),
            (None, Some(_)) => return missing(&certificate, &key),
        };
        let signer = KeyPair::from_pem(&key_pem)
            .map_err(|error| unusable(&key, format!("no PEM private key found: {error}")))?;
        let parsed = Parsed::read(certificate_pem.as_bytes())
            .ok_or_else(|| unusable(&certificate, "no PEM certificate found".into()))?;
        if parsed.public_key != signer.subject_public_key_info() {
            let problem = format!(
                "the certificate does not belong to {}; remove both files to create new ones",
                key.display()
            );
            return Err(unusable(&certificate, problem));
        }
        if now < parsed.not_before {
            warn!(
                "the certificate authority is not valid yet: the clock was ahead; proxies need the new ca.pem"
            );
            return Ok(None);
        }
        if parsed.not_after < now + LEAF_LIFE {
            warn!("the certificate authority expires soon; proxies need the new ca.pem");
            return Ok(None);
        }
        Ok(Some(Self { key: signer, key_id: parsed.subject_key_id, certificate_pem }))
    }

    fn create(directory: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = params(&[], "nightporter authority", now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let certificate_pem = certificate.pem();
        let key_id = params.key_identifier(&key);
        let (certificate_file, key_file) = Self::files(directory);
        write(&key_file, key.serialize_pem().as_bytes(), PRIVATE)?;
        write(&certificate_file, certificate_pem.as_bytes(), PUBLIC)?;
        info!(file = %certificate_file.display(), "created a new certificate authority");
        Ok(Self { key, certificate_pem, key_id })
    }
}

/// Returns why the stored certificate must be replaced, if it must.
fn reason_to_issue(
    certificate: &Path,
    key: &Path,
    authority: &Authority,
    names: &[String],
    now: SystemTime,
) -> Result<Option<&'static str>, TlsError> {
    let (Some(certificate), Some(key)) = (text(certificate)?, text(key)?) else {
        return Ok(Some("there is none yet"));
    };
    let (Some(leaf), Ok(key)) = (Parsed::read(certificate.as_bytes()), KeyPair::from_pem(&key))
    else {
        return Ok(Some("the stored one is damaged"));
    };
    let life = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
    Ok(if leaf.public_key != key.subject_public_key_info() {
        Some("the stored one does not belong to its key")
    } else if leaf.authority_key_id != authority.key_id {
        Some("the authority has changed")
    } else if leaf.names != names.iter().map(|name| canonical(name)).collect() {
        Some("the names have changed")
    } else if now >= leaf.not_before + life * 2 / 3 {
        Some("two thirds of its lifetime are over")
    } else if now < leaf.not_before {
        Some("the stored one is not valid yet")
    } else {
        None
    })
}

fn issue(
    certificate: &Path,
    key: &Path,
    authority: &Authority,
    names: &[String],
    now: SystemTime,
) -> Result<Pair, TlsError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate_pem, &authority.key)?;
    let pair = KeyPair::generate()?;
    let mut params = params(names, "nightporter", now, LEAF_LIFE)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate_pem = params.signed_by(&pair, &issuer)?.pem().into_bytes();
    let key_pem = pair.serialize_pem().into_bytes();
    // A crash between the two writes leaves a pair that does not match: the next
    // start detects that and issues a new one.
    write(key, &key_pem, PRIVATE)?;
    write(certificate, &certificate_pem, PUBLIC)?;
    Ok((certificate_pem, key_pem))
}

fn params(
    names: &[String],
    common_name: &str,
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
    Ok(params)
}

/// The fields of a stored certificate that are checked.
struct Parsed {
    not_before: SystemTime,
    not_after: SystemTime,
    public_key: Vec<u8>,
    subject_key_id: Vec<u8>,
    authority_key_id: Vec<u8>,
    names: BTreeSet<String>,
}

impl Parsed {
    fn read(pem: &[u8]) -> Option<Self> {
        let chain = certificates(pem, Path::new("")).ok()?;
        let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
        let mut parsed = Self {
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            public_key: certificate.public_key().raw.to_vec(),
            subject_key_id: Vec::new(),
            authority_key_id: Vec::new(),
            names: BTreeSet::new(),
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => parsed.subject_key_id = id.0.into(),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    parsed.authority_key_id = id.key_identifier.as_ref()?.0.into();
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    parsed.names = names.general_names.iter().filter_map(name).collect();
                }
                _ => {}
            }
        }
        Some(parsed)
    }
}

fn time(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    // Before 1970: a certificate that was made while the clock had not been set.
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

fn name(general: &GeneralName<'_>) -> Option<String> {
    match general {
        GeneralName::DNSName(name) => Some(canonical(name)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    }
}

/// Returns the canonical spelling of a name.
fn canonical(name: &str) -> String {
    name.parse::<IpAddr>().map_or_else(|_| name.to_ascii_lowercase(), |ip| ip.to_string())
}

/// Returns a file's text; `None` if the file does not exist.
fn text(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Read { path: path.into(), source }),
    }
}

/// Replaces a file atomically: readers see either the old or the new content.
fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), TlsError> {
    let temporary = path.with_extension("new");
    let replace = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    replace().map_err(|source| cannot_write(path, source))
}

fn cannot_write(path: &Path, source: std::io::Error) -> TlsError {
    TlsError::Write { path: path.into(), source }
}

#[cfg(test)]
mod tests;
