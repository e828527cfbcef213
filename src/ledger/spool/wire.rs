//! The JSON of a record in a dead letter.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::ledger::record::{Kind, Micros, Note, Personal, Record, RecordId, Step, Word, WriterId};

type Text<'a> = Cow<'a, str>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireRecord<'a> {
    writer: i64,
    seq: i64,
    #[serde(borrow)]
    tenant: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    at: i64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    app: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    host: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    path: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    rule: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    client: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    client_id: Option<WirePersonal<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    client_name: Option<WirePersonal<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    address: Option<WirePersonal<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    verdict: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    trace: Option<Text<'a>>,
    duration: i64,
    count: i64,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<WireStep<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<WireNote<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    leaf: String,
    seal: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WirePersonal<'a> {
    #[serde(borrow)]
    Clear(Text<'a>),
    Digest(String),
}

/// Name, duration, outcome.
#[derive(Serialize, Deserialize)]
struct WireStep<'a>(#[serde(borrow)] Text<'a>, i64, #[serde(borrow)] Text<'a>);

/// Topic, text.
#[derive(Serialize, Deserialize)]
struct WireNote<'a>(#[serde(borrow)] Text<'a>, #[serde(borrow)] Text<'a>);

impl<'a> From<&'a Record> for WireRecord<'a> {
    fn from(record: &'a Record) -> Self {
        // Taken apart in full: a field that is added must be kept here, too.
        let Record {
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
            duration,
            count,
            steps,
            notes,
            salt,
            leaf,
            seal,
        } = record;
        let word = |word: &'a Option<Word>| word.as_deref().map(Cow::Borrowed);
        let personal = |personal: &'a Option<Personal>| personal.as_ref().map(WirePersonal::from);
        Self {
            writer: id.writer.0,
            seq: id.seq,
            tenant: Cow::Borrowed(tenant),
            kind: Cow::Borrowed(kind.as_str()),
            at: at.0,
            app: app.as_deref().map(Cow::Borrowed),
            host: host.as_deref().map(Cow::Borrowed),
            path: path.as_deref().map(Cow::Borrowed),
            rule: rule.as_deref().map(Cow::Borrowed),
            client: word(client),
            client_id: personal(client_id),
            client_name: personal(client_name),
            address: personal(address),
            verdict: word(verdict),
            reason: word(reason),
            trace: trace.as_deref().map(Cow::Borrowed),
            duration: duration.0,
            count: *count,
            steps: steps.iter().map(WireStep::from).collect(),
            notes: notes.iter().map(WireNote::from).collect(),
            salt: salt.map(|salt| BASE64.encode(salt)),
            leaf: BASE64.encode(leaf),
            seal: BASE64.encode(seal),
        }
    }
}

impl TryFrom<WireRecord<'_>> for Record {
    type Error = &'static str;

    fn try_from(wire: WireRecord<'_>) -> Result<Self, &'static str> {
        let word = |text: Option<Text<'_>>| text.map(|text| Word::Owned(text.into_owned()));
        let boxed = |text: Option<Text<'_>>| text.map(|text| text.into_owned().into_boxed_str());
        let personal = |personal: Option<WirePersonal<'_>>| personal.map(Personal::try_from);
        Ok(Self {
            id: RecordId { writer: WriterId(wire.writer), seq: wire.seq },
            tenant: (*wire.tenant).into(),
            kind: Kind::parse(&wire.kind).ok_or("it has a record of an unknown kind")?,
            at: Micros(wire.at),
            app: wire.app.map(|text| (*text).into()),
            host: boxed(wire.host),
            path: boxed(wire.path),
            rule: wire.rule.map(|text| (*text).into()),
            client: word(wire.client),
            client_id: personal(wire.client_id).transpose()?,
            client_name: personal(wire.client_name).transpose()?,
            address: personal(wire.address).transpose()?,
            verdict: word(wire.verdict),
            reason: word(wire.reason),
            trace: boxed(wire.trace),
            duration: Micros(wire.duration),
            count: wire.count,
            steps: wire.steps.into_iter().map(Step::from).collect(),
            notes: wire.notes.into_iter().map(Note::from).collect(),
            salt: wire.salt.map(|salt| bytes(&salt)).transpose()?,
            leaf: bytes(&wire.leaf)?,
            seal: bytes(&wire.seal)?,
        })
    }
}

impl<'a> From<&'a Personal> for WirePersonal<'a> {
    fn from(personal: &'a Personal) -> Self {
        match personal {
            Personal::Clear(text) => Self::Clear(Cow::Borrowed(text)),
            Personal::Digest(digest) => Self::Digest(BASE64.encode(digest)),
        }
    }
}

impl TryFrom<WirePersonal<'_>> for Personal {
    type Error = &'static str;

    fn try_from(wire: WirePersonal<'_>) -> Result<Self, &'static str> {
        Ok(match wire {
            WirePersonal::Clear(text) => Self::Clear((*text).into()),
            WirePersonal::Digest(text) => Self::Digest(bytes(&text)?),
        })
    }
}

impl<'a> From<&'a Step> for WireStep<'a> {
    fn from(Step { name, duration, outcome }: &'a Step) -> Self {
        Self(Cow::Borrowed(name), duration.0, Cow::Borrowed(outcome))
    }
}

impl From<WireStep<'_>> for Step {
    fn from(WireStep(name, duration, outcome): WireStep<'_>) -> Self {
        Self {
            name: Word::Owned(name.into_owned()),
            duration: Micros(duration),
            outcome: Word::Owned(outcome.into_owned()),
        }
    }
}

impl<'a> From<&'a Note> for WireNote<'a> {
    fn from(Note { topic, text }: &'a Note) -> Self {
        Self(Cow::Borrowed(topic), Cow::Borrowed(text))
    }
}

impl From<WireNote<'_>> for Note {
    fn from(WireNote(topic, text): WireNote<'_>) -> Self {
        Self { topic: Word::Owned(topic.into_owned()), text: text.into_owned().into() }
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], &'static str> {
    let decoded = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    decoded.ok_or("it has bytes that are not base64 of the right length")
}
