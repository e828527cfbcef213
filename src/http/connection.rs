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
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

/// What an HTTP/2 connection begins with, as far as no HTTP/1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2";

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
    /// Tick of the last byte in or out.
    last: AtomicU32,
    /// Tick when bytes of a head began to come; 0 while none is under way.
    head_since: AtomicU32,
    in_flight: AtomicU32,
    /// HTTP/2: no head rule, the pings see to it.
    multiplexed: AtomicBool,
    /// How many of the connection's first bytes are those of HTTP/2's preface.
    preface: AtomicU32,
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
            preface: AtomicU32::new(0),
            body_unread: AtomicBool::new(false),
        }
    }

    /// Before anything was asked: is this HTTP/2 (RFC 9113 section 3.4)?
    fn compare_preface(&self, bytes: &[u8]) {
        let known = self.preface.load(Ordering::Relaxed) as usize;
        let Some(expected) = PREFACE.get(known..) else { return };
        let same = bytes.iter().zip(expected).take_while(|(byte, other)| byte == other).count();
        if same == expected.len() {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
        // A byte that differs ends the comparison for good.
        let differs = same < bytes.len().min(expected.len());
        let known = if differs { PREFACE.len() + 1 } else { known + same };
        self.preface.store(u32::try_from(known).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    fn bytes_came(&self) {
        let tick = self.pulse.tick();
        self.last.store(tick, Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(tick, Ordering::Relaxed);
        }
    }

    fn bytes_went(&self) {
        self.last.store(self.pulse.tick(), Ordering::Relaxed);
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
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The protocols and bounds of all connections.
pub(super) fn protocols() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().header_read_timeout(None).max_buf_size(MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Drives one connection to its end.
pub(super) async fn drive<IO, H>(
    io: IO,
    protocols: &auto::Builder<TokioExecutor>,
    handler: &Arc<H>,
    pulse: &Arc<Pulse>,
    limits: &Limits,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let activity = Arc::new(Activity::new(Arc::clone(pulse)));
    let service = service_fn({
        let (handler, activity) = (Arc::clone(handler), Arc::clone(&activity));
        move |request| answer_one(Arc::clone(&handler), Arc::clone(&activity), request)
    });
    let io = TokioIo::new(Watched { inner: io, activity: Arc::clone(&activity), lingered: 0 });
    let mut connection = pin!(protocols.serve_connection(io, service));
    loop {
        let mut beat = pin!(pulse.beat.notified());
        beat.as_mut().enable();
        let seen = pulse.load();
        match phase_of(seen) {
            Phase::Running => {
                if let Some(why) = activity.overdue(tick_of(seen), limits) {
                    debug!(why, "connection closed");
                    return;
                }
            }
            Phase::Draining => connection.as_mut().graceful_shutdown(),
            Phase::Aborting => return,
        }
        let mut registered = false;
        let ended = poll_fn(|cx| {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
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
        if let Some(result) = ended {
            if let Err(error) = result {
                debug!(%error, "connection ended");
            }
            return;
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
    /// Bytes thrown away after the last answer.
    lingered: usize,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Some(bytes) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.activity.compare_preface(bytes);
            self.activity.bytes_came();
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
