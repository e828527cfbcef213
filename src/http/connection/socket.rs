//! A socket that records the activity of its connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Protocol;
use super::activity::Activity;
use super::frames::Frames;
use crate::telemetry::meters;

/// The beginning of the HTTP/2 preface (RFC 9113 section 3.4), long enough to differ from
/// every HTTP/1 request.
const PREFACE: &[u8; 12] = b"PRI * HTTP/2";

/// How many unread bytes at most are read and dropped before a connection is closed.
/// Closing it immediately would make the kernel send a reset, which can destroy the
/// response (RFC 9112 section 9.6).
const MAX_LINGER: usize = 1024 * 1024;

/// A socket that records the activity of its connection.
pub(super) struct TrackedIo<IO> {
    inner: IO,
    activity: Arc<Activity>,
    /// The first bytes, which were read to detect the protocol and not passed on yet.
    sniffed: ([u8; PREFACE.len()], std::ops::Range<usize>),
    /// Bytes dropped after the last response.
    lingered: usize,
    /// Set for HTTP/2: the frames that the peer sends.
    frames: Option<Frames>,
}

impl<IO: AsyncRead + Unpin> TrackedIo<IO> {
    pub(super) fn new(inner: IO, activity: Arc<Activity>) -> Self {
        Self { inner, activity, sniffed: ([0; PREFACE.len()], 0..0), lingered: 0, frames: None }
    }

    /// Starts counting HTTP/2 frames: the connection ends if too many of them carry no
    /// request.
    pub(super) fn count_frames(&mut self) {
        self.frames = Some(Frames::new());
    }

    /// Reads until the protocol can be detected from the first bytes.
    pub(super) async fn sniff(&mut self) -> io::Result<Protocol> {
        let Self { inner, activity, sniffed: (bytes, filled), .. } = self;
        while PREFACE.starts_with(&bytes[..filled.end]) {
            if filled.end == PREFACE.len() {
                return Ok(Protocol::Http2);
            }
            match inner.read(&mut bytes[filled.end..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled.end += read,
            }
            activity.bytes_received(0)?;
        }
        Ok(Protocol::Http1)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for TrackedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, activity, sniffed: (bytes, waiting), frames, .. } = &mut *self;
        let start = buf.filled().len();
        let passed_on = waiting.len().min(buf.remaining());
        buf.put_slice(&bytes[waiting.start..waiting.start + passed_on]);
        waiting.start += passed_on;
        match Pin::new(inner).poll_read(cx, buf) {
            Poll::Pending if passed_on > 0 => {}
            polled => ready!(polled)?,
        }
        let received = &buf.filled()[start..];
        if let Some(frames) = frames {
            frames.refund(activity.take_body_bytes());
            if !frames.follow(received) {
                meters::connections_cut("frames").increment(1);
                return Poll::Ready(Err(io::Error::other("too many frames without a request")));
            }
            activity.set_head_incomplete(frames.head_is_incomplete())?;
        }
        if !received.is_empty() {
            activity.bytes_received(received.len())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TrackedIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.activity.wrote(&written);
        let written = ready!(written);
        self.activity.bytes_sent();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.activity.wrote(&written);
        let written = ready!(written);
        self.activity.bytes_sent();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.activity.wrote(&flushed);
        flushed
    }

    /// Closes our half and, if the peer may still be sending, waits until it closes its
    /// half; the beat bounds how long.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        if !self.activity.has_unread() {
            return Poll::Ready(Ok(()));
        }
        self.activity.set_lingering();
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
