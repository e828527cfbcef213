//! What one connection is doing, as recorded by its socket and its service.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::pulse::Pulse;
use super::{BEATS_PER_HEAD, Limits, beat_period};
use crate::http::ResponseBody;
use crate::http::admission::Admission;
use crate::telemetry::meters;

#[derive(Debug)]
pub(in crate::http) struct Activity {
    pub(super) pulse: Arc<Pulse>,
    admission: Arc<Admission>,
    /// The address of the peer; a socket file has none.
    pub(super) client: Option<IpAddr>,
    /// The tick of the last byte received or sent; with HTTP/2, where pings go on forever,
    /// the tick when the last request began or ended.
    last: AtomicU32,
    /// The tick when the first bytes of an incomplete head arrived; 0 if there is none.
    head_since: AtomicU32,
    /// Requests whose response has not been fully handed over for writing.
    in_flight: AtomicU32,
    /// What arrives: [`HEADS`], [`BODY`] or [`FRAMES`].
    arriving: AtomicU8,
    /// A request came with a body, and not all of it was read.
    body_unread: AtomicBool,
    /// For HTTP/2: how many bytes handlers have read of bodies, until they are taken.
    body_bytes: AtomicU32,
    /// The peer does not accept written bytes.
    stuck: AtomicBool,
    /// Our half is closed, and the peer's half is not.
    lingering: AtomicBool,
    /// Bytes received of an incomplete head.
    head_bytes: AtomicUsize,
    /// Whether that head occupies slots of [`Admission::begin_large_head`].
    head_is_large: AtomicBool,
    /// The number of consecutive requests that were answered with a rejection.
    rejections: AtomicU32,
    /// The connection has to end after its outstanding requests are answered.
    ending: AtomicBool,
}

/// Heads of HTTP/1 requests, whose bytes count.
const HEADS: u8 = 0;
/// The body of an HTTP/1 request, which a handler reads: it bounds the bytes and their time.
const BODY: u8 = 1;
/// Frames of HTTP/2; then only a head of several frames can be incomplete.
const FRAMES: u8 = 2;

/// The size in bytes above which an incomplete head counts as large.
const SMALL_HEAD: usize = 16 * 1024;

/// How many slots a head of several HTTP/2 frames occupies: it is compressed, can unfold to
/// thousands of fields, and its last frames are kept beside them.
const HTTP2_HEAD_SLOTS: usize = 8;

/// The number of consecutive rejections after which a connection ends.
const MAX_REJECTIONS: u32 = 100;

impl Activity {
    pub(in crate::http) fn new(pulse: Arc<Pulse>, admission: Arc<Admission>) -> Self {
        let last = AtomicU32::new(pulse.tick());
        Self {
            pulse,
            admission,
            client: None,
            last,
            head_since: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            arriving: AtomicU8::new(HEADS),
            body_unread: AtomicBool::new(false),
            body_bytes: AtomicU32::new(0),
            stuck: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
            head_bytes: AtomicUsize::new(0),
            head_is_large: AtomicBool::new(false),
            rejections: AtomicU32::new(0),
            ending: AtomicBool::new(false),
        }
    }

    /// Notes the address of the peer.
    #[must_use]
    pub(in crate::http) fn of_client(mut self, client: Option<IpAddr>) -> Self {
        self.client = client;
        self
    }

    pub(super) fn bytes_received(&self, count: usize) -> io::Result<()> {
        let tick = self.pulse.tick();
        if self.arriving.load(Ordering::Relaxed) != HEADS {
            return Ok(());
        }
        self.last.store(tick, Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(tick, Ordering::Relaxed);
        }
        let bytes = self.head_bytes.load(Ordering::Relaxed) + count;
        self.head_bytes.store(bytes, Ordering::Relaxed);
        if bytes > SMALL_HEAD { self.begin_large_head() } else { Ok(()) }
    }

    /// For HTTP/2: records whether a head is incomplete because more of its frames have to
    /// follow. Most heads are one frame; the length of the frames does not tell how much
    /// they unfold to.
    pub(super) fn set_head_incomplete(&self, is_incomplete: bool) -> io::Result<()> {
        if is_incomplete == (self.head_since.load(Ordering::Relaxed) != 0) {
            return Ok(());
        }
        if is_incomplete {
            self.head_since.store(self.pulse.tick(), Ordering::Relaxed);
            self.begin_large_head()
        } else {
            self.end_head();
            Ok(())
        }
    }

