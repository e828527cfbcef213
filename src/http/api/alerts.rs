//! What the operator has to know: alerts, their history, and silences.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::outcome::Outcome;
use super::problem::Problem;
use super::{Call, Services, ok, read_object};
use crate::access::{Right, Viewer};
use crate::alerts::silence::Silence;
use crate::alerts::table::{self, Alert, AlertPage, Cursor, HistoryEntry, after_silence};
use crate::alerts::{FiringAlerts, Rule, firing, message, rule};
use crate::http::Response;
use crate::http::probes::FiringAlert;
use crate::ledger::Ledger;
use crate::ledger::acts::Act;
use crate::ledger::archive::Archive;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::Micros;
use crate::webhooks::outbox;

/// How many alerts `/healthz` names.
const MAX_SHOWN: usize = 50;

/// What the routes of alerts work with.
#[derive(Debug)]
pub(crate) struct Alerts {
    ledger: Arc<Ledger>,
    firing_alerts: Arc<FiringAlerts>,
}

/// A page of alerts, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Alerts")]
pub(super) struct Page {
    alerts: Vec<AlertView>,
    /// The `after` of the next page.
    next: Option<String>,
}

/// An alert. Times are those of RFC 3339, in UTC, by the database's clock.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub(super) struct AlertView {
    /// Names it as long as it is kept.
    id: String,
    rule: &'static str,
    /// `firing` or `resolved`.
    state: &'static str,
    subject: ShownSubject,
    /// What happened, in one line.
    title: String,
    /// Since when it has been in its state.
    since: String,
    /// The measured number when it fired, and what it counts.
    value: u64,
    unit: &'static str,
    /// What is known besides.
    detail: String,
    /// The command or the setting that helps.
    help: &'static str,
    /// Until when no message is sent about it.
    silenced_until: Option<String>,
}

/// Whom or what an alert is about.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AlertSubject")]
struct ShownSubject {
    /// `box`, `client`, `address`, `app`, `job`, `folder`, `endpoint` or `others`.
    kind: &'static str,
    #[schemars(extend("x-masked" = true))]
    value: String,
}

/// The changes of an alert, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AlertHistory")]
pub(super) struct Changes {
    changes: Vec<ShownChange>,
    /// The `after` of the next page.
    next: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AlertChange")]
struct ShownChange {
    /// Counts the changes of the alert from 1.
    n: i64,
    at: String,
    /// `firing` or `resolved`.
    state: &'static str,
    value: u64,
    detail: String,
    /// Whether no message was sent.
    silenced: bool,
}

/// The body of a request for a silence, as it is described; it is read as a [`Silence`].
#[derive(Debug, JsonSchema)]
#[schemars(rename = "WantedSilence", deny_unknown_fields)]
#[expect(dead_code, reason = "it is described only")]
pub(super) struct SilenceRequest {
    /// A time span such as `2h`; `0s` ends a silence. One of the two is given.
    #[schemars(rename = "for")]
    span: Option<String>,
    /// A time with its zone (RFC 3339), such as `2026-12-01T08:00:00Z`.
    until: Option<String>,
}

impl Alerts {
    pub(crate) fn new(ledger: Arc<Ledger>, firing_alerts: Arc<FiringAlerts>) -> Self {
        Self { ledger, firing_alerts }
    }

    fn archive(&self) -> &Archive {
        &self.ledger.archive
    }

    /// Returns as whom a request's answer is written.
    async fn viewer(&self, call: &Call) -> Viewer {
        if call.principal.may(Right::Pii) {
            return Viewer::clear();
        }
        self.ledger.masked_viewer(&call.tenant).await
    }

    pub(super) fn firing_alerts(&self) -> &FiringAlerts {
        &self.firing_alerts
    }
}

impl AlertView {
    fn new(alert: &Alert, viewer: &Viewer) -> Self {
        let Alert { id, rule, subject, is_firing, since, value, .. } = alert;
        let texts = rule::texts(*rule);
        let shown = subject.shown(viewer, *since);
        Self {
            id: id.clone(),
            rule: rule.as_str(),
            state: message::state(*is_firing),
            title: texts.title(subject, &shown),
            subject: ShownSubject { kind: subject.kind(), value: shown },
            since: rfc3339(*since).to_string(),
            value: *value,
            unit: texts.unit,
            detail: rule::detail(*rule, &alert.detail, viewer, *since),
            help: texts.help,
            silenced_until: alert.silenced_until.map(|until| rfc3339(until).to_string()),
        }
    }
}

/// `GET /v1/alerts`
pub(super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let alerts = services.alerts()?;
    let mut query = call.query()?;
    let rules = Rule::ALL.map(Rule::as_str).join(", ");
    let is_firing = query.value("state", "firing or resolved", |text| match text {
        "firing" => Some(true),
        "resolved" => Some(false),
        _ => None,
    })?;
    let rule = query.value("rule", &format!("one of {rules}"), Rule::parse)?;
    let after = query.value("after", "the `next` of an answer", read_cursor)?;
    let limit = query.limit()?;
    query.end()?;
    let mut snapshot = alerts.archive().snapshot_of(&call.tenant).await?;
    let page = AlertPage { is_firing, rule, after, limit: rows(limit + 1) };
    let mut found = table::page(&mut snapshot, &call.tenant, &page).await?;
    let is_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| is_more).map(cursor_text);
    let viewer = alerts.viewer(&call).await;
    let alerts = found.iter().map(|alert| AlertView::new(alert, &viewer)).collect();
    Ok(ok(&Page { alerts, next }))
}

