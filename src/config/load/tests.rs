use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use super::super::{ArchiveKind, HeaderEncoding, LogFormat, PathMatching, StreamWakes};
use super::*;

/// Every key with its default, as shipped.
const DOCUMENTED: &str = include_str!("../../../config/nightporter.toml");

const LONG: &str = "0123456789abcdef0123456789abcdef";

fn env(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn load_text(text: &str) -> Result<Config, Findings> {
    load(Some(file(text).path()), &Environment::new())
}

/// The findings, as printed, with the file's name replaced by `file`.
fn findings(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let file = file(text);
    let name = file.path().display().to_string();
    let findings = load(Some(file.path()), &env(variables)).expect_err("findings");
    findings.iter().map(|finding| finding.to_string().replace(&name, "file")).collect()
}

fn assert_finding(text: &str, variables: &[(&str, &str)], expected: &str) {
    let found = findings(text, variables);
    assert!(found.len() == 1 && found[0].contains(expected), "{expected}\n{found:#?}");
}

#[test]
fn it_starts_on_defaults_alone() {
    let config = load(None, &Environment::new()).expect("defaults");
    assert_eq!(config.gate.listen.to_string(), "127.0.0.1:8400");
    assert_eq!(config.ops.listen.to_string(), "127.0.0.1:8401");
    assert_eq!(config.gate.trusted_proxies.len(), 2);
    assert_eq!(config.gate.tls, None);
    let files = StoreKind::Files { path: "box".into(), terminal_jwt_secret: None };
    assert_eq!(config.store.kind, files);
    assert_eq!(config.store.installed_apps_dir, Path::new("box/installed_apps"));
    assert_eq!(config.cache.max_stale, Duration::from_mins(1));
}

#[test]
fn the_documented_file_is_the_defaults() {
    assert_eq!(load_text(DOCUMENTED), load(None, &Environment::new()));
}

#[test]
fn the_documented_file_names_every_key_and_the_loader_reads_every_key() {
    // A commented-out key is `#key = ...` without a space; prose has one.
    let uncommented: String = DOCUMENTED
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let document = uncommented.parse::<toml::Table>().expect("TOML with optional keys set");
    let mut documented = BTreeSet::new();
    leaves("", &document, &mut documented);
    assert_eq!(documented, TABLE.names().map(ToString::to_string).collect());

    let mut reader = Reader::new(Sources::new(TABLE, Environment::default()), Findings::default());
    read(&mut reader).expect("defaults");
    assert_eq!(reader.keys_read, TABLE.names().collect());
}

fn leaves(section: &str, table: &toml::Table, into: &mut BTreeSet<String>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => leaves(&format!("{section}{name}."), inner, into),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_table) => {
                for inner in items.iter().filter_map(toml::Value::as_table) {
                    leaves(&format!("{section}{name}."), inner, into);
                }
            }
            _ => drop(into.insert(format!("{section}{name}"))),
        }
    }
}

