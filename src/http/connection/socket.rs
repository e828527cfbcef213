//! A socket that notes what passes through it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Protocol;
use super::activity::Activity;
use super::frames::Frames;
use crate::telemetry::meters;

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4), as far as no
/// HTTP/1 request does.
const PREFACE: &[u8; 12] = b"PRI * HTTP/2";

/// Most that is read and thrown away before a connection with an unread rest
/// is closed. Closing at once would make the kernel send a reset, which takes
/// the answer with it (RFC 9112 section 9.6).
const MAX_LINGER: usize = 1024 * 1024;

/// A socket that notes what passes through it.
pub(super) struct Watched<IO> {
    inner: IO,
    activity: Arc<Activity>,
    /// The first bytes, read to tell the protocol and not passed on yet.
    sniffed: ([u8; PREFACE.len()], std::ops::Range<usize>),
    /// Bytes thrown away after the last answer.
    lingered: usize,
    /// What comes over HTTP/2.
    frames: Option<Frames>,
}

impl<IO: AsyncRead + Unpin> Watched<IO> {
    pub(super) fn new(inner: IO, activity: Arc<Activity>) -> Self {
        Self { inner, activity, sniffed: ([0; PREFACE.len()], 0..0), lingered: 0, frames: None }
    }

    /// Ends the connection where too much comes that asks for nothing.
    pub(super) fn count_frames(&mut self) {
        self.frames = Some(Frames::new());
    }

    /// Reads until the first bytes tell the protocol.
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
            activity.bytes_came(0)?;
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
        let Self { inner, activity, sniffed: (bytes, waiting), frames, .. } = &mut *self;
        let start = buf.filled().len();
        let passed_on = waiting.len().min(buf.remaining());
        buf.put_slice(&bytes[waiting.start..waiting.start + passed_on]);
        waiting.start += passed_on;
        match Pin::new(inner).poll_read(cx, buf) {
            Poll::Pending if passed_on > 0 => {}
            polled => ready!(polled)?,
        }
        let came = &buf.filled()[start..];
        if let Some(frames) = frames {
            if !frames.follow(came) {
                meters::cut("frames").increment(1);
                return Poll::Ready(Err(io::Error::other("too many frames that ask for nothing")));
            }
            activity.head_goes_on(frames.head_goes_on())?;
        }
        if !came.is_empty() {
            activity.bytes_came(came.len())?;
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
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.activity.wrote(&written);
        let written = ready!(written);
        self.activity.bytes_went();
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
        self.activity.bytes_went();
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

    /// Closes our half and, where the peer may still be sending, waits for its
    /// end; the beat bounds how long.
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
