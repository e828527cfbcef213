//! From a commit, or the renaming of a file, to the changed verdict.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::support::boxes::{SampleBox, Store, TERMINAL_SECRET, app_meta, id_of, token};
use crate::support::client::{Connection, Request, Response};
use crate::support::server::Nightporter;
use crate::support::sign::{self, BOX_KEY, OTHER_KEY};

/// A change that is not seen by then never is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing but a notification can show a change within [`PATIENCE`]: how long
/// that takes is for the benchmark to say.
const ONLY_NOTIFICATIONS: &str =
    "[cache]\nheartbeat = \"90s\"\ndegraded_ttl = \"90s\"\nmax_stale = \"300s\"\n";

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A terminal is removed or paired.
    Terminal,
    /// An app is installed or removed.
    App,
    /// An app starts or stops; seen on its error page.
    Status,
    /// Another identity becomes the default one; seen in a header.
    Identity,
    /// An `app_meta.json` is saved; seen in a header.
    AppMeta,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Terminal, Self::App, Self::Status, Self::Identity, Self::AppMeta];

    /// Files keep no status.
    pub fn of(store: Store) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |kind| store == Store::Postgres || *kind != Self::Status)
    }
}

/// Times, from shortest to longest.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

impl Times {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    pub fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().flat_map(|times| times.0.iter().copied()).collect()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] =
            [50, 99, 100].map(|percent| self.percentile(percent).as_secs_f64() * 1e3);
        write!(
            f,
            "{:>5} changes  p50 {p50:7.2} ms  p99 {p99:7.2} ms  max {max:7.2} ms",
            self.count()
        )
    }
}

fn notes_paths(version: usize) -> Value {
    let headers = json!({"X-Ptl-Portal": "{{ portal.id }}", "X-Ptl-Version": version.to_string()});
    json!({"": {"access": "private", "headers": headers}, "/pub": {"access": "public"}})
}

const TABLET: &str = "tablet";

/// A box whose rows change while others ask.
pub struct Scene {
    pub sample: SampleBox,
    pub porter: Nightporter,
}

impl Scene {
    pub async fn new(store: Store) -> Self {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &notes_paths(0)).await;
        sample.add_terminal(TABLET, "Tablet").await;
        sample.add_app("blog", &json!({"": {"access": "public"}})).await;
        let porter = Nightporter::with(&sample, ONLY_NOTIFICATIONS).await;
        Self { sample, porter }
    }

    /// Makes so many changes of a kind, one after the other, and times each.
    pub async fn time(&self, kind: Kind, changes: usize) -> Times {
        let question = question(kind);
        let mut connection = self.porter.connect().await;
        let mut times = Vec::with_capacity(changes);
        for round in 1..=changes {
            self.change(kind, round).await;
            let changed = Instant::now();
            loop {
                let answer = connection.ask(&question).await.expect("an answer");
                if shows(kind, round, &answer) {
                    break;
                }
                assert!(changed.elapsed() < PATIENCE, "{kind:?} {round}: still {answer:?}");
            }
            times.push(changed.elapsed());
            // Once seen, it stays, whoever asks.
            let answer = self.porter.ask(&question).await;
            assert!(shows(kind, round, &answer), "{kind:?} {round}: again {answer:?}");
        }
        times.into_iter().collect()
    }

    /// Odd rounds take away or alter, even ones restore.
    async fn change(&self, kind: Kind, round: usize) {
        let (sample, odd) = (&self.sample, round % 2 == 1);
        match kind {
            Kind::Terminal if odd => sample.remove_terminal(TABLET).await,
            Kind::Terminal => sample.add_terminal(TABLET, "Tablet").await,
            Kind::App => self.change_app(odd).await,
            Kind::Status => {
                let status = if odd { "stopped" } else { "running" };
                let sql = "UPDATE installed_apps SET status = $1 WHERE name = 'notes'";
                assert_eq!(sample.database().execute(sql, &[&status]).await, 1);
            }
            Kind::Identity => sample.set_identity(if odd { &OTHER_KEY } else { &BOX_KEY }).await,
            Kind::AppMeta => sample.edit_app("notes", &notes_paths(round)),
        }
    }

    async fn change_app(&self, remove: bool) {
        let sample = &self.sample;
        match (sample.store, remove) {
            // The row alone: the commit is what counts.
            (Store::Postgres, true) => {
                let sql = "DELETE FROM installed_apps WHERE name = 'blog'";
                assert_eq!(sample.database().execute(sql, &[]).await, 1);
            }
            (Store::Postgres, false) => sample.database().insert_app("blog", "running").await,
            (Store::Files, true) => sample.remove_app("blog").await,
            (Store::Files, false) => {
                let meta = app_meta("blog", &json!({"": {"access": "public"}}));
                sample.write_app_meta("blog", meta.to_string().as_bytes());
            }
        }
    }
}

