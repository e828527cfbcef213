//! What is asked for in a round: one request of each kind that changes something.

use std::path::PathBuf;

use nightporter::ledger::record::Record;
use nightporter::ledger::spool::Spool;
use serde_json::{Value, json};

use super::site::Site;
use crate::ledger::samples::record;
use crate::support::client::{Request, ask};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AddToken,
    RemoveToken,
    CreateEndpoint,
    TestEndpoint,
    RotateEndpoint,
    ChangeEndpoint,
    RemoveEndpoint,
    Silence,
    RunJob,
    Wake,
    Sleep,
    Replay,
    Dismiss,
}

impl Kind {
    pub const ALL: [Self; 13] = [
        Self::AddToken,
        Self::RemoveToken,
        Self::CreateEndpoint,
        Self::TestEndpoint,
        Self::RotateEndpoint,
        Self::ChangeEndpoint,
        Self::RemoveEndpoint,
        Self::Silence,
        Self::RunJob,
        Self::Wake,
        Self::Sleep,
        Self::Replay,
        Self::Dismiss,
    ];
}

/// A write that does not end while it is held.
#[derive(Debug)]
pub struct Write {
    /// `INSERT`, `UPDATE` or `DELETE`.
    pub event: &'static str,
    pub table: &'static str,
    /// Over `NEW` and `OLD`: which rows.
    pub of: String,
}

/// One request, and what it does.
#[derive(Debug)]
pub struct Act {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    /// The write that is its effect, or that has to succeed before it.
    pub effect: Write,
    /// Counts its effects.
    count: String,
    /// How many there were before.
    before: i64,
    /// The statuses of its final answer.
    pub statuses: &'static [u16],
}