    fn begin_large_head(&self) -> io::Result<()> {
        if self.head_is_large.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.admission.begin_large_head(self.large_head_slots()) {
            meters::connections_cut("heads").increment(1);
            return Err(io::Error::other("too many large heads are incomplete"));
        }
        self.head_is_large.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn large_head_slots(&self) -> usize {
        if self.is_multiplexed() { HTTP2_HEAD_SLOTS } else { 1 }
    }

    fn end_head(&self) {
        self.head_since.store(0, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
        if self.head_is_large.load(Ordering::Relaxed) {
            self.head_is_large.store(false, Ordering::Relaxed);
            self.admission.end_large_head(self.large_head_slots());
        }
    }

    /// Counts consecutive rejections; too many end the connection.
    pub(super) fn note_response(&self, is_rejection: bool) {
        if !is_rejection {
            if self.rejections.load(Ordering::Relaxed) > 0 {
                self.rejections.store(0, Ordering::Relaxed);
            }
        } else if self.rejections.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_REJECTIONS
            && !self.ending.swap(true, Ordering::Relaxed)
        {
            meters::connections_cut("refused").increment(1);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Records the outcome of a write or a flush.
    pub(super) fn wrote<T>(&self, outcome: &Poll<T>) {
        let stuck = outcome.is_pending();
        if self.stuck.load(Ordering::Relaxed) != stuck {
            self.stuck.store(stuck, Ordering::Relaxed);
        }
    }

    pub(super) fn bytes_sent(&self) {
        if !self.is_multiplexed() {
            self.last.store(self.pulse.tick(), Ordering::Relaxed);
        }
    }

    pub(super) fn head_complete(self: &Arc<Self>) -> InFlight {
        // With HTTP/2 another head may have begun meanwhile; its frames tell when it ends.
        if !self.is_multiplexed() {
            self.end_head();
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(in crate::http) fn is_multiplexed(&self) -> bool {
        self.arriving.load(Ordering::Relaxed) == FRAMES
    }

    /// Must be called before the first frame is read.
    pub(super) fn set_multiplexed(&self) {
        self.end_head();
        self.arriving.store(FRAMES, Ordering::Relaxed);
    }

    pub(in crate::http) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Records that a request has a body. With HTTP/1, it has to be read in full before the
    /// next request; with HTTP/2, each stream has its own.
    pub(in crate::http) fn body_begun(&self) {
        if !self.is_multiplexed() {
            self.body_unread.store(true, Ordering::Relaxed);
        }
    }

    /// Records that a handler reads the body.
    pub(in crate::http) fn body_is_read(&self) {
        if !self.is_multiplexed() {
            self.arriving.store(BODY, Ordering::Relaxed);
        }
    }

    pub(in crate::http) fn body_bytes_read(&self, bytes: usize) {
        if self.is_multiplexed() {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Returns how many bytes of bodies were read since the last call.
    pub(super) fn take_body_bytes(&self) -> u32 {
        if self.body_bytes.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.body_bytes.swap(0, Ordering::Relaxed)
    }

    /// Records that all of the body was read.
    pub(in crate::http) fn body_ended(&self) {
        if !self.is_multiplexed() {
            self.body_unread.store(false, Ordering::Relaxed);
        }
    }

    /// Records that no more of the body will be read.
    pub(in crate::http) fn body_dropped(&self) {
        if !self.is_multiplexed() {
            self.arriving.store(HEADS, Ordering::Relaxed);
        }
    }

    pub(super) fn is_body_unread(&self) -> bool {
        self.body_unread.load(Ordering::Relaxed)
    }

    pub(super) fn set_lingering(&self) {
        self.lingering.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.lingering.load(Ordering::Relaxed)
    }

    /// Whether a request is running, or its response is still being written.
    pub(super) fn is_answering(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 || self.stuck.load(Ordering::Relaxed)
    }

    /// Returns why the connection should end now, if it should.
    pub(super) fn overdue(&self, tick: u32, limits: &Limits) -> Option<&'static str> {
        let is_busy = self.in_flight.load(Ordering::Relaxed) > 0;
        let head_since = self.head_since.load(Ordering::Relaxed);
        // HTTP/2 requests keep running, but until a begun head is complete no other frames
        // may arrive.
        if (self.is_multiplexed() || !is_busy)
            && head_since != 0
            && tick.saturating_sub(head_since) > BEATS_PER_HEAD
        {
            return Some("a request head took too long");
        }
        if is_busy {
            return None;
        }
        let idle = tick.saturating_sub(self.last.load(Ordering::Relaxed));
        if idle > 1 && self.admission.is_crowded() {
            return Some("idle while the listener is crowded");
        }
        let idle_ticks = limits.idle.div_duration_f64(beat_period(limits));
        (f64::from(idle) > idle_ticks).then_some("idle")
    }

    pub(super) fn has_unread(&self) -> bool {
        self.is_body_unread() || self.head_since.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.end_head();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.last.store(self.0.pulse.tick(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response. It is dropped when all of it has been handed over for writing;
/// until then its request is in flight.
#[derive(Debug)]
pub(super) struct TrackedBody {
    body: ResponseBody,
    _in_flight: InFlight,
}

impl TrackedBody {
    pub(super) fn new(body: ResponseBody, in_flight: InFlight) -> Self {
        Self { body, _in_flight: in_flight }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Bounds;
    use crate::http::admission::MAX_LARGE_HEADS;

    #[test]
    fn large_heads_under_way_are_bounded_and_complete_ones_are_not() {
        let admission = Arc::new(Admission::new(None, Bounds { total: 1, per_address: 1 }));
        let pulse = Arc::new(Pulse::new());
        let begun = || {
            let activity = Activity::new(Arc::clone(&pulse), Arc::clone(&admission));
            activity.bytes_received(SMALL_HEAD).expect("a small head");
            Arc::new(activity)
        };
        let mut large: Vec<_> = (0..MAX_LARGE_HEADS).map(|_| begun()).collect();
        for activity in &large {
            activity.bytes_received(1).expect("a free slot");
            activity.bytes_received(1).expect("counted once");
        }
        assert!(begun().bytes_received(1).is_err());
        drop(large[0].head_complete());
        large.pop();
        let two = [begun(), begun()];
        assert!(two.iter().all(|activity| activity.bytes_received(1).is_ok()));
        assert!(begun().bytes_received(1).is_err());
    }

    #[test]
    fn a_body_that_is_read_is_not_a_large_head() {
        let admission = Arc::new(Admission::new(None, Bounds { total: 1, per_address: 1 }));
        assert!(admission.begin_large_head(MAX_LARGE_HEADS));
        let pulse = Arc::new(Pulse::new());
        let activity = Arc::new(Activity::new(pulse, Arc::clone(&admission)));
        activity.bytes_received(SMALL_HEAD).expect("a small head");
        let request = activity.head_complete();
        activity.body_begun();
        assert!(activity.has_unread());
        activity.body_is_read();
        activity.bytes_received(10 * SMALL_HEAD).expect("not counted");
        activity.body_ended();
        activity.body_dropped();
        assert!(!activity.has_unread());
        activity.bytes_received(SMALL_HEAD).expect("of the next head");
        assert!(activity.bytes_received(1).is_err(), "the next head is counted");
        drop(request);
    }

    #[test]
    fn heads_of_several_frames_are_bounded_together_with_the_large_ones() {
        let admission = Arc::new(Admission::new(None, Bounds { total: 1, per_address: 1 }));
        let pulse = Arc::new(Pulse::new());
        let http2 = || {
            let activity = Activity::new(Arc::clone(&pulse), Arc::clone(&admission));
            activity.bytes_received(0).expect("the preface");
            activity.set_multiplexed();
            Arc::new(activity)
        };
        let connections: Vec<_> =
            (0..=MAX_LARGE_HEADS / HTTP2_HEAD_SLOTS).map(|_| http2()).collect();
        let (last, first) = connections.split_last().expect("several");
        for activity in first {
            activity.set_head_incomplete(true).expect("free slots");
            activity.set_head_incomplete(true).expect("counted once");
            drop(activity.head_complete());
        }
        assert!(last.set_head_incomplete(true).is_err(), "another stream's request ends no head");
        let large = Activity::new(Arc::clone(&pulse), Arc::clone(&admission));
        assert!(large.bytes_received(SMALL_HEAD + 1).is_err());
        first[0].set_head_incomplete(false).expect("ends");
        assert!(large.bytes_received(1).is_ok());
        assert!(http2().set_head_incomplete(true).is_err(), "one slot of eight is occupied");
        drop((connections, large));
        let new: Vec<_> = (0..MAX_LARGE_HEADS / HTTP2_HEAD_SLOTS).map(|_| http2()).collect();
        assert!(new.iter().all(|activity| activity.set_head_incomplete(true).is_ok()));
    }

    #[test]
    fn a_head_of_several_frames_has_its_time_whatever_else_runs() {
        let admission = Arc::new(Admission::new(None, Bounds { total: 1, per_address: 1 }));
        let activity = Activity::new(Arc::new(Pulse::new()), admission);
        let activity = Arc::new(activity);
        let tick = activity.pulse.tick();
        activity.bytes_received(0).expect("the preface");
        activity.set_multiplexed();
        let _running = activity.head_complete();
        let overdue = || activity.overdue(tick + BEATS_PER_HEAD + 1, &Limits::default());
        assert_eq!(overdue(), None);
        activity.set_head_incomplete(true).expect("free slots");
        assert_eq!(activity.overdue(tick + BEATS_PER_HEAD, &Limits::default()), None);
        assert_eq!(overdue(), Some("a request head took too long"));
        activity.set_head_incomplete(false).expect("ends");
        assert_eq!(overdue(), None);
    }
}
