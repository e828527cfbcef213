//! Tokens of the operator's API: what each may do, and what it sees.

mod isolation;
mod masking;
mod neighbours;
mod root;
mod tenants;
mod tokens;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nightporter::access::token::NewToken;
use nightporter::access::{Principal, Scope, Tokens};
use nightporter::config::Config;
use nightporter::ledger;
use nightporter::ledger::archive::Archive;
use nightporter::ledger::canonical::Hasher;
use nightporter::ledger::key::SigningKey;
use nightporter::ledger::record::{Micros, Personal, Record};
use serde_json::{Value, json};

use crate::ledger::samples;
use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::server::{Nightporter, config};
use crate::support::sign::BOX_KEY;

const PATIENCE: Duration = Duration::from_secs(120);

/// Another box, whose records are in the same database.
const OTHER: &str = "otherbox";

/// A box that records, its archive as another process sees it, and the secret of its operator.
struct Home {
    sample: SampleBox,
    config: Config,
    toml: String,
    porter: Nightporter,
}

impl Home {
    async fn new(store: Store) -> Self {
        Self::with(store, "").await
    }

    async fn with(store: Store, further: &str) -> Self {
        Self::of(SampleBox::new(store).await, further).await
    }

    async fn of(sample: SampleBox, further: &str) -> Self {
        sample.add_app("notes", &json!({"": {"access": "private"}})).await;
        let mut toml = sample.store_config();
        write!(toml, "[jobs]\nintegrity = \"200ms\"\n{further}").expect("text");
        let toml = toml.replace("[ledger]\n", "[ledger]\ncheckpoint_interval = \"1s\"\n");
        let config = config(&toml);
        let porter = Nightporter::start(config.clone());
        porter.ready().await;
        let home = Self { sample, config, toml, porter };
        // The database is prepared by the first write.
        home.porter.auth("notes.localhost", "/first").await;
        poll("a record", PATIENCE, async || {
            let answer = home.get("/v1/requests?kind=visit", None).await;
            answer.status == 200
                && parsed(&answer)["requests"].as_array().is_some_and(|all| !all.is_empty())
        })
        .await;
        home
    }

    fn archive(&self) -> Archive {
        ledger::archive(&self.config.ledger).expect("a valid configuration")
    }

    fn tenant() -> String {
        id_of(&BOX_KEY)
    }

    /// Adds a token as the command line of its box does.
    async fn token(&self, tenant: &str, rights: &str) -> String {
        let (token, _id) = add_token(self.archive(), tenant, rights).await;
        token
    }

    async fn ask(&self, request: Request, token: Option<&str>) -> Response {
        let request = match token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        ask(self.porter.ops, &request).await
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Response {
        self.ask(Request::new("GET", path), token).await
    }

    async fn send(&self, method: &str, path: &str, body: &Value, token: Option<&str>) -> Response {
        let body = body.to_string();
        let request = Request::new(method, path).header("Content-Length", body.len().to_string());
        let request = match token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        let mut connection =
            crate::support::client::Connection::open(self.porter.ops).await.expect("listens");
        let bytes = [request.bytes(), body.into_bytes()].concat();
        connection.ask_bytes(&bytes).await.expect("an answer")
    }

    /// Runs a subcommand on the same configuration.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let file = self.sample.folder().join("np.toml");
        std::fs::write(&file, &self.toml).expect("written");
        run(arguments, &file)
    }

    /// Writes records for a tenant, as its own process would.
    async fn write(&self, tenant: &str, records: Vec<Record>) {
        let key = SigningKey::load(&self.sample.ledger().join("ledger.key")).expect("a key");
        let mut hasher = Hasher::default();
        // Records whose seal is broken get no position.
        let sealed = |record: Record| {
            let mut record = Record { tenant: tenant.into(), ..record };
            record.leaf = hasher.leaf(&record).expect("it has a salt");
            record.seal = key.seal_key().seal(record.id, &record.leaf);
            record
        };
        let records: Vec<_> = records.into_iter().map(sealed).collect();
        self.archive().write(&records).await.expect("written");
    }
}

/// Adds a token as the command line of its box does; returns its text and its id.
pub async fn add_token(archive: Archive, tenant: &str, rights: &str) -> (String, String) {
    let new = NewToken {
        name: "test".into(),
        scope: Scope::parse(tenant),
        rights: rights.parse().expect("rights"),
        expires: None,
    };
    let (token, secret) = new.make(&Principal::root(), Micros(1)).expect("valid");
    let tokens = Tokens::new(Arc::new(archive));
    let mut transaction = tokens.begin().await.expect("begins");
    tokens.insert(&mut transaction, &token).await.expect("added");
    transaction.commit().await.expect("committed");
    (secret.expose().to_owned(), token.id.to_string())
}

fn run(arguments: &[&str], file: &PathBuf) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NIGHTPORTER_") {
            command.env_remove(name);
        }
    }
    command.env("NIGHTPORTER_WAKE__ENABLED", "false");
    command.args(arguments).arg("--config").arg(file).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

#[track_caller]
fn parsed(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("{}", response.body()))
}

/// A record of which every personal field holds the marker.
#[expect(clippy::disallowed_methods, reason = "retention goes by the clock")]
fn marked(seq: i64, marker: &str) -> Record {
    let personal = |what: &str| Some(Personal::Clear(format!("{marker}-{what}").into()));
    let mut record = samples::record(9, seq);
    // Not so old that retention removes it.
    record.at = std::time::SystemTime::now().into();
    record.client_id = personal("id");
    record.client_name = personal("name");
    record.address = personal("address");
    record.path = Some(format!("/a/{marker}-path").into());
    record.notes[0].text = format!("{marker}-note").into();
    record.steps[1].outcome = format!("{marker}-Outcome").into();
    record
}
