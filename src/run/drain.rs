//! The end of the process: requests that are being answered may finish, within a deadline.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::RunError;
use crate::http::Drain;
use crate::signals::{Signal, second_shutdown};

/// How long connections may take to be dropped: a thread that serves some may have failed.
const CUT_LIMIT: Duration = Duration::from_secs(1);

/// Waits for running requests, up to the deadline.
pub(super) async fn drain(
    mut drains: [Drain; 2],
    deadline: Duration,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<(), RunError> {
    let [gate, ops] = &mut drains;
    let outcome = tokio::select! {
        _ = async { tokio::join!(gate.drain(), ops.drain()) } => return Ok(()),
        () = tokio::time::sleep(deadline) => {
            warn!("requests are still running after gate.drain_timeout; they are cut");
            Ok(())
        }
        () = second_shutdown(signals) => {
            warn!("second signal: running requests are cut");
            Err(RunError::Aborted)
        }
    };
    cut(drains).await;
    outcome
}

/// Drops all connections.
pub(super) async fn cut([mut gate, mut ops]: [Drain; 2]) {
    let aborted = async { tokio::join!(gate.abort(), ops.abort()) };
    if timeout(CUT_LIMIT, aborted).await.is_err() {
        warn!("some connections are still open");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::tests::{Busy, busy};

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn drained(
        drains: [Drain; 2],
        deadline: Duration,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<(), RunError> {
        let draining = drain(drains, deadline, signals);
        timeout(PATIENCE, draining).await.expect("in time")
    }

    #[tokio::test]
    async fn a_drain_ends_when_the_last_request_does() {
        let (Busy { handler, drain, .. }, Busy { handler: other, drain: other_drain, .. }) =
            (busy().await, busy().await);
        let (_sender, mut signals) = mpsc::channel(1);
        handler.release();
        other.release();
        let outcome = drained([drain, other_drain], PATIENCE * 2, &mut signals).await;
        assert!(matches!(outcome, Ok(())), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_drain_has_a_deadline() {
        let (one, other) = (busy().await, busy().await);
        let (_sender, mut signals) = mpsc::channel(1);
        let deadline = Duration::from_millis(100);
        let began = std::time::Instant::now();
        let outcome = drained([one.drain, other.drain], deadline, &mut signals).await;
        assert!(matches!(outcome, Ok(())), "{outcome:?}");
        assert!(began.elapsed() >= deadline);
    }

    #[tokio::test]
    async fn a_second_signal_aborts_and_a_reload_does_not() {
        let (one, other) = (busy().await, busy().await);
        let (sender, mut signals) = mpsc::channel(2);
        let config = crate::config::load(None, &crate::config::Environment::new());
        let config = Arc::new(config.expect("defaults"));
        sender.send(Signal::Reload(config)).await.expect("room");
        let drains = [one.drain, other.drain];
        let draining = tokio::spawn(async move { drain(drains, PATIENCE * 2, &mut signals).await });
        let received = async {
            while sender.capacity() < 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, received).await.expect("the reload is received");
        assert!(!draining.is_finished());
        sender.send(Signal::Shutdown).await.expect("room");
        let outcome = timeout(PATIENCE, draining).await.expect("in time").expect("no panic");
        assert!(matches!(outcome, Err(RunError::Aborted)), "{outcome:?}");
    }
}
