//! What a running process is told from outside.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::config::Config;

/// An order to a running process.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Take what can be taken of this configuration, and read the certificate anew.
    Reload(Arc<Config>),
    /// The first drains, the second aborts.
    Shutdown,
}

/// SIGTERM and SIGINT as [`Signal::Shutdown`], SIGHUP as [`Signal::Reload`].
///
/// `load` reads the configuration again; `None` where it is refused, which
/// `load` has to report itself.
pub fn from_process(
    load: impl Fn() -> Option<Arc<Config>> + Send + Sync + 'static,
) -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(4);
    let load = Arc::new(load);
    tokio::spawn(async move {
        // Files may keep whoever reads them waiting, and the other signals must be heard.
        let mut loading = None;
        loop {
            let order = tokio::select! {
                _ = terminate.recv() => Signal::Shutdown,
                _ = interrupt.recv() => Signal::Shutdown,
                _ = hangup.recv(), if loading.is_none() => {
                    let load = Arc::clone(&load);
                    loading = Some(spawn_blocking(move || load()));
                    continue;
                }
                loaded = loaded(&mut loading) => match loaded {
                    Some(config) => Signal::Reload(config),
                    None => continue,
                },
            };
            if sender.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// What was loaded, once it is.
async fn loaded(loading: &mut Option<JoinHandle<Option<Arc<Config>>>>) -> Option<Arc<Config>> {
    let Some(under_way) = loading else {
        return std::future::pending().await;
    };
    let loaded = under_way.await;
    *loading = None;
    // A panic was reported by itself.
    loaded.ok().flatten()
}
