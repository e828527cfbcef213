//! The only place that accepts connections and knows hyper's server side.
//!
//! [`Listeners`] binds the sockets, [`serve`] accepts and drives the connections that
//! [`admission`] lets in, and a [`Handler`] turns one request into one response:
//! [`routes`] for the gate's listener, [`api`] for the operator's, and [`standby`] for
//! the listener of a process that answers in the gate's place. A handler that wants a
//! request's body reads it with [`body::read`]; the gate drops it unread.
//!
//! Errors: an error on one connection ends that connection and is logged at debug level,
//! since a peer can cause it at will. If a handler panics, its request is answered with
//! 500. Only a listener that cannot bind ends the process.

mod admission;
pub(crate) mod answer;
pub(crate) mod api;
pub(crate) mod body;
mod connection;
mod forms;
mod listener;
pub(crate) mod pages;
pub(crate) mod pairing;
mod probes;
mod response_body;
pub(crate) mod routes;
mod serve;
pub(crate) mod standby;
pub(crate) mod tls;
mod workers;

use std::future::Future;
use std::net::IpAddr;

use http::Request;

pub(crate) use admission::Bounds;
#[doc(hidden)]
pub use api::operator_routes;
pub(crate) use body::Body;
pub use connection::Limits;
pub use listener::{BindError, Listener, Listeners};
#[doc(hidden)]
pub use pages::{Sample as PageSample, samples as page_samples};
pub(crate) use response_body::ResponseBody;
#[cfg(test)]
pub(crate) use serve::tests;
pub(crate) use serve::{Drain, Server};

pub(crate) type Response = http::Response<ResponseBody>;

/// The address of the client that has opened the connection, as an extension of a request;
/// a socket file has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) IpAddr);

/// Turns one request into one response.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether requests carry their [`Client`].
    const NEEDS_CLIENT: bool = false;

    fn handle(&self, request: Request<Body>) -> impl Future<Output = Response> + Send;
}
