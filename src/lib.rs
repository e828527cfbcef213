//! nightporter: a forwardAuth sidecar for self-hosted boxes.
//!
//! A proxy asks nightporter about every request. nightporter answers from memory whether
//! the request may pass to its app, and with which headers. This page is the map of the
//! code, its invariants and the path of one request.
//!
//! # Vocabulary
//!
//! A **box** is the machine, with one default **identity** (`portal` in header templates).
//! An **app** is installed on it: a row and an `app_meta.json`. The **client** of a request
//! is a **terminal** (a paired device, known by its token), a **peer** (another box, known by
//! its signature) or anonymous. The **gate** answers one subrequest with a **verdict**: grant
//! or deny. To **wake** an app is to bring its containers from stopped, paused or missing to
//! ready. A **generation** counts the changes of a cached table: a cache entry is **fresh**
//! while it carries the current one, **stale** if something may have been missed (it may
//! serve for a while), and **invalid** once its row has changed.
//!
//! # Modules
//!
//! ```text
//! main.rs         the exit code, nothing else
//! cli/            one file for each subcommand
//! run/            the life of the process: wiring (who gets what, background tasks,
//!                 observers), tasks (essential and restarted ones), drain
//! config/         TOML and environment -> validated Config; no I/O after loading
//! domain/         pure rules: request (host, readings of a path), app (app_meta 1.0 to 1.3,
//!                 labels), identity, client, policy (who may), reason (why not), endpoint (the
//!                 contract's endpoints, kinds of verdict), names (which app a host names),
//!                 origin (the network of an address), observation (what observers are told of
//!                 a decision), trace (W3C Trace Context), strategy (what a request for a
//!                 sleeping app gets), lifecycle (phases, wake errors, when an app sleeps),
//!                 activity, alert (names of the rules)
//! gate/           decides one subrequest: forwarded (the proxy's headers), client (who asks,
//!                 by token or signature), credentials (how those are verified: terminal, peer,
//!                 management, pairing code), caches, description (an app's rules, shared by
//!                 apps that have the same: interner), headers (templates), verdict, decision
//!                 (verdict and basis), request_kind (page, program, stream, ...), wait and
//!                 redirects (requests for a sleeping app), cookies (what an app gets of them),
//!                 limits (who guesses, and how long that caller has to wait), page, explain
//! postgres/       a server and how to reach it: TLS, pool, transactions, advisory locks,
//!                 migrations; knows no table
//! store/          the box's data: postgres (queries, listen, triggers, migrate), files, the
//!                 app_meta folder, labels (what containers say), descriptions (a file, or else
//!                 labels; whole hosts); cache (moka, single flight), memo (per thread), derived,
//!                 freshness (generations), touch (uses written back), file_calls (calls to
//!                 files that may hang)
//! wake/           registry and handle (what the gate sees of an app), app_view and history (what
//!                 is shown and known of it), spec and specs (what its description asks for),
//!                 command (what the reconciler is asked), reconciler (decides what is done,
//!                 one action an app at a time), attempt (does it), docker (the engine: calls,
//!                 events), selector (which containers belong to an app), observed and roles
//!                 (what they mean together), compose, readiness, idle (finds unused apps), usage,
//!                 labelled (tells the store what labels say)
//! ledger/         the record: visits and actions (observers), rollup (counts of grants),
//!                 recorder (accepts, never waits), writer (batches), archive (SQLite or
//!                 Postgres behind one interface; sql: statements for both), spool and
//!                 dead_letter (what it did not take), canonical, seal and key (what is hashed
//!                 and signed), tree, checkpoint, proof, integrity and verify (the Merkle tree),
//!                 references (which records a record names), direct (records that a job or an act
//!                 writes in its transaction), history (filters and pages), acts (what an
//!                 operator asks for), remedy (what helps when a file cannot be used)
//! access/         who may use the operator's API: principal (rights, scope), token and tokens (a
//!                 row, and whose it is), table, masking (what is shown of personal values)
//! alerts/         what the operator has to know: rule (the rules, as data), denials and starts
//!                 (observers), measures (what each rule measures), transition (hysteresis),
//!                 shared_counts (denials of all processes), tracked (what this process finds bad),
//!                 plan (what changes, by what all processes observe), evaluator, outage (how
//!                 long the archive was away), firing (what probes show), message, silence, table
//! idempotency/    requests of the API that are done once: key (the header), fingerprint (which
//!                 requests are the same), answer (how it is sealed), table (who does one, and
//!                 its answer)
//! jobs/           periodic work, one file a job; runner and due (when a job is run, by the
//!                 database's clock), watch (the due time of a job that finds nothing to do),
//!                 lease (the lock of a long job)
//! webhooks/       messages to the outside: endpoint, outbox (queues an event in a
//!                 transaction), sender (leases, attempts), slots, retry (pure), message (what each
//!                 kind of receiver is sent), signature, address and connector (where
//!                 messages may go), authorities (whose certificates count), manage (what callers
//!                 of the API do), table (endpoints, deliveries, attempts), records (events of
//!                 new records)
//! pairing.rs      redeems a pairing code: terminal and token
//! upstream/       the shard_core beside nightporter: mirror (its idle clock), fallback
//!                 (management secrets), shadow (its verdicts compared with ours)
//! proxies/        what proxies are told: routes (hosts and address of each app), traefik (its
//!                 dynamic configuration), caddy and nginx (a file for each), yaml
//! http/           listeners, TLS, connections, bodies, routes (the gate's), api (the
//!                 operator's: one table of routes, a guard and the dispatch behind it, problem
//!                 documents, OpenAPI), probes, pages, pairing (the form), forms (how many are
//!                 read at a time), standby (what is answered while the gate is away); nothing
//!                 else knows hyper's server
//! telemetry/      logs (each line with its request's id), metrics, traces (spans for an
//!                 OpenTelemetry collector)
//! backoff.rs throttle.rs    waits between attempts; log lines at a bounded rate
//! descriptors.rs  how many connections may be open, and what is reserved for files
//! error_chain.rs  the text of an error with its causes
//! secret.rs       text that must reach no log
//! signals.rs      signals from outside: stop, reload
//! fuzzing.rs      what the fuzz targets (`fuzz/`) call
//! ```
//!
//! Arrows point one way: `main → cli → run`; `run → http → gate → store → postgres`;
//! `gate → wake → store`; `http → wake, store, ledger, jobs, proxies`;
//! `jobs → ledger, wake, postgres`;
//! `ledger → postgres, access` (masking); `http → access → ledger` (tokens are rows beside the
//! records); `jobs, http → webhooks → ledger`; `run, gate → upstream`;
//! `http → pairing → gate, store, ledger`; `telemetry → store, ledger` (their counts), and
//! all but `postgres` count and log through `telemetry`.
//! `domain` and `config` are read by all: `domain` imports nothing of this crate, `config` only
//! `domain` and what an endpoint is made of (`webhooks`), and `postgres` only `config`.
//!
//! Where a change goes:
//!
//! | change | file |
//! |---|---|
//! | a new setting | `config/keys.rs` |
//! | a column that is read, and heard when it changes | `store/postgres/queries.rs`, and `TABLES` in `triggers.rs` |
//! | another store | `Source` in `store.rs`, beside `store/postgres.rs` and `store/files.rs` |
//! | another label that describes an app | `domain/app/labels/read.rs` |
//! | whether a file or labels describe an app | `store/descriptions.rs` |
//! | what Traefik is told of an app | `proxies/traefik.rs` |
//! | another proxy | a file in `proxies/`, such as `caddy.rs`, and `cli/proxy.rs` |
//! | another kind of token | `gate/credentials/terminal.rs` |
//! | what follows a refused credential | `gate/client.rs`; how long who guesses has to wait, `gate/limits.rs` |
//! | which cookies reach an app | `gate/cookies.rs` |
//! | how a device is paired | `pairing.rs`, its form in `http/pairing.rs`; for how long a code is valid, `store/invitations.rs` |
//! | what is noted of every decision | an [`Observer`](domain::observation::Observer), added in `run/wiring.rs`; `VerdictLog` in `telemetry/logs.rs` is one |
//! | what is noted of every wake and sleep | an [`ActionObserver`](domain::observation::ActionObserver), added in `run/wiring.rs` |
//! | what is noted of every job's run | a [`JobObserver`](domain::observation::JobObserver), added in `run/wiring.rs` |
//! | what is recorded of a decision, of a wake | `ledger/visits.rs`, `ledger/actions.rs` |
//! | another kind of record, another field of one | `Kind` and `Record` in `ledger/record.rs`; the compiler names the other places |
//! | another event for endpoints | `webhooks/events.rs` |
//! | when a message is sent again, where it may go | `webhooks/retry.rs`, `webhooks/address.rs` |
//! | another kind of receiver | `EndpointKind` in `webhooks/endpoint.rs`, and what it is sent in `webhooks/message.rs` |
//! | by what records are filtered | `Filter` in `ledger/history.rs`; the compiler names the statements |
//! | how long records are kept | `age` in `jobs/retention.rs` |
//! | another archive | `ledger/archive.rs`, beside `archive/sqlite.rs` and `archive/postgres.rs` |
//! | periodic work, under a lock | a file in `jobs/`, added in `run/ledger.rs` |
//! | a background task | `run/wiring.rs` |
//! | another rule of alerts | `domain/alert.rs` and `alerts/rule.rs`; what it measures in `alerts/measures.rs`, added in `run/alerts.rs` |
//! | when an alert fires, what it says | `limits` and `texts` in `alerts/rule.rs` |
//! | how an alert is silenced | `alerts/table.rs`; how the operator writes for how long, `alerts/silence.rs` |
//! | a metric | `telemetry/meters.rs`; gauges are set when they are read, in `http/api/metrics.rs` |
//! | what is traced of a decision, of a wake, of a job | `telemetry/traces/observers.rs` |
//! | an operation or a page of the operator | the table in `http/api.rs`, with the right that it needs and the owner of its answers; its description in `http/api/openapi/operations.rs` |
//! | another right of a token | `Right` in `access/principal.rs` |
//! | a value that identifies a person | `Private` in `access/masking.rs`; where it is shown, a `Viewer` |
//! | what keeps tenants apart in Postgres | `ledger/archive/postgres/isolation/` |
//! | a page in place of an app | `http/pages.rs`; its texts, and another language, `http/pages/words/` |
//! | what is read of a request's body, such as a form | a handler of `http/api.rs`, which has the body already (`Call::body`, read by `http/body.rs`); of the gate's routes, `http/pairing.rs` reads one by `http/forms.rs`, and the others (`http/routes.rs`) drop them |
//! | an endpoint for proxies | `http/routes.rs` |
//! | when a failed attempt is repeated | `wake/reconciler/completion.rs` |
//!
//! # The path of one request
//!
//! 1. `http` accepts the connection, from a trusted proxy only, on a thread that it stays
//!    on, and passes the request's headers to [`gate::Gate::auth`].
//! 2. The gate reads `X-Forwarded-Host` and `X-Forwarded-Uri`; a repeated header is
//!    malformed. The host's first label names the app.
//! 3. The set of installed names says whether that app exists: an unknown host costs no
//!    query.
//! 4. If the app's rules differ, the path is read in every way a backend might read it
//!    ([`domain::request::Readings`]), and each reading finds its rule. The strictest wins;
//!    the headers are those of the raw reading's rule ([`domain::policy`]).
//! 5. The client is identified: by its token, else by its signature, else as anonymous. A
//!    verified token is cached together with the secret that verified it.
//! 6. Access is checked, headers are rendered or taken from the cache, the use is noted.
//! 7. A flag says whether the app is awake. If it is not, the reconciler is asked to wake
//!    it, and the request is passed on, held, or answered with a page, as the app's strategy
//!    and the kind of request say ([`gate::verdict::Asleep`]).
//! 8. Every cache entry that was used is checked once more: if a notification or time has
//!    outdated it, the gate decides again.
//! 9. The [`gate::decision::Decision`] becomes a response, and observers (metrics, logs, the
//!    comparison with an upstream) are told of both.
//!
//! In the steady state no step waits: there is no query, no lock that requests share, and
//! no write. (Two exceptions: signatures that may be used only once are looked up in one
//! place, under a lock; and a management secret that differs from the stored one may wait
//! for the upstream's answer.)
//!
//! # Sleeping apps
//!
//! The state of every app comes from the engine's events, so a running app costs the gate
//! one load of a flag, and the engine nothing. An event is a hint and an inspection is the
//! truth: whatever happens to a container causes an inspection, and when the stream of
//! events breaks, all containers are listed anew.
//!
//! One task, the reconciler, decides what is done to an app, one action at a time: wake,
//! follow (another process has started it), or put to sleep. Attempts run beside it. Each
//! holds the app's lock (an advisory lock in Postgres, for several processes on one box),
//! reads the status anew and acts on the actual state. A thousand requests send one command,
//! a command causes one attempt, and after a failed attempt the next waits longer. Starts of
//! different apps share a bounded number of slots.
//!
//! To put an app to sleep, the reconciler clears the flag first and checks for uses then,
//! while a request notes its use first and reads the flag then. So one of them sees the
//! other.
//!
//! # Caches
//!
//! Rows are kept in moka. [`store::Cached`] loads each in single flight, detached from the
//! requests that wait, and notes the generation *before* it reads. An entry is checked by
//! its generation wherever it is kept, so each thread has a memo of the entries that it used
//! last in front of moka, and a hit there writes to nothing that threads share.
//! [`store::Freshness`] holds the generations and knows whether notifications arrive. A
//! notification that overtakes a load makes the loaded entry invalid, and a cache that may
//! have missed a notification reads again.
//!
//! While the link to the store is *live*, a fresh entry is as good as a query. While it is
//! *degraded* (lost, or no heartbeat came back within two periods), an entry older than
//! `cache.degraded_ttl` is read again. If the store cannot answer, the entry serves until
//! `cache.max_stale` after it was last known to be right, and then the answer is 503. An
//! invalid entry never serves.
//!
//! # The ledger
//!
//! What is recorded is handed over as an [`Entry`](ledger::record::Entry), which is accepted
//! without waiting: it gets its identity, (writer, number), which is unique in every table, so
//! writing a record again changes nothing. Grants are counted on each thread and become
//! immutable deltas. The writer seals entries (salt, hash, code) and writes batches, each of
//! them one transaction or one file of the spool. A job gives records their positions and
//! keeps a Merkle tree over them; retention removes rows and leaves their hashes. An
//! operator's act is done only when its record is committed.
//!
//! When a job is due stands in the archive and is read under the job's lock, by the database's
//! clock: of several processes one runs it, once an interval.
//!
//! # Invariants
//!
//! 1. `domain` does no I/O and never reads a clock: time is a parameter.
//! 2. Only `store`, `postgres`, `ledger::archive` and the modules `table` (of alerts, tokens,
//!    idempotency keys and webhooks) speak SQL, only `wake::docker` speaks to the engine, only
//!    `http` accepts connections.
//! 3. A verdict never waits for a write. It waits for the engine only if the request is held
//!    or a waiting page polls.
//! 4. No error becomes a grant: no error type converts to one, and a panic is a 500. The
//!    upstream grants only by a complete answer with status 200 and the body `null`.
//! 5. A grant is never decided from a row that a processed notification has outdated, and
//!    never, under any fault, from one that was last known to be right more than
//!    `cache.max_stale` ago.
//! 6. Side effects (cache loads, starts, writes, requests to the upstream) run in tasks of
//!    their own: a handler is dropped when its client disconnects.
//! 7. Pages are shown, and apps started, only for requests that are granted.
//! 8. A secret, a token, a full client id or a client's name never reaches a log line or a
//!    metric label.
//! 9. An observer cannot change a verdict or delay a response by waiting.
//! 10. What the ledger has accepted is in the archive, in a dead letter, or counted as dropped.
//!     No error of it ends the process.
//! 11. Every row and every answer belongs to a tenant. A statement says which, and in Postgres
//!     row-level security says it again.
//! 12. A value that identifies a person is written only through a viewer.
//! 13. An advisory lock is taken in the transaction that does the work, or by a session that
//!     does nothing else and whose end its holder learns of.

pub mod access;
pub mod alerts;
mod backoff;
pub mod cli;
pub mod config;
mod descriptors;
pub mod domain;
mod error_chain;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod http;
pub mod idempotency;
pub mod jobs;
pub mod ledger;
mod pairing;
pub mod postgres;
pub mod proxies;
mod run;
mod secret;
mod signals;
pub mod store;
pub mod telemetry;
mod throttle;
pub mod upstream;
pub mod wake;
pub mod webhooks;

pub use http::Listeners;
#[doc(hidden)]
pub use http::{PageSample, operator_routes, page_samples};
pub use run::{RunError, run};
pub use signals::{Signal, from_process};