#[test]
fn the_environment_goes_before_the_file() {
    let file = file(
        "[gate]\nlisten = \"127.0.0.1:1\"\nrefuse_replays = true\n[cache]\ncapacity = 50_000\n\
         [store]\npool_size = 3\n",
    );
    let env = env(&[
        ("NIGHTPORTER_GATE__LISTEN", "unix:/run/gate.sock"),
        ("NIGHTPORTER_GATE__TRUSTED_PROXIES", "10.1.2.3, fd00::/8,"),
        ("NIGHTPORTER_GATE__DOMAIN", "Box.Example."),
        ("NIGHTPORTER_GATE__PATH_MATCHING", "segment"),
        ("NIGHTPORTER_GATE__HEADER_ENCODING", "utf8"),
        ("NIGHTPORTER_GATE__TLS__SELF_SIGNED", "true"),
        ("NIGHTPORTER_GATE__TLS__NAMES", "gate,10.0.0.1"),
        ("NIGHTPORTER_GATE__DRAIN_TIMEOUT", "500ms"),
        ("NIGHTPORTER_STORE__POOL_SIZE", ""),
        ("NIGHTPORTER_LOG__FORMAT", "json"),
        ("NIGHTPORTER_CONFIG", "elsewhere.toml"),
        ("NIGHTPORTER_SERVICE_HOST", "10.0.0.1"),
        ("HOME", "/root"),
    ]);
    let config = load(Some(file.path()), &env).expect("valid");
    let gate = config.gate;
    assert_eq!(gate.listen.to_string(), "unix:/run/gate.sock");
    let networks: Vec<_> = gate.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.1.2.3/32", "fd00::/8"]);
    assert_eq!(gate.domain.as_deref(), Some("box.example"));
    assert_eq!(gate.path_matching, PathMatching::Segment);
    assert_eq!(gate.header_encoding, HeaderEncoding::Utf8);
    assert!(gate.refuse_replays);
    assert_eq!(gate.drain_timeout, Duration::from_millis(500));
    let names = ["gate", "10.0.0.1"].map(String::from).into();
    let certificate = Certificate::SelfSigned { directory: "tls".into(), names };
    assert_eq!(gate.tls, Some(Tls { certificate, client_ca: None }));
    assert_eq!(config.cache.capacity, 50_000);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_url_alone_chooses_postgres() {
    let env = env(&[
        ("NIGHTPORTER_STORE__URL", "postgres://u:p@db/x"),
        ("NIGHTPORTER_STORE__INSTALLED_APPS_DIR", "/apps"),
    ]);
    let store = load(None, &env).expect("valid").store;
    let StoreKind::Postgres(postgres) = store.kind else { panic!("{store:?}") };
    assert_eq!(postgres.url.expose(), "postgres://u:p@db/x");
    assert_eq!(postgres.pool_size, 20);
    assert_eq!(store.installed_apps_dir, Path::new("/apps"));
}

#[test]
fn the_record_is_kept_where_the_box_is_unless_it_has_a_url_of_its_own() {
    let archive =
        |variables: &[(&str, &str)]| load(None, &env(variables)).expect("valid").ledger.archive;
    let url = |variables: &[(&str, &str)]| match archive(variables) {
        ArchiveKind::Postgres(postgres) => postgres.url.expose().to_owned(),
        ArchiveKind::Sqlite => panic!("{variables:?}"),
    };
    let store = ("NIGHTPORTER_STORE__URL", "postgres://u:p@db/box");
    let apps = ("NIGHTPORTER_STORE__INSTALLED_APPS_DIR", "/apps");
    let own = ("NIGHTPORTER_LEDGER__URL", "postgres://u:p@db/ledger");
    assert_eq!(archive(&[]), ArchiveKind::Sqlite);
    assert_eq!(
        archive(&[store, apps, ("NIGHTPORTER_LEDGER__KIND", "sqlite")]),
        ArchiveKind::Sqlite
    );
    assert_eq!(url(&[store, apps]), store.1);
    assert_eq!(url(&[store, apps, own]), own.1);
    assert_eq!(url(&[own]), own.1, "with the files store");
}

#[test]
fn secrets_come_from_files_too() {
    let secret = file(&format!("{LONG}\n"));
    let path = secret.path().display().to_string();
    for variable in ["NIGHTPORTER_OPS__TOKEN_FILE", "NIGHTPORTER_STORE__TERMINAL_JWT_SECRET_FILE"] {
        let config = load(None, &env(&[(variable, &path)])).expect(variable);
        let StoreKind::Files { terminal_jwt_secret, .. } = config.store.kind else { panic!() };
        let read = config.ops.token.or(terminal_jwt_secret).expect(variable);
        assert_eq!(read.expose(), LONG);
    }
    let url = [
        ("NIGHTPORTER_STORE__URL_FILE", path.as_str()),
        ("NIGHTPORTER_STORE__INSTALLED_APPS_DIR", "/apps"),
    ];
    let store = load(None, &env(&url)).expect("url_file").store;
    assert!(matches!(store.kind, StoreKind::Postgres(p) if p.url.expose() == LONG));
}

#[test]
fn only_one_newline_is_cut_from_a_secret_file() {
    let secret = file(&format!(" {LONG} \n\n"));
    let text =
        format!("[store]\nterminal_jwt_secret_file = {:?}", secret.path().display().to_string());
    let StoreKind::Files { terminal_jwt_secret, .. } = load_text(&text).expect("valid").store.kind
    else {
        panic!()
    };
    assert_eq!(terminal_jwt_secret.expect("secret").expose(), format!(" {LONG} \n"));
}

#[test]
fn all_findings_come_at_once_each_with_source_key_and_hint() {
    let found = findings(
        "[gate]\nlisen = \"127.0.0.1:1\"\ndrain_timeout = 10\n\n[gates]\nx = 1\n\n[cache]\nttl = \"0s\"\n",
        &[("NIGHTPORTER_GATE_DOMAIN", "x"), ("NIGHTPORTER_STORE__POOL_SIZE", "many")],
    );
    let expected = [
        "file:2: gate.lisen: unknown key; did you mean `gate.listen`?",
        "file:5: gates: unknown section; did you mean `gate`?",
        "NIGHTPORTER_GATE_DOMAIN: unknown variable; did you mean `NIGHTPORTER_GATE__DOMAIN`?",
        "file:3: gate.drain_timeout: `10` has no unit; write it with a unit, such as `\"10s\"`",
        "NIGHTPORTER_STORE__POOL_SIZE: store.pool_size: `many` is out of range; use a whole number from 1 to 10000",
        "file:9: cache.ttl: is zero; use a duration above zero",
    ];
    assert_eq!(found, expected);
}

#[test]
fn syntax_errors_have_a_line_and_hide_nothing_of_the_environment() {
    let found = findings(
        "[gate]\nlisten = \"a\n[ops]\nlisten = = 1\n",
        &[("NIGHTPORTER_GATE__LISENT", "")],
    );
    assert!(found[0].starts_with("file:2: ") && found[0].contains("TOML"), "{found:#?}");
    assert!(found.iter().any(|text| text.starts_with("file:4: ")), "{found:#?}");
    assert!(found.iter().any(|text| text.contains("`NIGHTPORTER_GATE__LISTEN`?")), "{found:#?}");
    assert_finding("[gate]\nlisten = \"a:1\"\nlisten = \"b:1\"\n", &[], "file:3: ");
}

#[test]
fn a_file_that_is_not_there_is_a_finding() {
    let error = load(Some(Path::new("/nonexistent.toml")), &Environment::new());
    let error = error.expect_err("missing").to_string();
    assert!(error.starts_with("/nonexistent.toml: cannot be read: "), "{error}");
}

#[test]
fn values_that_do_not_fit_are_refused() {
    for (text, expected) in [
        ("[gate]\nlisten = 8400", "gate.listen: expected text, found an integer"),
        ("[gate]\nlisten = \"8400\"", "invalid address `8400`; expected `ip:port`"),
        ("[gate]\nlisten = \"unix:gate.sock\"", "must be absolute"),
        ("gate = 1", "gate: is a section"),
        ("[gate]\ntls = true", "gate.tls: is a section"),
        ("[gate.listen]\nport = 1", "gate.listen: expected text, found table"),
        ("[gate]\ntrusted_proxies = \"10.0.0.0/8\"", "expected a list, found text"),
        ("[gate]\ntrusted_proxies = []", "gate.trusted_proxies: is empty"),
        ("[gate]\ntrusted_proxies = [\"10.0.0.0/33\"]", "invalid network `10.0.0.0/33`"),
        ("[gate]\ntrusted_proxies = [\"proxy\"]", "invalid network `proxy`"),
        ("[gate]\ndomain = \"https://box.example\"", "invalid host name"),
        ("[gate]\ndomain = \"box.example:443\"", "invalid host name"),
        ("[gate]\ndomain = \"box..example\"", "invalid host name"),
        ("[gate]\ndomain = \"\"", "gate.domain: is empty"),
        ("[gate]\npath_matching = \"exact\"", "use `prefix` or `segment`"),
        ("[gate]\nheader_encoding = \"ascii\"", "use `latin1` or `utf8`"),
        ("[gate]\nrefuse_replays = \"yes\"", "expected a boolean, found text"),
        ("[gate]\ndrain_timeout = \"10\"", "such as `10s`"),
        ("[gate]\ndrain_timeout = \"ten\"", "invalid duration `ten`"),
        ("[gate]\ndrain_timeout = \"2years\"", "is too long"),
        ("[gate]\ndrain_timeout = \"-1s\"", "invalid duration"),
        ("[gate]\ndrain_timeout = 1.5", "expected a duration, found float"),
        ("[gate.tls]\nself_signed = true\nnames = [\"a b\"]", "invalid host name `a b`"),
        ("[store]\nkind = \"sqlite\"", "use `files` or `postgres`"),
        ("[store]\npool_size = 0", "`0` is out of range"),
        ("[store]\npool_size = -1", "`-1` is out of range"),
        ("[store]\npool_size = 99999999999999999999", "is out of range"),
        ("[store]\nprefix_length = 64", "from 1 to 63"),
        ("[store]\nzone = \"a/b\"", "invalid host name"),
        ("[cache]\ncapacity = 0", "is out of range"),
        ("[log]\nlevel = \"inf\"", "invalid level `inf`"),
        ("[log]\nlevel = \"info,nightporter=loud\"", "invalid filter"),
        ("[log]\nformat = \"xml\"", "use `text` or `json`"),
    ] {
        assert_finding(text, &[], expected);
    }
    assert_finding("", &[("NIGHTPORTER_GATE__REFUSE_REPLAYS", "yes")], "write `true` or `false`");
}

#[test]
fn combinations_that_cannot_be_are_refused() {
    let pem = file("-");
    let pem = pem.path().display().to_string();
    let tls = |lines: &str| format!("[gate.tls]\n{}", lines.replace("PEM", &format!("{pem:?}")));
    for (text, expected) in [
        (
            "[store]\nkind = \"postgres\"\ninstalled_apps_dir = \"a\"",
            "file:2: store.url: is missing",
        ),
        ("[store]\nurl = \"postgres://x\"", "store.installed_apps_dir: is missing"),
        ("[store]\nkind = \"files\"\nurl = \"postgres://x\"", "but `store.url` is given"),
        ("[ops]\nlisten = \"0.0.0.0:8401\"", "no token protects it"),
        ("[ops]\ntoken = \"short\"", "16 characters"),
        ("[ops]\nlisten = \"127.0.0.1:8400\"", "is taken by `gate.listen`"),
        ("[gate]\nlisten = \"0.0.0.0:8401\"", "file:2: ops.listen: 127.0.0.1:8401 is taken"),
        (
            "[gate]\nlisten = \"unix:/a\"\n[ops]\nlisten = \"unix:/a\"",
            "unix:/a is taken by `gate.listen`",
        ),
        ("[store]\nterminal_jwt_secret = \"short\"", "HS256 needs 32 bytes"),
        ("[cache]\ndegraded_ttl = \"2m\"", "is longer than `cache.max_stale`, 1m"),
        ("[cache]\nttl = \"500ms\"", "is longer than `cache.ttl`, 500ms"),
        ("[cache]\nheartbeat = \"31s\"", "under two periods of `cache.heartbeat`, 31s"),
        ("[ledger]\nkind = \"postgres\"", "file:2: ledger.url: is missing"),
        ("[ledger]\nkind = \"sqlite\"\nurl = \"postgres://x\"", "but `ledger.url` is given"),
        ("[ledger]\nflush_interval = \"11s\"", "11s is too long"),
        ("[ledger]\nmax_spool = \"1 MiB\"", "ledger.max_spool: 1048576 bytes are too few"),
        ("[ledger]\nmax_size = 0", "ledger.max_size: 0 bytes are too few"),
        (&tls("certificate = PEM"), "gate.tls.key: is missing"),
        (&tls("key = PEM"), "gate.tls.certificate: is missing"),
        (&tls("certificate = PEM\nkey = PEM\nself_signed = true"), "contradicts the certificate"),
        (&tls("client_ca = PEM"), "has no effect without TLS"),
        (
            &tls("certificate = PEM\nkey = \"/nonexistent\""),
            "gate.tls.key: /nonexistent cannot be read",
        ),
    ] {
        assert_finding(text, &[], expected);
    }
    let secret = format!(
        "[store]\nurl = \"postgres://x\"\ninstalled_apps_dir = \"a\"\nterminal_jwt_secret = \"{LONG}\""
    );
    assert_finding(&secret, &[], "has no effect with \"postgres\"");
}

#[test]
fn a_secret_given_twice_or_from_a_bad_file_is_refused() {
    let (good, empty) = (file(LONG), file("\n"));
    let path = |file: &tempfile::NamedTempFile| file.path().display().to_string();
    for (variables, expected) in [
        (vec![("NIGHTPORTER_OPS__TOKEN_FILE", path(&empty))], "is empty"),
        (vec![("NIGHTPORTER_OPS__TOKEN_FILE", "/nonexistent".into())], "cannot be read"),
        (
            vec![
                ("NIGHTPORTER_OPS__TOKEN_FILE", path(&good)),
                ("NIGHTPORTER_OPS__TOKEN", LONG.into()),
            ],
            "is given twice; keep only one of `ops.token` and `ops.token_file`",
        ),
    ] {
        let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_finding("", &variables, expected);
    }
}

#[test]
fn no_finding_shows_a_secret() {
    let secret = "hunter2-hunter2";
    let text = format!(
        "[ops]\ntoken = \"{secret}\"\n[store]\nkind = \"files\"\nurl = \"{secret}\"\n\
         terminal_jwt_secret = \"{secret}\"\n"
    );
    let found = findings(&text, &[]);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(!found.concat().contains("hunter2"), "{found:#?}");
    let broken = findings(&format!("[store]\nurl = \"{secret}\n"), &[]);
    assert!(!broken.concat().contains("hunter2"), "{broken:#?}");
    let config = load_text(&format!("[ops]\ntoken = \"{secret}x\"")).expect("valid");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_password_of_an_upstream_is_refused_and_not_shown() {
    let found = findings("[upstream]\nurl = \"http://core:hunter22@core:80\"", &[]);
    assert!(found.len() == 1 && found[0].contains("names a user"), "{found:#?}");
    assert!(!found[0].contains("hunter22"), "{found:#?}");
}

#[test]
fn health_checkers_are_compared_in_lower_case() {
    let config = load_text("[wake.ignore]\nuser_agents = [\"Uptime-KUMA\"]").expect("valid");
    assert_eq!(config.wake.ignore.user_agents, ["uptime-kuma"]);
}

#[test]
fn beside_an_upstream_streams_wake_as_they_do_there() {
    let upstream = "[upstream]\nurl = \"http://core:80\"\n";
    let own = "[wake.streams]\nwake = \"none\"\napps = [\"chat=all\"]\n";
    for (text, notes, chat) in [
        (String::new(), StreamWakes::Programs, StreamWakes::Programs),
        (upstream.into(), StreamWakes::All, StreamWakes::All),
        (format!("{upstream}{own}"), StreamWakes::None, StreamWakes::All),
    ] {
        let streams = load_text(&text).expect("valid").wake.streams;
        assert_eq!((streams.for_app("notes"), streams.for_app("chat")), (notes, chat), "{text}");
    }
    assert_finding("[wake.streams]\napps = [\"chat=some\"]", &[], "wake.streams.apps");
}

#[test]
fn an_engine_that_is_to_be_asked_over_tls_is_not_asked_without() {
    let tls = ("DOCKER_TLS_VERIFY", "1");
    let expected = "wake.docker_certificates: is unset, and `DOCKER_TLS_VERIFY` asks for TLS";
    assert_finding("", &[("DOCKER_HOST", "tcp://engine:2376"), tls], expected);
    let socket = [("DOCKER_HOST", "unix:///run/docker.sock"), tls];
    load(None, &env(&socket)).expect("there is no TLS on a socket");
}

#[test]
fn a_variable_of_docker_that_is_wrong_is_named() {
    let expected = "DOCKER_HOST: wake.docker: invalid engine address `engine`; use `unix:///";
    assert_finding("", &[("DOCKER_HOST", "engine")], expected);
}

#[test]
fn a_collector_is_named_by_a_url_and_its_headers_by_their_names() {
    let endpoint = |url: &str| format!("[telemetry]\notlp_endpoint = \"{url}\"\n");
    for url in ["http://localhost:4318", "https://otlp.example/otlp", "http://[::1]:4318/v1/traces"]
    {
        let config = load_text(&endpoint(url)).expect(url);
        assert!(config.telemetry.otlp_endpoint.is_some(), "{url}");
    }
    for url in ["localhost:4318", "grpc://localhost:4317", "http://", "http://a/?b", "http://a/#b"]
    {
        assert_finding(&endpoint(url), &[], "invalid collector URL");
    }
    assert_finding(&endpoint("http://user:password@a"), &[], "names a user");
    assert_finding("[telemetry]\nsample = 101\n", &[], "`101` is out of range");
    let headers = |text: &str| format!("{}otlp_headers = \"{text}\"\n", endpoint("http://a"));
    let given = headers("Authorization=Bearer%20a%2Cb, x-scope=1,");
    let telemetry = load_text(&given).expect("headers").telemetry;
    assert_eq!(telemetry.headers["authorization"], "Bearer a,b");
    assert_eq!(telemetry.headers["x-scope"], "1");
    assert!(!format!("{telemetry:?}").contains("Bearer"), "{telemetry:?}");
    for text in ["token", "a b=c", "a=%0a", "=c"] {
        assert_finding(&headers(text), &[], "contains something that is not a header");
    }
    let alone = "[telemetry]\notlp_headers = \"a=b\"\n";
    assert_finding(alone, &[], "has no effect without a collector");
}

const SIGNED: &str = "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

#[test]
fn endpoints_are_read_one_by_one() {
    let text = format!(
        "[[endpoint]]\nname = \"hook\"\nurl = \"https://hooks.example/\"\n{SIGNED}\
         [[endpoint]]\nname = \"phone\"\nkind = \"ntfy\"\nurl = \"http://NTFY.lan/t\"\n\
         events = [\"*\"]\nquiet = \"22:00-07:00\"\npii = true\nallow = [\"ntfy.lan\"]\n"
    );
    let config = load_text(&text).expect("valid");
    let [hook, phone] = &config.endpoints[..] else { panic!("{:?}", config.endpoints) };
    assert_eq!((&*hook.name, &*phone.name), ("hook", "phone"));
    assert!(hook.secrets.signing.is_some() && phone.secrets.signing.is_none());
    assert!(hook.definition.subscription.includes("alert.firing", None));
    assert!(!hook.definition.subscription.includes("app.woken", None));
    assert!(
        phone.definition.subscription.includes("app.woken", None)
            && phone.definition.subscription.pii
    );
    assert_eq!(phone.definition.url.origin(), "http://ntfy.lan");
    assert!(!format!("{:?}", config.endpoints).contains("MfKQ"));
    let other = load_text(&text.replace("22:00", "23:00")).expect("valid");
    assert_eq!(config.diff(&other), ["endpoint.quiet"]);
    let one = load_text(&text[..text.rfind("[[").expect("two")]).expect("valid");
    assert!(config.diff(&one).contains(&"endpoint.name"));
}

#[test]
fn a_mistake_in_an_endpoint_names_the_endpoint_and_the_key() {
    let hook = format!("name = \"hook\"\nurl = \"https://hooks.example/\"\n{SIGNED}");
    for (text, expected) in [
        (format!("[[endpoint]]\n{SIGNED}url = \"https://a/\"\n"), "endpoint[1].name: is missing"),
        (format!("[[endpoint]]\nname = \"a\"\n{SIGNED}"), "endpoint[a].url: is missing"),
        (
            "[[endpoint]]\nname = \"a\"\nurl = \"https://a/\"\n".into(),
            "endpoint[a].secret: is missing",
        ),
        (
            format!("[[endpoint]]\n{hook}kind = \"mail\"\n"),
            "file:5: endpoint[hook].kind: unknown kind",
        ),
        (
            format!("[[endpoint]]\n{hook}events = [\"app.woke\"]\n"),
            "endpoint[hook].events: unknown event",
        ),
        (
            format!("[[endpoint]]\n{hook}quiet = \"22-7\"\n"),
            "endpoint[hook].quiet: invalid quiet hours",
        ),
        (
            format!("[[endpoint]]\n{hook}allow = [\"http://x\"]\n"),
            "endpoint[hook].allow: invalid host",
        ),
        (
            format!("[[endpoint]]\n{hook}[[endpoint]]\n{hook}"),
            "endpoint[hook].name: there is another",
        ),
        (format!("[[endpoint]]\n{hook}token = \"t\"\n"), "endpoint[hook].token: only ntfy"),
        (format!("[[endpoint]]\n{hook}colour = 1\n"), "endpoint.colour: unknown key"),
        (
            format!("[endpoint]\n{hook}"),
            "endpoint: may be given several times; write `[[endpoint]]`",
        ),
        (
            format!("[ledger]\nenabled = false\n[[endpoint]]\n{hook}"),
            "messages are kept in the ledger",
        ),
        ("[webhooks]\ntime_zone = \"Moon/Base\"\n".into(), "webhooks.time_zone: unknown time zone"),
    ] {
        let found = findings(&text, &[]);
        assert!(found.iter().any(|finding| finding.contains(expected)), "{expected}\n{found:#?}");
        assert!(!found.iter().any(|finding| finding.contains("MfKQ")), "{found:#?}");
    }
    let variables = [("NIGHTPORTER_ENDPOINT__URL", "https://a/")];
    assert_finding("", &variables, "unknown variable");
}
