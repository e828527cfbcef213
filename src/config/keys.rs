//! The table of keys: each is declared here and nowhere else, with its type, its default and
//! its documentation. The documented file, the schema, the names of variables, the typed
//! sections and the comparison of two configurations are derived from it.
//!
//! The struct of a section is what the program sees. A struct whose name ends in `Keys` has
//! keys that decide together: `load` makes one value of another type of them.
//!
//! A new key also changes what is generated: write the output of `nightporter config example`
//! to `config/nightporter.toml`, and add the key to the settings in the README. Tests compare
//! both with this table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;

use super::fallbacks;
use super::key::Fallback::{Computed, Secret as SecretText, Unset, Value};
use super::key::Literal::{Boolean, Integer, List, Text};
use super::key::{Key, Section, Table, sections};
use super::reader::Reader;
use super::setting::{
    AlertRules, AllowedHosts, ByApp, Bytes, CertificateNames, Count, DockerHost, EventPatterns,
    HostName, Kind, LedgerKind, LogFilter, LowerCase, Names, OtlpHeaders, OtlpUrl, Percentage,
    Program, QuietHours, ReadableFile, Setting, UpstreamUrl, ZoneName,
};
use super::{
    Activity, ArchiveKind, DockerEndpoint, Grants, HeaderEncoding, ListenAddr, LogFormat,
    PathMatching, Rule, Secret, StoreKind, StrategyChoice, StreamWakes, Tls,
};
use crate::webhooks::address::Allowed;
use crate::webhooks::endpoint::{EndpointKind, EventPattern};
use crate::webhooks::quiet::{Quiet, Zone};

