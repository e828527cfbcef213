//! A peer's signature: HTTP message signatures (RFC 9421) with RSA-PSS and
//! SHA-512, as `requests-http-signature` creates them.
//!
//! The signature covers the request that the peer sent to the proxy, so its
//! method and URL come from the headers that the proxy forwards. Anything that is
//! not supported is refused: unknown parameters, component parameters, derived
//! components other than those of a request's target.

mod keys;

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{
    BareItem, Dictionary, InnerList, Item, ListEntry, ListSerializer, Parameters, Parser, Version,
};

use self::keys::PeerKey;
pub use self::keys::PeerKeys;
use super::target::{Style, Target};
use crate::domain::client::KnownClient;

/// The only supported algorithm. Its salt is as long as its digest, 64 bytes.
const ALGORITHM: &str = "rsa-pss-sha512";

/// Largest allowed difference between the clocks of the sender and the box, in seconds.
const SKEW: i64 = 5;

/// Largest age of a valid signature, in seconds: one day and the skew.
pub(super) const MAX_AGE: i64 = 86_400 + SKEW;

/// Longest `Signature-Input` and `Signature`, in bytes. The largest key's signature takes
/// 1,024.
const MAX_FIELD: usize = 4 * 1024;

/// Largest number of components that a signature may cover. Senders cover three to six.
const MAX_COMPONENTS: usize = 32;

/// Longest request target, in bytes: the URL length that every implementation should support
/// (RFC 9110 section 4.1, 8,000).
const MAX_TARGET: usize = 8 * 1024;

/// Longest signed text, in bytes: the longest target, and further components that take half
/// as much, such as the path of a URL of 6,000 bytes.
const MAX_TEXT: usize = MAX_TARGET + MAX_TARGET / 2;

/// Largest number of bytes that are hashed for one request before its sender is known.
/// If all texts together are longer, only the first ones are tried.
const MAX_HASHED: usize = MAX_TEXT;

/// The same for a key above [`MAX_MULTI_TEXT_KEY`], whose check alone costs 14 plain requests.
const MAX_HASHED_LARGE_KEY: usize = 4 * 1024;

/// Largest key, in bytes of its signature, whose signatures are tried with every text that
/// may have been signed. Larger keys get only one check: their owners have to sign the URL
/// as it is sent.
const MAX_MULTI_TEXT_KEY: usize = 4096 / 8;

/// Components that must be covered, so that a signature is valid for one request only.
const REQUIRED: [&str; 3] = ["@method", "@authority", "@target-uri"];

/// Derived components that may be covered; the required ones already contain them.
const OPTIONAL: [&str; 4] = ["@scheme", "@path", "@query", "@request-target"];

/// A signed request: the parts that the proxy forwards, and its headers.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub method: &'a str,
    /// `https` or `http`.
    pub proto: &'a str,
    /// As the peer sent it, with the port.
    pub host: &'a str,
    /// Path and query.
    pub uri: &'a str,
    pub headers: &'a HeaderMap,
}

/// A signature that is valid for its request and a known peer.
#[derive(Debug, Clone)]
pub struct Verified {
    pub peer: KnownClient,
    pub nonce: Option<Box<str>>,
    /// SHA-256 of the signature's bytes.
    pub fingerprint: [u8; 32],
    pub times: Times,
}

/// When a signature was created and when it expires, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub created: i64,
    pub expires: Option<i64>,
}

impl Times {
    /// Checks whether a signature is valid at this time.
    ///
    /// # Errors
    /// The reason why it is not.
    pub fn check(self, now: SystemTime) -> Result<(), SignatureError> {
        let now = unix_seconds(now);
        if self.created > now + SKEW {
            return Err(SignatureError::Future);
        }
        if self.created < now - MAX_AGE {
            return Err(SignatureError::Old);
        }
        if self.expires.is_some_and(|expires| expires < now - SKEW) {
            return Err(SignatureError::Expired);
        }
        Ok(())
    }
}

/// Why a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the request is not signed")]
    Unsigned,
    #[error("a signature field occurs more than once or is longer than {MAX_FIELD} bytes")]
    Oversized,
    #[error("a signature field is not a valid structured dictionary")]
    Malformed,
    #[error("there is more than one signature")]
    Several,
    #[error("Signature and Signature-Input have different labels")]
    Label,
    #[error("a parameter is unknown or has the wrong type")]
    Parameter,
    #[error("the algorithm is not {ALGORITHM}")]
    Algorithm,
    #[error("`created` is missing")]
    NoCreated,
    #[error("the signature was created in the future")]
    Future,
    #[error("the signature is more than a day old")]
    Old,
    #[error("the signature has expired")]
    Expired,
    #[error("`keyid` is not that of a known peer")]
    UnknownKey,
    #[error("@method, @authority and @target-uri must be covered")]
    Coverage,
    #[error("a covered component is unsupported or repeated, or there are too many")]
    Component,
    #[error("a covered header is missing")]
    MissingHeader,
    #[error("a covered header contains bytes that cannot be signed")]
    HeaderValue,
    #[error("method, protocol, host and path do not form a URL")]
    Target,
    #[error(
        "the target is longer than {MAX_TARGET} bytes or the signed text longer than {MAX_TEXT}"
    )]
    TooLong,
    #[error("the signature does not match")]
    Mismatch,
}

