//! Messages to the outside: endpoints, what is sent to them, and the log of every try.
//!
//! An *endpoint* is where messages go. What happened is an [`Event`](event::Event): it is
//! queued in the transaction that makes it so, as one *delivery* for each endpoint that wants
//! it, and sent afterwards, by an *attempt* or several. An event reaches an endpoint at least
//! once, and every attempt is written down before it is made.

pub mod address;
mod authorities;
mod client;
mod configured;
pub mod connector;
pub mod endpoint;
pub mod event;
mod events;
pub mod manage;
mod message;
pub mod outbox;
pub mod quiet;
pub mod records;
pub mod retry;
pub mod sender;
pub mod signature;
mod slots;
mod table;
pub mod target;

pub use self::table::deliveries;
use self::table::rows;