/// `GET /v1/alerts/{id}/history`
pub(super) async fn history(services: &Services, call: Call) -> Result<Response, Problem> {
    let alerts = services.alerts()?;
    let mut query = call.query()?;
    let after = query.value("after", "the `next` of an answer", |text| {
        text.parse().ok().filter(|number| *number >= 1)
    })?;
    let limit = query.limit()?;
    query.end()?;
    let id = call.parameters.get("id");
    let mut snapshot = alerts.archive().snapshot_of(&call.tenant).await?;
    let alert = table::find(&mut snapshot, &call.tenant, id).await?.ok_or_else(|| missing(id))?;
    let entries = table::history(&mut snapshot, &call.tenant, id, after, rows(limit + 1)).await?;
    let viewer = alerts.viewer(&call).await;
    let is_more = entries.len() > limit;
    let shown = &entries[..entries.len().min(limit)];
    let next = shown.last().filter(|_| is_more).map(|entry| entry.n);
    let change = |entry: &HistoryEntry| ShownChange {
        n: entry.n,
        at: rfc3339(entry.at).to_string(),
        state: message::state(entry.is_firing),
        value: entry.value,
        detail: rule::detail(alert.rule, &entry.detail, &viewer, entry.at),
        silenced: entry.is_silenced,
    };
    Ok(ok(&Changes { changes: shown.iter().map(change).collect(), next }))
}

/// `POST /v1/alerts/{id}/silence`: the silence and its record are in one transaction.
pub(super) async fn silence(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let alerts = services.alerts()?;
    call.query()?.end()?;
    let asked: Silence = read_object(call.body()).map_err(|error| {
        let expected = r#"expected {"for": "2h"} or {"until": "2026-12-01T08:00:00Z"}"#;
        Problem::new(StatusCode::BAD_REQUEST, format!("invalid body: {error}; {expected}"))
    })?;
    let tenant = services.own_rows(&call)?;
    let id = call.parameters.get("id");
    let mut transaction = alerts.archive().begin().await?;
    let now = transaction.now().await?;
    let until = asked.until(now);
    let until = until.map_err(|error| Problem::parameter(error.field(), error.to_string()))?;
    let silenced = table::silence(&mut transaction, &tenant, id, until).await?;
    let alert = silenced.ok_or_else(|| missing(id))?;
    if until.is_none() && after_silence::take_message(&mut transaction, &tenant, &alert).await? {
        outbox::enqueue(&mut transaction, &tenant, &message::event(&alert, now)).await?;
    }
    let until = until.map(|until| rfc3339(until).to_string());
    let act = Act::Silence { alert: alert.id.clone(), until };
    let recorded = services.record(&mut transaction, act).await?;
    let viewer = alerts.viewer(&call).await;
    Ok(Outcome::within(transaction, recorded, ok(&AlertView::new(&alert, &viewer))))
}

fn missing(id: &str) -> Problem {
    let id: String = id.chars().take(40).collect();
    Problem::not_found(format!("there is no alert `{id}`"))
}

/// Returns a number of rows as the tables take it.
fn rows(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the text of a place in a list, which only [`read_cursor`] has to understand.
fn cursor_text(alert: &Alert) -> String {
    format!("{}.{}", alert.since.0, alert.id)
}

fn read_cursor(text: &str) -> Option<Cursor> {
    let (since, id) = text.split_once('.')?;
    let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.len() <= 32;
    let since = Micros(since.parse().ok()?);
    is_id.then(|| Cursor { since, id: id.to_owned() })
}

impl Alerts {
    /// Returns what fires.
    pub(super) fn firing(&self) -> Vec<FiringAlert> {
        let firing = self.firing_alerts.list().into_iter().take(MAX_SHOWN);
        let shown = firing.map(|firing::Firing { rule, stored }| {
            let texts = rule::texts(rule);
            FiringAlert {
                rule: rule.as_str(),
                title: texts.title_of_any(),
                since: stored.as_ref().map(|alert| rfc3339(alert.since).to_string()),
                id: stored.map(|alert| alert.id),
                help: texts.help,
            }
        });
        shown.collect()
    }
}