/// Verifies a request's signature. Cheap checks come first: nothing is hashed unless the
/// key is known, the signature has the length of that key and all else is valid.
///
/// # Errors
/// The first rule that the signature violates.
pub fn verify(
    signed: &Signed<'_>,
    keys: &PeerKeys,
    now: SystemTime,
) -> Result<Verified, SignatureError> {
    let (input, signature) = fields(signed.headers)?;
    let parameters = SignatureParameters::read(&input.params)?;
    parameters.check(now)?;
    let candidates = keys.candidates(parameters.key_id).ok_or(SignatureError::UnknownKey)?;
    let texts = signed_texts(signed, &input, signature.len())?;
    let candidates: Vec<_> =
        candidates.iter().filter(|key| key.signature_len == signature.len()).collect();
    let choice = &candidates.first().ok_or(SignatureError::Mismatch)?.choice;
    // Each text is hashed once for all keys.
    let matching = |index: usize| {
        let digest = digest(&SHA512, texts.get(index)?.as_bytes());
        let fits = |key: &&&PeerKey| key.key.verify_digest_sig(&digest, &signature).is_ok();
        Some((index, candidates.iter().find(fits).copied()?))
    };
    let first = choice.first(texts.len());
    let others = (0..texts.len()).filter(|index| *index != first);
    let found = matching(first)
        .or_else(|| others.take_while(|_| choice.admits_another(now)).find_map(matching));
    let (index, key) = found.ok_or(SignatureError::Mismatch)?;
    choice.verified(index);
    Ok(Verified {
        peer: key.peer.clone(),
        nonce: parameters.nonce.map(Into::into),
        fingerprint: sha256(&signature),
        times: parameters.times,
    })
}

/// Seconds since 1970, rounded down.
pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    for (to, from) in fingerprint.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    fingerprint
}

/// Returns the components and parameters of the only signature, and its bytes.
fn fields(headers: &HeaderMap) -> Result<(InnerList, Vec<u8>), SignatureError> {
    let input = dictionary(headers, &HeaderName::from_static("signature-input"))?;
    let signature = dictionary(headers, &HeaderName::from_static("signature"))?;
    let (input_label, input) = input;
    let (label, signature) = signature;
    if label != input_label {
        return Err(SignatureError::Label);
    }
    match (input, signature) {
        (
            ListEntry::InnerList(input),
            ListEntry::Item(Item { bare_item: BareItem::ByteSequence(signature), params }),
        ) if params.is_empty() => Ok((input, signature)),
        _ => Err(SignatureError::Malformed),
    }
}

/// Returns the only member of a header that is a structured dictionary.
fn dictionary(
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<(String, ListEntry), SignatureError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(SignatureError::Unsigned)?.as_bytes();
    if values.next().is_some() || value.len() > MAX_FIELD {
        return Err(SignatureError::Oversized);
    }
    let mut members = Parser::new(value)
        .with_version(Version::Rfc8941)
        .parse::<Dictionary>()
        .map_err(|_| SignatureError::Malformed)?
        .into_iter();
    let (label, entry) = members.next().ok_or(SignatureError::Malformed)?;
    // The parser merges two members with the same label; a comma reveals the second.
    if members.next().is_some() || has_bare_comma(value) {
        return Err(SignatureError::Several);
    }
    Ok((label.as_str().to_owned(), entry))
}

/// Returns whether there is a comma outside of strings; in a well-formed dictionary,
/// only commas between members are.
fn has_bare_comma(value: &[u8]) -> bool {
    let (mut in_string, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' if !in_string => return true,
            _ => {}
        }
    }
    false
}

/// The parameters of a signature (RFC 9421 section 2.3).
struct SignatureParameters<'a> {
    times: Times,
    key_id: &'a str,
    algorithm: Option<&'a str>,
    nonce: Option<&'a str>,
}

impl<'a> SignatureParameters<'a> {
    fn read(parameters: &'a Parameters) -> Result<Self, SignatureError> {
        let (mut created, mut expires) = (None, None);
        let (mut key_id, mut algorithm, mut nonce) = (None, None, None);
        for (name, value) in parameters {
            let text = || value.as_string().map(sfv::StringRef::as_str);
            let number = || value.as_integer().map(i64::from);
            let read = match name.as_str() {
                "created" => number().map(|number| created = Some(number)),
                "expires" => number().map(|number| expires = Some(number)),
                "keyid" => text().map(|text| key_id = Some(text)),
                "alg" => text().map(|text| algorithm = Some(text)),
                "nonce" => text().map(|text| nonce = Some(text)),
                "tag" => text().map(|_| ()),
                _ => None,
            };
            read.ok_or(SignatureError::Parameter)?;
        }
        Ok(Self {
            times: Times { created: created.ok_or(SignatureError::NoCreated)?, expires },
            key_id: key_id.ok_or(SignatureError::UnknownKey)?,
            algorithm,
            nonce,
        })
    }

