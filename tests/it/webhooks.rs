//! Messages to the outside, as receivers get them.

mod api;
mod changes;
mod hostile;
mod kills;
mod order;
mod receiver;
mod sending;
mod site;
mod storms;
mod targets;
mod tls;
mod world;