fn question(kind: Kind) -> Request {
    let tablet = sign::token(TERMINAL_SECRET, TABLET);
    match kind {
        Kind::Terminal | Kind::Identity | Kind::AppMeta => {
            Request::auth("notes.box.test", "/").cookie(tablet)
        }
        Kind::App => Request::auth("blog.box.test", "/"),
        Kind::Status => Request::new("GET", "/internal/app_error/502")
            .without("Host")
            .header("Host", "notes.box.test")
            .cookie(token()),
    }
}

/// Whether an answer is the one for what a round made of the box.
fn shows(kind: Kind, round: usize, answer: &Response) -> bool {
    let odd = round % 2 == 1;
    match kind {
        Kind::Terminal => answer.status == if odd { 401 } else { 200 },
        Kind::App => answer.status == if odd { 404 } else { 200 },
        Kind::Status => answer.status == 502 && answer.body().contains("Starting…") != odd,
        Kind::Identity => {
            let id = id_of(if odd { &OTHER_KEY } else { &BOX_KEY });
            answer.status == 200 && answer.text("x-ptl-portal") == Some(&id)
        }
        Kind::AppMeta => {
            answer.status == 200 && answer.text("x-ptl-version") == Some(&round.to_string())
        }
    }
}

/// Requests in the background, all of which must be granted.
#[derive(Debug)]
pub struct Load {
    answered: Arc<AtomicU64>,
    began: Instant,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    const CONNECTIONS: u64 = 4;
    const PERIOD: Duration = Duration::from_millis(4);

    /// Begins to ask so many times a second, as far as the machine allows.
    pub fn begin(gate: SocketAddr, per_second: u64) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let periods_a_second = 1000 / u64::try_from(Self::PERIOD.as_millis()).expect("short");
        let at_once = usize::try_from(per_second / Self::CONNECTIONS / periods_a_second);
        let at_once = at_once.expect("small").max(1);
        let drive = |connection| {
            let answered = Arc::clone(&answered);
            let question = match connection % 2 {
                0 => Request::auth("notes.box.test", "/pub/x"),
                _ => Request::auth("notes.box.test", "/")
                    .cookie(sign::token(TERMINAL_SECRET, crate::support::boxes::TERMINAL)),
            };
            tokio::spawn(async move {
                let mut connection = Connection::open(gate).await.expect("the gate listens");
                let mut ticks = interval(Self::PERIOD);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                loop {
                    ticks.tick().await;
                    let answers = connection.ask_at_once(&question, at_once).await;
                    let answers = answers.expect("answers");
                    let wrong = answers.iter().find(|answer| answer.status != 200);
                    assert!(wrong.is_none(), "{wrong:?} for {question:?}");
                    answered.fetch_add(answers.len() as u64, Ordering::Relaxed);
                }
            })
        };
        let tasks = (0..Self::CONNECTIONS).map(drive).collect();
        Self { answered, began: Instant::now(), tasks }
    }

    /// Ends it; answers a second, all of them grants.
    pub async fn end(self) -> f64 {
        let reached = self.answered.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64();
        for task in self.tasks {
            task.abort();
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "at most 2^53 answers")]
        let reached = reached as f64;
        reached / seconds
    }
}