sections! {
    /// The listener for subrequests of the proxies.
    ["gate"] pub struct Gate {
        /// `ip:port`, `[ipv6]:port` or `unix:/path`. Port 0 takes a free port and prints it.
        listen: ListenAddr = Value(Text("127.0.0.1:8400"));
        /// Networks of the proxies that may connect; all other connections are closed unread.
        /// Name the proxies' own networks, as narrow as possible: every host in them can write any
        /// X-Forwarded-* headers. A range such as 172.16.0.0/12 or 100.64.0.0/10 covers every
        /// container, or every device of a tailnet and everything that shares a carrier's NAT (CGNAT).
        trusted_proxies: Vec<IpNet> = Value(List(&["127.0.0.0/8", "::1/128"]));
        /// Connections at one time; fewer if the process may open fewer files, some of which are
        /// reserved for the store and for `ops.listen`. When half of them are open, idle connections
        /// are closed.
        max_connections: usize as Count<usize, 1, 1_000_000> = Value(Integer(10_000));
        /// Connections from one address at one time; never more than three quarters of all.
        max_connections_per_address: usize as Count<usize, 1, 1_000_000> = Value(Integer(7_500));
        /// If set, only `<app>.<domain>` names an app. If unset, the rest of the host is ignored.
        domain: Option<String> as Option<HostName> = Unset(Text("box.example"));
        /// "prefix": the key /pub of an app's paths also governs /public, as in FreeShard.
        /// "segment": it governs only /pub and /pub/...
        path_matching: PathMatching = Value(Text("prefix"));
        /// Response headers: "latin1" sends `?` for characters beyond it, "utf8" sends them as they are.
        header_encoding: HeaderEncoding = Value(Text("latin1"));
        /// A grant has a Cookie header: the client's cookies without the terminal's token. A proxy that
        /// copies it over the client's, as those of the shipped files do, keeps the token from the
        /// apps. If false, no grant has it, and a proxy that copies it leaves apps no cookies at all.
        /// If unset, it is false with the store "postgres".
        hide_token: bool = Computed(Boolean(true), fallbacks::hide_token);
        /// Whether /.nightporter/pair, on every host of the box, pairs a device that shows a code of
        /// `nightporter terminal add`. The proxy has to route /.nightporter/ to the gate. If unset, it
        /// is false with the store "postgres", whose own program pairs devices.
        pairing: bool = Computed(Boolean(true), fallbacks::pairing);
        /// Refuse a peer's signature that was seen before even if it has no nonce.
        refuse_replays: bool = Value(Boolean(false));
        /// Apps whose private paths let CORS preflights (OPTIONS, which never carry credentials)
        /// pass to the app, without headers and without waking it. An app can also request this by
        /// `"cors_preflight": true` in its `app_meta.json`.
        cors_preflight: Vec<String> as Names = Unset(List(&["notes"]));
        /// How long connections may take to finish at a shutdown before they are cut.
        drain_timeout: Duration = Value(Text("10s"));
    } with {
        tls: Option<Tls>,
    }

    /// TLS on the gate's listener, and HTTP/2 with it. Traefik's subrequests are faster over HTTP/2.
    ["gate.tls"] pub(super) struct TlsKeys {
        /// PEM file of the certificate, read again when it changes. Needs `key`.
        certificate: Option<PathBuf> as Option<ReadableFile> = Unset(Text("/etc/nightporter/gate.pem"));
        /// PEM file of the certificate's private key, read again when it changes.
        key: Option<PathBuf> as Option<ReadableFile> = Unset(Text("/etc/nightporter/gate.key"));
        /// Create an authority and a certificate at the first start, keep and renew them.
        self_signed: bool = Value(Boolean(false));
        /// The folder of that authority and certificate; proxies trust the file `ca.pem` in it.
        directory: PathBuf = Value(Text("tls"));
        /// Host names and addresses for which the self-signed certificate is valid.
        names: Vec<String> as CertificateNames = Value(List(&["nightporter", "localhost"]));
        /// PEM file of the authorities whose client certificates are accepted; if unset, no client
        /// certificate is required.
        client_ca: Option<PathBuf> as Option<ReadableFile> = Unset(Text("/etc/nightporter/proxies.pem"));
    }

    /// The listener for probes, metrics and the operator.
    ["ops"] pub struct Ops {
        /// As `gate.listen`.
        listen: ListenAddr = Value(Text("127.0.0.1:8401"));
        /// Bearer token, 16 characters or more; required unless only this machine can reach `listen`.
        token: Option<Secret> = SecretText("...", "/run/secrets/ops_token");
        /// Without a token, /v1 and /metrics answer only requests whose host is an IP address,
        /// localhost or one of these names: a web page can make its own name point here (DNS
        /// rebinding).
        hosts: Vec<String> as CertificateNames = Unset(List(&["porter.lan"]));
        /// Networks of programs that may ask `/v1/status` and `/v1/traefik` without the token: of a
        /// monitor, and of the proxy.
        monitors: Vec<IpNet> = Unset(List(&["172.31.84.0/24"]));
        /// Count verdicts by app and rule (`nightporter_app_verdicts_total`): at most 500 pairs get a
        /// series of their own, further ones are counted together.
        app_metrics: bool = Value(Boolean(true));
    }

    /// What Traefik is told: by its HTTP provider, at `/v1/traefik` of the operator's listener, and
    /// by `nightporter traefik`.
    ["traefik"] pub struct Traefik {
        /// The URL at which Traefik reaches the gate. If unset, the address of `gate.listen`.
        address: Option<String> = Unset(Text("http://nightporter:8400"));
        /// Entry points of the apps' routers. If unset, Traefik's default entry points.
        entrypoints: Vec<String> as Names = Unset(List(&["websecure"]));
        /// Whether the apps' routers use TLS.
        tls: bool = Value(Boolean(false));
        /// The resolver of their certificates; they use TLS if it is set.
        cert_resolver: Option<String> = Unset(Text("letsencrypt"));
        /// Further middlewares of the apps' routers, in front of nightporter's.
        middlewares: Vec<String> as Names = Unset(List(&["headers@file"]));
        /// Where Traefik finds the authority of the gate's certificate, if elsewhere than this process.
        ca: Option<PathBuf> = Unset(Text("/etc/traefik/nightporter/ca.pem"));
        /// Where Traefik finds its client certificate for the gate, if `gate.tls.client_ca` requires one.
        cert: Option<PathBuf> = Unset(Text("/etc/traefik/client.pem"));
        /// Where Traefik finds the private key of that certificate.
        key: Option<PathBuf> = Unset(Text("/etc/traefik/client.key"));
    }

    /// Where the box's data is stored.
    ["store"] pub(super) struct StoreKeys {
        /// "files": a watched folder. "postgres": FreeShard's tables, or the same tables created here.
        /// If unset, it is "postgres" when a URL is given, else "files".
        kind: Kind = Computed(Text("files"), fallbacks::kind);
        /// files: the folder of identity.toml, terminals.toml, peers.toml and `installed_apps`.
        path: PathBuf = Value(Text("box"));
        /// files: the key of terminal tokens, 32 bytes or more, instead of the one in the folder.
        terminal_jwt_secret: Option<Secret> =
            SecretText("...", "/run/secrets/terminal_jwt_secret");
        /// postgres: a URL or `host=... user=...`, as for libpq; required.
        url: Option<Secret> = SecretText(
            "postgres://nightporter:password@localhost/box",
            "/run/secrets/database_url"
        );
    }

    /// The database.
    ["store"] pub struct Postgres {
        /// postgres: the maximum number of connections, besides the one that listens for changes.
        pool_size: u32 as Count<u32, 1, 10_000> = Value(Integer(20));
        /// postgres: how long a query may wait for a connection.
        pool_timeout: Duration = Value(Text("10s"));
        /// postgres: how long the database may take to accept a connection.
        connect_timeout: Duration = Value(Text("5s"));
        /// postgres: how long one query may take before its connection is given up.
        query_timeout: Duration = Value(Text("5s"));
        /// postgres: whether missing FreeShard tables may be created.
        create_tables: bool = Value(Boolean(true));
    } with {
        url: Secret,
    }

    /// Where the box's data is stored.
    ["store"] pub struct Store {
        /// The folder of `<app>/app_meta.json`. Required for postgres; for files it is
        /// `installed_apps` in `path`.
        installed_apps_dir: PathBuf = Computed(Text("/home/shard/installed_apps"), fallbacks::installed_apps_dir);
        /// The end of a box's domain if none is stored; it begins with the first `prefix_length`
        /// characters of the box's id.
        zone: String as HostName = Value(Text("freeshard.cloud"));
        /// The number of characters of the box's id with which its domain begins.
        prefix_length: usize as Count<usize, 1, 63> = Value(Integer(6));
        /// Whether labels of containers describe apps, besides `app_meta.json` files, which take
        /// precedence. If unset, true for files without an upstream. Needs `wake.enabled`.
        labels: bool = Computed(Boolean(true), fallbacks::labels);
    } with {
        kind: StoreKind,
    }

    /// How long cache entries are used.
    ["cache"] pub struct Cache {
        /// The maximum number of entries in one cache: as many as there are apps, or terminals. An entry
        /// that does not fit is read from the store for each request.
        capacity: u64 as Count<u64, 1, 1_000_000_000> = Value(Integer(250_000));
        /// An entry is read again at this age even if no change was notified.
        ttl: Duration = Value(Text("1h"));
        /// The same age while the store's notifications cannot be relied on.
        degraded_ttl: Duration = Value(Text("1s"));
        /// How long the gate serves from memory while the store cannot confirm its entries; after that
        /// it answers 503. At least two heartbeats.
        max_stale: Duration = Value(Text("60s"));
        /// Period of the heartbeat that proves that notifications arrive.
        heartbeat: Duration = Value(Text("5s"));
    }

    /// How the last uses of apps and terminals are written back to the store.
    ["touch"] pub struct Touch {
        /// How often uses are written to the store.
        flush_interval: Duration = Value(Text("10s"));
        /// `last_access` of an app is written at most once in this time.
        last_access_every: Duration = Value(Text("60s"));
    }

    /// How sleeping apps are woken when they are requested.
    ["wake"] pub struct Wake {
        /// Whether nightporter manages containers at all. If no engine answers, every app counts as
        /// awake.
        enabled: bool = Value(Boolean(true));
        /// The response to a granted request for a sleeping app: "page", a page that opens the app
        /// when it is ready; "hold", the app's own response, later; "pass", the grant at once.
        /// "auto": "page" for navigations of a browser, "hold" for all other requests; beside an
        /// upstream, "pass".
        strategy: StrategyChoice = Value(Text("auto"));
        /// The strategy by app; takes precedence over `wake` in its `app_meta.json`.
        apps: BTreeMap<String, StrategyChoice> as ByApp<StrategyChoice> = Unset(List(&["notes=hold"]));
        /// Shortest time between two attempts to wake one app. After a failed attempt, the next one
        /// first waits for this time, then for increasing times up to `longest_backoff`.
        throttle: Duration = Value(Text("5s"));
        /// The longest time between a failed attempt and the next one.
        longest_backoff: Duration = Value(Text("5m"));
        /// Starts in progress at one time; further apps queue. A start that is not ready after 10s no
        /// longer counts, and unpausing does not count.
        max_concurrent: usize as Count<usize, 1, 1000> = Value(Integer(2));
        /// How long an app may take from its start until it is ready.
        start_timeout: Duration = Value(Text("60s"));
        /// Longest time a request is held, 25s at most: Traefik gives up after 30.
        hold_timeout: Duration = Value(Text("25s"));
        /// Requests and waiting pages that are held at one time; a request counts once for each 16 KiB
        /// of its size. Further requests are answered at once.
        max_held: usize as Count<usize, 1, 1_000_000> = Value(Integer(4096));
        /// How often a request that was held in vain is redirected to its own address (307), and so
        /// held again; then 503. 15 at most, since clients give up after 10 to 50; 0 for never.
        max_redirects: u32 as Count<u32, 0, 15> = Value(Integer(8));
        /// Compose, for apps whose containers are missing; if unset, `docker compose` or
        /// `docker-compose`.
        compose_command: Vec<String> as Program = Unset(Text("docker compose"));
        /// A folder on the volume whose free space counts; if unset, `store.installed_apps_dir`.
        data_dir: PathBuf = Computed(Text("/home/shard"), fallbacks::data_dir);
        /// With less free space, no app is started, and running apps are stopped.
        min_free_disk: u64 as Bytes = Value(Text("1 GiB"));
    } with {
        docker: DockerEndpoint,
        ignore: Ignore,
        streams: Streams,
    }

    /// The container engine.
    ["wake"] pub(super) struct EngineKeys {
        /// `unix:///path` or `tcp://host:port`; if unset, `DOCKER_HOST` counts, then
        /// /var/run/docker.sock.
        docker: Option<DockerHost> = Computed(Text("unix:///var/run/docker.sock"), fallbacks::docker);
        /// tcp: the folder of ca.pem, cert.pem and key.pem for TLS; if unset, `DOCKER_CERT_PATH` counts
        /// when `DOCKER_TLS_VERIFY` is set.
        docker_certificates: Option<PathBuf> =
            Computed(Text("/etc/nightporter/docker"), fallbacks::docker_certificates);
    }

    /// Requests that wake nothing and do not count as use, such as those of health checkers.
    ["wake.ignore"] pub struct Ignore {
        /// Parts of a User-Agent, in any letter case.
        user_agents: Vec<String> as LowerCase = Unset(List(&["Uptime-Kuma"]));
        /// Beginnings of a path.
        paths: Vec<String> as Names = Unset(List(&["/healthz"]));
        /// The status they get while the app sleeps, with `X-Nightporter-State: asleep`: asleep is not
        /// down. A 2xx would tell the proxy to ask the app, so the gate answers 489 instead, which the
        /// shipped proxy files and `nightporter traefik` turn into this status.
        status: StatusCode = Value(Integer(200));
    }

    /// Streams (`EventSource`, WebSocket) are reopened by the scripts of tabs that nobody looks at.
    /// If no other request has asked for the app since it fell asleep, streams wake nothing and get
    /// 503 until a user opens the app.
    ["wake.streams"] pub struct Streams {
        /// Which streams wake it nonetheless: "programs" (not those of a page in a browser), "all",
        /// "none". If unset, it is "programs" without an upstream and "all" beside one.
        wake: StreamWakes = Computed(Text("programs"), fallbacks::streams_wake);
        /// Which streams wake an app, by app. Use "all" for an app whose page is kept by the browser
        /// and begins with a stream.
        apps: BTreeMap<String, StreamWakes> as ByApp<StreamWakes> = Unset(List(&["chat=all"]));
    }

    /// How unused apps are put to sleep.
    ["sleep"] pub struct Sleep {
        /// Whether nightporter puts apps to sleep. If unset, it is true without an upstream and false
        /// beside one, which does so itself.
        enabled: bool = Computed(Boolean(true), fallbacks::sleep_enabled);
        /// How often nightporter looks for unused apps.
        interval: Duration = Value(Text("10s"));
        /// Whether apps are paused before they are stopped.
        pause: bool = Value(Boolean(true));
        /// When unused apps are paused, if their `app_meta.json` does not say it.
        idle_for_pause: Duration = Value(Text("60s"));
        /// When unused apps are stopped, if their `app_meta.json` does not say it.
        idle_for_stop: Duration = Value(Text("3h"));
        /// For this long after its start, nightporter puts no app to sleep.
        hold_off: Duration = Value(Text("2m"));
        /// What counts as use besides granted requests: "traffic" (streams, downloads, WebSockets),
        /// "exec" (a command run by `docker exec`), "cpu" (processor time), joined by `+`, or "none".
        activity: Activity = Value(Text("traffic+exec"));
        /// What counts as use, by app; takes precedence over `activity` in its `app_meta.json`. Use
        /// "exec" for an app that receives requests from a scraper on its network.
        apps: BTreeMap<String, Activity> as ByApp<Activity> = Unset(List(&["grafana=exec"]));
        /// traffic: bytes both to and from an app within `interval`, without the traffic between its
        /// containers. The default is the smallest TCP segment: anything smaller is background traffic
        /// of an unused network.
        activity_bytes: u64 as Bytes = Value(Text("54 B"));
        /// cpu: percentage of one processor within `interval`, over all containers of an app.
        activity_cpu: u64 as Count<u64, 1, 100_000> = Value(Integer(10));
        /// Percentage of time that tasks wait for memory (PSI, some avg10) above which the app that was
        /// used least recently is paused or stopped early; 0 for never.
        memory_pressure: Option<u8> as Percentage = Value(Integer(10));
        /// Whether a paused app's memory is given back to the box (cgroup v2, memory.reclaim).
        reclaim: bool = Value(Boolean(true));
    }

    /// The record of requests, and of what was done about them.
    ["ledger"] pub struct Ledger {
        /// Whether a record is kept.
        enabled: bool = Value(Boolean(true));
        /// The folder of the database (sqlite), of the key that signs checkpoints, of the checkpoints
        /// and of the spool. Keep it on a volume.
        path: PathBuf = Value(Text("ledger"));
        /// What is recorded of granted requests: "rollup", their number by app, client, rule and
        /// minute; "all", each of them; "off", nothing.
        grants: Grants = Value(Text("rollup"));
        /// Denials, wakes and failures are written at most this long after they happened, 10s at most.
        flush_interval: Duration = Value(Text("200ms"));
        /// Shortest time between two signed checkpoints.
        checkpoint_interval: Duration = Value(Text("60s"));
        /// How often a batch that the database refused is replayed before it waits for the operator.
        max_retries: u32 as Count<u32, 1, 1_000_000> = Value(Integer(20));
        /// Bytes of the spool, which keeps what the database does not take; 8 MiB or more. When it is
        /// full, counts of grants are dropped first, then what is oldest.
        max_spool: u64 as Bytes = Value(Text("256 MiB"));
        /// Bytes of the record in the database; 16 MiB or more. When it is full, counts of grants and
        /// visits are removed, the oldest first.
        max_size: u64 as Bytes = Value(Text("1 GiB"));
        /// How long visits are kept.
        keep_visits: Duration = Value(Text("90d"));
        /// How long the counts of grants and denials are kept.
        keep_grants: Duration = Value(Text("90d"));
        /// How long wakes and sleeps are kept.
        keep_wakes: Duration = Value(Text("90d"));
        /// How long the operator's acts are kept.
        keep_acts: Duration = Value(Text("365d"));
        /// How long the results of jobs are kept.
        keep_jobs: Duration = Value(Text("30d"));
    } with {
        archive: ArchiveKind,
    }

    /// The database of the record.
    ["ledger"] pub(super) struct LedgerKeys {
        /// "sqlite": `ledger.db` in `path`. "postgres": the schema `nightporter_ledger`, which several
        /// boxes may share. If unset, it is "postgres" when `url` is given or the store is, else
        /// "sqlite".
        kind: LedgerKind = Computed(Text("sqlite"), fallbacks::ledger_kind);
        /// postgres: as `store.url`, which counts if this is unset. The pool's size and times are those
        /// of the store.
        url: Option<Secret> = SecretText(
            "postgres://nightporter:password@localhost/ledger",
            "/run/secrets/ledger_url"
        );
    }

    /// How often periodic work is done, by all processes on one database together. A run that
    /// finds nothing to do writes nothing.
    ["jobs"] pub struct Jobs {
        /// Give new records their places in the tree.
        integrity: Duration = Value(Text("5s"));
        /// Remove records that have been kept for long enough.
        retention: Duration = Value(Text("1h"));
        /// Replay what the database refused.
        dead_letters: Duration = Value(Text("30s"));
        /// Ask up to 20 awake apps whether they answer.
        probes: Duration = Value(Text("5m"));
        /// Queue messages about new records, and remove old deliveries.
        messages: Duration = Value(Text("5s"));
    }

    /// Where messages go; one section for each endpoint. Others are created over the API.
    ["endpoint"] pub(super) struct EndpointKeys {
        /// Required: letters, digits, `-`, `_` and `.`. Deliveries are logged under it.
        name: Option<String> = Unset(Text("phone"));
        /// "webhook" (Standard Webhooks), "ntfy", "gotify" or "discord".
        kind: EndpointKind = Value(Text("webhook"));
        /// Required. ntfy: the server and the topic. Gotify: the server. Discord: the whole URL of
        /// the channel's webhook.
        url: Option<Secret> = SecretText("https://ntfy.sh/my-topic", "/run/secrets/phone_url");
        /// webhook: `whsec_` and the Base64 of 24 to 64 bytes; required. After a change, the former
        /// secret signs as well for a day.
        secret: Option<Secret> = SecretText("whsec_...", "/run/secrets/webhook_secret");
        /// ntfy: an access token. gotify: the token of an application; required.
        token: Option<Secret> = SecretText("tk_...", "/run/secrets/ntfy_token");
        /// alert.firing, alert.resolved, app.asleep, app.failed, app.woken, terminal.added and
        /// terminal.removed, or patterns of them.
        events: Vec<EventPattern> as EventPatterns = Value(List(&["alert.*"]));
        /// Only what is about these apps.
        apps: Vec<String> as Names = Unset(List(&["notes"]));
        /// When messages wait, in `webhooks.time_zone`. Of an alert that fires and resolves in the
        /// meantime nothing is sent afterwards.
        quiet: Option<Quiet> as Option<QuietHours> = Unset(Text("22:00-07:00"));
        /// Whether messages may contain personal values: names, addresses, ids of clients.
        pii: bool = Value(Boolean(false));
        /// Hosts and networks that are not public and may be sent to, also without TLS. The
        /// metadata services of clouds are refused all the same.
        allow: Vec<Allowed> as AllowedHosts = Unset(List(&["ntfy.lan", "192.168.1.0/24"]));
    }

    /// Messages of all endpoints.
    ["webhooks"] pub struct Webhooks {
        /// As `endpoint.allow`, of the endpoints that are created over the API.
        allow: Vec<Allowed> as AllowedHosts = Unset(List(&["hooks.lan"]));
        /// The time zone of quiet hours: a name such as "Europe/Berlin", or a rule as in `TZ`. If
        /// unset, that of the system.
        time_zone: Zone as ZoneName = Computed(Text("Europe/Berlin"), fallbacks::time_zone);
        /// PEM file of authorities that receivers' certificates may be issued by, besides those that
        /// the system trusts. Read again when it changes.
        ca_file: Option<PathBuf> as Option<ReadableFile> = Unset(Text("/etc/nightporter/ca.pem"));
        /// How long deliveries and the log of their attempts are kept.
        keep: Duration = Value(Text("30d"));
    }

    /// What the operator is told. Alerts fire and resolve in `nightporter alerts`, in /healthz and in
    /// the metric `nightporter_alerts_firing`; they need the ledger.
    ["alerts"] pub struct Alerts {
        /// Whether there are alerts.
        enabled: bool = Value(Boolean(true));
        /// Rules that are switched off: `denials_client`, `denials_address`, `app_failing`,
        /// `cache_degraded`, `dead_letters`, `records_dropped`, `checkpoint_overdue`,
        /// `certificate_expiring`, `disk_low`, `job_overdue`, `endpoint_disabled`.
        off: Vec<Rule> as AlertRules = Unset(List(&["disk_low"]));
        /// How long the cause must be gone before an alert resolves.
        calm: Duration = Value(Text("1m"));
        /// `denials_client`, `denials_address`: denials of one client, or of one address (of IPv6, a
        /// /64), within `denials_window`. A refused credential counts as 10, a denial for want of the
        /// store or of a usable app as none.
        denials: u64 as Count<u64, 1, 1_000_000_000> = Value(Integer(300));
        /// The time in which they are counted.
        denials_window: Duration = Value(Text("5m"));
        /// `app_failing`: attempts to start an app that fail in a row.
        failed_starts: u64 as Count<u64, 1, 1000> = Value(Integer(3));
        /// `cache_degraded`: how long the store's notifications may be missing.
        cache_degraded: Duration = Value(Text("30s"));
        /// `dead_letters`: how long records may wait on the disk.
        dead_letters: Duration = Value(Text("5m"));
        /// `records_dropped`: how long a lost record keeps the alert firing.
        records_dropped: Duration = Value(Text("10m"));
        /// `checkpoint_overdue`: how long new records may wait for a checkpoint, beyond
        /// `ledger.checkpoint_interval`.
        checkpoint_overdue: Duration = Value(Text("15m"));
        /// `certificate_expiring`: how long the gate's certificate must still be valid.
        certificate_expiring: Duration = Value(Text("14d"));
        /// `disk_low`: free space of the volumes of `wake.data_dir` and `ledger.path`.
        disk_low: u64 as Bytes = Value(Text("2 GiB"));
        /// `job_overdue`: how late a periodic job may be. One that has failed three times in a row is
        /// overdue as well.
        job_overdue: Duration = Value(Text("15m"));
        /// How long resolved alerts, and changes of the others, are kept.
        keep: Duration = Value(Text("90d"));
    }

    /// The `shard_core` of a FreeShard that runs beside nightporter.
    ["upstream"] pub(super) struct UpstreamKeys {
        /// Its address. Requests are mirrored to it, at most one per app in 30 s, so that its own
        /// idle clock stays right. It is asked about a management secret that is not the stored one,
        /// at most once a second.
        url: Option<http::Uri> as Option<UpstreamUrl> = Unset(Text("http://shard_core:80"));
    }

    /// The `shard_core` that runs beside nightporter, by its `http://host:port`.
    ["upstream"] pub struct Upstream {
        /// Send it every request too, and count where its verdicts differ.
        shadow: bool = Value(Boolean(false));
    } with {
        url: http::Uri,
    }

    /// Traces, for an OpenTelemetry collector: spans of requests, wakes, sleeps and jobs.
    ["telemetry"] pub struct Telemetry {
        /// Where the collector receives OTLP over HTTP, without `/v1/traces`. If unset, no spans are
        /// made.
        otlp_endpoint: Option<http::Uri> as Option<OtlpUrl> = Unset(Text("http://localhost:4318"));
        /// Percentage of the requests without a `traceparent` that are traced; of those with one, its
        /// `sampled` flag decides. Wakes, sleeps and jobs are always traced.
        sample: u8 as Count<u8, 0, 100> = Value(Integer(100));
    } with {
        headers: http::HeaderMap,
    }

    /// What the collector asks for.
    ["telemetry"] pub(super) struct TelemetryKeys {
        /// Headers of every request to the collector, such as its credentials: `name=value`, several
        /// separated by commas, and values percent-encoded.
        otlp_headers: Option<Secret> as Option<OtlpHeaders> = SecretText(
            "Authorization=Bearer%20token",
            "/run/secrets/otlp_headers"
        );
    }

    /// What is written to standard error.
    ["log"] pub struct Log {
        /// off, error, warn, info, debug, trace, or a filter such as "info,nightporter=debug".
        level: String as LogFilter = Value(Text("info")), reloaded;
        /// "text" or "json".
        format: LogFormat = Value(Text("text"));
        /// Whether each line begins with the time; journald and Docker add it themselves.
        timestamps: bool = Value(Boolean(true));
    }
}

/// All of them.
pub(super) const TABLE: Table = Table { sections: SECTIONS, list: "endpoint" };

/// Returns whether a reload of the running process applies a change of this key.
#[must_use]
pub fn is_reloaded(name: &str) -> bool {
    TABLE.find(name).is_some_and(|key| key.is_reloaded)
}
