//! The store's faults: no grant older than the documented bound, no error
//! within it, and recovery without a restart.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

mod process;
mod verifier;

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::boxes::{SampleBox, Store, TERMINAL_SECRET};
use crate::support::chaos::{ChaosProxy, Network};
use crate::support::client::{Request, poll};
use crate::support::postgres::Cluster;
use crate::support::server::{Nightporter, config};
use crate::support::sign;

use verifier::{HEARTBEAT, LIVE_BOUND, MAX_STALE, RECOVERY, TIMES, Verifier, furnish};

/// Shorter than `max_stale` even for what was verified two heartbeats before.
const SHORT: Duration = Duration::from_millis(1500);
/// For so long after a fault begins nobody may be refused: `max_stale` counts
/// from the last heartbeat, and the machine is busy.
const SURELY_SERVED: Duration = Duration::from_millis(6000 - 2 * 200 - 2100);
/// Longer than `max_stale`.
const LONG: Duration = Duration::from_millis(6000 + 1500);

/// What a test expects of a fault.
struct Fault<'a> {
    name: &'a str,
    length: Duration,
    /// Whether the gate may hear of changes that it cannot read then.
    hears: bool,
    /// How old a granting truth may be.
    bound: Duration,
}

impl<'a> Fault<'a> {
    fn short(name: &'a str) -> Self {
        Self { name, length: SHORT, hears: true, bound: MAX_STALE }
    }
}

/// A box in Postgres, its gate behind a network that breaks, and a verifier.
struct Town {
    verifier: Verifier,
    _porter: Nightporter,
    proxy: ChaosProxy,
    sample: SampleBox,
}

impl Town {
    async fn new() -> Self {
        Self::in_cluster(Cluster::shared()).await
    }

    async fn in_cluster(cluster: &Cluster) -> Self {
        let database = cluster.database().await;
        let proxy = ChaosProxy::before(database.server_address()).await;
        let sample = SampleBox::in_database(Store::Postgres, Some(database)).await;
        furnish(&sample).await;
        let url = sample.database().url_at(proxy.address);
        let porter = Nightporter::start(config(&(sample.store_config_with(Some(&url)) + TIMES)));
        porter.ready().await;
        let verifier = Verifier::begin(&sample, porter.gate, porter.ops);
        Self { verifier, _porter: porter, proxy, sample }
    }

    /// Lets a fault run its course while a terminal and, where the gate cannot
    /// hear of it, an app are deleted; what never changes is served throughout.
    ///
    /// An app that goes outdates the set of names, without which no app is
    /// served: where the gate hears of that but cannot ask, refusing is right.
    async fn outlives(&self, fault: &Fault<'_>, breaking: impl AsyncFnOnce(Duration)) {
        let (verifier, name) = (&self.verifier, fault.name);
        let resting = verifier.rests(name).await;
        verifier.allow(fault.bound);
        let began = Instant::now();
        let deleting = async {
            tokio::time::sleep(HEARTBEAT / 8).await;
            resting.delete_terminal().await;
            if !fault.hears {
                resting.delete_app().await;
            }
        };
        tokio::join!(breaking(fault.length), deleting);
        verifier.settled(name).await;
        let recovered = Instant::now();
        drop(resting);
        // A machine may take longer to recover than it is believed.
        let within = recovered.min(began + SURELY_SERVED);
        assert_eq!(verifier.refused(began, within), 0, "{name}: refused within the bound");
        assert!(verifier.granted(began, recovered) > 0, "{name}: nothing was asked");
        println!("{name}: live again {:?} after it began", recovered - began);
        self.is_well(name).await;
    }

    /// Lets the network be so for longer than the bound: served within it, and
    /// refused beyond it.
    async fn refuses_beyond_the_bound(&self, network: Network) {
        let (verifier, fault) = (&self.verifier, format!("{network:?}, for {LONG:?}"));
        let resting = verifier.rests(&fault).await;
        verifier.allow(MAX_STALE);
        let began = Instant::now();
        self.proxy.set(network);
        resting.delete_terminal().await;
        if network != Network::LoseQuestions {
            resting.delete_app().await;
        }
        tokio::time::sleep(LONG).await;
        let bound = began + MAX_STALE;
        assert_eq!(verifier.granted(bound, Instant::now()), 0, "{fault}: granted beyond the bound");
        assert!(verifier.refused(bound, Instant::now()) > 0, "{fault}: nobody was refused");
        let surely_within = began + SURELY_SERVED;
        assert_eq!(verifier.refused(began, surely_within), 0, "{fault}: refused within the bound");
        self.proxy.set(Network::Pass);
        let healed = Instant::now();
        verifier.settled(&fault).await;
        println!("{fault}: live again {:?} after it ended", healed.elapsed());
        drop(resting);
        self.is_well(&fault).await;
    }

