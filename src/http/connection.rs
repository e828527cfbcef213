//! One connection: its protocol, its limits, its end.
//!
//! hyper's own header timeout runs while a kept-alive connection is idle, too,
//! and costs a timer a request. Here the socket is wrapped instead: it notes in
//! coarse ticks when bytes of a head began to come, and one beat for all
//! connections of a listener lets each look whether it is overdue.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderValue, Request, Version, header};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tracing::{debug, error};

use super::{Handler, Response, answer};
use crate::telemetry::meters;

/// Bytes a request head may have: 64 KiB of cookies and room for the rest.
const MAX_HEAD: u32 = 80 * 1024;

/// Streams of one HTTP/2 connection at a time. A proxy sends all its users'
/// requests over a few connections; hyper's 200 would make bursts queue.
const MAX_STREAMS: u32 = 1000;

/// HTTP/2 pings find peers that went away without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4), as far as no
/// HTTP/1 request does.
const PREFACE: &[u8; 12] = b"PRI * HTTP/2";

/// Most that is read and thrown away before a connection with an unread rest
/// is closed. Closing at once would make the kernel send a reset, which takes
/// the answer with it (RFC 9112 section 9.6).
const MAX_LINGER: usize = 1024 * 1024;

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

/// Whether connections may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Finish what has begun.
    Draining,
    /// Stop at once.
    Aborting,
}

/// What all connections of a listener share: the tick and the phase in one
/// word, so that looking at both is one load on the way of a request.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Ticks in the upper bits, the phase in the lower two.
    word: AtomicU32,
    beat: Notify,
}

const PHASE_BITS: u32 = 2;

impl Pulse {
    pub(super) fn new() -> Self {
        // Tick 0 stands for "never".
        Self { word: AtomicU32::new(1 << PHASE_BITS), beat: Notify::new() }
    }

    pub(super) fn beat(&self) {
        self.word.fetch_add(1 << PHASE_BITS, Ordering::Relaxed);
        self.beat.notify_waiters();
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.word.fetch_or(phase as u32, Ordering::Relaxed);
        self.beat.notify_waiters();
    }

    fn load(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    fn tick(&self) -> u32 {
        tick_of(self.load())
    }
}

fn tick_of(word: u32) -> u32 {
    word >> PHASE_BITS
}

fn phase_of(word: u32) -> Phase {
    match word & ((1 << PHASE_BITS) - 1) {
        0 => Phase::Running,
        1 => Phase::Draining,
        _ => Phase::Aborting,
    }
}

/// The period of the beat.
pub(super) fn beat_period(limits: &Limits) -> Duration {
    limits.head / BEATS_PER_HEAD
}

/// What one connection does, noted by its socket and its service.
#[derive(Debug)]
struct Activity {
    pulse: Arc<Pulse>,
    /// Tick of the last byte in or out; with HTTP/2, where pings go on for ever,
    /// of the last request's beginning or end.
    last: AtomicU32,
    /// Tick when bytes of a head began to come; 0 while none is under way.
    head_since: AtomicU32,
    in_flight: AtomicU32,
    /// HTTP/2: no head rule, the pings see to it.
    multiplexed: AtomicBool,
    /// A request came with a body, which nobody reads.
    body_unread: AtomicBool,
}

impl Activity {
    fn new(pulse: Arc<Pulse>) -> Self {
        let last = AtomicU32::new(pulse.tick());
        Self {
            pulse,
            last,
            head_since: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            body_unread: AtomicBool::new(false),
        }
    }

    fn bytes_came(&self) {
        let tick = self.pulse.tick();
        if self.multiplexed.load(Ordering::Relaxed) {
            return;
        }
        self.last.store(tick, Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(tick, Ordering::Relaxed);
        }
    }

    fn bytes_went(&self) {
        if !self.multiplexed.load(Ordering::Relaxed) {
            self.last.store(self.pulse.tick(), Ordering::Relaxed);
        }
    }

