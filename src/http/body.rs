//! The bodies of requests: dropped unread by most handlers, read within bounds by others.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::connection::activity::Activity;

/// The body of a request. If it is dropped before all of it was read, an HTTP/1 connection
/// ends with the response: what follows on it could not be told from a request.
#[derive(Debug)]
pub(crate) struct Body(Option<UnreadBody>);

/// A body that has bytes, or may have some.
#[derive(Debug)]
struct UnreadBody {
    incoming: Incoming,
    activity: Arc<Activity>,
}

impl Body {
    /// The body of a request that has none.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    pub(super) fn unread(incoming: Incoming, activity: Arc<Activity>) -> Self {
        activity.body_begun();
        Self(Some(UnreadBody { incoming, activity }))
    }
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadError {
    TooLarge,
    TooSlow,
    /// The client has gone away, or what it sent is not a body.
    CutOff,
    /// All bodies that are being read occupy as much memory as they may.
    Busy,
}

/// A whole body. Its memory counts against the listener's bound until it is dropped.
#[derive(Debug)]
pub(crate) struct BufferedBody {
    bytes: Vec<u8>,
    reserved_of: Option<Arc<Activity>>,
}

impl BufferedBody {
    /// The body of a request that has none.
    pub(crate) const fn empty() -> Self {
        Self { bytes: Vec::new(), reserved_of: None }
    }

    fn push(&mut self, data: &[u8]) -> Result<(), ReadError> {
        if let Some(activity) = &self.reserved_of
            && !activity.admission().reserve_body(data.len())
        {
            return Err(ReadError::Busy);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Deref for BufferedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for BufferedBody {
    fn drop(&mut self) {
        if let Some(activity) = &self.reserved_of {
            activity.admission().release_body(self.bytes.len());
        }
    }
}

/// Reads a body of at most `limit` bytes within the time `deadline`.
pub(crate) async fn read(
    body: Body,
    limit: usize,
    deadline: Duration,
) -> Result<BufferedBody, ReadError> {
    timeout(deadline, read_all(body, limit)).await.unwrap_or(Err(ReadError::TooSlow))
}

async fn read_all(Body(unread): Body, limit: usize) -> Result<BufferedBody, ReadError> {
    let Some(mut unread) = unread else {
        return Ok(BufferedBody::empty());
    };
    let announced = unread.incoming.size_hint().lower();
    if usize::try_from(announced).is_ok_and(|announced| announced > limit) {
        return Err(ReadError::TooLarge);
    }
    let activity = Arc::clone(&unread.activity);
    activity.body_is_read();
    let mut whole = BufferedBody { bytes: Vec::new(), reserved_of: Some(Arc::clone(&activity)) };
    while let Some(frame) = unread.incoming.frame().await {
        // Trailers are of no use to anyone here.
        let Ok(data) = frame.map_err(|_| ReadError::CutOff)?.into_data() else { continue };
        if data.len() > limit - whole.len() {
            return Err(ReadError::TooLarge);
        }
        whole.push(&data)?;
        activity.body_bytes_read(data.len());
    }
    // hyper reports the end of the body if an HTTP/2 client resets the stream with NO_ERROR.
    if activity.is_multiplexed() && !unread.incoming.is_end_stream() {
        return Err(ReadError::CutOff);
    }
    activity.body_ended();
    Ok(whole)
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        self.activity.body_dropped();
    }
}
