//! The command line, run as a process on a box of files.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::boxes::{self, SampleBox, Store, TERMINAL, TERMINAL_NAME, app_meta};
use crate::support::client::{Request, ask};
use crate::support::sign::OTHER_KEY;

/// Longest time anything here may take; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(120);

/// A box with its configuration file.
struct Home {
    sample: SampleBox,
}

impl Home {
    async fn new(store: Store, further: &str) -> Self {
        let sample = SampleBox::new(store).await;
        let config = format!("{}{}", sample.store_config(), further.replace("BOX", &path(&sample)));
        fs::write(sample.folder().join("np.toml"), config).unwrap();
        sample
            .add_app("notes", &json!({"": {"access": "private"}, "/pub/": {"access": "public"}}))
            .await;
        Self { sample }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = nightporter(arguments);
        command.arg("--config").arg(self.sample.folder().join("np.toml"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }
}

fn path(sample: &SampleBox) -> String {
    sample.folder().display().to_string()
}

/// The binary, without what the tests' own environment says to it.
fn nightporter(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NIGHTPORTER_") {
            command.env_remove(name);
        }
    }
    // This machine may have containers of its own, with the names of a test's apps.
    command.env("NIGHTPORTER_WAKE__ENABLED", "false");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A process that has ended.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    #[track_caller]
    fn expect(self, code: i32, part: &str) -> Self {
        let found = self.out.contains(part) || self.err.contains(part);
        assert!(self.code == code && found, "code {code}, {part:?}\n{self:#?}");
        self
    }
}

