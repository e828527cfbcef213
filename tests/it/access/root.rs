//! `ops.token` beside tokens that are rows: what each credential is worth.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nightporter::access::REMEMBERED;
use nightporter::ledger;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Home, OTHER, PATIENCE, add_token, run};
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::program::Program;
use crate::support::server::config;

const ROOT: &str = "0123456789abcdef-root-0123456789";

/// Where `ops.token` stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    Setting,
    File,
    Variable,
    FileOfVariable,
}

/// A program with `ops.token`, and a configuration without it for the command line.
struct Guarded {
    _sample: SampleBox,
    program: Program,
    toml: PathBuf,
}

impl Guarded {
    async fn new(store: Store, place: Place) -> Self {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "private"}})).await;
        let (toml, guarded) =
            (sample.folder().join("np.toml"), sample.folder().join("guarded.toml"));
        let token = sample.folder().join("token");
        // As an editor leaves it.
        std::fs::write(&token, format!("{ROOT}\n")).expect("written");
        let further = "[gate]\nlisten = \"127.0.0.1:0\"\n[wake]\nenabled = false\n\
                       [ops]\nlisten = \"127.0.0.1:0\"\n";
        let without = sample.store_config() + further;
        let with = match place {
            Place::Setting => format!("{without}token = \"{ROOT}\"\n"),
            Place::File => format!("{without}token_file = \"{}\"\n", token.display()),
            Place::Variable | Place::FileOfVariable => without.clone(),
        };
        let variables: &[(&str, &OsStr)] = match place {
            Place::Setting | Place::File => &[],
            Place::Variable => &[("NIGHTPORTER_OPS__TOKEN", OsStr::new(ROOT))],
            Place::FileOfVariable => &[("NIGHTPORTER_OPS__TOKEN_FILE", token.as_os_str())],
        };
        std::fs::write(&toml, without).expect("written");
        std::fs::write(&guarded, with).expect("written");
        let program = Program::start_with(&guarded, 1024, variables);
        let guarded = Self { _sample: sample, program, toml };
        let request = Request::auth("notes.localhost", "/");
        poll("the app is known", PATIENCE, async || {
            ask(guarded.program.gate, &request).await.status == 401
        })
        .await;
        // The database is prepared by the first write.
        poll("a record", PATIENCE, async || {
            let page = guarded.get("/v1/requests", &[&bearer(ROOT)]).await;
            page.status == 200 && page.body().contains("\"id\"")
        })
        .await;
        guarded
    }

    async fn ask(&self, method: &str, path: &str, credentials: &[&str]) -> Response {
        let mut request = Request::new(method, path);
        for credential in credentials {
            request = request.header("Authorization", credential);
        }
        ask(self.program.ops, &request).await
    }

    async fn get(&self, path: &str, credentials: &[&str]) -> Response {
        self.ask("GET", path, credentials).await
    }

    /// Adds a token of another box, as the command line of that box does.
    async fn add_other(&self, rights: &str) -> (String, String) {
        let toml = std::fs::read_to_string(&self.toml).expect("readable");
        let archive = ledger::archive(&config(&toml).ledger).expect("a valid configuration");
        add_token(archive, OTHER, rights).await
    }

    /// Adds a token; returns its text and its id.
    fn add(&self, tenant: &str, rights: &str) -> (String, String) {
        let arguments = ["token", "add", "test", "--tenant", tenant, "--rights", rights, "--json"];
        let (code, out, err) = run(&arguments, &self.toml);
        assert_eq!(code, 0, "{err}");
        let added: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let text = |name: &str| added[name].as_str().expect("text").to_owned();
        (text("token"), text("id"))
    }

    fn remove(&self, id: &str) {
        assert_eq!(run(&["token", "remove", id], &self.toml).0, 0);
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_token_is_taken_from_wherever_it_stands() {
    for place in [Place::Setting, Place::File, Place::Variable, Place::FileOfVariable] {
        let guarded = Guarded::new(Store::Files, place).await;
        for (credential, status) in [(bearer(ROOT), 200), (bearer(&format!("{ROOT}x")), 401)] {
            for path in ["/v1/apps", "/v1/requests", "/metrics", "/healthz", "/livez"] {
                let answer = guarded.get(path, &[&credential]).await;
                assert_eq!(answer.status, status, "{place:?} {path}: {}", answer.body());
            }
        }
        let none = guarded.get("/v1/apps", &[]).await;
        assert_eq!((none.status, none.text("www-authenticate")), (401, Some("Bearer")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_one_header_with_one_token() {
    for store in Store::BOTH {
        let guarded = Guarded::new(store, Place::File).await;
        let (row, _) = guarded.add("*", "read");
        for token in [ROOT, &row] {
            for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
                let answer = guarded.get("/v1/apps", &[&format!("{scheme} {token}")]).await;
                assert_eq!(answer.status, 200, "{scheme}: {}", answer.body());
            }
            let (half, rest) = token.split_at(token.len() / 2);
            let right = bearer(token);
            for wrong in [
                &[&*format!("Basic {token}")][..],
                &[token],
                &["Bearer"],
                &[&format!("Bearer{token}")],
                &[&format!("Bearer {half} {rest}")],
                &[&format!("Bearer {token} {token}")],
                &[&format!("Bearer {token},")],
                &[&format!("Bearer {token}, Bearer {token}")],
                &[&format!("Bearer \"{token}\"")],
                &[&format!("Bearer\t{token}")],
                &[&format!("Bearer {}", token.to_ascii_uppercase())],
                &[&format!("Bearer {}", &token[1..])],
                &[&format!("Bearer {half}")],
                &[&format!("Token {token}")],
                &[&right, &right],
                &[&right, "Basic YTpi"],
                &["Basic YTpi", &right],
                &[&right, &bearer(ROOT)],
            ] {
                let answer = guarded.get("/v1/apps", wrong).await;
                assert_eq!(answer.status, 401, "{wrong:?}: {}", answer.body());
                assert_eq!(answer.text("www-authenticate"), Some("Bearer"), "{wrong:?}");
                assert!(!answer.body().contains(token), "{}", answer.body());
            }
        }
        let log = guarded.program.log();
        assert!(!log.contains(ROOT) && !log.contains(&row), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_gives_what_it_names_and_nothing_else() {
    for store in Store::BOTH {
        let guarded = Guarded::new(store, Place::File).await;
        for tenant in [&*Home::tenant(), "*", OTHER] {
            for rights in 1..8 {
                let has = |bit: i32| rights & bit != 0;
                let (read, pii, operate) = (has(1), has(2), has(4));
                let names = [(read, "read"), (pii, "pii"), (operate, "operate")];
                let names = names.iter().filter(|(has, _)| *has).map(|(_, name)| *name);
                let names = names.collect::<Vec<_>>().join(",");
                let (token, id) = match tenant {
                    OTHER => guarded.add_other(&names).await,
                    _ => guarded.add(tenant, &names),
                };
                let credential = bearer(&token);
                let or_403 = |may: bool, status: u16| if may { status } else { 403 };
                let of_box = |may: bool, status| match tenant {
                    OTHER => 404,
                    _ => or_403(may, status),
                };
                for (method, path, status) in [
                    ("GET", "/livez", or_403(read, 200)),
                    ("GET", "/v1/openapi.json", or_403(read, 200)),
                    ("GET", "/v1/requests", or_403(read, 200)),
                    ("GET", "/v1/requests?client=t1", or_403(read && pii, 200)),
                    ("GET", "/v1/alerts", or_403(read, 200)),
                    ("GET", "/v1/webhooks", or_403(read, 200)),
                    ("GET", "/healthz", of_box(read, 200)),
                    ("GET", "/metrics", of_box(read, 200)),
                    ("GET", "/v1/apps", of_box(read, 200)),
                    ("GET", "/v1/jobs", of_box(read, 200)),
                    ("POST", "/v1/jobs/nothing/run", of_box(operate, 404)),
                    ("POST", "/v1/apps/nothing/wake", of_box(operate, 404)),
                    ("GET", "/v1/tokens", or_403(operate, 200)),
                    ("DELETE", "/v1/tokens/nothing", or_403(operate, 404)),
                    // What changes a box's endpoints is asked of that box.
                    (
                        "DELETE",
                        "/v1/webhooks/nothing",
                        or_403(operate, if tenant == OTHER { 409 } else { 404 }),
                    ),
                    ("GET", "/v1/nothing", 404),
                ] {
                    let answer = guarded.ask(method, path, &[&credential]).await;
                    let what = format!("{names} of {tenant}: {method} {path}");
                    let body = String::from_utf8_lossy(&answer.body);
                    assert_eq!(answer.status, status, "{what}: {body}");
                    if status == 200 && path.starts_with("/v1/requests") {
                        let masked = answer.text("x-pii-masked");
                        assert_eq!(masked, (!pii).then_some("true"), "{what}");
                    }
                }
                // Whose token it is, removes it.
                if tenant != OTHER {
                    guarded.remove(&id);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_by_another_process_acts_within_two_seconds() {
    assert!(REMEMBERED <= Duration::from_secs(2));
    for store in Store::BOTH {
        let guarded = Guarded::new(store, Place::File).await;
        let (token, id) = guarded.add("*", "read,operate");
        let (other, _) = guarded.add("*", "read");
        let (credential, other) = (bearer(&token), bearer(&other));
        // A token that is in use is remembered.
        assert_eq!(guarded.get("/v1/apps", &[&credential]).await.status, 200);
        guarded.remove(&id);
        let removed = Instant::now();
        let mut status = 200;
        while removed.elapsed() < REMEMBERED {
            status = guarded.get("/v1/apps", &[&credential]).await.status;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(status, 200 | 401), "{status}");
        for (method, path) in
            [("GET", "/v1/apps"), ("GET", "/v1/events"), ("POST", "/v1/jobs/retention/run")]
        {
            let answer = guarded.ask(method, path, &[&credential]).await;
            assert_eq!(answer.status, 401, "{method} {path}");
        }
        assert_eq!(guarded.get("/v1/apps", &[&other]).await.status, 200);
        assert_eq!(guarded.get("/v1/apps", &[&bearer(ROOT)]).await.status, 200);
    }
}

/// Opens a stream of events; returns it after its head.
async fn follow(guarded: &Guarded, token: &str) -> (TcpStream, String) {
    let request = Request::new("GET", "/v1/events").header("Authorization", bearer(token));
    let mut stream = TcpStream::connect(guarded.program.ops).await.expect("listens");
    stream.write_all(&request.bytes()).await.expect("sent");
    let mut text = String::new();
    while !text.contains("retry:") {
        let read = read(&mut stream, &mut text).await;
        assert!(read > 0, "{text}");
    }
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    (stream, text)
}

async fn read(stream: &mut TcpStream, text: &mut String) -> usize {
    let mut piece = [0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
    let read = read.expect("in time").expect("no reset");
    text.push_str(&String::from_utf8_lossy(&piece[..read]));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_ends_with_its_token() {
    for store in Store::BOTH {
        let guarded = Guarded::new(store, Place::File).await;
        let (removed, id) = guarded.add("*", "read");
        let (kept, _) = guarded.add("*", "read");
        let (mut ends, mut text) = follow(&guarded, &removed).await;
        let (mut goes_on, mut kept_text) = follow(&guarded, &kept).await;
        let (mut of_root, mut root_text) = follow(&guarded, ROOT).await;
        guarded.remove(&id);
        while !text.ends_with("0\r\n\r\n") {
            // The end of a complete response.
            assert!(read(&mut ends, &mut text).await > 0, "{text}");
        }
        // What comes afterwards goes to the others only.
        let request = Request::auth("notes.localhost", "/after-the-removal");
        assert_eq!(ask(guarded.program.gate, &request).await.status, 401);
        for (stream, text) in [(&mut goes_on, &mut kept_text), (&mut of_root, &mut root_text)] {
            let mut records = 0;
            while records == 0 {
                assert!(read(stream, text).await > 0, "{text}");
                records = text.matches("terminal_required").count()
                    + text.matches("\"kind\":\"visit\"").count();
            }
        }
        assert!(!text.contains("after-the-removal"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "tokens expire by the clock")]
async fn a_token_ends_when_it_expires() {
    for store in Store::BOTH {
        let guarded = Guarded::new(store, Place::File).await;
        let arguments =
            ["token", "add", "short", "--tenant", "*", "--rights", "read", "--expires", "4s"];
        let (code, out, err) = run(&arguments, &guarded.toml);
        assert_eq!(code, 0, "{err}");
        let latest = std::time::SystemTime::now() + Duration::from_secs(4);
        let credential = bearer(out.trim_end());
        let mut seen = 200;
        while std::time::SystemTime::now() < latest {
            let status = guarded.get("/v1/apps", &[&credential]).await.status;
            assert!(status == seen || status == 401, "{status} after {seen}");
            seen = status;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // No memory of it outlives the time.
        assert_eq!(guarded.get("/v1/apps", &[&credential]).await.status, 401);
        assert_eq!(guarded.get("/v1/apps", &[&bearer(ROOT)]).await.status, 200);
    }
}
