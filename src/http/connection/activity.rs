//! What one connection does, noted by its socket and its service.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::pulse::Pulse;
use super::{BEATS_PER_HEAD, Limits, beat_period};
use crate::http::admission::Admission;
use crate::telemetry::meters;

#[derive(Debug)]
pub(in crate::http) struct Activity {
    pub(super) pulse: Arc<Pulse>,
    admission: Arc<Admission>,
    /// Tick of the last byte in or out; with HTTP/2, where pings go on for ever,
    /// of the last request's beginning or end.
    last: AtomicU32,
    /// Tick when bytes of a head began to come; 0 while none is under way.
    head_since: AtomicU32,
    /// Requests whose answer has not been taken for writing yet.
    in_flight: AtomicU32,
    /// HTTP/2: a head is under way where one takes several frames.
    multiplexed: AtomicBool,
    /// A request came with a body, which nobody reads.
    body_unread: AtomicBool,
    /// The peer does not take what is written.
    stuck: AtomicBool,
    /// Our half is closed, and the peer's end is waited for.
    lingering: AtomicBool,
    /// Bytes of a head that is under way.
    head_bytes: AtomicUsize,
    /// Whether that is one of the few that may be large.
    head_is_large: AtomicBool,
    /// Requests in a row that no answer but a refusal was possible to.
    pointless: AtomicU32,
    /// The connection is to end, with what has been asked answered.
    ending: AtomicBool,
}

/// A head that is larger, and not complete, is one of the few that may be.
const SMALL_HEAD: usize = 16 * 1024;

/// Places among those few that a head of several HTTP/2 frames takes: compressed, it can
/// come to thousands of fields, and its last frames are kept beside them.
const PLACES_OF_HTTP2_HEAD: usize = 8;

/// After so many pointless requests in a row a connection ends.
const MAX_POINTLESS: u32 = 100;

impl Activity {
    pub(in crate::http) fn new(pulse: Arc<Pulse>, admission: Arc<Admission>) -> Self {
        let last = AtomicU32::new(pulse.tick());
        Self {
            pulse,
            admission,
            last,
            head_since: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            body_unread: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
            head_bytes: AtomicUsize::new(0),
            head_is_large: AtomicBool::new(false),
            pointless: AtomicU32::new(0),
            ending: AtomicBool::new(false),
        }
    }

