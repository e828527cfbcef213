//! The signals that the process handles.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::config::Config;

/// A request to the running process.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Apply what can be changed at runtime of this configuration, and reload the certificate.
    Reload(Arc<Config>),
    /// The first one drains, the second one aborts.
    Shutdown,
}

/// Delivers SIGTERM and SIGINT as [`Signal::Shutdown`], and SIGHUP as [`Signal::Reload`].
///
/// `load` reads the configuration again. It returns `None` if the configuration is invalid,
/// which `load` has to report itself.
pub fn from_process(
    load: impl Fn() -> Option<Arc<Config>> + Send + Sync + 'static,
) -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(4);
    let load = Arc::new(load);
    tokio::spawn(async move {
        // Reading files may take long, and the other signals must be handled meanwhile.
        let mut loading = None;
        loop {
            let signal = tokio::select! {
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
            if sender.send(signal).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Waits for the load in progress, if there is one, and returns its configuration.
async fn loaded(loading: &mut Option<JoinHandle<Option<Arc<Config>>>>) -> Option<Arc<Config>> {
    let Some(in_progress) = loading else {
        return std::future::pending().await;
    };
    let loaded = in_progress.await;
    *loading = None;
    // A panic has already been reported by the panic hook.
    loaded.ok().flatten()
}

/// Waits for the shutdown signal; keeps the last configuration that arrived before it.
pub(crate) async fn shutdown(
    signals: &mut mpsc::Receiver<Signal>,
    reloaded: &mut Option<Arc<Config>>,
) {
    while let Signal::Reload(config) = next(signals).await {
        *reloaded = Some(config);
    }
}

/// Waits for the second shutdown signal, which requests an immediate end.
pub(crate) async fn second_shutdown(signals: &mut mpsc::Receiver<Signal>) {
    while !matches!(next(signals).await, Signal::Shutdown) {}
}

/// Returns the next signal; waits forever once all senders are gone.
pub(crate) async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    match signals.recv().await {
        Some(signal) => signal,
        None => std::future::pending().await,
    }
}
