//! Records as server-sent events (WHATWG HTML, section 9.2), in the order of their positions.
//!
//! The id of an event is its record's position, so a client that was cut off continues
//! exactly where it was. A record is sent when the integrity job has given it a position.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use super::requests::filter;
use super::streams::StreamSlot;
use super::view::RecordView;
use super::{Call, Problem, Services};
use crate::access::{LookUpError, Principal, Scope, Tokens, Viewer};
use crate::http::api::query::Query;
use crate::http::api::{TENANT, guard};
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

/// The token of a stream's client. It may end while the stream is open.
struct StreamToken {
    tokens: Arc<Tokens>,
    credential: Box<[u8]>,
    principal: Principal,
}

/// Whether a token still is what it was.
enum TokenState {
    Valid,
    Invalid,
    /// The archive cannot say at the moment.
    Unknown,
}

impl StreamToken {
    /// Returns what lets its owner in; `None` for `ops.token`, which does not end.
    fn new(services: &Services, call: &Call) -> Option<Self> {
        if &*call.principal.token == Principal::ROOT {
            return None;
        }
        let tokens = Arc::clone(services.tokens.as_ref()?);
        let credential = guard::token(call.request.headers())?.into();
        Some(Self { tokens, credential, principal: call.principal.clone() })
    }

    async fn state(&self) -> TokenState {
        match self.tokens.principal(&self.credential).await {
            Ok(found) if found.as_ref() == Some(&self.principal) => TokenState::Valid,
            Ok(_) | Err(LookUpError::NotIsolated) => TokenState::Invalid,
            Err(LookUpError::Archive(_)) => TokenState::Unknown,
        }
    }
}

/// One stream of events.
struct EventStream {
    token: Option<StreamToken>,
    archive: Arc<Archive>,
    /// The box's id, which may become known later.
    own_tenant: Arc<Tenant>,
    /// Told of what is written since before the last read.
    changes: Changes,
    /// `None` if this process runs no jobs.
    jobs: Option<Arc<Jobs>>,
    registry: Arc<Registry>,
    /// Whose records are sent; positions are those of one tenant.
    tenant: Arc<str>,
    on_identity_change: OnIdentityChange,
    filter: Filter,
    viewer: Viewer,
    /// Everything up to this position was sent, or is not asked for.
    after: Option<i64>,
    /// Whether the ledger has the position that the client named. One that it has not is of an
    /// earlier ledger, and would keep back what is new.
    is_known: bool,
    out: mpsc::Sender<Bytes>,
    _slot: StreamSlot,
}

/// What a stream does if the box gets another identity, or its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnIdentityChange {
    /// It goes on with that of the box: its client sees all tenants, and asked for none.
    Follow,
    /// It ends: the client asked for what this box had then, or may see no other.
    End,
    /// It goes on: it is not about this box.
    Ignore,
}

impl OnIdentityChange {
    fn new(
        principal: &Principal,
        tenant: &str,
        query: Option<&str>,
        own: &str,
    ) -> Result<Self, Problem> {
        let names_one = Query::parse(query)?.text(TENANT)?.is_some();
        Ok(match &principal.scope {
            Scope::All if !names_one => Self::Follow,
            _ if *tenant == *own => Self::End,
            _ => Self::Ignore,
        })
    }
}

/// Why a stream ends.
enum StreamEnd {
    ClientGone,
    /// The client's token has expired, or was removed.
    TokenGone,
    /// The box has another identity.
    TenantChanged,
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
    let Some(slot) = history.streams.open(&call.principal.token) else {
        let detail = "as many streams of events are open as may be, or as one token may have";
        return Err(Problem::unavailable(detail));
    };
    let (principal, query) = (&call.principal, call.request.uri().query());
    let on_identity_change =
        OnIdentityChange::new(principal, &call.tenant, query, &history.own_tenant())?;
    let after = match last {
        Some(position) => Some(position).filter(|position| *position >= 0),
        // The stream begins with what is new.
        None => newest(history.archive(), &call.tenant).await?,
    };
    let viewer = history.viewer(&call.principal, &call.tenant).await;
    let (out, pieces) = mpsc::channel(1);
    let stream = EventStream {
        token: StreamToken::new(services, &call),
        archive: Arc::clone(history.archive()),
        own_tenant: Arc::clone(&history.ledger.tenant),
        changes: history.archive().changes(),
        jobs: services.jobs.clone(),
        registry: services.apps.registry(),
        on_identity_change,
        tenant: call.tenant,
        filter,
        viewer,
        after,
        is_known: false,
        out,
        _slot: slot,
    };
    tokio::spawn(in_same_request(stream.run()));
    Ok(answer::streamed(StatusCode::OK, EVENTS, ReceiverStream::new(pieces)))
}

