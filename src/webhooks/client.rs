//! One exchange with a receiver, within one deadline and with a bounded answer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::connector::{ConnectError, Connector, Rules};
use super::message::{InvalidToken, Message};
use super::target::Target;

/// From the look-up of the name to the end of the answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);

/// How much of an answer is read, and how much of its body is kept.
const MAX_ANSWER: usize = 64 * 1024;
const KEPT: usize = 1024;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("nightporter/", env!("CARGO_PKG_VERSION")));

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    /// The begin of the body, without control characters.
    pub(super) text: String,
    /// Why the body was not read to its end.
    pub(super) cut_off: Option<&'static str>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Token(#[from] InvalidToken),
    #[error("the receiver did not answer within {DEADLINE:?}")]
    TimedOut,
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error("the receiver's answer is not HTTP, or was cut off: {0}")]
    Protocol(#[from] hyper::Error),
}

impl SendError {
    /// Returns its name, as the log shows it.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.as_str(),
            Self::Token(_) | Self::Request(_) => "invalid",
            Self::TimedOut => "timeout",
            Self::Protocol(_) => "protocol",
        }
    }
}

/// Sends a message. `now` is the time by which a date in `Retry-After` is read.
pub(super) async fn send(
    connector: &Connector,
    target: &Target,
    rules: Rules<'_>,
    message: Message,
    now: SystemTime,
) -> Result<Answer, SendError> {
    let deadline = Instant::now() + DEADLINE;
    // The connection ends when this is dropped.
    let mut connection = JoinSet::new();
    let head = exchange(connector, target, rules, message, &mut connection);
    let (head, body) =
        timeout_at(deadline, head).await.map_err(|_| SendError::TimedOut)??.into_parts();
    let mut kept = Vec::new();
    let read = timeout_at(deadline, read(body, &mut kept)).await;
    let cut_off = match read {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(_) => Some("the answer did not end in time"),
    };
    Ok(Answer {
        status: head.status.as_u16(),
        retry_after: retry_after(&head.headers, now),
        text: printable(&kept),
        cut_off,
    })
}

async fn exchange(
    connector: &Connector,
    target: &Target,
    rules: Rules<'_>,
    message: Message,
    connection: &mut JoinSet<()>,
) -> Result<http::Response<Incoming>, SendError> {
    let stream = connector.connect(target, rules).await?;
    let (mut sender, driver) =
        http1::Builder::new().max_buf_size(MAX_ANSWER).handshake(TokioIo::new(stream)).await?;
    connection.spawn(async move {
        // What ends it is the result of the request as well.
        let _ended = driver.await;
    });
    let Message { path, headers, body } = message;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, target.authority())
        .header(USER_AGENT, AGENT)
        .body(Full::<Bytes>::new(body))?;
    request.headers_mut().extend(headers);
    Ok(sender.send_request(request).await?)
}

/// Reads a body as far as it is of interest, and keeps its begin.
async fn read(mut body: Incoming, kept: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "the answer was cut off")?;
        let Some(data) = frame.data_ref() else { continue };
        kept.extend(data.iter().take(KEPT - kept.len()));
        total += data.len();
        if total > MAX_ANSWER {
            return Err("the answer is longer than 64 KiB");
        }
    }
    Ok(())
}

/// Returns what `Retry-After` asks for: a number of seconds or a date (RFC 9110 section
/// 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 60);
        for (text, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999999", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            let asked = retry_after(&headers, now).map(|wait| wait.as_secs());
            assert_eq!(asked, expected, "{text}");
        }
    }

    #[test]
    fn an_answer_is_shown_without_control_characters() {
        assert_eq!(printable(b"a\x1b[31m\r\nb\xff\x00"), "a [31m  b\u{fffd} ");
    }
}