    /// After a fault: every answer is right, and new changes are heard again.
    async fn is_well(&self, fault: &str) {
        self.verifier.agrees(fault).await;
        self.verifier.allow(LIVE_BOUND);
        let well = Instant::now();
        poll("grants and denials", RECOVERY, async || {
            self.verifier.granted(well, Instant::now()) > 20
        })
        .await;
        assert_eq!(self.verifier.refused(well, Instant::now()), 0, "{fault}: refused when well");
        self.verifier.agrees(fault).await;
        self.verifier.judge(fault);
    }

    async fn network_fails(&self, network: Network, hears: bool) {
        let breaking = async |length| {
            self.proxy.set(network);
            tokio::time::sleep(length).await;
            self.proxy.set(Network::Pass);
        };
        let name = format!("{network:?}, for {SHORT:?}");
        self.outlives(&Fault { hears, ..Fault::short(&name) }, breaking).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_is_outlived() {
    let town = Town::new().await;
    town.network_fails(Network::Cut, false).await;
    town.refuses_beyond_the_bound(Network::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_network_is_outlived() {
    let town = Town::new().await;
    town.network_fails(Network::Stall, false).await;
    town.refuses_beyond_the_bound(Network::Stall).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_half_open_are_outlived() {
    let town = Town::new().await;
    town.network_fails(Network::LoseAnswers, false).await;
    town.refuses_beyond_the_bound(Network::LoseAnswers).await;
    town.network_fails(Network::LoseQuestions, true).await;
    town.refuses_beyond_the_bound(Network::LoseQuestions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_is_outlived() {
    let town = Town::new().await;
    town.network_fails(Network::Delay(Duration::from_millis(20)), true).await;
    // Too slow for any query, while notifications trickle in.
    town.network_fails(Network::Delay(Duration::from_millis(300)), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_comes_and_goes_is_outlived() {
    let town = Town::new().await;
    let flap = async |length: Duration| {
        let end = Instant::now() + length;
        for round in 0_u64.. {
            for (network, wait) in
                [(Network::Cut, 50 + round * 83 % 250), (Network::Pass, 50 + round * 131 % 250)]
            {
                town.proxy.set(network);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            if Instant::now() > end {
                break;
            }
        }
    };
    town.outlives(&Fault::short("flapping"), flap).await;
    // Now with an app that goes: right answers, though not always one.
    let fault = "flapping, with apps";
    let resting = town.verifier.rests(fault).await;
    town.verifier.allow(MAX_STALE);
    let deleting = async {
        tokio::time::sleep(HEARTBEAT).await;
        tokio::join!(resting.delete_terminal(), resting.delete_app());
    };
    tokio::join!(flap(LONG), deleting);
    town.verifier.settled(fault).await;
    drop(resting);
    town.is_well(fault).await;
}

const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'nightporter'";

/// The backend of the connection that listens: others either sent heartbeats or read rows.
const LISTENER: &str = "SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'nightporter'
        AND query LIKE '%pg_catalog.pg_trigger%' AND query NOT LIKE '%pg_notify%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_backends_are_outlived() {
    let town = Town::new().await;
    let database = town.sample.database();
    let terminate = async |length: Duration| {
        let end = Instant::now() + length;
        let mut ended = 0;
        while Instant::now() < end {
            ended += database.client.query(TERMINATE, &[]).await.unwrap().len();
            tokio::time::sleep(HEARTBEAT).await;
        }
        assert!(ended > 0, "none was ended");
    };
    town.outlives(&Fault::short("pg_terminate_backend"), terminate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_lost_alone_is_outlived() {
    let town = Town::new().await;
    let database = town.sample.database();
    let listeners = async || -> Vec<i32> {
        let rows = database.client.query(LISTENER, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let end = async |_| {
        let ended = listeners().await;
        assert_eq!(ended.len(), 1, "{ended:?}");
        let sql = "SELECT pg_terminate_backend($1)";
        database.client.query(sql, &[&ended[0]]).await.unwrap();
        poll("a new listener", RECOVERY, async || {
            let now = listeners().await;
            now.len() == 1 && now != ended
        })
        .await;
    };
    town.outlives(&Fault::short("only the listener ended"), end).await;

    // A backend that hangs: queries work, nothing is heard, nothing is closed.
    let hang = async |length| {
        let stopped = listeners().await;
        assert_eq!(stopped.len(), 1, "{stopped:?}");
        let _going_on = Stopped::now(stopped[0].unsigned_abs());
        tokio::time::sleep(length).await;
    };
    let name = "only the listener hangs";
    let fault = Fault { name, length: LONG, hears: false, bound: LIVE_BOUND };
    town.outlives(&fault, hang).await;
}

/// A process that stands still as long as this value lives.
struct Stopped(u32);

impl Stopped {
    fn now(process: u32) -> Self {
        signal(process, "STOP");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.unwrap().success(), "kill -{name} {process}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_and_a_restart_of_the_server_are_outlived() {
    let cluster = Cluster::own();
    let town = Town::in_cluster(&cluster).await;
    for (fault, down) in [("a crash", Duration::ZERO), ("a crash, for long", LONG)] {
        let verifier = &town.verifier;
        let resting = verifier.rests(fault).await;
        verifier.allow(MAX_STALE);
        // Nobody may ever hear of this.
        resting.delete_terminal().await;
        let began = Instant::now();
        cluster.crash().await;
        if down > Duration::ZERO {
            let bound = Instant::now() + MAX_STALE;
            tokio::time::sleep(down).await;
            assert_eq!(verifier.granted(bound, Instant::now()), 0, "{fault}: beyond the bound");
            assert!(verifier.refused(bound, Instant::now()) > 0, "{fault}: nobody was refused");
        }
        cluster.start().await;
        verifier.settled(fault).await;
        println!("{fault}: live again {:?} after it began", began.elapsed());
        if began.elapsed() < SURELY_SERVED {
            let refused = verifier.refused(began, Instant::now());
            assert_eq!(refused, 0, "{fault}: refused within the bound");
        }
        drop(resting);
        town.is_well(fault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_breaks_serves_until_the_bound_and_returns() {
    let sample = SampleBox::new(Store::Files).await;
    furnish(&sample).await;
    let porter = Nightporter::with(
        &sample,
        "[cache]\nheartbeat = \"100ms\"\ndegraded_ttl = \"100ms\"\nmax_stale = \"4s\"\n",
    )
    .await;
    let token = sign::token(TERMINAL_SECRET, "steady");
    let question = Request::auth("steady.box.test", "/").cookie(token);
    for file in ["terminals.toml", "identity.toml"] {
        porter.until(200, &question).await;
        let path = sample.folder().join(file);
        let whole = std::fs::read(&path).unwrap();
        let began = Instant::now();
        std::fs::write(&path, "[[is not\ncomplete = ").unwrap();
        let (mut refused_at, mut granted_at) = (None, Duration::ZERO);
        // Nothing that is read again meanwhile makes it younger.
        while refused_at.is_none_or(|at| began.elapsed() < at + Duration::from_secs(2)) {
            let asked = began.elapsed();
            assert!(asked < RECOVERY, "{file}: never refused");
            match porter.ask(&question).await.status {
                200 => {
                    assert_eq!(refused_at, None, "{file}: served again at {asked:?}");
                    granted_at = asked;
                }
                503 => _ = refused_at.get_or_insert(asked),
                other => panic!("{file}: {other}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{file}: broken; refused after {refused_at:?}");
        // It may have been good until a while after it was broken, and no longer.
        assert!(granted_at < Duration::from_secs(5), "{file}: granted at {granted_at:?}");
        assert!(refused_at > Some(Duration::from_secs(1)), "{file}: refused at {refused_at:?}");
        std::fs::write(&path, whole).unwrap();
    }
    porter.until(200, &question).await;
}