impl Act {
    /// Prepares what a request of this kind is about.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of request")]
    pub async fn new(site: &Site, kind: Kind, round: usize, spool: PathBuf) -> Self {
        let insert = |table, of: String| Write { event: "INSERT", table, of };
        let write = |event, table, of: String| Write { event, table, of };
        let recorded = |act: &str, of: &str| {
            format!(
                "SELECT count(*) FROM {{s}}requests AS r JOIN {{s}}notes AS n
                     ON n.writer = r.writer AND n.seq = r.seq
                 WHERE r.kind = 'act' AND r.verdict = 'accepted' AND r.reason = '{act}'
                 AND n.text = '{of}'"
            )
        };
        let nothing = || Vec::new();
        let (method, path, body, effect, count, statuses): (_, _, _, _, _, &[u16]) = match kind {
            Kind::AddToken => (
                "POST",
                "/v1/tokens".to_owned(),
                json!({"name": format!("round {round}"), "rights": ["read"]}).to_string().into(),
                insert("tokens", format!("NEW.name = 'round {round}'")),
                format!("SELECT count(*) FROM {{s}}tokens WHERE name = 'round {round}'"),
                &[201],
            ),
            Kind::RemoveToken => {
                let token = json!({"name": "of a guest", "rights": ["read"]});
                let id = created(site, "/v1/tokens", &token).await;
                (
                    "DELETE",
                    format!("/v1/tokens/{id}"),
                    nothing(),
                    write("DELETE", "tokens", format!("OLD.id = '{id}'")),
                    recorded("remove_token", &id),
                    &[200],
                )
            }
            Kind::CreateEndpoint => (
                "POST",
                "/v1/webhooks".to_owned(),
                endpoint(&format!("round-{round}")).to_string().into(),
                insert("endpoints", format!("NEW.definition LIKE '%/round-{round}\"%'")),
                format!(
                    "SELECT count(*) FROM {{s}}endpoints WHERE definition LIKE '%/round-{round}\"%'"
                ),
                &[201],
            ),
            Kind::TestEndpoint
            | Kind::RotateEndpoint
            | Kind::ChangeEndpoint
            | Kind::RemoveEndpoint => {
                let id = created(site, "/v1/webhooks", &endpoint("messages")).await;
                let own = format!("/v1/webhooks/{id}");
                match kind {
                    Kind::TestEndpoint => (
                        "POST",
                        own + "/test",
                        nothing(),
                        insert("deliveries", format!("NEW.endpoint = '{id}'")),
                        format!("SELECT count(*) FROM {{s}}deliveries WHERE endpoint = '{id}'"),
                        &[202],
                    ),
                    Kind::RotateEndpoint => (
                        "POST",
                        own + "/rotate",
                        nothing(),
                        write("UPDATE", "endpoints", format!("OLD.id = '{id}'")),
                        recorded("rotate_endpoint", &id),
                        &[200],
                    ),
                    Kind::ChangeEndpoint => (
                        "PUT",
                        own,
                        br#"{"url": "http://127.0.0.1:9/changed"}"#.to_vec(),
                        write("UPDATE", "endpoints", format!("OLD.id = '{id}'")),
                        recorded("change_endpoint", &id),
                        &[200],
                    ),
                    _ => (
                        "DELETE",
                        own,
                        nothing(),
                        write("DELETE", "endpoints", format!("OLD.id = '{id}'")),
                        recorded("remove_endpoint", &id),
                        &[200],
                    ),
                }
            }
            Kind::Silence => {
                let id = format!("alert{round}");
                let alert = format!(
                    "INSERT INTO {{s}}alerts (tenant, id, rule, subject_kind, subject, firing,
                         since, changed, changes, value, detail)
                     SELECT '{}', '{id}', 'disk_low', 'folder', '/{round}', false, {{now}}, {{now}},
                         1, 1, ''",
                    Site::tenant()
                );
                site.execute(&alert).await;
                (
                    "POST",
                    format!("/v1/alerts/{id}/silence"),
                    br#"{"for": "2h"}"#.to_vec(),
                    write("UPDATE", "alerts", format!("OLD.id = '{id}'")),
                    recorded("silence", &id),
                    &[200],
                )
            }
            Kind::RunJob => {
                let due = site.number("SELECT due FROM {s}jobs WHERE name = 'retention'").await;
                (
                    "POST",
                    "/v1/jobs/retention/run".to_owned(),
                    nothing(),
                    insert("jobs", format!("NEW.name = 'retention' AND NEW.due <> {due}")),
                    format!(
                        "SELECT count(*) FROM {{s}}jobs WHERE name = 'retention' AND due <> {due}"
                    ),
                    &[202],
                )
            }
            Kind::Wake | Kind::Sleep => {
                let name = if kind == Kind::Wake { "wake" } else { "sleep" };
                let act = format!("kind = 'act' AND verdict = 'accepted' AND reason = '{name}'");
                (
                    "POST",
                    format!("/v1/apps/notes/{name}"),
                    nothing(),
                    insert("requests", format!("NEW.{}", act.replace("AND ", "AND NEW."))),
                    format!("SELECT count(*) FROM {{s}}requests WHERE {act}"),
                    // Nothing is woken: `wake.enabled` is false.
                    &[409],
                )
            }
            Kind::Replay | Kind::Dismiss => {
                let writer = 9_000_000 + i64::try_from(round).expect("small");
                let lost = Record { tenant: Site::tenant().into(), ..record(writer, 1) };
                let spool = Spool::new(spool, 1 << 30);
                let id = spool.put(&[lost], Some("refused"), |_| {}).expect("put");
                let path = |what| format!("/v1/deadletter/{id}/{what}");
                if kind == Kind::Replay {
                    (
                        "POST",
                        path("replay"),
                        nothing(),
                        insert("requests", format!("NEW.writer = {writer}")),
                        format!("SELECT count(*) FROM {{s}}requests WHERE writer = {writer}"),
                        // A letter that is gone is not replayed anew.
                        &[200, 404],
                    )
                } else {
                    let act = "NEW.reason = 'dismiss' AND NEW.verdict = 'accepted'";
                    (
                        "POST",
                        path("dismiss"),
                        nothing(),
                        insert("requests", act.to_owned()),
                        recorded("dismiss", &id),
                        &[200, 404],
                    )
                }
            }
        };
        let before = site.number(&count).await;
        Self { method, path, body, effect, count, before, statuses }
    }

    /// How often it was done.
    pub async fn effects(&self, site: &Site) -> i64 {
        site.number(&self.count).await - self.before
    }

    /// Returns the request's bytes.
    pub fn request(&self, key: &str) -> Vec<u8> {
        let request = Request::new(self.method, &self.path)
            .header("Idempotency-Key", format!("\"{key}\""))
            .header("Content-Length", self.body.len().to_string());
        [request.bytes(), self.body.clone()].concat()
    }
}

fn endpoint(path: &str) -> Value {
    // Nobody listens there.
    json!({"kind": "webhook", "url": format!("http://127.0.0.1:9/{path}"),
           "events": ["app.failed"]})
}

/// Creates something without a key; returns its id.
async fn created(site: &Site, path: &str, body: &Value) -> String {
    let body = body.to_string();
    let request = Request::new("POST", path).header("Content-Length", body.len().to_string());
    let bytes = [request.bytes(), body.into_bytes()].concat();
    let answer = site.send(site.victim().ops, &bytes).await.expect("answers");
    assert_eq!(answer.status, 201, "{}", answer.body());
    let created: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let shown = ask(site.victim().ops, &Request::new("GET", path)).await;
    assert_eq!(shown.status, 200, "{}", shown.body());
    created["id"].as_str().expect("an id").to_owned()
}
