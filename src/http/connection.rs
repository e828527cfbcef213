//! One connection: its protocol, its limits, its end.
//!
//! hyper's own header timeout runs while a kept-alive connection is idle, too,
//! and costs a timer a request. Here the socket is wrapped instead: it notes in
//! coarse ticks when bytes of a head began to come, and one beat for all
//! connections of a listener lets each look whether it is overdue.

mod activity;
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
use http::request::Parts;
use http::{HeaderValue, Request, Version, header};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

pub(super) use self::activity::Activity;
use self::activity::Tracked;
pub(super) use self::pulse::{Phase, Pulse};
use self::pulse::{phase_of, tick_of};
use self::socket::Watched;
use super::{Handler, answer};
use crate::telemetry::meters;

/// Bytes a request head may have: 64 KiB of cookies and room for the rest.
const MAX_HEAD: u32 = 80 * 1024;

/// Streams of one HTTP/2 connection at a time. A proxy sends all its users'
/// requests over a few connections; hyper's 200 would make bursts queue.
const MAX_STREAMS: u32 = 1000;

/// Bytes that may be sent before somebody reads them: RFC 9113's initial value, the least
/// that a connection can have.
const WINDOW: u32 = 65_535;

/// HTTP/2 pings find peers that went away without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a peer may take at a drain to hear that its HTTP/2 connection ends, or to
/// close its half, once all it asked is answered.
const PARTING: Duration = Duration::from_millis(500);
const PARTING_CHECK: Duration = Duration::from_millis(50);

/// Beats in the time that a head may take.
const BEATS_PER_HEAD: u32 = 4;

/// How long connections may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// Between requests. Longer than Traefik's 90 s, so that it is the proxy
    /// who closes and no request meets a closing connection.
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

/// The period of the beat.
pub(super) fn beat_period(limits: &Limits) -> Duration {
    limits.head / BEATS_PER_HEAD
}

/// The two protocols of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The protocols, with their bounds.
#[derive(Debug, Clone)]
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub(super) fn new() -> Self {
        let mut http1 = http1::Builder::new();
        // Who has sent its end may still wait for answers.
        http1.header_read_timeout(None).max_header_size(MAX_HEAD as usize).half_close(true);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD)
            .max_concurrent_streams(MAX_STREAMS)
            // Nobody reads a body: what comes of one before its stream ends is thrown away.
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self { http1, http2 }
    }
}

/// Drives one connection to its end. Where the protocol has not been agreed on,
/// the first bytes tell.
pub(super) async fn drive<IO, H>(
    io: IO,
    agreed: Option<Protocol>,
    protocols: &Protocols,
    handler: &Arc<H>,
    activity: &Arc<Activity>,
    limits: &Limits,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut io = Watched::new(io, Arc::clone(activity));
    let protocol = match agreed {
        Some(protocol) => protocol,
        None => match supervise(io.sniff(), |_| {}, activity, limits).await {
            Some(Ok(protocol)) => protocol,
            Some(Err(_)) | None => return,
        },
    };
    // A request counts its references on its own connection alone: threads that count
    // together slow each other down.
    let answering = Answering { handler: Arc::clone(handler), activity: Arc::clone(activity) };
    let answering = Arc::new(answering);
    let service = service_fn(move |request| answer_one(Arc::clone(&answering), request));
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

/// Polls a connection, or a step on the way to one, until it ends, or until it has to:
/// `None`. `drain` asks it to come to an end; what has been asked is answered then, and
/// nothing else waited for.
pub(super) async fn supervise<F: Future>(
    future: F,
    drain: impl Fn(Pin<&mut F>),
    activity: &Activity,
    limits: &Limits,
) -> Option<F::Output> {
    let pulse = &activity.pulse;
    let mut future = pin!(future);
    // Set while draining: when a peer that has all its answers has had its time.
    let mut parting: Option<(Instant, Pin<Box<tokio::time::Sleep>>)> = None;
    loop {
        let mut beat = pin!(pulse.beat.notified());
        beat.as_mut().enable();
        let seen = pulse.load();
        match phase_of(seen) {
            Phase::Running if !activity.is_ending() => {}
            Phase::Running | Phase::Draining if parting.is_none() => {
                drain(future.as_mut());
                let until = Instant::now() + PARTING;
                parting = Some((until, Box::pin(sleep(PARTING_CHECK))));
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
            // Before the poll, in which the last answer may be written.
            let was_answering = activity.is_answering();
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Step::Ended(output));
            }
            if let Some((until, check)) = &mut parting {
                let is_answering = was_answering || activity.is_answering();
                let takes_leave = activity.is_multiplexed() || activity.is_lingering();
                if !is_answering && (!takes_leave || Instant::now() >= *until) {
                    return Poll::Ready(Step::Over);
                }
                // Others end requests of an HTTP/2 connection, without a word to it.
                while check.as_mut().poll(cx).is_ready() {
                    check.as_mut().reset(Instant::now() + PARTING_CHECK);
                }
            }
            if pulse.load() != seen || (activity.is_ending() && parting.is_none()) {
                return Poll::Ready(Step::Look);
            }
            // Once is enough: a task's waker stays the same, and every poll of
            // `beat` takes a lock that all connections share.
            if !registered {
                registered = true;
                return beat.as_mut().poll(cx).map(|()| Step::Look);
            }
            Poll::Pending
        })
        .await;
        match ended {
            Step::Ended(output) => return Some(output),
            Step::Over => return None,
            Step::Look => {}
        }
    }
}

/// What came of polling a connection.
enum Step<T> {
    Ended(T),
    /// Draining, with nothing left to answer.
    Over,
    /// The tick or the phase has changed.
    Look,
}

/// What the requests of one connection are answered with.
struct Answering<H> {
    handler: Arc<H>,
    activity: Arc<Activity>,
}

async fn answer_one<H: Handler>(
    answering: Arc<Answering<H>>,
    request: Request<Incoming>,
) -> Result<http::Response<Tracked>, Infallible> {
    let Answering { handler, activity } = &*answering;
    let in_flight = activity.head_complete();
    let (head, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    drop(body);
    let http2 = head.version == Version::HTTP_2;
    let names_one_host = names_one_host(&head);
    let mut response = if names_one_host {
        let caught = AssertUnwindSafe(handler.handle(head)).catch_unwind().await;
        caught.unwrap_or_else(|_| {
            meters::panics().increment(1);
            error!("a request handler panicked; its request was answered with 500");
            answer::internal_error()
        })
    } else {
        answer::bad_request()
    };
    let is_pointless = response.extensions().get::<answer::Pointless>().is_some();
    activity.note_answer(is_pointless);
    if http2 {
        // RFC 9113 section 8.2.2: connection-specific, an error here.
        response.headers_mut().remove(header::CONNECTION);
    } else if has_body || !names_one_host || activity.is_ending() {
        if has_body {
            activity.set_body_unread();
        }
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Tracked::new(body, in_flight)))
}

/// RFC 9112 section 3.2: one `Host` line, which HTTP/1.1 must have, and a host in it.
/// Two of them are read one way here and another way there.
fn names_one_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => head.version != Version::HTTP_11,
        (Some(host), None) => host.as_bytes().iter().all(|byte| is_of_host(*byte)),
        (Some(_), Some(_)) => false,
    }
}

/// What a host and port may be written with: RFC 3986 section 3.2.2, and `_`, which
/// Docker's names have.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}
