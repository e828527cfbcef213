//! One connection: its protocol, its limits and how it ends.
//!
//! hyper's own header timeout also runs while a kept-alive connection is idle,
//! and costs one timer per request. Here the socket is wrapped instead: it records in
//! coarse ticks when the first bytes of a head arrived, and one beat for all
//! connections of a listener lets each check whether it is overdue.

pub(super) mod activity;
mod frames;
mod pulse;
mod socket;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderValue, Request, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

pub(super) use self::activity::Activity;
use self::activity::TrackedBody;
pub(super) use self::pulse::{Phase, Pulse};
use self::pulse::{phase_of, tick_of};
use self::socket::TrackedIo;
use super::body::Body;
use super::{Client, Handler, answer};
use crate::telemetry::{RequestScope, meters};

/// The maximum size of a request head in bytes: 64 KiB of cookies and room for the rest.
const MAX_HEAD: u32 = 80 * 1024;

/// The maximum number of concurrent streams on an HTTP/2 connection. A proxy sends all its
/// users' requests over a few connections; hyper's 200 would make bursts queue.
const MAX_STREAMS: u32 = 1000;

/// The flow-control window in bytes: RFC 9113's initial value, the smallest that a
/// connection can have.
const WINDOW: u32 = 65_535;

/// HTTP/2 pings detect peers that are gone without having closed the connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// While draining, how long a peer whose requests are all answered may take to receive the
/// end of its HTTP/2 connection, or to close its half of an HTTP/1 connection.
const CLOSE_GRACE: Duration = Duration::from_millis(500);
const CLOSE_CHECK: Duration = Duration::from_millis(50);

/// Number of beats in the time that a head may take.
const BEATS_PER_HEAD: u32 = 4;

/// Time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// Between requests. Longer than Traefik's 90 s, so that the proxy closes the
    /// connection and no request arrives on a closing one.
    pub idle: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            handshake: Duration::from_secs(10),
        }
    }
}

/// Returns the period of the beat.
pub(super) fn beat_period(limits: &Limits) -> Duration {
    limits.head / BEATS_PER_HEAD
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// hyper's builders for both protocols, with our limits.
#[derive(Debug, Clone)]
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub(super) fn new() -> Self {
        let mut http1 = http1::Builder::new();
        // A client that has closed its half may still wait for responses.
        http1.header_read_timeout(None).max_header_size(MAX_HEAD as usize).half_close(true);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD)
            .max_concurrent_streams(MAX_STREAMS)
            // The gate reads no bodies: the bytes of one that arrive before its stream ends
            // are dropped. For a handler that reads one, the window opens as it reads.
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self { http1, http2 }
    }
}

/// Drives one connection to its end. If no protocol was negotiated, it is detected from
/// the first bytes.
pub(super) async fn drive<IO, H>(
    io: IO,
    negotiated: Option<Protocol>,
    protocols: &Protocols,
    handler: &Arc<H>,
    activity: &Arc<Activity>,
    limits: &Limits,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut io = TrackedIo::new(io, Arc::clone(activity));
    let protocol = match negotiated {
        Some(protocol) => protocol,
        None => match supervise(io.sniff(), |_| {}, activity, limits).await {
            Some(Ok(protocol)) => protocol,
            Some(Err(_)) | None => return,
        },
    };
    // Requests clone an `Arc` of their own connection only: a reference count that several
    // threads share would slow them down.
    let shared = Shared { handler: Arc::clone(handler), activity: Arc::clone(activity) };
    let shared = Arc::new(shared);
    let service = service_fn(move |request| answer_one(Arc::clone(&shared), request));
    if protocol == Protocol::Http2 {
        activity.set_multiplexed();
        io.count_frames();
    }
    let io = TokioIo::new(io);
    let ended = match protocol {
        Protocol::Http1 => {
            let connection = protocols.http1.serve_connection(io, service);
            supervise(connection, http1::Connection::graceful_shutdown, activity, limits).await
        }
        Protocol::Http2 => {
            let connection = protocols.http2.serve_connection(io, service);
            supervise(connection, http2::Connection::graceful_shutdown, activity, limits).await
        }
    };
    if let Some(Err(error)) = ended {
        debug!(%error, "connection ended");
    }
}

