//! Knows the true history of a box's rows and holds every grant against it.
//!
//! Two rows come and go for as long as a verifier lives: a terminal and an app.
//! A third pair, a terminal and an app that never change, must always be served.
//! Several tasks ask about all of them without a pause.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::support::boxes::{SampleBox, TERMINAL_SECRET, app_meta};
use crate::support::client::{Connection, Request, ask, poll};
use crate::support::sign;

pub const HEARTBEAT: Duration = Duration::from_millis(200);
pub const MAX_STALE: Duration = Duration::from_secs(6);

/// While notifications are believed to arrive, an old grant ends two heartbeats
/// after the last one that came back, and a reload may take `degraded_ttl`; the
/// rest is for a machine that runs other tests too.
pub const LIVE_BOUND: Duration = Duration::from_millis(2 * 200 + 100 + 1000);

pub const TIMES: &str = "
pool_size = 4
connect_timeout = \"500ms\"
query_timeout = \"500ms\"
pool_timeout = \"500ms\"
[cache]
heartbeat = \"200ms\"
degraded_ttl = \"100ms\"
max_stale = \"6s\"
";

pub const RECOVERY: Duration = Duration::from_secs(120);
const COMES_AND_GOES: &str = "comes-and-goes";
const STEADY: &str = "steady";
const ASKERS: usize = 6;

/// When a row existed. Where a moment is not sharp, the longer existence counts.
#[derive(Debug, Default)]
struct History(Mutex<Vec<(Instant, Option<Instant>)>>);

impl History {
    /// Call before the row is inserted.
    fn begins(&self) {
        let mut periods = self.0.lock().unwrap();
        if periods.last().is_none_or(|(_, end)| end.is_some()) {
            periods.push((Instant::now(), None));
        }
    }

    /// Call after the deletion was acknowledged.
    fn ended(&self) {
        if let Some((_, end)) = self.0.lock().unwrap().last_mut() {
            end.get_or_insert_with(Instant::now);
        }
    }

    fn exists(&self) -> bool {
        self.0.lock().unwrap().last().is_some_and(|(_, end)| end.is_none())
    }

    /// How old the newest truth is that grants a question put and answered then;
    /// zero where the row existed in between.
    fn age(&self, asked: Instant, answered: Instant) -> Duration {
        let periods = self.0.lock().unwrap();
        let begun = periods.iter().filter(|(begin, _)| *begin <= answered);
        let ages = begun.map(|(_, end)| match end {
            Some(end) => asked.saturating_duration_since(*end),
            None => Duration::ZERO,
        });
        ages.min().unwrap_or(Duration::MAX)
    }
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Steady,
    Terminal,
    App,
}

impl Subject {
    fn question(self) -> Request {
        let of = |terminal| {
            let token = sign::token(TERMINAL_SECRET, terminal);
            Request::auth("steady.box.test", "/").cookie(token)
        };
        match self {
            Self::Steady => of(STEADY),
            Self::Terminal => of(COMES_AND_GOES),
            Self::App => Request::auth("comes-and-goes.box.test", "/"),
        }
    }

    /// The answer where the row is not there.
    fn denial(self) -> u16 {
        match self {
            Self::Terminal | Self::Steady => 401,
            Self::App => 404,
        }
    }
}

/// What was seen since the last look.
#[derive(Debug, Default)]
struct Seen {
    grants: u64,
    denials: u64,
    /// Oldest truth that a grant was given from.
    oldest: Duration,
    /// When the steady pair was granted, and when it was refused with 503.
    steady_granted: Vec<Instant>,
    steady_refused: Vec<Instant>,
    complaints: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    gate: SocketAddr,
    terminal: History,
    app: History,
    /// Nanoseconds: how old a granting truth may be now.
    bound: AtomicU64,
    seen: Mutex<Seen>,
    stopped: AtomicBool,
    toggling_terminals: Arc<tokio::sync::Mutex<()>>,
    toggling_apps: Arc<tokio::sync::Mutex<()>>,
}

/// Changes rows and asks about them until it is dropped.
#[derive(Debug)]
pub struct Verifier {
    shared: Arc<Shared>,
    ops: SocketAddr,
    url: String,
    tasks: Vec<JoinHandle<()>>,
}

/// Adds the rows that a verifier needs; before the gate starts.
pub async fn furnish(sample: &SampleBox) {
    let paths = json!({"": {"access": "private", "headers": {"X-Ptl-Portal": "{{ portal.id }}"}}});
    sample.add_app(STEADY, &paths).await;
    let paths = json!({"": {"access": "public"}});
    sample.write_app_meta(COMES_AND_GOES, app_meta(COMES_AND_GOES, &paths).to_string().as_bytes());
    sample.add_terminal(STEADY, "Steady").await;
}

