//! Limits the frames of an HTTP/2 connection that carry no request.
//!
//! The protocol has a dozen ways to keep a peer busy without a request: priorities,
//! pings, settings, window updates, empty data, and frames of unknown types, which must be
//! ignored. Proxies send a few of them with each request. A connection has a credit of
//! such frames, each request adds to it, and when none is left the connection ends.
//!
//! This module also tells whether a head of several frames is incomplete: until its last
//! frame no others may arrive, and all of it is kept in memory.

/// The credit, in frames, that a connection begins with and can have at most.
const MAX_CREDIT: u32 = 1000;

/// The credit that a request adds.
const REQUEST_CREDIT: u32 = 20;

/// How many bytes of an unknown frame cost as much as one more frame.
const UNKNOWN_BYTES_PER_CREDIT: u32 = 1024;

/// How many bytes of a body that a handler has read pay for one frame. Clients send frames
/// of up to 16 KiB.
const BODY_BYTES_PER_CREDIT: u32 = 1024;

/// The length of the client's preface before the first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// The size of a frame's header: length, type, flags and stream (RFC 9113 section 4.1).
const HEADER: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const LAST_KNOWN: u8 = CONTINUATION;

/// The flag of both types that marks the last frame of a head (RFC 9113 section 6.2).
const END_HEADERS: u8 = 4;

/// Parses the frame headers in the bytes that a client sends, from the first byte on.
#[derive(Debug)]
pub(super) struct Frames {
    /// The number of bytes before the next frame header.
    skip: usize,
    header: [u8; HEADER],
    filled: usize,
    credit: u32,
    /// Bytes of bodies that have not paid for a frame yet.
    body_bytes: u32,
    head_is_incomplete: bool,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            filled: 0,
            credit: MAX_CREDIT,
            body_bytes: 0,
            head_is_incomplete: false,
        }
    }

    /// Whether a head has begun and more of its frames have to follow.
    pub(super) fn head_is_incomplete(&self) -> bool {
        self.head_is_incomplete
    }

    /// Adds to the credit for bytes of bodies that handlers have read.
    pub(super) fn refund(&mut self, body_bytes: u32) {
        let bytes = self.body_bytes.saturating_add(body_bytes);
        self.credit = (self.credit + bytes / BODY_BYTES_PER_CREDIT).min(MAX_CREDIT);
        self.body_bytes = bytes % BODY_BYTES_PER_CREDIT;
    }

    /// Parses more bytes. Returns whether the connection may go on.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let copied = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + copied].copy_from_slice(&bytes[..copied]);
            self.filled += copied;
            bytes = &bytes[copied..];
            if self.filled == HEADER && !self.charge() {
                return false;
            }
        }
        true
    }

    /// Charges the credit for the frame whose header is complete. Returns whether any is
    /// left.
    fn charge(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.filled = 0;
        self.skip = length as usize;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.head_is_incomplete = flags & END_HEADERS == 0;
        }
        if kind == HEADERS {
            self.credit = (self.credit + REQUEST_CREDIT).min(MAX_CREDIT);
            return true;
        }
        let cost = if kind > LAST_KNOWN { 1 + length / UNKNOWN_BYTES_PER_CREDIT } else { 1 };
        self.credit = self.credit.saturating_sub(cost);
        self.credit > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [.., high, middle, low] = u32::try_from(length).expect("short").to_be_bytes();
        let mut frame = vec![high, middle, low, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + length, 0);
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        assert!(frames.follow(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        frames
    }

    #[test]
    fn floods_end_a_connection_however_they_are_cut_into_reads() {
        for (kind, length, most) in [
            (0, 0, 1001),
            (2, 5, 1001),
            (4, 0, 1001),
            (6, 8, 1001),
            (9, 0, 1001),
            (0xbe, 0, 1001),
            (0xbe, 16 * 1024, 100),
        ] {
            let flood = frame(kind, length).repeat(most);
            for size in [1, 7, 4096, flood.len()] {
                let mut frames = begun();
                let goes_on = flood.chunks(size).all(|read| frames.follow(read));
                assert!(!goes_on, "{most} frames of type {kind} in reads of {size}");
            }
        }
    }

    #[test]
    fn a_head_goes_on_until_a_frame_says_that_it_ends() {
        let flagged = |kind: u8, flags: u8| {
            let mut frame = frame(kind, 40);
            frame[4] = flags;
            frame
        };
        let mut frames = begun();
        for (kind, flags, goes_on) in [
            (HEADERS, 1, true),
            (CONTINUATION, 0, true),
            (CONTINUATION, END_HEADERS, false),
            (HEADERS, END_HEADERS | 1, false),
            (6, 0, false),
            (HEADERS, 0, true),
        ] {
            for byte in flagged(kind, flags) {
                assert!(frames.follow(&[byte]));
            }
            assert_eq!(frames.head_is_incomplete(), goes_on, "type {kind}, flags {flags}");
        }
    }

    #[test]
    fn bodies_that_are_read_pay_for_their_frames_unless_they_are_tiny() {
        for (length, goes_on) in [(16 * 1024, true), (1024, true), (100, false), (0, false)] {
            let mut frames = begun();
            let data = frame(0, length);
            let read = u32::try_from(length).expect("short");
            let followed = (0..20_000).all(|_| {
                let followed = frames.follow(&data);
                frames.refund(read);
                followed
            });
            assert_eq!(followed, goes_on, "{length} bytes a frame");
        }
    }

    #[test]
    fn what_comes_with_requests_is_paid_for_by_them() {
        let mut frames = begun();
        let mut usual = frame(HEADERS, 300);
        for (kind, length) in [(8, 4), (6, 8), (4, 0), (3, 4), (0, 100), (0, 0)] {
            usual.extend(frame(kind, length));
        }
        assert!((0..10_000).all(|_| frames.follow(&usual)));
        let mut frames = begun();
        assert!(frames.follow(&frame(8, 4).repeat(900)), "a burst is not a flood");
    }
}