/// `serve`, running; killed when dropped.
struct Serving {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err): (ChildStdout, ChildStderr) =
            (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { out: lines(out), err: lines(err), child }
    }

    /// The rest of the next line that has this text.
    #[track_caller]
    fn next(lines: &Receiver<String>, text: &str) -> String {
        let began = Instant::now();
        let mut seen = Vec::new();
        while let Ok(line) = lines.recv_timeout(DEADLINE.saturating_sub(began.elapsed())) {
            if let Some((_, rest)) = line.split_once(text) {
                return rest.to_owned();
            }
            seen.push(line);
        }
        panic!("no line has {text:?}: {seen:#?}");
    }

    fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    fn ended(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code().unwrap_or(-1),
                None => assert!(began.elapsed() < DEADLINE, "the process does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_prints_the_ports_it_got_answers_and_drains() {
    let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
    let home = Home::new(Store::Files, ports).await;
    let mut serving = Serving::start(&mut home.command(&["serve"]));
    let gate = Serving::next(&serving.out, "gate listening on ").parse().unwrap();
    let ops: std::net::SocketAddr =
        Serving::next(&serving.out, "ops listening on ").parse().unwrap();
    assert_ne!(ops.port(), 0);

    let host = "notes.box.example";
    assert_eq!(ask(gate, &Request::auth(host, "/pub/x")).await.status, 200);
    assert_eq!(ask(gate, &Request::auth(host, "/x")).await.status, 401);
    let token = boxes::token();
    assert_eq!(ask(gate, &Request::auth(host, "/x").cookie(token)).await.status, 200);

    serving.signal("TERM");
    assert_eq!(serving.ended(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_the_log_level_and_tells_what_needs_a_restart() {
    let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
    let home = Home::new(Store::Files, ports).await;
    let file = home.sample.folder().join("np.toml");
    let before = fs::read_to_string(&file).unwrap();
    let serving = Serving::start(&mut home.command(&[]));
    Serving::next(&serving.out, "ops listening on ");

    let changed = before.replace("[gate]\n", "[gate]\nrefuse_replays = true\n");
    fs::write(&file, format!("{changed}[log]\nlevel = \"debug\"\n")).unwrap();
    serving.signal("HUP");
    Serving::next(&serving.err, "log level changed");
    let restart = Serving::next(&serving.err, "need a restart");
    assert!(restart.contains("gate.refuse_replays") && !restart.contains("log"), "{restart}");

    fs::write(&file, "[gate]\nlisen = 1\n").unwrap();
    serving.signal("HUP");
    let finding = Serving::next(&serving.err, "the configuration is not reloaded");
    assert!(finding.contains("did you mean `gate.listen`?"), "{finding}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_begin_with_the_time_unless_it_is_left_out() {
    let ports = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n";
    let home = Home::new(Store::Files, ports).await;
    let line = |format: &str, timestamps: &str| {
        let mut command = home.command(&[]);
        command.env("NIGHTPORTER_LOG__FORMAT", format);
        let serving = Serving::start(command.env("NIGHTPORTER_LOG__TIMESTAMPS", timestamps));
        Serving::next(&serving.out, "ops listening on ");
        serving.signal("HUP");
        let lines = std::iter::from_fn(|| serving.err.recv_timeout(DEADLINE).ok());
        lines.into_iter().find(|line| line.contains("reloaded")).expect("a line for the reload")
    };
    assert!(line("text", "true").starts_with("20"));
    assert!(line("text", "false").trim_start().starts_with("INFO "));
    assert!(line("json", "true").contains("\"timestamp\":"));
    assert!(!line("json", "false").contains("timestamp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_asks_either_listener_over_sockets_and_tls() {
    let sockets = "[gate]\nlisten = \"unix:BOX/gate.sock\"\n\
                   [ops]\nlisten = \"unix:BOX/ops.sock\"\ntoken = \"0123456789abcdef\"\n\
                   [gate.tls]\nself_signed = true\ndirectory = \"BOX/tls\"\n";
    let home = Home::new(Store::Files, sockets).await;
    home.run(&["healthcheck"]).expect(1, "ops.sock/livez: ");

    let serving = Serving::start(&mut home.command(&["serve"]));
    Serving::next(&serving.out, "ops listening on ");
    home.run(&["healthcheck"]).expect(0, "ops.sock/livez: 200");
    home.run(&["healthcheck", "--listener", "gate"]).expect(0, "gate.sock/livez: 200");
    let began = Instant::now();
    while home.run(&["healthcheck", "--ready", "--listener", "gate"]).code != 0 {
        assert!(began.elapsed() < DEADLINE, "never ready");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_of_what_is_no_gate_or_says_nothing_is_negative() {
    let home = Home::new(Store::Files, "[ops]\nlisten = \"unix:BOX/ops.sock\"\n").await;
    // Accepts, since the kernel does, and never answers.
    let silent = std::os::unix::net::UnixListener::bind(home.sample.folder().join("ops.sock"));
    home.run(&["healthcheck", "--timeout", "100ms"]).expect(1, "timed out");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_end_every_subcommand_before_anything_binds() {
    let home = Home::new(Store::Files, "[gate]\nlisen = \"x\"\n[cache]\nttl = 5\n").await;
    for arguments in [&["serve"][..], &[], &["terminal", "list"], &["traefik"], &["migrate"]] {
        let run = home.run(arguments).expect(2, "np.toml:");
        assert!(run.err.contains("did you mean `gate.listen`?"), "{run:#?}");
        assert!(run.err.contains("`5` has no unit"), "{run:#?}");
        assert_eq!(run.out, "");
    }
    let run = home.run(&["check", "--json"]).expect(1, "gate.lisen");
    let findings: Vec<Value> = serde_json::from_str(&run.out).unwrap();
    assert_eq!(findings.len(), 2);
    assert_eq!(findings[1]["key"], "cache.ttl");
    assert_eq!(findings[1]["severity"], "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_can_be_named_by_a_variable_and_is_optional() {
    let empty = tempfile::tempdir().unwrap();
    let named =
        |name: &Path| Run::of(nightporter(&["terminal", "list"]).env("NIGHTPORTER_CONFIG", name));
    named(Path::new("/nonexistent.toml")).expect(2, "/nonexistent.toml: cannot be read");
    let home = Home::new(Store::Files, "").await;
    named(&home.sample.folder().join("np.toml")).expect(0, TERMINAL_NAME);
    let mut bare = nightporter(&["terminal", "list"]);
    bare.current_dir(empty.path()).env("NIGHTPORTER_STORE__PATH", home.sample.folder());
    Run::of(&mut bare).expect(0, TERMINAL_NAME);
    fs::write(empty.path().join("nightporter.toml"), "[nonsense]\n").unwrap();
    Run::of(&mut bare).expect(2, "nightporter.toml:1: nonsense: unknown section");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_comes_with_its_cookie_and_goes_at_once() {
    for store in Store::BOTH {
        let home = Home::new(store, "").await;
        let added =
            home.run(&["terminal", "add", "A \"laptop\"", "--id", "lap1"]).expect(0, "lap1");
        let cookie = added.out.trim_end();
        assert!(cookie.starts_with("authorization=ey") && !cookie.contains('\n'), "{cookie}");
        assert!(!added.err.contains(cookie.split_once('=').unwrap().1));
        home.run(&["terminal", "list"]).expect(0, "lap1").expect(0, TERMINAL);
        let private = ["explain", "--host", "notes.x.y", "--uri", "/x", "--cookie", cookie];
        home.run(&private).expect(0, "verdict   grant").expect(0, "terminal `lap1`");

        home.run(&["terminal", "add", "Other", "--id", "lap1"])
            .expect(2, "has the id `lap1` already");
        home.run(&["terminal", "remove", "lap1"]).expect(0, "removed");
        home.run(&["terminal", "remove", "lap1"]).expect(1, "no terminal has the id");
        home.run(&private).expect(1, "deny: terminal_required");

        let domain =
            home.run(&["terminal", "add", "Browser", "--set-cookie"]).expect(0, "HttpOnly");
        assert!(domain.out.contains("; Domain=") && domain.out.contains("; Secure"), "{domain:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_every_reading_and_its_rule() {
    for store in Store::BOTH {
        let home = Home::new(store, "").await;
        let ask = |uri: &str, further: &[&str]| {
            home.run(
                &[&["explain", "--host", "NOTES.box.example:443", "--uri", uri], further].concat(),
            )
        };
        ask("/pub/x?y", &[]).expect(0, "/pub/x → `/pub/`: public").expect(0, "client    anonymous");
        let denied = ask("/pub/..%2fx", &[]).expect(1, "deny: terminal_required");
        assert!(denied.out.contains("/pub/..%2fx → `/pub/`: public"), "{denied:#?}");
        assert!(denied.out.contains("/x → ``: private"), "{denied:#?}");
        ask("/x", &["--terminal", TERMINAL]).expect(0, "verdict   grant");
        ask("/x", &["--terminal", "nobody"]).expect(1, "deny: terminal_required");
        ask("x", &[]).expect(1, "deny: malformed_request");
        home.run(&["explain", "--host", "nowhere.x"]).expect(1, "deny: unknown_app");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_is_wrong_and_what_is_looser_than_it_looks() {
    let home = Home::new(Store::Files, "").await;
    home.run(&["check"]).expect(0, "no findings");

    home.sample.add_peer("abcdef", "Forged", &OTHER_KEY.public_pem).await;
    home.run(&["check"]).expect(1, "`abcdef` is skipped: its public key does not hash to its id");
    home.sample.remove_peer("abcdef").await;

    home.sample
        .add_app("wiki", &json!({"": {"access": "private"}, "/pub": {"access": "public"}}))
        .await;
    home.run(&["check"]).expect(1, "wiki/app_meta.json: paths.\"/pub\": is public and ends inside");
    home.run(&["check", "--allow-warnings"]).expect(0, "warning: ");
    let mut segment = home.command(&["check"]);
    Run::of(segment.env("NIGHTPORTER_GATE__PATH_MATCHING", "segment")).expect(0, "no findings");
    home.sample.remove_app("wiki").await;

    let headers = json!({"X-Ptl-A": "{{ auth.client_id", "x-ptl-a": "b", "X-Other": "c"});
    home.sample.add_app("bad", &json!({"": {"access": "private", "headers": headers}})).await;
    home.sample.add_app_bytes("broken", b"{").await;
    let other = app_meta("another", &json!({"x": {"access": "public"}, "": {"access": "private"}}));
    home.sample.add_app_bytes("named", other.to_string().as_bytes()).await;
    let twice = app_meta("twice", &json!({})).to_string();
    let twice = twice.replace(
        "\"paths\":{}",
        r#""paths":{"": {"access": "private"}, "": {"access": "public"}}"#,
    );
    home.sample.add_app_bytes("twice", twice.as_bytes()).await;
    fs::write(home.sample.folder().join("peers.toml"), "[[peer]]\nid = 1\n").unwrap();
    let run = home.run(&["check", "--json", "--allow-warnings"]).expect(1, "error");
    let findings: Vec<Value> = serde_json::from_str(&run.out).unwrap();
    for (severity, source, key, problem) in [
        ("error", "bad/app_meta.json", "paths.\"\".headers.\"X-Ptl-A\"", ""),
        ("warning", "bad/app_meta.json", "paths.\"\".headers.\"x-ptl-a\"", "the same header as"),
        ("warning", "bad/app_meta.json", "paths.\"\".headers.\"X-Other\"", "never reaches the app"),
        ("error", "broken/app_meta.json", "", "not valid JSON"),
        ("warning", "named/app_meta.json", "name", "is `another`, and the folder is `named`"),
        ("warning", "named/app_meta.json", "paths.\"x\"", "never applies"),
        ("warning", "twice/app_meta.json", "paths.\"\"", "appears twice"),
        ("error", "", "", "peers.toml"),
    ] {
        let is = |finding: &&Value, field: &str, part: &str| {
            finding[field].as_str().is_some_and(|text| text.contains(part))
        };
        let found = findings.iter().any(|finding| {
            finding["severity"] == severity
                && finding["key"] == key
                && is(&finding, "source", source)
                && is(&finding, "problem", problem)
                && finding["hint"] != ""
        });
        assert!(found, "{severity} {source} {key} {problem}\n{findings:#?}");
    }
    assert_eq!(findings.len(), 8, "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_apps_that_would_wake_each_other() {
    let home = Home::new(Store::Files, "[wake]\napps = [\"noted=hold\"]\n").await;
    let paths = json!({"": {"access": "private"}});
    for name in ["notes", "-notes"] {
        home.sample.add_app(name, &paths).await;
    }
    let run = home.run(&["check"]).expect(1, "shares its Compose project with `-notes`");
    assert!(run.out.contains("wake.apps: `noted` is not installed"), "{run:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_an_upstream_that_is_the_gate_itself() {
    for (gate, upstream, itself) in [
        ("127.0.0.1:8400", "http://127.0.0.1:8400", true),
        ("127.0.0.1:8400", "http://localhost:8400", true),
        ("0.0.0.0:8400", "http://127.0.0.1:8400", true),
        ("[::]:8400", "http://[::1]:8400", true),
        ("0.0.0.0:80", "http://localhost", true),
        ("127.0.0.1:8400", "http://127.0.0.1:80", false),
        ("127.0.0.1:80", "http://shard_core", false),
        ("0.0.0.0:8400", "http://10.0.0.7:8400", false),
    ] {
        let further = format!(
            "[gate]\nlisten = \"{gate}\"\ntrusted_proxies = [\"10.0.0.7\"]\n[upstream]\nurl = \"{upstream}\"\n"
        );
        let home = Home::new(Store::Files, &further).await;
        let run = home.run(&["check"]);
        let problem = "upstream.url: is where the gate itself listens";
        if itself {
            run.expect(1, problem);
        } else {
            run.expect(0, "no findings");
        }
    }
}

#[test]
fn the_shipped_configuration_and_box_have_no_findings() {
    let mut check = nightporter(&["check", "--config", "config/nightporter.toml"]);
    let root = env!("CARGO_MANIFEST_DIR");
    check.current_dir(root).env("NIGHTPORTER_STORE__PATH", "config/box");
    Run::of(&mut check).expect(0, "no findings");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_the_schema_and_is_done_the_second_time() {
    let home = Home::new(Store::Postgres, "").await;
    home.run(&["migrate"]).expect(0, "applied ");
    home.run(&["migrate"]).expect(0, "the schema is up to date");
    let newer = "INSERT INTO nightporter.migrations VALUES (3, 'more', '', '0')";
    home.sample.database().batch(newer).await;
    home.run(&["migrate"]).expect(0, "V3__more was applied by a newer version");
    Home::new(Store::Files, "").await.run(&["migrate"]).expect(0, "no schema");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_database_is_told_and_not_waited_for() {
    let home = Home::new(Store::Files, "").await;
    let mut command = home.command(&["terminal", "list"]);
    command.env("NIGHTPORTER_STORE__KIND", "postgres");
    command.env("NIGHTPORTER_STORE__URL", "postgres://hunter2:hunter2@127.0.0.1:1/x");
    let run = Run::of(&mut command).expect(2, "the store cannot answer");
    assert!(!run.err.contains("hunter2"), "{run:#?}");
    command.env("NIGHTPORTER_STORE__URL", "not a url hunter2");
    let run = Run::of(&mut command).expect(2, "store.url");
    assert!(!run.err.contains("hunter2"), "{run:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_gets_a_route_for_each_app_that_can_have_one() {
    let home = Home::new(Store::Files, "[gate]\ndomain = \"box.example\"\n").await;
    let mut notes = app_meta("notes", &json!({"": {"access": "private"}}));
    notes["entrypoints"] = json!([
        {"container_name": "notes-mq", "container_port": 1883, "entrypoint_port": "mqtt"},
        {"container_name": "notes-web", "container_port": 8080, "entrypoint_port": "http"},
    ]);
    home.sample.write_app_meta("notes", notes.to_string().as_bytes());
    let mut mute = app_meta("mute", &json!({"": {"access": "private"}}));
    mute["entrypoints"] = json!([]);
    home.sample.add_app_bytes("mute", mute.to_string().as_bytes()).await;
    let yaml = home.run(&["traefik", "--entrypoint", "websecure"]).expect(0, "http:").out;
    for part in [
        "rule: \"Host(`notes.box.example`)\"",
        "entryPoints: [\"websecure\"]",
        "url: \"http://notes-web:8080\"",
        "address: \"http://127.0.0.1:8400/internal/auth\"",
        "# mute: no route: it has no entry point for HTTP",
        "authResponseHeadersRegex: \"(?i)^(cookie$|x[^a-z0-9]ptl[^a-z0-9])\"",
        "rule: \"PathPrefix(`/.nightporter/`)\"",
    ] {
        assert!(yaml.contains(part), "{part}\n{yaml}");
    }
    assert!(!yaml.contains("1883") && !yaml.contains("tls:"), "{yaml}");

    let with = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = home.command(&[&["traefik"], arguments].concat());
        Run::of(command.envs(variables.iter().copied()))
    };
    // A gate that sends no cookies must not cost apps theirs.
    let off = [("NIGHTPORTER_GATE__HIDE_TOKEN", "false"), ("NIGHTPORTER_GATE__PAIRING", "false")];
    let yaml = with(&off, &[]).expect(0, "\"(?i)^x[^a-z0-9]ptl[^a-z0-9]\"").out;
    assert!(!yaml.contains(".nightporter/"), "{yaml}");
    let tls = ("NIGHTPORTER_GATE__TLS__SELF_SIGNED", "true");
    let yaml = with(&[tls], &["--address", "https://nightporter:8400/"]).expect(0, "https:").out;
    for part in [
        "address: \"https://nightporter:8400/internal/auth\"",
        "tls:\n          ca: \"tls/ca.pem\"",
        "serverName: \"nightporter\"",
        "rootCAs: [\"tls/ca.pem\"]",
    ] {
        assert!(yaml.contains(part), "{part}\n{yaml}");
    }
    with(&[tls], &[]).expect(0, "https://localhost:8400/internal/auth");
    with(&[tls], &["--address", "http://nightporter:8400"]).expect(2, "but TLS is on");
    with(&[tls], &["--address", "https://gate:8400"]).expect(2, "add it to `gate.tls.names`");
    with(&[("NIGHTPORTER_GATE__LISTEN", "0.0.0.0:8400")], &[]).expect(2, "--address");
}