impl Verifier {
    /// Begins; `gate` and `ops` serve a furnished box and are live.
    pub fn begin(sample: &SampleBox, gate: SocketAddr, ops: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            gate,
            terminal: History::default(),
            app: History::default(),
            bound: AtomicU64::new(0),
            seen: Mutex::default(),
            stopped: AtomicBool::new(false),
            toggling_terminals: Arc::default(),
            toggling_apps: Arc::default(),
        });
        let database = sample.database();
        let url = database.url();
        let mut tasks = vec![
            tokio::spawn(toggle(Arc::clone(&shared), Subject::Terminal, url.clone())),
            tokio::spawn(toggle(Arc::clone(&shared), Subject::App, url.clone())),
        ];
        tasks.extend((0..ASKERS).map(|asker| tokio::spawn(inquire(Arc::clone(&shared), asker))));
        let verifier = Self { shared, ops, url, tasks };
        verifier.allow(LIVE_BOUND);
        verifier
    }

    /// From now on a granting truth may be this old.
    pub fn allow(&self, bound: Duration) {
        let bound = u64::try_from(bound.as_nanos()).unwrap();
        self.shared.bound.store(bound, Ordering::SeqCst);
    }

    async fn hold_apps(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.shared.toggling_apps).lock_owned().await
    }

    async fn hold_terminals(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.shared.toggling_terminals).lock_owned().await
    }

    async fn health(&self) -> serde_json::Value {
        let health = ask(self.ops, &Request::new("GET", "/healthz")).await;
        serde_json::from_str(health.body()).unwrap()
    }

    /// Waits until the gate is live, has heard all that was committed before
    /// this call, and answers accordingly.
    pub async fn settled(&self, what: &str) {
        let called = Instant::now();
        poll(what, RECOVERY, async || {
            let health = self.health().await;
            let verified =
                Duration::from_secs_f64(health["ages"]["verified_seconds"].as_f64().unwrap());
            health["state"] == "live" && called.elapsed() > verified
        })
        .await;
        let steady = Subject::Steady.question();
        poll(what, RECOVERY, async || ask(self.shared.gate, &steady).await.status == 200).await;
    }

    /// Waits for answers that equal the rows, with both rows held still.
    pub async fn agrees(&self, what: &str) {
        let _terminals = self.hold_terminals().await;
        let _apps = self.hold_apps().await;
        self.settled(what).await;
        for (subject, history) in self.shared.come_and_go() {
            let right = if history.exists() { 200 } else { subject.denial() };
            let question = subject.question();
            poll(what, RECOVERY, async || ask(self.shared.gate, &question).await.status == right)
                .await;
        }
    }

    /// Takes what was seen; fails where anything was wrong.
    pub fn judge(&self, fault: &str) {
        let seen = std::mem::take(&mut *self.shared.seen.lock().unwrap());
        let Seen { grants, denials, oldest, steady_refused, complaints, .. } = seen;
        let refused = steady_refused.len();
        println!(
            "{fault}: {grants} grants, the oldest from {oldest:?} ago; {denials} denials; \
             {refused} refusals of what never changed"
        );
        assert!(complaints.is_empty(), "{fault}: {} wrong: {:#?}", complaints.len(), {
            &complaints[..complaints.len().min(5)]
        });
        assert!(grants > 0 && denials > 0, "{fault}: nothing was asked");
    }

    /// How often the steady pair was refused with 503 when asked between the two.
    pub fn refused(&self, from: Instant, to: Instant) -> usize {
        count(&self.shared.seen.lock().unwrap().steady_refused, from, to)
    }

    /// How often the steady pair was granted when asked between the two.
    pub fn granted(&self, from: Instant, to: Instant) -> usize {
        count(&self.shared.seen.lock().unwrap().steady_granted, from, to)
    }

    /// Both rows are there, every answer says so, and they rest while this is held.
    pub async fn rests(&self, what: &str) -> Resting<'_> {
        let turns = (self.hold_terminals().await, self.hold_apps().await);
        let client = connect(&self.url).await.expect("the server is up");
        let resting = Resting { shared: &self.shared, client, _turns: turns };
        for (subject, history) in self.shared.come_and_go() {
            history.begins();
            subject.insert(&resting.client).await.unwrap();
        }
        self.settled(what).await;
        for (subject, _) in self.shared.come_and_go() {
            let question = subject.question();
            poll(what, RECOVERY, async || ask(self.shared.gate, &question).await.status == 200)
                .await;
        }
        resting
    }
}

