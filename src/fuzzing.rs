//! Entry points for the fuzz targets, to code that is not public otherwise.
//!
//! Each takes input that a stranger could send and checks the invariants that must hold.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::app::{Access, AppMeta, PathRule};
use crate::domain::client::{Client, KnownClient};
use crate::domain::policy::{PathMatching, Rules, governing_rule, match_rules};
use crate::domain::request::{Readings, app_label};
use crate::gate::credentials::{peer, terminal};
use crate::gate::headers::HeaderTemplates;
use crate::gate::{fuzz_forwarded, request_kind};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::file::Notes;
use crate::ledger::key::VerifierKey;
use crate::ledger::proof::Proof;
use crate::ledger::ranges::Ranges;
use crate::ledger::record::RecordId;

/// Parses lines of the form `name: value` into headers, as a server would provide them.
#[must_use]
pub fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        let value = HeaderValue::from_bytes(value.trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Reads everything that is read of a subrequest's head before its client is identified.
pub fn request_head(bytes: &[u8]) {
    let headers = headers(bytes);
    let _ = (terminal::token(&headers), request_kind::poll_version(&headers));
    let _ = request_kind::accepts_html(&headers);
    if let Some((host, uri)) = fuzz_forwarded(&headers) {
        if let Ok(label) = app_label(host, Some("box.example")) {
            assert!(!label.is_empty() && !label.bytes().any(|byte| byte.is_ascii_uppercase()));
        }
        let _ = Readings::new(uri);
    }
}

/// Checks that a path is not granted to a client that the rule of any of its readings
/// denies.
pub fn path(target: &str) {
    let rules = [
        ("/pub/closed", Access::Private),
        ("/caf%C3%A9", Access::Public),
        ("/private", Access::Private),
        ("/peer", Access::Peer),
        ("/pub", Access::Public),
    ]
    .map(|(prefix, access)| PathRule { prefix: prefix.into(), access, headers: [].into() });
    let Ok(readings) = Readings::new(target) else { return };
    for matching in [PathMatching::Prefix, PathMatching::Segment] {
        let governed = match_rules(&Rules::new(&rules, matching), &readings);
        let Ok(governed) = governed else { continue };
        let is_granted = governed.admit(Client::Anonymous).is_ok();
        let raw = governing_rule(&rules, readings.raw(), matching);
        assert_eq!(raw, Some(governed.rule));
        assert!(!is_granted || rules[governed.rule].access == Access::Public);
        for reading in readings.others().into_iter().flatten() {
            assert!(reading.starts_with(b"/"));
            let is_closed = governing_rule(&rules, &reading, matching)
                .is_some_and(|rule| rules[rule].access != Access::Public);
            assert!(!(is_granted && is_closed), "{target}");
        }
    }
}

/// Checks that a token that was not issued by this box is refused.
pub fn token(token: &str, now: std::time::SystemTime) {
    let key = terminal::TokenKey::new(&crate::config::Secret::new("a secret nobody signs with"));
    assert!(terminal::verify(token, &key, now).is_err());
}

/// Checks that a signature made without a known key is refused.
pub fn signature(bytes: &[u8], keys: &peer::PeerKeys, now: std::time::SystemTime) {
    let headers = headers(bytes);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = peer::Signed {
        method: text("x-forwarded-method").unwrap_or("GET"),
        proto: text("x-forwarded-proto").unwrap_or("https"),
        host: text("x-forwarded-host").unwrap_or("notes.box.example"),
        uri: text("x-forwarded-uri").unwrap_or("/"),
        headers: &headers,
    };
    assert!(peer::verify(&signed, keys, now).is_err());
}

/// Checks that a description that parses has its paths sorted and can be prepared.
pub fn app_meta(json: &[u8]) {
    let Ok(meta) = AppMeta::parse(json) else { return };
    let lengths: Vec<_> = meta.paths.iter().map(|rule| rule.prefix.len()).collect();
    assert!(lengths.is_sorted_by(|longer, shorter| longer >= shorter));
    let _ = Rules::new(&meta.paths, PathMatching::Prefix);
    for rule in &meta.paths {
        let _ = HeaderTemplates::compile(&rule.headers);
    }
}

/// Checks that every value an accepted template renders to is one line of a header.
pub fn template(source: &str, name: &str) {
    use crate::config::HeaderEncoding;

    let headers = [("X-Ptl-Fuzz".to_owned(), source.to_owned())].into();
    let Ok(templates) = HeaderTemplates::compile(&headers) else { return };
    let known = KnownClient { id: "id".into(), name: name.into() };
    for client in [Client::Terminal(&known), Client::Anonymous] {
        for encoding in [HeaderEncoding::Latin1, HeaderEncoding::Utf8] {
            let rendered = templates.render(client, None, encoding);
            for (_, value) in rendered.into_iter().flatten() {
                assert!(value.as_bytes().iter().all(|byte| *byte >= b' ' && *byte != 0x7f));
            }
        }
    }
}

/// Reads a file of the spool, which may be torn, damaged or foreign. What is read is written
/// again as the same records.
pub fn letter(bytes: &[u8]) {
    crate::ledger::spool::fuzz_letter(bytes);
}

/// Checks that a proof that this key has not signed proves nothing, and that its record reads
/// the same once it is written.
pub fn proof(json: &str) {
    let Ok(proof) = Proof::parse(json) else { return };
    let written = serde_json::to_string(&proof).unwrap_or_default();
    assert_eq!(Proof::parse(&written).as_ref(), Ok(&proof));
    assert!(proof.verify(&key()).is_err());
}

/// Checks that a file of checkpoints is read whole: every note and every other piece of it is
/// found again; and that no note counts that this key has not signed.
pub fn checkpoints(text: &str) {
    let Notes { notes, fragments } = Notes::parse(text);
    let pieces = text.split("\n\n").filter(|piece| !piece.trim_matches('\n').is_empty()).count();
    assert_eq!(pieces, 2 * notes.len() + fragments.len());
    for note in &notes {
        let _ = Checkpoint::claimed(note);
        assert!(Checkpoint::verify(note, &key()).is_err());
    }
    let written = notes.iter().fold(String::new(), |text, note| text + note + "\n");
    let again = Notes::parse(&written);
    assert_eq!(again, Notes { notes, fragments: Vec::new() });
}

/// Reads what is recorded of a request's headers, and checks that it is bounded.
pub fn recorded_headers(bytes: &[u8]) {
    crate::ledger::visits::fuzz_fields(&headers(bytes));
}

/// Reads texts that name records: ids, ranges and the notes that hold them.
pub fn record_names(text: &str) {
    if let Ok(id) = text.parse::<RecordId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(ranges) = text.parse::<Ranges>() {
        assert_eq!(ranges.to_string().parse().as_ref(), Ok(&ranges));
    }
    let _ = crate::ledger::references::read(text);
}

/// Reads the query of a page of history, its cursor included.
pub fn history_query(text: &str) {
    crate::http::api::fuzz_page_request(text);
}

/// A key that has signed nothing.
fn key() -> VerifierKey {
    let text = "nightporter/box+85d04954+AWOCs8yIFBK3e/yu7QJgAcANnjAl5mwg9ufpLweYUUYq";
    text.parse().unwrap_or_else(|_| unreachable!("a verifier key"))
}

/// Parses the payload of a notification.
pub fn payload(text: &str) {
    crate::store::postgres::fuzz_payload(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A piece of a file of checkpoints.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "\n{1,2}",
            "nightporter/box\n[0-9]{1,20}\n",
            "[A-Za-z0-9+/]{4,12}={0,2}\n",
            "time 20[0-9]{2}-1[0-2]-[0-3][0-9]T00:00:00Z\n",
            "\u{2014} nightporter/box [A-Za-z0-9+/]{4,12}={0,2}\n",
            "\\PC{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_put_in_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            let now = std::time::UNIX_EPOCH;
            request_head(&bytes);
            path(&text);
            path(&format!("/pub/{text}"));
            token(&text, now);
            signature(&bytes, &peer::PeerKeys::default(), now);
            app_meta(&bytes);
            template(&text, &text);
            payload(&text);
            letter(&bytes);
            recorded_headers(&bytes);
            record_names(&text);
            history_query(&text);
            history_query(&format!("after={text}"));
            proof(&text);
            checkpoints(&text);
        }

        #[test]
        fn what_looks_like_the_ledgers_files_is_survived(
            pieces in prop::collection::vec(piece(), 0..12),
            numbers in "[0-9a-f]{0,18}[- ][0-9 -]{0,12}",
            head in "(traceparent|x-forwarded-(host|uri|for)): [ -~]{0,80}\n",
            content in "\\{\"error\":null,\"records\":\\[[ -~]{0,60}\\]\\}",
        ) {
            checkpoints(&pieces.concat());
            record_names(&numbers);
            recorded_headers(head.as_bytes());
            letter(&crate::ledger::spool::fuzz_seal(content.as_bytes()));
        }
    }
}
