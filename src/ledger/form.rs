//! A record as JSON: everything that its leaf covers, so that a proof carries it and an export
//! keeps it.

use std::fmt::Write;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canonical::{Masked, PersonalDigest, Texts};
use super::checkpoint::rfc3339;
use super::record::{Kind, Micros, Note, Personal, Record, RecordId, Step, Word};
use crate::access::{Private, Viewer};

/// The fields of a record. What is absent is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Record")]
pub struct RecordForm {
    id: String,
    tenant: String,
    kind: String,
    /// RFC 3339, in UTC.
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[schemars(extend("x-masked" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PersonalForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[schemars(extend("x-masked" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<PersonalForm>,
    #[schemars(extend("x-masked" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_name: Option<PersonalForm>,
    #[schemars(extend("x-masked" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<PersonalForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    duration_us: i64,
    count: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<NoteForm>,
    /// Hexadecimal; with it, the digests of the clear values can be computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
}

/// A value that identifies a person: the text itself, or `{"sha256": "..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum PersonalForm {
    Clear(String),
    Digest(DigestForm),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DigestForm {
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StepForm {
    name: String,
    duration_us: i64,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoteForm {
    topic: String,
    text: PersonalForm,
}

impl RecordForm {
    /// Describes a record for someone. Every field is named here, so that a new one cannot be
    /// shown before somebody has thought of who may see it.
    #[must_use]
    pub fn new(record: &Record, viewer: &Viewer) -> Self {
        let Record {
            id,
            tenant,
            kind,
            at,
            app,
            host,
            path: record_path,
            rule,
            client,
            client_id,
            client_name,
            address,
            verdict,
            reason,
            trace,
            duration,
            count,
            steps,
            notes,
            salt,
            leaf: _,
            seal: _,
        } = record;
        let personal = |value: &Option<Personal>, private: fn(&str) -> Private<'_>| {
            value.as_ref().map(|value| match value {
                Personal::Clear(text) => PersonalForm::Clear(viewer.show(private(text), *at)),
                Personal::Digest(digest) => PersonalForm::digest(digest),
            })
        };
        let word = |word: &Word| viewer.word(word).into_owned();
        let step = |Step { name, duration, outcome }: &Step| StepForm {
            name: word(name),
            duration_us: duration.0,
            outcome: word(outcome),
        };
        let note = |Note { topic, text }: &Note| NoteForm {
            topic: word(topic),
            text: PersonalForm::Clear(viewer.show(Private::Text(text), *at)),
        };
        let path = |path: &str| {
            let private = Private::Path { path, rule: rule.as_deref() };
            PersonalForm::Clear(viewer.show(private, *at))
        };
        Self {
            id: id.to_string(),
            tenant: tenant.as_ref().to_owned(),
            kind: kind.as_str().to_owned(),
            at: rfc3339(*at).to_string(),
            app: app.as_deref().map(str::to_owned),
            // Names an app of the box.
            host: host.as_deref().map(str::to_owned),
            path: record_path.as_deref().map(path),
            rule: rule.as_deref().map(str::to_owned),
            client: client.as_ref().map(word),
            client_id: personal(client_id, |id| Private::ClientId(id)),
            client_name: personal(client_name, |name| Private::ClientName(name)),
            address: personal(address, |address| Private::Address(address)),
            verdict: verdict.as_ref().map(word),
            reason: reason.as_ref().map(word),
            trace: trace.as_deref().map(str::to_owned),
            duration_us: duration.0,
            count: *count,
            steps: steps.iter().map(step).collect(),
            notes: notes.iter().map(note).collect(),
            // With it, the digests of masked values could be guessed.
            salt: salt.as_ref().filter(|_| !viewer.is_masked()).map(|salt| hex(salt)),
        }
    }
}

impl PersonalForm {
    fn digest(digest: &PersonalDigest) -> Self {
        Self::Digest(DigestForm { sha256: hex(digest) })
    }
}

impl RecordForm {
    /// Describes a masked record, for which the digests of its texts stand for these.
    #[must_use]
    pub fn of_masked(Masked { record, texts }: &Masked, viewer: &Viewer) -> Self {
        let mut form = Self::new(record, viewer);
        if let Some(Texts { path, notes }) = texts {
            form.path = path.as_ref().map(PersonalForm::digest);
            for (note, digest) in form.notes.iter_mut().zip(notes) {
                note.text = PersonalForm::digest(digest);
            }
        }
        form
    }

    /// Leaves out the salt, without which nothing can be proved.
    #[must_use]
    pub fn without_salt(self) -> Self {
        Self { salt: None, ..self }
    }
}

/// A form that is not that of a record; the text says which field is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid field `{0}` of the record")]
pub struct InvalidForm(&'static str);

impl TryFrom<RecordForm> for Masked {
    type Error = InvalidForm;

    /// Returns the record, masked or whole; its leaf and seal, which the form lacks, are zero.
    fn try_from(form: RecordForm) -> Result<Self, InvalidForm> {
        let RecordForm {
            id,
            tenant,
            kind,
            at,
            app,
            host,
            path,
            rule,
            client,
            client_id,
            client_name,
            address,
            verdict,
            reason,
            trace,
            duration_us,
            count,
            steps,
            notes,
            salt,
        } = form;
        let personal = |name, value: Option<PersonalForm>| {
            value
                .map(|value| match value {
                    PersonalForm::Clear(text) => Ok(Personal::Clear(text.into())),
                    PersonalForm::Digest(DigestForm { sha256 }) => {
                        unhex(&sha256).map(Personal::Digest).ok_or(InvalidForm(name))
                    }
                })
                .transpose()
        };
        let word = |text: String| -> Word { text.into() };
        let step = |StepForm { name, duration_us, outcome }: StepForm| Step {
            name: word(name),
            duration: Micros(duration_us),
            outcome: word(outcome),
        };
        let (path, hidden_path) = match personal("path", path)? {
            None => (None, None),
            Some(Personal::Clear(path)) => (Some(Box::from(&*path)), None),
            Some(Personal::Digest(digest)) => (None, Some(digest)),
        };
        let (mut clear_notes, mut hidden_notes) = (Vec::new(), Vec::new());
        for NoteForm { topic, text } in notes {
            let text = match text {
                PersonalForm::Clear(text) => text.into(),
                PersonalForm::Digest(DigestForm { sha256 }) => {
                    hidden_notes.push(unhex(&sha256).ok_or(InvalidForm("notes"))?);
                    Box::default()
                }
            };
            clear_notes.push(Note { topic: word(topic), text });
        }
        let is_hidden = hidden_path.is_some() || !hidden_notes.is_empty();
        // If only some of them are hidden, the numbers of notes differ, and nothing has such a
        // leaf.
        let texts = is_hidden.then_some(Texts { path: hidden_path, notes: hidden_notes });
        let salt = salt.map(|salt| unhex(&salt).ok_or(InvalidForm("salt"))).transpose()?;
        let record = Record {
            id: RecordId::from_str(&id).map_err(|_| InvalidForm("id"))?,
            tenant: tenant.into(),
            kind: Kind::parse(&kind).ok_or(InvalidForm("kind"))?,
            at: humantime::parse_rfc3339(&at).map_err(|_| InvalidForm("at"))?.into(),
            app: app.map(Into::into),
            host: host.map(Into::into),
            path,
            rule: rule.map(Into::into),
            client: client.map(word),
            client_id: personal("client_id", client_id)?,
            client_name: personal("client_name", client_name)?,
            address: personal("address", address)?,
            verdict: verdict.map(word),
            reason: reason.map(word),
            trace: trace.map(Into::into),
            duration: Micros(duration_us),
            count,
            steps: steps.into_iter().map(step).collect(),
            notes: clear_notes,
            salt,
            leaf: [0; 32],
            seal: [0; 16],
        };
        Ok(Self { record, texts })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}
