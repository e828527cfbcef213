//! What a running process is told from outside.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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
    load: impl Fn() -> Option<Arc<Config>> + Send + 'static,
) -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                _ = terminate.recv() => Signal::Shutdown,
                _ = interrupt.recv() => Signal::Shutdown,
                _ = hangup.recv() => match load() {
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