    fn head_complete(self: &Arc<Self>) -> InFlight {
        self.head_since.store(0, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Why the connection should end now, if it should.
    fn overdue(&self, tick: u32, limits: &Limits) -> Option<&'static str> {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let head_since = self.head_since.load(Ordering::Relaxed);
        let multiplexed = self.multiplexed.load(Ordering::Relaxed);
        if !multiplexed && head_since != 0 && tick.saturating_sub(head_since) > BEATS_PER_HEAD {
            return Some("a request head took too long");
        }
        let idle_ticks = limits.idle.div_duration_f64(beat_period(limits));
        let idle = tick.saturating_sub(self.last.load(Ordering::Relaxed));
        (f64::from(idle) > idle_ticks).then_some("idle")
    }

    fn has_unread(&self) -> bool {
        self.body_unread.load(Ordering::Relaxed) || self.head_since.load(Ordering::Relaxed) != 0
    }
}

/// A request that is being answered.
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.last.store(self.0.pulse.tick(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
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
        http1.header_read_timeout(None).max_header_size(MAX_HEAD as usize);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD)
            .max_concurrent_streams(MAX_STREAMS)
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
    pulse: &Arc<Pulse>,
    limits: &Limits,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let activity = Arc::new(Activity::new(Arc::clone(pulse)));
    let mut io = Watched::new(io, Arc::clone(&activity));
    let protocol = match agreed {
        Some(protocol) => protocol,
        None => match supervise(io.sniff(), |_| false, &activity, limits).await {
            Some(Ok(protocol)) => protocol,
            Some(Err(_)) | None => return,
        },
    };
    let service = service_fn({
        let (handler, activity) = (Arc::clone(handler), Arc::clone(&activity));
        move |request| answer_one(Arc::clone(&handler), Arc::clone(&activity), request)
    });
    let io = TokioIo::new(io);
    let ended = match protocol {
        Protocol::Http1 => {
            let connection = protocols.http1.serve_connection(io, service);
            let drain = |connection: Pin<&mut http1::Connection<_, _>>| {
                connection.graceful_shutdown();
                true
            };
            supervise(connection, drain, &activity, limits).await
        }
        Protocol::Http2 => {
            activity.multiplexed.store(true, Ordering::Relaxed);
            let connection = protocols.http2.serve_connection(io, service);
            let drain = |connection: Pin<&mut http2::Connection<_, _, _>>| {
                connection.graceful_shutdown();
                true
            };
            supervise(connection, drain, &activity, limits).await
        }
    };
    if let Some(Err(error)) = ended {
        debug!(%error, "connection ended");
    }
}

/// Polls a connection until it ends, or until it has to: `None`. `drain` asks
/// it to come to an end and says whether that may take a while.
async fn supervise<F: Future>(
    future: F,
    drain: impl Fn(Pin<&mut F>) -> bool,
    activity: &Activity,
    limits: &Limits,
) -> Option<F::Output> {
    let pulse = &activity.pulse;
    let mut future = pin!(future);
    loop {
        let mut beat = pin!(pulse.beat.notified());
        beat.as_mut().enable();
        let seen = pulse.load();
        match phase_of(seen) {
            Phase::Running => {}
            Phase::Draining if drain(future.as_mut()) => {}
            Phase::Draining | Phase::Aborting => return None,
        }
        if let Some(why) = activity.overdue(tick_of(seen), limits) {
            debug!(why, "connection closed");
            return None;
        }
        let mut registered = false;
        let ended = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if pulse.load() != seen {
                return Poll::Ready(None);
            }
            // Once is enough: a task's waker stays the same, and every poll of
            // `beat` takes a lock that all connections share.
            if !registered {
                registered = true;
                return beat.as_mut().poll(cx).map(|()| None);
            }
            Poll::Pending
        })
        .await;
        if ended.is_some() {
            return ended;
        }
    }
}

async fn answer_one<H: Handler>(
    handler: Arc<H>,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    let _in_flight = activity.head_complete();
    let (head, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    drop(body);
    let http2 = head.version == Version::HTTP_2;
    let caught = AssertUnwindSafe(handler.handle(head)).catch_unwind().await;
    let mut response = caught.unwrap_or_else(|_| {
        meters::panics().increment(1);
        error!("a request handler panicked; its request was answered with 500");
        answer::internal_error()
    });
    if http2 {
        // RFC 9113 section 8.2.2: connection-specific, an error here.
        response.headers_mut().remove(header::CONNECTION);
    } else if has_body {
        activity.body_unread.store(true, Ordering::Relaxed);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A socket that notes what passes through it.
struct Watched<IO> {
    inner: IO,
    activity: Arc<Activity>,
    /// The first bytes, read to tell the protocol and not passed on yet.
    sniffed: ([u8; PREFACE.len()], std::ops::Range<usize>),
    /// Bytes thrown away after the last answer.
    lingered: usize,
}

impl<IO: AsyncRead + Unpin> Watched<IO> {
    fn new(inner: IO, activity: Arc<Activity>) -> Self {
        Self { inner, activity, sniffed: ([0; PREFACE.len()], 0..0), lingered: 0 }
    }

    /// Reads until the first bytes tell the protocol.
    async fn sniff(&mut self) -> io::Result<Protocol> {
        let Self { inner, activity, sniffed: (bytes, filled), .. } = self;
        while PREFACE.starts_with(&bytes[..filled.end]) {
            if filled.end == PREFACE.len() {
                return Ok(Protocol::Http2);
            }
            match inner.read(&mut bytes[filled.end..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled.end += read,
            }
            activity.bytes_came();
        }
        Ok(Protocol::Http1)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, activity, sniffed: (bytes, waiting), .. } = &mut *self;
        let passed_on = waiting.len().min(buf.remaining());
        buf.put_slice(&bytes[waiting.start..waiting.start + passed_on]);
        waiting.start += passed_on;
        let before = buf.filled().len();
        match Pin::new(inner).poll_read(cx, buf) {
            Poll::Pending if passed_on > 0 => return Poll::Ready(Ok(())),
            polled => ready!(polled)?,
        }
        if buf.filled().len() > before {
            activity.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        self.activity.bytes_went();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        self.activity.bytes_went();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Closes our half and, where the peer may still be sending, waits for its
    /// end; the beat bounds how long.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        if !self.activity.has_unread() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 4096];
        while self.lingered < MAX_LINGER {
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
            match buf.filled().len() {
                0 => break,
                read => self.lingered += read,
            }
        }
        Poll::Ready(Ok(()))
    }
}