fn position(text: &str) -> Option<i64> {
    text.parse().ok().filter(|position| *position >= -1)
}

/// Returns the newest position.
async fn newest(archive: &Archive, tenant: &str) -> Result<Option<i64>, ArchiveError> {
    // Of a row that cannot be read, too: what precedes it is sent.
    Ok(match archive.page(&newest_of(tenant)).await?.last {
        Some(Cursor::Position(position)) => Some(position),
        Some(Cursor::Unplaced { .. }) | None => None,
    })
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

impl EventStream {
    /// Sends events until the client has gone away or the process ends. The stream then ends
    /// as a complete response does.
    async fn run(mut self) {
        let _ended = self.send_events().await;
    }

    async fn send_events(&mut self) -> Result<std::convert::Infallible, StreamEnd> {
        self.send(Bytes::from_static(RETRY)).await?;
        let mut said = Instant::now();
        loop {
            self.follow_box()?;
            let state = match &self.token {
                Some(token) => token.state().await,
                None => TokenState::Valid,
            };
            let read = match state {
                TokenState::Valid => self.read().await,
                TokenState::Unknown => Ok((String::new(), true)),
                TokenState::Invalid => return Err(StreamEnd::TokenGone),
            };
            let is_all = match read {
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

    /// Goes on with the records of the box as it is now, or ends, if it has another identity.
    fn follow_box(&mut self) -> Result<(), StreamEnd> {
        let own = self.own_tenant.get();
        if self.on_identity_change == OnIdentityChange::Ignore || own == self.tenant {
            return Ok(());
        }
        // What masks are made of belongs to one tenant.
        if self.on_identity_change == OnIdentityChange::End || self.viewer.is_masked() {
            return Err(StreamEnd::TenantChanged);
        }
        (self.tenant, self.after) = (own, None);
        Ok(())
    }

    /// Reads the next records; also returns whether these are all that there are.
    async fn read(&mut self) -> Result<(String, bool), ArchiveError> {
        // Read first, so that the filter need not be applied again to what is older.
        let Some(newest) = newest(&self.archive, &self.tenant).await? else {
            self.after = None;
            return Ok((String::new(), true));
        };
        if !self.is_known {
            self.after = self.after.map(|after| after.min(newest));
            self.is_known = true;
        }
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
        if let Some(Cursor::Position(position)) = page.next {
            // A page may end without a record.
            self.after = Some(position);
        }
        let is_all = page.next.is_none();
        if is_all {
            self.after = self.after.max(Some(newest));
        }
        Ok((events, is_all))
    }

    async fn send(&self, piece: Bytes) -> Result<(), StreamEnd> {
        tokio::select! {
            sent = self.out.send_timeout(piece, READING) => sent.map_err(|_| StreamEnd::ClientGone),
            () = self.registry.closed() => Err(StreamEnd::ShuttingDown),
        }
    }

    /// Waits until there may be more to read.
    async fn wait(&mut self) -> Result<(), StreamEnd> {
        tokio::select! {
            () = self.out.closed() => return Err(StreamEnd::ClientGone),
            () = self.registry.closed() => return Err(StreamEnd::ShuttingDown),
            () = self.changes.changed() => {}
            () = sleep(LONGEST_WAIT) => {}
        }
        self.request_positions().await;
        Ok(())
    }

    /// A record is sent once it has a position. Somebody waits for it, so the job that gives
    /// positions does not.
    async fn request_positions(&self) {
        let Some(jobs) = &self.jobs else { return };
        let request = PageRequest { with_unplaced: true, ..newest_of(&self.tenant) };
        let newest = self.archive.page(&request).await;
        let is_unplaced =
            |page: &Page| page.records.first().is_some_and(|stored| stored.position.is_none());
        if newest.as_ref().is_ok_and(is_unplaced) {
            jobs.run_soon(INTEGRITY);
        }
    }
}

fn write_event(events: &mut String, position: i64, stored: &Stored, viewer: &Viewer) {
    // Serializing strings and numbers does not fail, and JSON on one line has no line break.
    let data = serde_json::to_string(&RecordView::new(stored, viewer)).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = write!(events, "id: {position}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests;
