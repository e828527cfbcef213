//! The `shard_core` that runs beside nightporter and keeps doing everything except
//! answering proxies.
//!
//! [`Mirror`] keeps it informed which apps are in use, [`Fallback`] asks it about
//! management secrets that differ from the stored one, [`Shadow`] compares every verdict
//! with its verdict. Only the fallback can change an answer, and only by an unambiguous
//! 200. All three are bounded, so that an upstream that is slow or down costs a known
//! amount.

mod client;
mod compare;
mod fallback;
mod health;
mod mirror;
mod shadow;

#[cfg(test)]
mod test_server;

use std::sync::Arc;

use http::HeaderMap;

use crate::config::Config;

use client::Client;
use fallback::Fallback;
use mirror::Mirror;

pub use mirror::Mirrored;
pub(crate) use shadow::Shadow;

/// The upstream of one box, and what is exchanged with it.
#[derive(Debug)]
pub struct Upstream {
    /// `None` if the shadow is on, because then every request reaches the upstream
    /// anyway.
    mirror: Option<Mirror>,
    fallback: Arc<Fallback>,
    shadow: Option<Arc<Shadow>>,
}

impl Upstream {
    /// Creates the upstream, if one is configured.
    #[must_use]
    pub fn from_config(config: &Config) -> Option<Arc<Self>> {
        let upstream = config.upstream.as_ref()?;
        let client = Arc::new(Client::new(&upstream.url)?);
        let domain = config.gate.domain.clone();
        Some(Arc::new(Self {
            mirror: (!upstream.shadow).then(|| Mirror::new(Arc::clone(&client))),
            fallback: Arc::new(Fallback::new(Arc::clone(&client))),
            shadow: upstream.shadow.then(|| Arc::new(Shadow::new(client, domain))),
        }))
    }

    /// Returns the mirror of one app's requests; call it once when the app is loaded.
    #[must_use]
    pub fn mirrored(&self, app: &Arc<str>) -> Option<Arc<Mirrored>> {
        self.mirror.as_ref().map(|mirror| mirror.for_app(app))
    }

    /// Returns whether the upstream accepts a management secret that differs from the
    /// stored one.
    pub(crate) async fn accepts_secret(&self, headers: &HeaderMap) -> bool {
        self.fallback.accepts_secret(headers).await
    }

    pub(crate) fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }
}
