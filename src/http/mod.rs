//! The only place that accepts connections and knows hyper's server side.
//!
//! [`Listeners`] binds, [`serve`] accepts and drives the connections that
//! [`admission`] lets in, a
//! [`Handler`] turns one request head into one answer: [`routes`] for the
//! gate's listener, [`ops`] for the operator's, [`standby`] for that of a process that
//! answers in the gate's place. Nobody here reads a request
//! body; the type of [`Handler::handle`] does not even offer one.
//!
//! Errors: what goes wrong on one connection ends that connection and is
//! logged at debug level, since a peer can cause it at will. A panic in a
//! handler is 500 for its request. Only a listener that cannot bind ends the
//! process.

mod admission;
pub(crate) mod answer;
mod connection;
mod listener;
pub(crate) mod ops;
pub(crate) mod pages;
pub(crate) mod routes;
mod serve;
pub(crate) mod standby;
pub(crate) mod tls;
mod workers;

use std::future::Future;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::Full;

pub(crate) use admission::Bounds;
pub use connection::Limits;
pub use listener::{BindError, Listener, Listeners};
#[doc(hidden)]
pub use pages::{Sample as PageSample, samples as page_samples};
#[cfg(test)]
pub(crate) use serve::tests;
pub(crate) use serve::{Drain, Server};

pub(crate) type Response = http::Response<Full<Bytes>>;

/// Turns one request head into one answer.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(&self, head: Parts) -> impl Future<Output = Response> + Send;
}
