//! Records as server-sent events (WHATWG HTML, section 9.2), in the order of their positions.
//!
//! The id of an event is its record's position, so a client that was cut off continues
//! exactly where it was. A record is sent when the integrity job has given it a position.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use super::requests::filter;
use super::view::Shown;
use super::{Call, Problem, Services};
use crate::http::api::query::Query;
use crate::http::{Response, answer};
use crate::ledger::archive::{Archive, ArchiveError};
use crate::ledger::history::{Cursor, Filter, Order, PageRequest};
use crate::ledger::record::Stored;
use crate::ledger::writer::Tenant;
use crate::wake::Registry;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The most records that are read at once.
const BATCH: usize = 200;

/// How long a stream waits for the archive to report something new: what gets a position is
/// not always reported.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often a stream that has nothing to say shows that it is alive. Proxies cut connections
/// that were silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A comment, which clients ignore.
const COMMENT: &[u8] = b":\n\n";

/// Has clients that were cut off come back after a second.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// How long a client may take to read a batch.
const READING: Duration = Duration::from_secs(60);

/// One stream of events.
struct Feed {
    archive: Arc<Archive>,
    registry: Arc<Registry>,
    /// Whose records are sent; positions are those of one tenant.
    tenant: Arc<str>,
    known_tenant: Arc<Tenant>,
    filter: Filter,
    /// Everything up to this position was sent, or is not asked for.
    after: Option<i64>,
    out: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
}

/// Why a stream ends.
enum Ended {
    ClientGone,
    ShuttingDown,
}

/// `GET /v1/events`
pub(in super::super) async fn follow(
    services: &Services,
    call: Call<'_>,
) -> Result<Response, Problem> {
    let history = services.history()?;
    let mut query = Query::parse(call.request.uri().query())?;
    let filter = filter(&mut query)?;
    let expected = "a position, or -1 for the beginning";
    let asked = query.value("after", expected, position)?;
    query.end()?;
    // A client that comes back sends the header, whatever it asked for at first.
    let last = match call.request.headers().get(LAST_EVENT_ID) {
        Some(value) => {
            let invalid = || {
                let problem = format!("invalid `Last-Event-ID`: expected {expected}");
                Problem::parameter("Last-Event-ID", problem)
            };
            Some(value.to_str().ok().and_then(position).ok_or_else(invalid)?)
        }
        None => asked,
    };
    let Ok(permit) = Arc::clone(&history.streams).try_acquire_owned() else {
        return Err(Problem::unavailable("as many streams of events are open as may be"));
    };
    let after = match last {
        Some(position) => Some(position).filter(|position| *position >= 0),
        // The stream begins with what is new.
        None => newest(history.archive(), &history.tenant()).await?,
    };
    let (out, pieces) = mpsc::channel(1);
    let feed = Feed {
        archive: Arc::clone(history.archive()),
        registry: services.apps(call.principal.tenant).registry(),
        tenant: history.tenant(),
        known_tenant: Arc::clone(&history.ledger.tenant),
        filter,
        after,
        out,
        _permit: permit,
    };
    tokio::spawn(feed.run());
    Ok(answer::streamed(StatusCode::OK, EVENTS, ReceiverStream::new(pieces)))
}

fn position(text: &str) -> Option<i64> {
    text.parse().ok().filter(|position| *position >= -1)
}

/// Returns the newest position.
async fn newest(archive: &Archive, tenant: &str) -> Result<Option<i64>, ArchiveError> {
    let request = PageRequest {
        tenant: tenant.to_owned(),
        filter: Filter::default(),
        order: Order::NewestFirst,
        after: None,
        limit: 1,
        with_unplaced: false,
    };
    let page = archive.page(&request).await?;
    Ok(page.records.first().and_then(|stored| stored.position))
}

impl Feed {
    /// Sends events until the client has gone away or the process ends. The stream then ends
    /// as a complete response does.
    async fn run(mut self) {
        let _ended = self.feed().await;
    }

    async fn feed(&mut self) -> Result<std::convert::Infallible, Ended> {
        self.send(Bytes::from_static(RETRY)).await?;
        let mut said = Instant::now();
        loop {
            let is_all = match self.read().await {
                Ok((events, is_all)) => {
                    if !events.is_empty() {
                        self.send(events.into()).await?;
                        said = Instant::now();
                    }
                    is_all
                }
                Err(error) => {
                    debug!(%error, "a stream of events waits for the archive");
                    true
                }
            };
            if said.elapsed() >= HEARTBEAT {
                self.send(Bytes::from_static(COMMENT)).await?;
                said = Instant::now();
            }
            if is_all {
                self.wait().await?;
            }
        }
    }

    /// Reads the next records; also returns whether these are all that there are.
    async fn read(&mut self) -> Result<(String, bool), ArchiveError> {
        let tenant = self.known_tenant.get();
        if tenant != self.tenant {
            // The box has got its identity.
            (self.tenant, self.after) = (tenant, None);
        }
        // Read first, so that the filter need not be applied again to what is older.
        let Some(newest) = newest(&self.archive, &self.tenant).await? else {
            return Ok((String::new(), true));
        };
        if self.after.is_some_and(|after| after >= newest) {
            return Ok((String::new(), true));
        }
        let request = PageRequest {
            tenant: self.tenant.to_string(),
            filter: self.filter.clone(),
            order: Order::OldestFirst,
            after: self.after.map(Cursor::Position),
            limit: BATCH,
            with_unplaced: false,
        };
        let page = self.archive.page(&request).await?;
        let mut events = String::new();
        for stored in &page.records {
            if let Some(position) = stored.position {
                self.after = Some(position);
                write_event(&mut events, position, stored);
            }
        }
        let is_all = page.next.is_none();
        if is_all {
            self.after = self.after.max(Some(newest));
        }
        Ok((events, is_all))
    }

    async fn send(&self, piece: Bytes) -> Result<(), Ended> {
        tokio::select! {
            sent = self.out.send_timeout(piece, READING) => sent.map_err(|_| Ended::ClientGone),
            () = self.registry.closed() => Err(Ended::ShuttingDown),
        }
    }

    /// Waits until there may be more to read.
    async fn wait(&self) -> Result<(), Ended> {
        tokio::select! {
            () = self.out.closed() => Err(Ended::ClientGone),
            () = self.registry.closed() => Err(Ended::ShuttingDown),
            () = self.archive.changed() => Ok(()),
            () = sleep(LONGEST_WAIT) => Ok(()),
        }
    }
}

fn write_event(events: &mut String, position: i64, stored: &Stored) {
    // Serializing strings and numbers does not fail, and JSON on one line has no line break.
    let data = serde_json::to_string(&Shown::from(stored)).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = write!(events, "id: {position}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests;