    pub(super) fn bytes_came(&self, count: usize) -> io::Result<()> {
        let tick = self.pulse.tick();
        if self.is_multiplexed() {
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

    /// Over HTTP/2, whether a head has begun of which more frames have to come. Most heads
    /// are one frame; how much the frames of one unfold to is not known from their length.
    pub(super) fn head_goes_on(&self, goes_on: bool) -> io::Result<()> {
        if goes_on == (self.head_since.load(Ordering::Relaxed) != 0) {
            return Ok(());
        }
        if goes_on {
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
        if !self.admission.begin_large_head(self.places_of_large_head()) {
            meters::cut("heads").increment(1);
            return Err(io::Error::other("too many large heads are under way"));
        }
        self.head_is_large.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn places_of_large_head(&self) -> usize {
        if self.is_multiplexed() { PLACES_OF_HTTP2_HEAD } else { 1 }
    }

    fn end_head(&self) {
        self.head_since.store(0, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
        if self.head_is_large.load(Ordering::Relaxed) {
            self.head_is_large.store(false, Ordering::Relaxed);
            self.admission.end_large_head(self.places_of_large_head());
        }
    }

    /// Notes whether a request could be answered at all.
    pub(super) fn note_answer(&self, is_pointless: bool) {
        if !is_pointless {
            if self.pointless.load(Ordering::Relaxed) > 0 {
                self.pointless.store(0, Ordering::Relaxed);
            }
        } else if self.pointless.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_POINTLESS
            && !self.ending.swap(true, Ordering::Relaxed)
        {
            meters::cut("refused").increment(1);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// What came of a write or a flush.
    pub(super) fn wrote<T>(&self, outcome: &Poll<T>) {
        let stuck = outcome.is_pending();
        if self.stuck.load(Ordering::Relaxed) != stuck {
            self.stuck.store(stuck, Ordering::Relaxed);
        }
    }

    pub(super) fn bytes_went(&self) {
        if !self.is_multiplexed() {
            self.last.store(self.pulse.tick(), Ordering::Relaxed);
        }
    }

    pub(super) fn head_complete(self: &Arc<Self>) -> InFlight {
        // Over HTTP/2 another head may have begun meanwhile; its frames tell when it ends.
        if !self.is_multiplexed() {
            self.end_head();
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Before the first frame is read.
    pub(super) fn set_multiplexed(&self) {
        self.end_head();
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_body_unread(&self) {
        self.body_unread.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_lingering(&self) {
        self.lingering.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.lingering.load(Ordering::Relaxed)
    }

    /// Whether a request runs, or its answer is still on its way out.
    pub(super) fn is_answering(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 || self.stuck.load(Ordering::Relaxed)
    }

    /// Why the connection should end now, if it should.
    pub(super) fn overdue(&self, tick: u32, limits: &Limits) -> Option<&'static str> {
        let is_busy = self.in_flight.load(Ordering::Relaxed) > 0;
        let head_since = self.head_since.load(Ordering::Relaxed);
        // What runs over HTTP/2 goes on, but a head that has begun admits no other frames.
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
            return Some("idle, and its place is needed");
        }
        let idle_ticks = limits.idle.div_duration_f64(beat_period(limits));
        (f64::from(idle) > idle_ticks).then_some("idle")
    }

    pub(super) fn has_unread(&self) -> bool {
        self.body_unread.load(Ordering::Relaxed) || self.head_since.load(Ordering::Relaxed) != 0
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

/// The body of an answer. It is dropped when all of it has been taken for writing, and
/// until then its request is in flight.
#[derive(Debug)]
pub(super) struct Tracked {
    body: Full<Bytes>,
    _in_flight: InFlight,
}

impl Tracked {
    pub(super) fn new(body: Full<Bytes>, in_flight: InFlight) -> Self {
        Self { body, _in_flight: in_flight }
    }
}

impl Body for Tracked {
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
            activity.bytes_came(SMALL_HEAD).expect("as most are");
            Arc::new(activity)
        };
        let mut large: Vec<_> = (0..MAX_LARGE_HEADS).map(|_| begun()).collect();
        for activity in &large {
            activity.bytes_came(1).expect("one of the few");
            activity.bytes_came(1).expect("is counted once");
        }
        assert!(begun().bytes_came(1).is_err());
        drop(large[0].head_complete());
        large.pop();
        let two = [begun(), begun()];
        assert!(two.iter().all(|activity| activity.bytes_came(1).is_ok()));
        assert!(begun().bytes_came(1).is_err());
    }

    #[test]
    fn heads_of_several_frames_are_bounded_together_with_the_large_ones() {
        let admission = Arc::new(Admission::new(None, Bounds { total: 1, per_address: 1 }));
        let pulse = Arc::new(Pulse::new());
        let http2 = || {
            let activity = Activity::new(Arc::clone(&pulse), Arc::clone(&admission));
            activity.bytes_came(0).expect("the preface");
            activity.set_multiplexed();
            Arc::new(activity)
        };
        let connections: Vec<_> =
            (0..=MAX_LARGE_HEADS / PLACES_OF_HTTP2_HEAD).map(|_| http2()).collect();
        let (last, first) = connections.split_last().expect("several");
        for activity in first {
            activity.head_goes_on(true).expect("one of the few");
            activity.head_goes_on(true).expect("is counted once");
            drop(activity.head_complete());
        }
        assert!(last.head_goes_on(true).is_err(), "a request of another stream ends no head");
        let large = Activity::new(Arc::clone(&pulse), Arc::clone(&admission));
        assert!(large.bytes_came(SMALL_HEAD + 1).is_err());
        first[0].head_goes_on(false).expect("ends");
        assert!(large.bytes_came(1).is_ok());
        assert!(http2().head_goes_on(true).is_err(), "one place of eight is taken");
        drop((connections, large));
        let again: Vec<_> = (0..MAX_LARGE_HEADS / PLACES_OF_HTTP2_HEAD).map(|_| http2()).collect();
        assert!(again.iter().all(|activity| activity.head_goes_on(true).is_ok()));
    }

    #[test]
    fn a_head_of_several_frames_has_its_time_whatever_else_runs() {
        let admission = Arc::new(Admission::new(None, Bounds { total: 1, per_address: 1 }));
        let activity = Activity::new(Arc::new(Pulse::new()), admission);
        let activity = Arc::new(activity);
        let tick = activity.pulse.tick();
        activity.bytes_came(0).expect("the preface");
        activity.set_multiplexed();
        let _running = activity.head_complete();
        let overdue = || activity.overdue(tick + BEATS_PER_HEAD + 1, &Limits::default());
        assert_eq!(overdue(), None);
        activity.head_goes_on(true).expect("one of the few");
        assert_eq!(activity.overdue(tick + BEATS_PER_HEAD, &Limits::default()), None);
        assert_eq!(overdue(), Some("a request head took too long"));
        activity.head_goes_on(false).expect("ends");
        assert_eq!(overdue(), None);
    }
}
