//! The ledger's key: it signs checkpoints and, derived from it, seals records.
//!
//! The private key is a PKCS #8 file that only its owner can read, outside the database. The
//! public one is shown as a verifier key (C2SP signed-note), with which a proof can be checked
//! anywhere.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::remedy::WithRemedy;
use super::seal::SealKey;
use crate::access::MaskKey;

/// The name of the key's file in the ledger's folder.
pub const FILE: &str = "ledger.key";

const PEM_TAG: &str = "PRIVATE KEY";

/// Longest file that is read; a key has about 120 bytes.
const MAX_FILE: u64 = 16 * 1024;

/// The type of an Ed25519 key (C2SP signed-note, "Signature types").
const TYPE_ED25519: u8 = 1;

const PUBLIC_KEY: usize = 32;

/// What a key's name must not contain (C2SP signed-note), and the escape itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'+').add(b'%');

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: {}", path.display(), WithRemedy(source))]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{}: others can read the private key (mode {mode:o}); if nobody has, \
         make it private with `chmod 600`",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{}: {reason}; it is left as it is, because checkpoints that it may have signed \
         need it",
        path.display()
    )]
    Invalid { path: PathBuf, reason: &'static str },
    #[error("the system provides no random numbers")]
    NoRandomNumbers,
}

/// The private key.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Its `Debug` shows the public key only.
    pair: Arc<Ed25519KeyPair>,
    public: [u8; PUBLIC_KEY],
    seal: SealKey,
    mask: MaskKey,
}

impl SigningKey {
    /// Reads the key; creates it, and the folder, if there is none. Of several processes that
    /// do so at the same time, all get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::NoRandomNumbers)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::NoRandomNumbers)?;
        let text = pem::encode(&pem::Pem::new(PEM_TAG, document.as_ref()));
        create(path, text.as_bytes())
            .map_err(|source| KeyError::Io { path: path.into(), source })?;
        // Another process may have been first.
        Self::load(path)
    }

    /// Reads the key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io_error = |source| KeyError::Io { path: path.into(), source };
        let invalid = |reason| KeyError::Invalid { path: path.into(), reason };
        // Without this flag, opening a pipe would block until it has a writer.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file =
            OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() {
            return Err(invalid("not a regular file"));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.into(), mode });
        }
        let mut text = String::new();
        match file.take(MAX_FILE).read_to_string(&mut text) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(invalid("not a PEM private key"));
            }
            read => read.map_err(io_error)?,
        };
        let document = pem::parse(&text).ok().filter(|document| document.tag() == PEM_TAG);
        let document = document.ok_or_else(|| invalid("not a PEM private key"))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document.contents())
            .map_err(|_| invalid("not an Ed25519 key"))?;
        Self::from_pair(pair).ok_or_else(|| invalid("not an Ed25519 key"))
    }

    fn from_pair(pair: Ed25519KeyPair) -> Option<Self> {
        let seed = pair.seed().ok()?;
        let seed = AsBigEndian::as_be_bytes(&seed).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        let (seal, mask) = (SealKey::derive(seed.as_ref()), MaskKey::derive(seed.as_ref()));
        Some(Self { seal, mask, public, pair: Arc::new(pair) })
    }

    /// Returns the key that verifies the checkpoints of a tenant's tree.
    #[must_use]
    pub fn verifier(&self, tenant: &str) -> VerifierKey {
        VerifierKey { name: name(tenant), public: self.public }
    }

    #[must_use]
    pub fn seal_key(&self) -> &SealKey {
        &self.seal
    }

    /// Returns the key of the masks of ids.
    #[must_use]
    pub fn mask_key(&self) -> &MaskKey {
        &self.mask
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// Returns the name of the key and the origin of the checkpoints of a tenant's tree. A tree has
/// its own name, so that a checkpoint of one is never taken for one of another.
fn name(tenant: &str) -> String {
    if tenant.is_empty() {
        "nightporter".into()
    } else {
        format!("nightporter/{}", utf8_percent_encode(tenant, ESCAPED))
    }
}

/// Creates a file that did not exist; leaves one that does as it is.
fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
    let temporary = path.with_extension(format!("new-{:016x}", u64::from_ne_bytes(random)));
    let linked = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        // Unlike a rename, a link never replaces another process's key.
        match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    let removed = fs::remove_file(&temporary);
    linked.and(removed)?;
    File::open(folder)?.sync_all()
}

/// A public key and the name of the tree whose checkpoints it verifies.
///
/// Its text is a verifier key (C2SP signed-note): `name+id+base64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; PUBLIC_KEY],
}

impl VerifierKey {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the same key under the name of another tree.
    #[must_use]
    pub(super) fn of_tree(&self, name: &str) -> Self {
        Self { name: name.into(), public: self.public }
    }

    /// Returns the key's id: `SHA-256(name || 0x0A || type || key)[:4]`.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let message = [self.name.as_bytes(), b"\n", &self.typed()].concat();
        let hash = digest(&SHA256, &message);
        let mut id = [0; 4];
        id.copy_from_slice(&hash.as_ref()[..4]);
        id
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(message, signature).is_ok()
    }

    /// Returns the key with its type in front.
    fn typed(&self) -> [u8; PUBLIC_KEY + 1] {
        let mut typed = [TYPE_ED25519; PUBLIC_KEY + 1];
        typed[1..].copy_from_slice(&self.public);
        typed
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id());
        write!(f, "{}+{id:08x}+{}", self.name, STANDARD.encode(self.typed()))
    }
}

/// A text that is not a verifier key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid verifier key: expected one line such as `nightporter ledger key` prints")]
pub struct InvalidVerifierKey;

impl FromStr for VerifierKey {
    type Err = InvalidVerifierKey;

    fn from_str(text: &str) -> Result<Self, InvalidVerifierKey> {
        let parse = || {
            // Base64 may contain a plus too.
            let mut parts = text.splitn(3, '+');
            let name = parts.next()?.to_owned();
            let id = parts.next()?;
            let typed = STANDARD.decode(parts.next()?).ok()?;
            let (kind, public) = typed.split_first()?;
            let key = Self { name, public: public.try_into().ok()? };
            let is_valid = *kind == TYPE_ED25519
                && !key.name.is_empty()
                && !key.name.contains(char::is_whitespace)
                && id.len() == 8
                && u32::from_str_radix(id, 16).ok()? == u32::from_be_bytes(key.id());
            is_valid.then_some(key)
        };
        parse().ok_or(InvalidVerifierKey)
    }
}

#[cfg(test)]
mod tests;
