//! Messages to the outside, as receivers get them.

mod api;
mod kills;
mod receiver;
mod sending;
mod site;
mod targets;
mod world;
