//! The description of the API, and whether the API is as it is described.
#![allow(clippy::print_stdout, reason = "figures are part of what a test says")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nightporter::ledger;
use serde_json::{Value, json};

use crate::access::add_token;
use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, Response, ask, poll};
use crate::support::program::Program;
use crate::support::server::{Nightporter, config};
use crate::support::sign::python;
use crate::support::soak::{API_CASES as CASES, is_soak};

const PATIENCE: Duration = Duration::from_secs(120);

/// Every one but those about links between operations, of which the description has none.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      unsupported_method,allow_header_conformance";

/// Checks of a listener with a token; one without lets everyone in who reaches it.
const TOKEN_CHECKS: &str = "negative_data_rejection,ignored_auth";

async fn sample(store: Store) -> SampleBox {
    let sample = SampleBox::new(store).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    sample
}

async fn document(ops: std::net::SocketAddr) -> Value {
    let response = ask(ops, &Request::new("GET", "/v1/openapi.json")).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.text("content-type"), Some("application/json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

/// Returns what is different from the description.
fn differences(document: &Value, answers: &[Value]) -> Vec<String> {
    let mut python = Command::new(python())
        .args(["-c", include_str!("openapi/validate.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python with jsonschema; `tests/run` makes target/venv");
    let mut input = python.stdin.take().expect("piped");
    let order = json!({"document": document, "answers": answers});
    input.write_all(&serde_json::to_vec(&order).expect("JSON")).expect("it reads");
    drop(input);
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the script failed, see above");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn answer(method: &str, pattern: &str, response: &Response) -> Value {
    json!({
        "method": method,
        "pattern": pattern,
        "status": response.status,
        "type": response.text("content-type"),
        "body": String::from_utf8_lossy(&response.body),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_it_is_described() {
    for store in Store::BOTH {
        let sample = sample(store).await;
        let jobs = "[jobs]\nintegrity = \"500ms\"\n";
        let quick = "[ledger]\ncheckpoint_interval = \"1s\"\n";
        let toml = sample.store_config().replace("[ledger]\n", quick);
        let porter = Nightporter::start(config(&format!("{toml}{jobs}")));
        porter.ready().await;
        assert_eq!(porter.auth("notes.localhost", "/secret").await.status, 401);
        let get = async |path: &str| ask(porter.ops, &Request::new("GET", path)).await;
        let mut id = String::new();
        poll("a checkpoint covers the record", PATIENCE, async || {
            let page = get("/v1/requests?limit=1").await;
            let page: Value = serde_json::from_slice(&page.body).expect("JSON");
            let Some(found) = page["requests"][0]["id"].as_str() else { return false };
            id = found.to_owned();
            get(&format!("/v1/audit/{id}")).await.status == 200
        })
        .await;
        let mut answers = Vec::new();
        let mut statuses = std::collections::BTreeSet::new();
        for (method, pattern, path, key) in [
            ("GET", "/livez", "/livez", None),
            ("GET", "/readyz", "/readyz", None),
            ("GET", "/healthz", "/healthz", None),
            ("GET", "/metrics", "/metrics", None),
            ("GET", "/v1/openapi.json", "/v1/openapi.json", None),
            ("GET", "/v1/apps", "/v1/apps", None),
            ("GET", "/v1/apps/{name}", "/v1/apps/notes", None),
            ("GET", "/v1/apps/{name}", "/v1/apps/nothere", None),
            ("POST", "/v1/apps/{name}/wake", "/v1/apps/notes/wake", None),
            ("POST", "/v1/apps/{name}/wake", "/v1/apps/notes/wake", Some("\"a\"")),
            ("POST", "/v1/apps/{name}/wake", "/v1/apps/notes/wake", Some("\"a\"")),
            ("POST", "/v1/apps/{name}/wake", "/v1/apps/notes/wake?x", Some("\"a\"")),
            ("POST", "/v1/apps/{name}/wake", "/v1/apps/notes/wake", Some("a")),
            ("POST", "/v1/apps/{name}/sleep", "/v1/apps/notes/sleep", None),
            ("POST", "/v1/apps/{name}/pause", "/v1/apps/nothere/pause", None),
            ("GET", "/v1/requests", "/v1/requests", None),
            ("GET", "/v1/requests", "/v1/requests?kind=nothing", None),
            ("GET", "/v1/requests/{id}", &format!("/v1/requests/{id}"), None),
            ("GET", "/v1/requests/{id}", "/v1/requests/0000000000000001-1", None),
            ("GET", "/v1/requests/{id}", "/v1/requests/x", None),
            ("GET", "/v1/events", "/v1/events?after=x", None),
            ("GET", "/v1/audit/checkpoint", "/v1/audit/checkpoint", None),
            ("GET", "/v1/audit/{id}", &format!("/v1/audit/{id}"), None),
            ("GET", "/v1/audit/{id}", &format!("/v1/audit/{id}?masked=true"), None),
            ("GET", "/v1/audit/{id}", "/v1/audit/x", None),
            ("GET", "/v1/deadletter", "/v1/deadletter", None),
            ("GET", "/v1/deadletter/stats", "/v1/deadletter/stats", None),
            ("GET", "/v1/deadletter/{id}", "/v1/deadletter/x", None),
            ("POST", "/v1/deadletter/{id}/replay", "/v1/deadletter/x/replay", None),
            ("POST", "/v1/deadletter/{id}/dismiss", "/v1/deadletter/x/dismiss", None),
            ("GET", "/v1/jobs", "/v1/jobs", None),
            ("POST", "/v1/jobs/{name}/run", "/v1/jobs/retention/run", None),
            ("POST", "/v1/jobs/{name}/run", "/v1/jobs/nothing/run", None),
        ] {
            let mut request = Request::new(method, path);
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            let response = ask(porter.ops, &request).await;
            statuses.insert(response.status);
            answers.push(answer(method, pattern, &response));
        }
        let document = document(porter.ops).await;
        assert_eq!(differences(&document, &answers), [""; 0]);
        assert!([200, 202, 400, 404, 409, 422].iter().all(|status| statuses.contains(status)));
        // Each of these would be seen.
        for (path, wrong) in [
            ("status", json!(418)),
            ("type", json!("text/html")),
            ("body", json!("{}")),
            ("pattern", json!("/v1/nothing")),
        ] {
            let mut altered = answers[6].clone();
            altered[path] = wrong;
            assert!(!differences(&document, &[altered]).is_empty(), "{path}");
        }
    }
}

fn schemathesis() -> PathBuf {
    python().with_file_name("schemathesis")
}

/// Starts the program, so that a panic would be seen in its log.
async fn started(sample: &SampleBox, token: Option<&str>) -> Program {
    let token = token.map(|token| format!("token = \"{token}\"\n")).unwrap_or_default();
    let further = format!(
        "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n{token}\
         [wake]\nenabled = false\n"
    );
    let file = sample.folder().join("np.toml");
    std::fs::write(&file, sample.store_config() + &further).expect("written");
    let program = Program::start(&file, 1024);
    let request = Request::auth("notes.localhost", "/");
    poll("the app is known", PATIENCE, async || ask(program.gate, &request).await.status == 401)
        .await;
    program
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Whose requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// The listener has no token.
    Anyone,
    /// It has one, and none is sent.
    Stranger,
    Root,
    /// A token that is a row.
    Token {
        tenant: &'static str,
        rights: &'static str,
        has_expired: bool,
    },
}

impl Sender {
    const fn token(tenant: &'static str, rights: &'static str) -> Self {
        Self::Token { tenant, rights, has_expired: false }
    }

    const ALL: [Self; 9] = [
        Self::Anyone,
        Self::Root,
        Self::Stranger,
        Self::token("*", "read"),
        Self::token("", "read,pii"),
        Self::token("", "operate"),
        Self::token("", "read,operate"),
        Self::token("another box", "read,pii,operate"),
        Self::Token { tenant: "", rights: "read", has_expired: true },
    ];

    fn of_listener(self) -> Option<&'static str> {
        (self != Self::Anyone).then_some(TOKEN)
    }

    fn checks(self) -> String {
        match self {
            Self::Anyone => CHECKS.to_owned(),
            // What is not this token's to see has no methods either.
            Self::Token { tenant: "another box", .. } => {
                let without = ["unsupported_method", "allow_header_conformance"];
                let checks = CHECKS.split(',').filter(|check| !without.contains(check));
                format!("{},{TOKEN_CHECKS}", checks.collect::<Vec<_>>().join(","))
            }
            _ => format!("{CHECKS},{TOKEN_CHECKS}"),
        }
    }

    /// Returns the token that is sent.
    async fn sent(self, sample: &SampleBox, program: &Program) -> Option<String> {
        let Self::Token { tenant, rights, has_expired } = self else {
            return (self == Self::Root).then(|| TOKEN.to_owned());
        };
        if tenant == "another box" {
            let config = config(&sample.store_config());
            let archive = ledger::archive(&config.ledger).expect("a valid configuration");
            archive.prepare().await.expect("prepared");
            let (token, _id) = add_token(archive, tenant, rights).await;
            return Some(token);
        }
        let rights: Vec<_> = rights.split(',').collect();
        let mut wanted = json!({"name": "test", "rights": rights});
        if !tenant.is_empty() {
            wanted["tenant"] = tenant.into();
        }
        if has_expired {
            wanted["expires_in"] = "1ms".into();
        }
        let body = wanted.to_string();
        let request = Request::new("POST", "/v1/tokens")
            .header("Authorization", format!("Bearer {TOKEN}"))
            .header("Content-Length", body.len().to_string());
        let bytes = [request.bytes(), body.into_bytes()].concat();
        let mut token = None;
        poll("a token", PATIENCE, async || {
            let mut connection = Connection::open(program.ops).await.expect("listens");
            let added = connection.ask_bytes(&bytes).await.expect("an answer");
            let added: Value = serde_json::from_slice(&added.body).expect("JSON");
            token = added["token"].as_str().map(str::to_owned);
            token.is_some()
        })
        .await;
        token
    }
}

/// Sends cases to every operation; returns how many.
async fn run_cases(sample: &SampleBox, sender: Sender) -> u64 {
    let program = started(sample, sender.of_listener()).await;
    let sent = sender.sent(sample, &program).await;
    let report = sample.folder().join("report.json");
    let mut command = tokio::process::Command::new(schemathesis());
    command
        .current_dir(sample.folder())
        .args(["run", "--checks", &sender.checks(), "--phases", "examples,coverage,fuzzing"])
        // A stream of events has no end.
        .args(["--exclude-path", "/v1/events", "--generation-database", "none"])
        .args(["--max-examples", &CASES.count().to_string(), "--seed", "1", "--no-color"])
        .args(["--warnings", "off", "--suppress-health-check", "all"])
        .arg("--report-json-path")
        .arg(&report)
        .args(["--url", &format!("http://{}", program.ops)]);
    if let Some(token) = sent {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    // The document is fetched with the token, whoever is tested.
    let file = sample.folder().join("openapi.json");
    let mut request = Request::new("GET", "/v1/openapi.json");
    if let Some(token) = sender.of_listener() {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    std::fs::write(&file, ask(program.ops, &request).await.body).expect("written");
    let output = command.arg(&file).output().await;
    let output = output.expect("schemathesis; `tests/run` makes target/venv");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{sender:?}: {text}\n{}", program.log());
    assert_eq!(program.logged("panicked"), 0, "{}", program.log());
    cases(&text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_keeps_to_its_description_whatever_it_is_sent() {
    /// Most cases are not random: each parameter at its limits and beyond.
    const LEAST: u64 = 10_000;
    let mut total = 0;
    for store in Store::BOTH {
        let sample = sample(store).await;
        // In the short form, half of the tokens are tested with each database.
        let skipped = usize::from(store == Store::Files);
        for (number, sender) in Sender::ALL.into_iter().enumerate() {
            if number >= 3 && number % 2 == skipped && !is_soak() {
                continue;
            }
            let cases = Box::pin(run_cases(&sample, sender)).await;
            total += cases;
            println!("{store:?}, {sender:?}: {cases} cases");
        }
    }
    assert!(total >= LEAST, "{total} cases of {LEAST}");
}

/// Reads the number of cases from the summary.
fn cases(text: &str) -> u64 {
    let line = text.lines().find(|line| line.contains(" generated")).expect(text);
    let words: Vec<_> = line.split_whitespace().collect();
    let place = words.iter().position(|word| word.starts_with("generated")).expect(line);
    words[place - 1].replace(',', "").parse().expect(line)
}
