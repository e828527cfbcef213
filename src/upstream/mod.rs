//! The `shard_core` that runs beside and goes on doing all but answering proxies.
//!
//! [`Mirror`] tells it which apps are in use, [`Fallback`] asks it about management
//! secrets that are not the stored one, [`Shadow`] compares every verdict with its
//! own. Only the second can change an answer, and only by an unambiguous 200. All
//! three are bounded, so that an upstream that is slow or gone costs a known amount.

mod client;
mod compare;
mod condition;
mod fallback;
mod mirror;
mod shadow;

#[cfg(test)]
mod stand_in;

use std::sync::Arc;

use http::HeaderMap;

use crate::config::Config;

use client::Client;
use fallback::Fallback;
use mirror::Mirror;

pub use mirror::Mirrored;
pub(crate) use shadow::Shadow;

/// What is done beside the upstream of one box.
#[derive(Debug)]
pub struct Upstream {
    /// Superseded where every question reaches the upstream anyway.
    mirror: Option<Mirror>,
    fallback: Arc<Fallback>,
    shadow: Option<Arc<Shadow>>,
}

impl Upstream {
    /// The upstream of a box that has one.
    #[must_use]
    pub fn of(config: &Config) -> Option<Arc<Self>> {
        let upstream = config.upstream.as_ref()?;
        let client = Arc::new(Client::new(&upstream.url)?);
        let domain = config.gate.domain.clone();
        Some(Arc::new(Self {
            mirror: (!upstream.shadow).then(|| Mirror::new(Arc::clone(&client))),
            fallback: Arc::new(Fallback::new(Arc::clone(&client))),
            shadow: upstream.shadow.then(|| Arc::new(Shadow::new(client, domain))),
        }))
    }

    /// What passes on the requests for one app; ask once when the app is loaded.
    #[must_use]
    pub fn mirrored(&self, app: &Arc<str>) -> Option<Arc<Mirrored>> {
        self.mirror.as_ref().map(|mirror| mirror.of(app))
    }

    /// Whether the upstream accepts a management secret that is not the stored one.
    pub(crate) async fn vouches_for(&self, headers: &HeaderMap) -> bool {
        self.fallback.vouches_for(headers).await
    }

    pub(crate) fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }
}
