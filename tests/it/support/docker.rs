//! Real Docker engines, apps in containers that behave as told, and what stands
//! between nightporter and either: a proxy before the engine's socket, Traefik
//! before the apps, a browser before Traefik.

pub mod apps;
pub mod browser;
pub mod engine;
pub mod front;
mod image;
pub mod proxy;
pub mod script;
mod subnet;

mod tests;
