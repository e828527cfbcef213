//! What a receiver is sent: one event as a request of its interface.
//!
//! Standard Webhooks for programs; for people ntfy (`POST` of JSON to the server's root, its
//! manual, "Publish as JSON"), Gotify (`POST /message`, its API) and Discord ("Execute
//! Webhook").

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::deliveries::ClaimedDelivery;
use super::endpoint::{Definition, EndpointKind, Secrets};
use super::event::Content;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::Micros;

/// The longest texts that the services take: 4,096 bytes of a message (ntfy), and 2,000
/// characters of one with its title (Discord), less room for what is around them.
const LONGEST: usize = 3_900;
const LONGEST_FOR_DISCORD: usize = 1_900;
const LONGEST_TITLE: usize = 200;

/// What an id may be made of where it is signed: a full stop would end it.
const ID: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b':').remove(b'@');

/// A request, always a `POST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A credential that no header can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's token contains characters that no header can hold")]
pub(super) struct InvalidToken;

/// Returns the message about an event. `now` is the time of the attempt.
pub(super) fn message(
    definition: &Definition,
    secrets: &Secrets,
    claimed: &ClaimedDelivery,
    content: &Content,
    now: Micros,
) -> Result<Message, InvalidToken> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let url = &definition.url;
    let Content { title, text, data } = content;
    let title = shortened(title, LONGEST_TITLE);
    let is_bad = claimed.kind == "alert.firing" || claimed.kind == "app.failed";
    let (path, body) = match definition.kind {
        EndpointKind::Webhook => {
            let body = json!({
                "type": claimed.kind,
                "timestamp": rfc3339(claimed.at).to_string(),
                "data": {"title": content.title, "text": text, "app": claimed.app, "details": data},
            });
            let body = body.to_string();
            sign(&mut headers, secrets, &claimed.event, now, body.as_bytes());
            (url.path_and_query(), body)
        }
        EndpointKind::Ntfy => {
            if let Some(token) = &secrets.token {
                headers.insert(AUTHORIZATION, secret(&format!("Bearer {}", token.expose()))?);
            }
            let body = json!({
                "topic": url.last_segment(),
                "title": title,
                "message": shortened(text, LONGEST),
                "priority": if is_bad { 4 } else { 3 },
                "tags": [if is_bad { "warning" } else { "bell" }],
            });
            (url.parent(), body.to_string())
        }
        EndpointKind::Gotify => {
            let token = secrets.token.as_ref().map_or("", |token| token.expose());
            headers.insert(HeaderName::from_static("x-gotify-key"), secret(token)?);
            let body = json!({
                "title": title,
                "message": shortened(text, LONGEST),
                "priority": if is_bad { 8 } else { 4 },
            });
            (format!("{}/message", url.path()), body.to_string())
        }
        EndpointKind::Discord => {
            let text = shortened(text, LONGEST_FOR_DISCORD - title.len().min(LONGEST_TITLE));
            let body = json!({
                "content": format!("**{title}**\n{text}"),
                // Nobody is notified by what a name happens to contain.
                "allowed_mentions": {"parse": []},
            });
            (url.path_and_query(), body.to_string())
        }
    };
    let path = if path.is_empty() { "/".to_owned() } else { path };
    Ok(Message { path, headers, body: body.into() })
}

/// Returns the id of a message, which is the same in every attempt.
pub(super) fn message_id(event: &str) -> String {
    utf8_percent_encode(event, &ID).to_string()
}

/// Adds the headers of Standard Webhooks.
fn sign(headers: &mut HeaderMap, secrets: &Secrets, event: &str, now: Micros, body: &[u8]) {
    let id = message_id(event);
    let timestamp = now.0.div_euclid(1_000_000);
    let signatures: Vec<_> =
        secrets.signing_at(now).map(|secret| secret.sign(&id, timestamp, body)).collect();
    let values = [
        ("webhook-id", id),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ];
    for (name, value) in values {
        // They consist of visible ASCII characters.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn secret(text: &str) -> Result<HeaderValue, InvalidToken> {
    let mut value = HeaderValue::from_str(text).map_err(|_| InvalidToken)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the begin of a text, of at most `longest` bytes and whole characters.
fn shortened(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
