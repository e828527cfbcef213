//! The id of a request, which each of its log lines carries, so that they can be found
//! together.
//!
//! Most requests log nothing, so the id is made when the first line is written: from the
//! proxy's `X-Request-Id` if that is short and plain, else anew. Until then a request costs
//! two thread-local pointers, which are set while it is polled.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use scoped_tls::scoped_thread_local;

use super::random::random_u64;
use crate::domain::trace::{TraceId, TraceParent};

/// The longest id that is taken from a proxy; a UUID has 36 characters.
const LONGEST_ID: usize = 64;

const REQUEST_ID: &str = "x-request-id";

/// What the log lines of one request have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) id: Arc<str>,
    /// The trace that the proxy names.
    pub(crate) trace: Option<TraceId>,
}

scoped_thread_local!(static SCOPE: OnceLock<RequestId>);
scoped_thread_local!(static HEADERS: HeaderMap);

impl RequestId {
    fn from_headers(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(REQUEST_ID).iter();
        let id = given.next().filter(|_| given.next().is_none()).and_then(|id| id.to_str().ok());
        let id = id.filter(|id| is_plain(id)).map_or_else(next_id, Arc::from);
        Self { id, trace: TraceParent::from_headers(headers).map(|parent| parent.trace) }
    }

    fn anew() -> Self {
        Self { id: next_id(), trace: None }
    }
}

/// Returns whether a log line may repeat an id as it came: nothing in it can be taken for
/// another field, or end the line.
fn is_plain(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// The scope of one request.
#[derive(Debug, Default)]
pub(crate) struct RequestScope(OnceLock<RequestId>);

impl RequestScope {
    /// Runs a future whose log lines carry the request's id.
    pub(crate) async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| SCOPE.set(&self.0, || future.as_mut().poll(cx))).await
    }

    /// Calls a function whose log lines carry the request's id.
    pub(crate) fn enter<T>(&self, function: impl FnOnce() -> T) -> T {
        SCOPE.set(&self.0, function)
    }
}

/// Runs a part of the current request, whose id is taken from these headers when a line is
/// logged.
pub(crate) async fn identified<F: Future>(headers: &HeaderMap, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        HEADERS.set(headers, || {
            let _panics = IdentifyOnPanic;
            future.as_mut().poll(cx)
        })
    })
    .await
}

/// Takes the id from the headers before a panic leaves them behind.
struct IdentifyOnPanic;

impl Drop for IdentifyOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            current_request();
        }
    }
}

/// Takes the current request's id from these headers.
pub(crate) fn identify(headers: &HeaderMap) {
    if SCOPE.is_set() {
        SCOPE.with(|scope| {
            scope.get_or_init(|| RequestId::from_headers(headers));
        });
    }
}

/// Returns the id of the current request; `None` outside of one.
pub(crate) fn current_request() -> Option<RequestId> {
    if !SCOPE.is_set() {
        return None;
    }
    let of_headers = || {
        if HEADERS.is_set() { HEADERS.with(RequestId::from_headers) } else { RequestId::anew() }
    };
    SCOPE.with(|scope| Some(scope.get_or_init(of_headers).clone()))
}

/// Makes the log lines of a future that runs on its own, as a task, carry the id of the
/// request that is current now.
pub(crate) fn in_same_request<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let current = current_request();
    async move {
        match current {
            Some(current) => RequestScope(OnceLock::from(current)).run(future).await,
            None => future.await,
        }
    }
}

/// Returns an id that no other request of this process has, and hardly one of another.
fn next_id() -> Arc<str> {
    thread_local!(static NEXT: Cell<u64> = Cell::new(random_u64()));
    let id = NEXT.get();
    NEXT.set(id.wrapping_add(1));
    format!("{id:016x}").into()
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use futures_util::FutureExt as _;
    use http::HeaderValue;

    use super::*;

    fn with(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        headers
    }

    #[test]
    fn a_proxys_id_is_taken_if_it_is_short_and_plain() {
        let own = |given: &[&str]| {
            let lines: Vec<_> = given.iter().map(|id| (REQUEST_ID, *id)).collect();
            let id = RequestId::from_headers(&with(&lines)).id;
            let is_own = given.iter().all(|given| **given != *id);
            assert!(!is_own || id.len() == 16 && is_plain(&id), "{id}");
            is_own
        };
        for id in ["a", "7b0c0a4e-6c3c-4d0f-9a51-1f2e3d4c5b6a", "a.b_c:D-9", &"x".repeat(64)] {
            assert!(!own(&[id]), "{id}");
        }
        for id in ["", "a b", "a=b", "a\"b", "a{b", "\u{e9}", "a\tb", &"x".repeat(65)] {
            assert!(own(&[id]), "{id}");
        }
        assert!(own(&["a", "b"]), "several");
        assert!(own(&[]));
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| next_id()).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[tokio::test]
    async fn a_request_has_one_id_in_everything_that_is_done_for_it() {
        assert_eq!(current_request(), None);
        let headers = with(&[
            (REQUEST_ID, "from-the-proxy"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ]);
        let scope = RequestScope::default();
        let task = scope.run(identified(&headers, async {
            tokio::task::yield_now().await;
            let known = current_request().expect("within a request");
            assert_eq!(&*known.id, "from-the-proxy");
            let trace = known.trace.expect("a trace").to_string();
            assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
            let in_task = tokio::spawn(in_same_request(async { current_request() }));
            in_task.await.expect("no panic").expect("within a request")
        }));
        let in_task = task.await;
        assert_eq!(&*in_task.id, "from-the-proxy");
        assert_eq!(scope.enter(current_request), Some(in_task));
        assert_eq!(current_request(), None);

        let other = RequestScope::default();
        let own = other.enter(current_request).expect("within a request");
        assert_eq!(other.enter(current_request), Some(own.clone()));
        assert_ne!(&*own.id, "from-the-proxy");
        other.enter(|| identify(&headers));
        assert_eq!(other.enter(current_request), Some(own), "it does not change");
    }

    #[tokio::test]
    async fn a_request_that_panics_keeps_its_id() {
        let headers = with(&[(REQUEST_ID, "from-the-proxy")]);
        let scope = RequestScope::default();
        let panics = identified(&headers, async { panic!("on purpose") });
        let outcome: Result<(), _> = AssertUnwindSafe(scope.run(panics)).catch_unwind().await;
        assert!(outcome.is_err());
        let id = scope.enter(current_request).expect("within a request").id;
        assert_eq!(&*id, "from-the-proxy");
    }
}