/// Rows that are there until a test deletes them.
#[derive(Debug)]
pub struct Resting<'a> {
    shared: &'a Shared,
    client: Client,
    _turns: (OwnedMutexGuard<()>, OwnedMutexGuard<()>),
}

impl Resting<'_> {
    pub async fn delete_terminal(&self) {
        Subject::Terminal.delete(&self.client).await.unwrap();
        self.shared.terminal.ended();
    }

    pub async fn delete_app(&self) {
        Subject::App.delete(&self.client).await.unwrap();
        self.shared.app.ended();
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn count(moments: &[Instant], from: Instant, to: Instant) -> usize {
    moments.iter().filter(|asked| from <= **asked && **asked < to).count()
}

impl Subject {
    async fn insert(self, client: &Client) -> Result<u64, tokio_postgres::Error> {
        let sql = match self {
            Self::App => "INSERT INTO installed_apps VALUES ($1, 'custom', 'running', NULL)",
            _ => "INSERT INTO terminals VALUES ($1, 'Comes', 'unknown', NULL)",
        };
        client.execute(&format!("{sql} ON CONFLICT DO NOTHING"), &[&COMES_AND_GOES]).await
    }

    async fn delete(self, client: &Client) -> Result<u64, tokio_postgres::Error> {
        let sql = match self {
            Self::App => "DELETE FROM installed_apps WHERE name = $1",
            _ => "DELETE FROM terminals WHERE id = $1",
        };
        client.execute(sql, &[&COMES_AND_GOES]).await
    }
}

/// Inserts and deletes a row for ever, past the broken network. An error (the
/// server is away) leaves the history as it is: the longer existence counts.
async fn toggle(shared: Arc<Shared>, subject: Subject, url: String) {
    let (history, turn) = match subject {
        Subject::App => (&shared.app, &shared.toggling_apps),
        _ => (&shared.terminal, &shared.toggling_terminals),
    };
    let mut client = None;
    for round in 0_u64.. {
        {
            let _turn = turn.lock().await;
            let connected = match client.take().filter(|client: &Client| !client.is_closed()) {
                Some(client) => Ok(client),
                None => connect(&url).await,
            };
            if let Ok(connected) = connected {
                if history.exists() {
                    if subject.delete(&connected).await.is_ok() {
                        history.ended();
                    }
                } else {
                    history.begins();
                    subject.insert(&connected).await.ok();
                }
                client = Some(connected);
            }
        }
        // From changes that overtake each other to ones that come to rest.
        tokio::time::sleep(Duration::from_millis(5 + round * 37 % 150)).await;
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

/// Asks about all subjects in turn and holds the answers against the history.
async fn inquire(shared: Arc<Shared>, asker: usize) {
    let subjects = [Subject::Steady, Subject::Terminal, Subject::App];
    let questions = subjects.map(|subject| (subject, subject.question()));
    let mut connection = Connection::open(shared.gate).await.expect("the gate listens");
    for round in asker.. {
        let (subject, question) = &questions[round % questions.len()];
        let bound = Duration::from_nanos(shared.bound.load(Ordering::SeqCst));
        let asked = Instant::now();
        let answer = connection.ask(question).await;
        let answered = Instant::now();
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        // A bound that was changed meanwhile: the longer one counts.
        let bound = bound.max(Duration::from_nanos(shared.bound.load(Ordering::SeqCst)));
        let status = match answer {
            Ok(answer) => answer.status,
            Err(error) => {
                let complaint = format!("{subject:?}: no answer: {error}");
                shared.seen.lock().unwrap().complaints.push(complaint);
                return;
            }
        };
        shared.judge(*subject, status, asked..answered, bound);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Shared {
    fn come_and_go(&self) -> [(Subject, &History); 2] {
        [(Subject::Terminal, &self.terminal), (Subject::App, &self.app)]
    }

    fn judge(&self, subject: Subject, status: u16, during: Range<Instant>, bound: Duration) {
        let age = match subject {
            Subject::Steady => Duration::ZERO,
            Subject::Terminal => self.terminal.age(during.start, during.end),
            Subject::App => self.app.age(during.start, during.end),
        };
        let mut seen = self.seen.lock().unwrap();
        match status {
            200 => {
                seen.grants += 1;
                seen.oldest = seen.oldest.max(age);
                if subject == Subject::Steady {
                    seen.steady_granted.push(during.start);
                }
                if age > bound {
                    seen.complaints.push(format!("{subject:?}: granted by a row of {age:?} ago"));
                }
            }
            503 if subject == Subject::Steady => seen.steady_refused.push(during.start),
            503 => {}
            denied if denied == subject.denial() && subject != Subject::Steady => {
                seen.denials += 1;
            }
            other => seen.complaints.push(format!("{subject:?}: {other}")),
        }
    }
}
