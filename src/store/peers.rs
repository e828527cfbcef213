//! Rows of `peers`, and which of them are valid.
//!
//! A peer's id is the hash of its public key. A row whose key hashes to something
//! else would authenticate the owner of that key as another peer, so it is a bad
//! row, as is a row whose key cannot be parsed. Bad rows are skipped and reported.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA512, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicKey;
use pem::{EncodeConfig, LineEnding, Pem};

use crate::domain::identity::{encode_id, short_id};

/// A row of `peers` whose key is usable and belongs to its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The whole id or its first six characters, as stored.
    pub id: Arc<str>,
    pub name: Arc<str>,
    /// SPKI PEM, whichever form is stored.
    pub public_key_pem: String,
}

/// A row that is skipped, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer `{id}` is skipped: {problem}")]
pub struct BadPeer {
    /// The first characters of its id.
    pub id: String,
    pub problem: PeerProblem,
}

/// Why a row is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerProblem {
    #[error("its public key is not a PEM-encoded public key")]
    Pem,
    #[error("its public key is not an RSA key")]
    Key,
    #[error("its public key does not hash to its id, so the key belongs to another peer")]
    OtherKey,
}

impl Peer {
    /// Parses a row as stored.
    ///
    /// # Errors
    /// Why the row is skipped.
    pub fn from_row(id: Arc<str>, name: Arc<str>, public_key: &str) -> Result<Self, BadPeer> {
        let checked = canonical_pem(public_key).and_then(|pem| {
            let key_id = id_of_key(&pem);
            let matches_id = *id == *key_id || *id == *short_id(&key_id);
            if matches_id { Ok(pem) } else { Err(PeerProblem::OtherKey) }
        });
        match checked {
            Ok(public_key_pem) => Ok(Self { id, name, public_key_pem }),
            Err(problem) => Err(BadPeer { id: short_id(&id).to_owned(), problem }),
        }
    }
}

/// Splits rows into the valid ones and a text that reports the others, if there are any.
pub(super) fn split_rows(rows: Vec<Result<Peer, BadPeer>>) -> (Vec<Peer>, Option<String>) {
    let (mut peers, mut bad) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match row {
            Ok(peer) => peers.push(peer),
            Err(problem) => bad.push(problem.to_string()),
        }
    }
    (peers, (!bad.is_empty()).then(|| bad.join("; ")))
}

/// Returns the id that belongs to a public key, given as its canonical SPKI PEM.
fn id_of_key(canonical_pem: &str) -> String {
    encode_id(digest(&SHA512, canonical_pem.as_bytes()).as_ref())
}

/// Returns the canonical PEM of a key, whose hash is the id, from SPKI or PKCS#1 (RFC 8017
/// appendix A.1.1) PEM in any layout.
fn canonical_pem(public_key: &str) -> Result<String, PeerProblem> {
    let pem = pem::parse(public_key).map_err(|_| PeerProblem::Pem)?;
    if !matches!(pem.tag(), "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err(PeerProblem::Pem);
    }
    let key = PublicKey::from_der(pem.contents()).map_err(|_| PeerProblem::Key)?;
    let der: PublicKeyX509Der<'_> = key.as_der().map_err(|_| PeerProblem::Key)?;
    Ok(spki_pem(der.as_ref()))
}

/// Returns the PEM of a `SubjectPublicKeyInfo`, 64 columns, with a newline at the end.
pub(super) fn spki_pem(der: &[u8]) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new("PUBLIC KEY", der), config)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    fn from_row(id: &str, key: &str) -> Result<Peer, PeerProblem> {
        Peer::from_row(id.into(), "Peer".into(), key).map_err(|bad| bad.problem)
    }

    #[test]
    fn a_key_vouches_for_no_id_but_its_own() {
        let [own, other] = [0; 2].map(|_| KeyPair::generate(KeySize::Rsa2048).expect("random"));
        let spki = |pair: &KeyPair| {
            let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
            spki_pem(der.as_ref())
        };
        let pkcs1 = pem::encode(&Pem::new("RSA PUBLIC KEY", own.public_key().as_ref()));
        let canonical = spki(&own);
        let id = id_of_key(&canonical);
        assert_eq!(id.len(), 103);
        let dense = pem::encode_config(
            &pem::parse(&canonical).expect("PEM"),
            EncodeConfig::new().set_line_wrap(4096),
        );
        let padded = format!("\n{}\n\n", canonical.replace('\n', "\r\n"));
        for key in [&canonical, &pkcs1, &dense, &padded] {
            for id in [&*id, &id[..6]] {
                let peer = from_row(id, key).expect("its own");
                assert_eq!((&*peer.id, &peer.public_key_pem), (id, &canonical));
            }
        }
        let longer = format!("{id}a");
        for id in ["", &id[..5], &id[..7], &id[..102], &longer, &id.to_uppercase(), "aaaaaa"] {
            assert_eq!(from_row(id, &canonical), Err(PeerProblem::OtherKey), "{id}");
        }
        assert_eq!(from_row(&id, &spki(&other)), Err(PeerProblem::OtherKey));
        assert_eq!(from_row(&id[..6], &spki(&other)), Err(PeerProblem::OtherKey));
    }

    #[test]
    fn what_is_no_rsa_key_is_told_from_what_is_no_pem() {
        let elliptic = rcgen::KeyPair::generate().expect("random");
        let elliptic = spki_pem(&rcgen::PublicKeyData::subject_public_key_info(&elliptic));
        let certificate = pem::encode(&Pem::new("CERTIFICATE", vec![0; 8]));
        for (key, problem) in [
            ("", PeerProblem::Pem),
            ("garbage", PeerProblem::Pem),
            (&certificate, PeerProblem::Pem),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", PeerProblem::Key),
            (&elliptic, PeerProblem::Key),
        ] {
            assert_eq!(from_row("abcdef", key), Err(problem), "{key}");
        }
        let bad = Peer::from_row("abcdefghij".into(), "".into(), "").expect_err("no key");
        assert_eq!(
            bad.to_string(),
            "the peer `abcdef` is skipped: its public key is not a PEM-encoded public key"
        );
    }
}
