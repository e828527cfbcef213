//! The bodies of responses: almost always known whole, some made piece by piece.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio_stream::Stream;

/// The body of a response. A whole one is not boxed: the gate sends no others.
pub(crate) enum ResponseBody {
    Whole(Full<Bytes>),
    /// Ends when the stream does; dropped when the client has gone away.
    Streamed(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl ResponseBody {
    pub(crate) fn streamed(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::Streamed(Box::pin(stream))
    }

    pub(crate) fn empty() -> Self {
        Self::Whole(Full::default())
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

/// Leaves out the content, which may be confidential.
impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(body) => write!(f, "Whole({:?} bytes)", body.size_hint().exact()),
            Self::Streamed(_) => f.write_str("Streamed"),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Streamed(stream) => {
                stream.as_mut().poll_next(cx).map(|piece| piece.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_whole_body_costs_one_word_more_than_without_streams() {
        assert!(size_of::<ResponseBody>() <= size_of::<Full<Bytes>>() + size_of::<usize>());
    }

    #[tokio::test]
    async fn a_streamed_body_has_no_length_and_ends_with_its_stream() {
        let pieces = ["a", "bc"].map(|piece| Bytes::from_static(piece.as_bytes()));
        let body = ResponseBody::streamed(tokio_stream::iter(pieces));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (None, false));
        let whole = body.collect().await.expect("no error").to_bytes();
        assert_eq!(whole, "abc");
    }
}