/// Polls a connection, or a step of setting one up, until it ends. Returns `None` if the
/// connection has to be closed first. `drain` starts its graceful shutdown; after that,
/// outstanding requests are answered and nothing else is waited for.
pub(super) async fn supervise<F: Future>(
    future: F,
    drain: impl Fn(Pin<&mut F>),
    activity: &Activity,
    limits: &Limits,
) -> Option<F::Output> {
    let pulse = &activity.pulse;
    let mut future = pin!(future);
    // Set while draining: the deadline of a peer that has all its responses.
    let mut closing: Option<(Instant, Pin<Box<tokio::time::Sleep>>)> = None;
    loop {
        let mut beat = pin!(pulse.beat.notified());
        beat.as_mut().enable();
        let seen = pulse.load();
        match phase_of(seen) {
            Phase::Running if !activity.is_ending() => {}
            Phase::Running | Phase::Draining if closing.is_none() => {
                drain(future.as_mut());
                let deadline = Instant::now() + CLOSE_GRACE;
                closing = Some((deadline, Box::pin(sleep(CLOSE_CHECK))));
            }
            Phase::Running | Phase::Draining => {}
            Phase::Aborting => return None,
        }
        if let Some(why) = activity.overdue(tick_of(seen), limits) {
            debug!(why, "connection closed");
            return None;
        }
        let mut registered = false;
        let ended = poll_fn(|cx| {
            // Read before the poll, which may write the last response.
            let was_answering = activity.is_answering();
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Step::Ended(output));
            }
            if let Some((deadline, check)) = &mut closing {
                let is_answering = was_answering || activity.is_answering();
                let has_grace = activity.is_multiplexed() || activity.is_lingering();
                if !is_answering && (!has_grace || Instant::now() >= *deadline) {
                    return Poll::Ready(Step::Drained);
                }
                // Other tasks end the requests of an HTTP/2 connection and do not wake it.
                while check.as_mut().poll(cx).is_ready() {
                    check.as_mut().reset(Instant::now() + CLOSE_CHECK);
                }
            }
            if pulse.load() != seen || (activity.is_ending() && closing.is_none()) {
                return Poll::Ready(Step::Changed);
            }
            // Polling it once is enough: a task's waker stays the same, and every poll of
            // `beat` takes a lock that all connections share.
            if !registered {
                registered = true;
                return beat.as_mut().poll(cx).map(|()| Step::Changed);
            }
            Poll::Pending
        })
        .await;
        match ended {
            Step::Ended(output) => return Some(output),
            Step::Drained => return None,
            Step::Changed => {}
        }
    }
}

/// The outcome of polling a connection.
enum Step<T> {
    Ended(T),
    /// The connection is draining and has no requests left to answer.
    Drained,
    /// The tick or the phase has changed.
    Changed,
}

/// The state that the requests of one connection share.
struct Shared<H> {
    handler: Arc<H>,
    activity: Arc<Activity>,
}

async fn answer_one<H: Handler>(
    shared: Arc<Shared<H>>,
    request: Request<Incoming>,
) -> Result<http::Response<TrackedBody>, Infallible> {
    let Shared { handler, activity } = &*shared;
    let in_flight = activity.head_complete();
    let has_body = !request.body().is_end_stream();
    let http2 = request.version() == Version::HTTP_2;
    let names_one_host = names_one_host(&request);
    let mut response = if names_one_host {
        let mut request = request.map(|incoming| {
            if has_body { Body::unread(incoming, Arc::clone(activity)) } else { Body::none() }
        });
        // A map is allocated for extensions, so only who needs the address gets it.
        if H::NEEDS_CLIENT
            && let Some(client) = activity.client
        {
            request.extensions_mut().insert(Client(client));
        }
        let scope = RequestScope::default();
        let answered = scope.run(handler.handle(request));
        let caught = AssertUnwindSafe(answered).catch_unwind().await;
        caught.unwrap_or_else(|_| {
            meters::panics().increment(1);
            scope.enter(|| {
                error!("a request handler panicked; its request was answered with 500");
            });
            answer::internal_error()
        })
    } else {
        if has_body {
            drop(Body::unread(request.into_body(), Arc::clone(activity)));
        }
        answer::bad_request()
    };
    let is_rejection = response.extensions().get::<answer::Rejection>().is_some();
    activity.note_response(is_rejection);
    if http2 {
        // RFC 9113 section 8.2.2: connection-specific header fields are an error in HTTP/2.
        response.headers_mut().remove(header::CONNECTION);
    } else if (has_body && activity.is_body_unread()) || !names_one_host || activity.is_ending() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| TrackedBody::new(body, in_flight)))
}

/// Whether a request names exactly one valid host (RFC 9112 section 3.2); only HTTP/1.1
/// requires a `Host` line. Different servers would read two lines differently.
fn names_one_host<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let Some(host) = headers.get(header::HOST) else {
        return request.version() != Version::HTTP_11;
    };
    let is_one = headers.len() == headers.keys_len()
        || headers.get_all(header::HOST).iter().nth(1).is_none();
    is_one && host.as_bytes().iter().all(|byte| is_host_byte(*byte))
}

/// Whether a byte may occur in a host and port: RFC 3986 section 3.2.2, and `_`, which
/// occurs in Docker's names.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}
