//! Many requests at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::client::{Connection, Request};

/// A request and the status it must get.
#[derive(Debug, Clone)]
pub struct Shot {
    bytes: Vec<u8>,
    expected: u16,
}

impl Shot {
    pub fn new(request: &Request, expected: u16) -> Self {
        Self { bytes: request.bytes(), expected }
    }
}

/// The result: responses by status, and the first that were not as expected.
#[derive(Debug, Default)]
pub struct Outcome {
    pub statuses: BTreeMap<u16, u64>,
    pub wrong: Vec<String>,
}

impl Outcome {
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Fails unless every request got the expected response.
    pub fn is_as_expected(&self, total: u64) {
        assert!(self.wrong.is_empty(), "{:#?}\n{:?}", self.wrong, self.statuses);
        assert_eq!(self.answers(), total);
    }

    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.wrong.extend(other.wrong.into_iter().take(10 - self.wrong.len().min(10)));
    }
}

/// Sends the shots in turn until `total` were sent, over this many keep-alive connections.
pub async fn drive(
    gate: SocketAddr,
    shots: &Arc<[Shot]>,
    connections: usize,
    total: u64,
) -> Outcome {
    let next = Arc::new(AtomicU64::new(0));
    let mut drivers = JoinSet::new();
    for _ in 0..connections {
        let (shots, next) = (Arc::clone(shots), Arc::clone(&next));
        drivers.spawn(async move {
            let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < total);
            run(gate, &shots, take).await
        });
    }
    let mut outcome = Outcome::default();
    while let Some(part) = drivers.join_next().await {
        outcome.add(part.expect("no panic"));
    }
    outcome
}

async fn run(gate: SocketAddr, shots: &[Shot], mut take: impl FnMut() -> Option<u64>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connection = Connection::open(gate).await.expect("the gate listens");
    while let Some(n) = take() {
        fire(&mut connection, &shots[at(n, shots.len())], &mut outcome).await;
    }
    outcome
}

fn at(n: u64, length: usize) -> usize {
    usize::try_from(n).expect("64 bits") % length
}

async fn fire(connection: &mut Connection, shot: &Shot, outcome: &mut Outcome) {
    let problem = match connection.ask_bytes(&shot.bytes).await {
        Ok(response) => {
            *outcome.statuses.entry(response.status).or_default() += 1;
            if response.status == shot.expected {
                return;
            }
            format!("{}, not {}", response.status, shot.expected)
        }
        Err(error) => error.to_string(),
    };
    if outcome.wrong.len() < 10 {
        let request = String::from_utf8_lossy(&shot.bytes);
        outcome.wrong.push(format!("{problem}: {request:?}"));
    }
}