    fn check(&self, now: SystemTime) -> Result<(), SignatureError> {
        if self.algorithm.is_some_and(|algorithm| algorithm != ALGORITHM) {
            return Err(SignatureError::Algorithm);
        }
        self.times.check(now)
    }
}

/// Returns the texts that may have been signed (RFC 9421 section 2.5) and are tried: one for
/// each form in which senders write the parts, without duplicates.
fn signed_texts(
    signed: &Signed<'_>,
    input: &InnerList,
    signature_len: usize,
) -> Result<Vec<String>, SignatureError> {
    let names = component_names(input)?;
    if signed.uri.len() > MAX_TARGET {
        return Err(SignatureError::TooLong);
    }
    let forms =
        Target::forms(signed.proto, signed.host, signed.uri).ok_or(SignatureError::Target)?;
    let method = signed.method;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(SignatureError::Target);
    }
    let parameters = serialized(input)?;
    let styles = if names.contains(&"@request-target") { usize::MAX } else { 1 };
    let parts = forms.iter().flat_map(|form| {
        form.styles.iter().take(styles).map(|style| (&*names, &form.target, *style))
    });
    let is_large = signature_len > MAX_MULTI_TEXT_KEY;
    let (max_texts, max_hashed) =
        if is_large { (1, MAX_HASHED_LARGE_KEY) } else { (usize::MAX, MAX_HASHED) };
    let mut hashed = 0;
    let mut texts: Vec<String> = Vec::with_capacity(3);
    for parts in parts.take(max_texts) {
        let text = signed_text(signed, parts, &parameters)?;
        hashed += text.len();
        if hashed > max_hashed {
            break;
        }
        texts.push(text);
    }
    if texts.is_empty() { Err(SignatureError::TooLong) } else { Ok(texts) }
}

/// Returns the signature's input in its canonical form, which is what is signed however it
/// was sent.
fn serialized(input: &InnerList) -> Result<String, SignatureError> {
    let mut list = ListSerializer::new();
    list.members([&ListEntry::InnerList(input.clone())]);
    list.finish().ok_or(SignatureError::Malformed)
}

fn signed_text(
    signed: &Signed<'_>,
    (names, target, style): (&[&str], &Target, Style),
    parameters: &str,
) -> Result<String, SignatureError> {
    let mut text = String::with_capacity(512);
    for name in names {
        text.push('"');
        text.push_str(name);
        text.push_str("\": ");
        match *name {
            "@method" => text.push_str(signed.method),
            "@authority" => text.push_str(&target.authority),
            "@target-uri" => text.push_str(&target.uri),
            "@scheme" => text.push_str(target.scheme),
            "@path" => text.push_str(target.path()),
            "@query" => text.push_str(target.query()),
            "@request-target" => text.push_str(&target.request_target(style)),
            _ => push_header(&mut text, signed.headers, name)?,
        }
        text.push('\n');
    }
    text.push_str("\"@signature-params\": ");
    text.push_str(parameters);
    if text.len() > MAX_TEXT { Err(SignatureError::TooLong) } else { Ok(text) }
}

/// Returns the names of the covered components, in the sender's order.
fn component_names(input: &InnerList) -> Result<Vec<&str>, SignatureError> {
    if input.items.len() > MAX_COMPONENTS {
        return Err(SignatureError::Component);
    }
    let mut names: Vec<&str> = Vec::with_capacity(input.items.len());
    for item in &input.items {
        let name = item.bare_item.as_string().ok_or(SignatureError::Component)?.as_str();
        let supported = REQUIRED.contains(&name) || OPTIONAL.contains(&name) || is_field_name(name);
        if !supported || !item.params.is_empty() || names.contains(&name) {
            return Err(SignatureError::Component);
        }
        names.push(name);
    }
    if REQUIRED.iter().all(|required| names.contains(required)) {
        Ok(names)
    } else {
        Err(SignatureError::Coverage)
    }
}

/// Returns whether this is a field name; they are signed in lower case (RFC 9421 section 2.1).
fn is_field_name(name: &str) -> bool {
    HeaderName::from_lowercase(name.as_bytes()).is_ok()
}

/// Appends the combined value of a header (RFC 9421 section 2.1): each line trimmed, joined
/// by `, `.
fn push_header(base: &mut String, headers: &HeaderMap, name: &str) -> Result<(), SignatureError> {
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Err(SignatureError::MissingHeader);
    }
    while let Some(value) = values.next() {
        let value = HeaderValue::to_str(value).map_err(|_| SignatureError::HeaderValue)?;
        base.push_str(value.trim_matches([' ', '\t']));
        if values.peek().is_some() {
            base.push_str(", ");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
