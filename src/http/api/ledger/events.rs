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
use crate::access::Viewer;
use crate::http::{Response, answer};
use crate::jobs::{INTEGRITY, Jobs};
use crate::ledger::archive::{Archive, ArchiveError, Changes};
use crate::ledger::history::{Cursor, Filter, Order, Page, PageRequest};
use crate::ledger::record::Stored;
use crate::ledger::writer::Tenant;
use crate::telemetry::in_same_request;
use crate::wake::Registry;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The most records that are read at once.
const BATCH: usize = 200;

/// How long a stream waits for the archive to report something new: while its notifications
/// cannot be received, nothing is reported.
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
    /// Told of what is written since before the last read.
    changes: Changes,
    /// `None` if this process runs no jobs.
    jobs: Option<Arc<Jobs>>,
    registry: Arc<Registry>,
    /// Whose records are sent; positions are those of one tenant.
    tenant: Arc<str>,
    /// The box's id, which may become known later; `None` if another box's are sent.
    of_box: Option<Arc<Tenant>>,
    filter: Filter,
    viewer: Viewer,
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
pub(in super::super) async fn follow(services: &Services, call: Call) -> Result<Response, Problem> {
    let history = services.history()?;
    let mut query = call.query()?;
    let filter = filter(&mut query, &call.principal)?;
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
        None => newest(history.archive(), &call.tenant).await?,
    };
    let viewer = history.viewer(&call.principal, &call.tenant).await;
    let (out, pieces) = mpsc::channel(1);
    let feed = Feed {
        archive: Arc::clone(history.archive()),
        changes: history.archive().changes(),
        jobs: services.jobs.clone(),
        registry: services.apps.registry(),
        of_box: (call.tenant == history.own_tenant()).then(|| Arc::clone(&history.ledger.tenant)),
        tenant: call.tenant,
        filter,
        viewer,
        after,
        out,
        _permit: permit,
    };
    tokio::spawn(in_same_request(feed.run()));
    Ok(answer::streamed(StatusCode::OK, EVENTS, ReceiverStream::new(pieces)))
}

fn position(text: &str) -> Option<i64> {
    text.parse().ok().filter(|position| *position >= -1)
}

/// Returns the newest position.
async fn newest(archive: &Archive, tenant: &str) -> Result<Option<i64>, ArchiveError> {
    let page = archive.page(&newest_of(tenant)).await?;
    Ok(page.records.first().and_then(|stored| stored.position))
}

fn newest_of(tenant: &str) -> PageRequest {
    PageRequest {
        tenant: tenant.to_owned(),
        filter: Filter::default(),
        order: Order::NewestFirst,
        after: None,
        limit: 1,
        with_unplaced: false,
    }
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
        if let Some(tenant) = self.of_box.as_ref().map(|of_box| of_box.get())
            && tenant != self.tenant
        {
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
                write_event(&mut events, position, stored, &self.viewer);
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
    async fn wait(&mut self) -> Result<(), Ended> {
        tokio::select! {
            () = self.out.closed() => return Err(Ended::ClientGone),
            () = self.registry.closed() => return Err(Ended::ShuttingDown),
            () = self.changes.changed() => {}
            () = sleep(LONGEST_WAIT) => {}
        }
        self.hurry().await;
        Ok(())
    }

    /// A record is sent once it has a position. Somebody waits for it, so the job that gives
    /// positions does not.
    async fn hurry(&self) {
        let Some(jobs) = &self.jobs else { return };
        let request = PageRequest { with_unplaced: true, ..newest_of(&self.tenant) };
        let newest = self.archive.page(&request).await;
        let is_unplaced =
            |page: &Page| page.records.first().is_some_and(|stored| stored.position.is_none());
        if newest.as_ref().is_ok_and(is_unplaced) {
            jobs.hurry(INTEGRITY);
        }
    }
}

fn write_event(events: &mut String, position: i64, stored: &Stored, viewer: &Viewer) {
    // Serializing strings and numbers does not fail, and JSON on one line has no line break.
    let data = serde_json::to_string(&Shown::new(stored, viewer)).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = write!(events, "id: {position}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests;
