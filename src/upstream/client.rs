//! Sends requests to the upstream and reads its bounded answers.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::health::{Change, Health};
use crate::domain::endpoint::Endpoint;
use crate::domain::trace;
use crate::error_chain::Chain;
use crate::telemetry::in_same_request;

/// From the request to the end of its answer. For a management secret, the core asks its
/// controller over the internet; Traefik waits for 30 s.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Below the 5 s after which uvicorn closes an idle connection, so that no request uses a
/// connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

const MAX_IDLE: usize = 8;

/// Maximum size of an answer's head, and of its body, in bytes; the core's answers have
/// less than a kilobyte.
const MAX_ANSWER: usize = 64 * 1024;

/// Headers that concern a single connection (RFC 9110 section 7.6.1), or a body, which no
/// request has. `Host` is set again.
const NOT_FORWARDED: [HeaderName; 12] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
];

/// Sends requests to the upstream.
#[derive(Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
    authority: Authority,
    health: Health,
    /// The runtime that sends the requests, regardless of the calling thread.
    runtime: Handle,
}

/// A complete answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no answer within {TIMEOUT:?}")]
    TimedOut,
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error("{}", Chain(.0))]
    Unanswered(#[from] legacy::Error),
    #[error("the answer was cut off or is too long: {0}")]
    Body(Box<dyn Error + Send + Sync>),
}

/// Returns the headers that a proxy would send for the same request. The trace that it belongs
/// to is among them as it came: the upstream's span has the same parent as ours.
pub(super) fn forwardable(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = headers.clone();
    for value in headers.get_all(CONNECTION) {
        for name in value.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                forwarded.remove(name);
            }
        }
    }
    for name in NOT_FORWARDED {
        forwarded.remove(name);
    }
    trace::remove_invalid(&mut forwarded);
    join_cookies(&mut forwarded);
    forwarded
}

/// Joins cookies, which HTTP/2 splits over several headers, into the single one of
/// HTTP/1.1 (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

impl Client {
    /// Returns `None` for a URL without a host, which the configuration refuses.
    pub(super) fn new(url: &Uri) -> Option<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_ANSWER)
            .build(connector);
        let authority = url.authority()?.clone();
        Some(Self { http, authority, health: Health::default(), runtime: Handle::current() })
    }

    /// Runs a request in a task of its own, independent of the caller. Its log lines carry the
    /// id of the request that it is made for.
    pub(super) fn spawn<F>(&self, request: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(in_same_request(request))
    }

    /// Sends a request to an endpoint with these headers, which are [`forwardable`].
    pub(super) async fn ask(
        &self,
        endpoint: Endpoint,
        headers: HeaderMap,
    ) -> Result<Answer, CallError> {
        let answer = timeout(TIMEOUT, self.exchange(endpoint, headers)).await;
        let answer = answer.unwrap_or(Err(CallError::TimedOut));
        match (self.health.note(answer.is_ok(), Instant::now()), &answer) {
            (Some(Change::Failed), Err(error)) => {
                tracing::warn!(upstream = %self.authority, %error, "shard_core does not answer");
            }
            (Some(Change::Recovered), _) => {
                tracing::info!(upstream = %self.authority, "shard_core answers again");
            }
            _ => {}
        }
        answer
    }

    async fn exchange(&self, endpoint: Endpoint, headers: HeaderMap) -> Result<Answer, CallError> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(endpoint.path())
            .build()?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let (head, body) = self.http.request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(CallError::Body)?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_server::{Reply, TestServer};
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_meant_for_one_connection_is_not_passed_on() {
        let forwarded = forwardable(&headers(&[
            ("host", "gate"),
            ("connection", "keep-alive, X-Only-Here ,"),
            ("x-only-here", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("cookie", "authorization=t"),
            ("x-forwarded-host", "notes.x"),
            ("sec-websocket-key", "k"),
        ]));
        let mut names: Vec<_> = forwarded.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "sec-websocket-key", "x-forwarded-host"]);
    }

    #[test]
    fn cookies_that_http2_split_are_one_header_again() {
        let mut split = headers(&[("cookie", "a=1"), ("accept", "*/*")]);
        split.append(COOKIE, HeaderValue::from_static("authorization=t"));
        let forwarded = forwardable(&split);
        let cookies: Vec<_> = forwarded.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; authorization=t"]);
    }

    #[tokio::test]
    async fn an_answer_comes_whole_or_not_at_all() {
        let core = TestServer::start().await;
        let client = Client::new(&core.url()).unwrap();
        let ask = || client.ask(Endpoint::Terminal, HeaderMap::new());
        core.reply_with(Reply::status(401).header("X-Ptl-Id", b"\xfc").body(b"{}"));
        let answer = ask().await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (401, &b"{}"[..]));
        assert_eq!(answer.headers["x-ptl-id"], b"\xfc"[..]);
        let [request] = &core.requests()[..] else { panic!("{:?}", core.requests()) };
        assert!(
            request.starts_with("GET /internal/authenticate_terminal HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains(&format!("host: {}\r\n", core.address)), "{request}");
        core.reply_with(Reply::status(200).body(&vec![b' '; MAX_ANSWER + 1]));
        assert!(matches!(ask().await, Err(CallError::Body(_))));
        core.reply_with(Reply::BrokenOff);
        assert!(matches!(ask().await, Err(CallError::Body(_))));
        core.reply_with(Reply::NoHttp);
        assert!(matches!(ask().await, Err(CallError::Unanswered(_))));
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure_that_says_why() {
        let core = TestServer::start().await;
        let url = core.url();
        core.stop().await;
        let client = Client::new(&url).unwrap();
        let failure = client.ask(Endpoint::Auth, HeaderMap::new()).await.unwrap_err().to_string();
        assert!(failure.contains("refused"), "{failure}");
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_given_up() {
        let core = TestServer::start().await;
        core.reply_with(Reply::Hang);
        let client = Client::new(&core.url()).unwrap();
        let request = client.ask(Endpoint::Auth, HeaderMap::new());
        let pausing = async {
            // With the clock paused earlier, the connection itself would time out.
            core.wait_for_requests(1).await;
            tokio::time::pause();
            std::future::pending::<()>().await;
        };
        let failure = tokio::select! { answer = request => answer, () = pausing => unreachable!() };
        assert!(matches!(failure, Err(CallError::TimedOut)), "{failure:?}");
    }
}
