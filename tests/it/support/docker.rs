//! Real Docker engines, apps in containers with configurable behaviour, and the programs
//! around nightporter: a proxy in front of the engine's socket, Traefik in front of the
//! apps, a browser in front of Traefik.

pub mod apps;
pub mod browser;
pub mod engine;
pub mod front;
mod image;
pub mod proxy;
pub mod script;
mod subnet;

mod tests;
