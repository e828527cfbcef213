//! nightporter: a forwardAuth sidecar for self-hosted boxes.
//!
//! A proxy asks it about every request; it answers from memory who may pass,
//! and with which headers. This page is the map of the house, its invariants
//! and the way of one request.
//!
//! # The words
//!
//! A **box** is the machine, with one default **identity** (`portal` in header
//! templates). An **app** is installed on it: a row and an `app_meta.json`. The
//! **client** that asks is a **terminal** (a paired device, known by its
//! token), a **peer** (another box, known by its signature) or anonymous. The
//! **gate** answers a subrequest with a **verdict**. A **generation** counts
//! the changes of a cached table; an entry must carry the current one to be used.
//!
//! # The rooms
//!
//! ```text
//! main.rs      exit code only
//! cli/         one file a subcommand
//! run.rs       the life of the process: start, serve, reload, drain
//! backoff.rs   waits between attempts
//! throttle.rs  log lines that come once in a time
//! descriptors.rs  how many connections may be open, and what is kept for files
//! signals.rs   what the process is told from outside
//! config/      raw TOML and environment -> validated Config; no I/O after load
//! domain/      pure: request (host, readings of a path), app (app_meta 1.0 to
//!              1.3), identity, client, policy (who may), reason (why not),
//!              endpoint (what is asked and said), strategy (what a request for
//!              a sleeping app gets), lifecycle (phases, failures, who sleeps when)
//! gate/        one subrequest: forwarded (what the proxy says), credentials
//!              (terminal, peer, management), memory (what is cached), headers,
//!              verdict, asker and wait (what a request for a sleeping app gets),
//!              explain
//! postgres/    a server and how to reach it, without knowing a table: TLS, pools with
//!              queries and transactions, advisory locks, what is wrong now
//! store/       the box's truth: postgres (queries, listen, triggers, migrate), files
//!              and the app_meta folder; what is remembered of it (cache; memo, what
//!              each thread used last; derived, what was made of it), whether that is
//!              fresh (freshness), uses written back (touch), and calls to files that
//!              may hang (file_calls)
//! wake/        docker (the engine: calls, events), observed (an app's containers
//!              together), parts (what each of them means for it), waker (what is
//!              done, one thing at a time), attempt (the doing), compose, readiness,
//!              idle (who is not used any more)
//! ops/         what the operator's listener serves, as data
//! upstream/    the shard_core beside: mirror (its idle clock), fallback (management
//!              secrets), shadow (its verdicts compared with ours)
//! http/        listeners, TLS, routes, pages, standby (what is answered while the gate
//!              is away); nothing else knows hyper's server
//! telemetry/   logs and metrics
//! ```
//!
//! Arrows point one way: `main → cli → run`; `run → http → gate → store → postgres`;
//! `gate → wake → store`; `http → ops → wake`; `http, gate → upstream`; `gate, wake,
//! upstream → domain`; `domain` imports nothing of ours. `config` is read by all and
//! reads only `domain`; `postgres` reads nothing but `config`.
//!
//! # The way of one request
//!
//! 1. `http` accepts it, from a trusted proxy, on a thread that the connection stays
//!    on, and hands its headers to [`gate::Gate::auth`].
//! 2. `X-Forwarded-Host` and `-Uri` are read; a repeated header is malformed.
//!    The host's first label names the app.
//! 3. The set of installed names says whether there is such an app: a random
//!    host costs no query.
//! 4. Where the app's rules differ, the path is read in every way a backend might
//!    read it ([`domain::request::Readings`]), and each reading finds its rule. The
//!    strictest wins; the headers are those of the raw reading's rule
//!    ([`domain::policy`]).
//! 5. The client: its token, else its signature, else anonymous. A verified
//!    token is remembered together with the secret it was verified with.
//! 6. Access is checked, headers are rendered or remembered, the use is noted.
//! 7. One flag says whether the app is awake. If not, the reconciler is asked to bring it
//!    up, and the request is passed on, held, or answered with a page, by the app's
//!    strategy and by who asks ([`gate::verdict::Asleep`]).
//! 8. Every row that was used is asked once more whether a notification or time
//!    has outdated it meanwhile; if so, all is decided again.
//!
//! In the steady state no step waits for anything: there is no query, no lock
//! that requests share, and no write. (Two exceptions: signatures that may be
//! used once only are looked up in one place, under a lock; and a management
//! secret that is not the stored one may wait for the upstream's word.)
//!
//! # Sleep that nobody notices
//!
//! The state of every app comes from the engine's events, so a running app costs the
//! gate one load of a flag and the engine nothing. An event is a hint and an
//! inspection the truth: whatever happens to a container has it looked at, and when
//! the stream of events breaks all are listed anew.
//!
//! One task decides what is done to an app, one thing at a time: wake, follow (somebody
//! else has started it), or put to sleep. Attempts run beside it, hold the app's lock
//! (in Postgres an advisory lock, for several processes on one box), read the status
//! anew and act on the real state. A thousand requests are one order, an order is one
//! attempt, and a failed attempt is followed by a longer wait. Across apps, starts
//! queue for a bounded number of places.
//!
//! Whoever puts an app to sleep clears the flag first and looks for uses then, while a
//! request notes its use first and reads the flag then: one of the two sees the other.
//!
//! # Caches that cannot lie
//!
//! Rows live in moka. [`store::Cached`] loads in single flight, detached from who asks,
//! and notes the generation of what it reads *before* it reads. An entry is checked by
//! its generation wherever it is kept, so each thread has a memo of what it used last
//! in front of moka, and a hit there writes to nothing that threads share.
//! [`store::Freshness`] holds the generations and knows whether notifications arrive.
//! So a notification that overtakes a load outdates what the load brings, and a cache
//! that may have missed something reads again.
//!
//! While *live*, an undisturbed entry is as good as a query. *Degraded* (the
//! link is lost, or no heartbeat came back within two periods), an entry older
//! than `cache.degraded_ttl` is read again; where the store cannot answer, it
//! serves until `cache.max_stale` after it was last known to be good, and then
//! the answer is 503. An entry that a notification has outdated never serves.
//!
//! # Invariants
//!
//! 1. `domain` does no I/O and never reads a clock: time comes in as an argument.
//! 2. Only `store` and `postgres` speak SQL, only `wake::docker` speaks to the engine, only `http`
//!    accepts connections.
//! 3. A gate answer never waits for a write, and for the engine only where a request
//!    is held or a waiting page asks.
//! 4. No error becomes a grant: there is no conversion from any error type to
//!    one, and a panic is a 500. The upstream grants by a whole answer with 200
//!    and `null`, and nothing else it may say or fail to say does.
//! 5. A grant is never decided from a row that a processed notification has
//!    outdated, and never, under any fault, from one that was last known to be
//!    good more than `cache.max_stale` ago.
//! 6. Side effects (cache loads, starts, writes, questions to the upstream) run in
//!    tasks of their own: a handler is dropped when its client goes away.
//! 7. Pages are shown, and starts made, only for requests that are granted.
//! 8. A secret, a token, a full client id or a client's name never reaches a
//!    log line or a metric label.

mod backoff;
pub mod cli;
pub mod config;
mod descriptors;
pub mod domain;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod http;
mod ops;
pub mod postgres;
mod run;
mod signals;
pub mod store;
pub mod telemetry;
mod throttle;
pub mod upstream;
pub mod wake;

pub use http::Listeners;
#[doc(hidden)]
pub use http::{PageSample, page_samples};
pub use run::{RunError, run};
pub use signals::{Signal, from_process};
