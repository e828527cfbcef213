//! `nightporter webhook`: the endpoints of messages.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::ask::{Ops, segment};
use super::{CommandResult, NEGATIVE, wait};
use crate::config::Config;

/// How long `test` waits for its message: an attempt has 15 seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List the endpoints that messages are sent to
    List {
        /// Print the response of the process, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a test message; exit code 1 if it is not delivered
    Test {
        /// The endpoint's name
        name: String,
        /// Print the attempt, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what was sent to an endpoint, the newest first
    Logs {
        /// The endpoint's name
        name: String,
        /// How many attempts, 500 at most
        #[arg(long, default_value_t = 20)]
        limit: u16,
        /// Print the response of the process, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Create an endpoint; prints its secret, once
    Add(Add),
    /// Remove an endpoint with its log
    Remove {
        /// The endpoint's name
        name: String,
    },
    /// Give a webhook another secret; the former one signs as well for a day
    Rotate {
        /// The endpoint's name
        name: String,
    },
    /// Send nothing to an endpoint until it is enabled; what waits for it is given up
    Disable {
        /// The endpoint's name
        name: String,
    },
    /// Send to a disabled endpoint again
    Enable {
        /// The endpoint's name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name
    name: String,
    /// Where messages go
    url: String,
    /// webhook, ntfy, gotify or discord
    #[arg(long, default_value = "webhook")]
    kind: String,
    /// The token of ntfy or Gotify
    #[arg(long)]
    token: Option<String>,
    /// Kinds of events, or patterns such as `alert.*`
    #[arg(long, value_delimiter = ',')]
    events: Option<Vec<String>>,
    /// Only what is about these apps
    #[arg(long, value_delimiter = ',')]
    apps: Vec<String>,
    /// When messages wait, such as 22:00-07:00
    #[arg(long)]
    quiet: Option<String>,
    /// Let messages contain names and addresses
    #[arg(long)]
    pii: bool,
    /// Print the response of the process, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    id: String,
    origin: String,
    kind: String,
    url: String,
    events: Vec<String>,
    failing_since: Option<String>,
    disabled: Option<Disabled>,
}

#[derive(Debug, Deserialize)]
struct Disabled {
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    event: String,
    #[serde(rename = "attempt")]
    number: i64,
    at: String,
    outcome: String,
    status: Option<i64>,
    detail: Option<String>,
    delivery: String,
}

pub(super) fn run(action: &Action, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    wait(async {
        match action {
            Action::List { json } => {
                let answer: Value = ops.get("/v1/webhooks").await?;
                if *json {
                    writeln!(out, "{answer}")?;
                } else {
                    table(&ops.read::<Vec<Endpoint>>(answer["endpoints"].clone())?, out)?;
                    for name in ops.read::<Vec<String>>(answer["unreadable"].clone())? {
                        writeln!(out, "{name}: its row cannot be read; it gets no messages")?;
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Action::Test { name, json } => test(&ops, name, *json, out).await,
            Action::Logs { name, limit, json } => {
                let path = format!("{}/logs?limit={limit}", path(name));
                let answer: Value = ops.get(&path).await?;
                if *json {
                    writeln!(out, "{answer}")?;
                } else {
                    for attempt in ops.read::<Vec<Attempt>>(answer["attempts"].clone())? {
                        line(&attempt, out)?;
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Action::Add(add) => {
                let answer: Value = ops.send(Method::POST, "/v1/webhooks", &add.draft()).await?;
                created(&answer, add.json, out)
            }
            Action::Rotate { name } => {
                let path = format!("{}/rotate", path(name));
                let answer: Value = ops.ask(Method::POST, &path).await?;
                created(&answer, false, out)
            }
            Action::Remove { name } => {
                let _removed: Value = ops.ask(Method::DELETE, &path(name)).await?;
                writeln!(out, "{name}: removed")?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Disable { name } => {
                let change = json!({"enabled": false});
                let _disabled: Value = ops.send(Method::PUT, &path(name), &change).await?;
                writeln!(out, "{name}: disabled")?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Enable { name } => {
                let path = format!("{}/enable", path(name));
                let _enabled: Value = ops.ask(Method::POST, &path).await?;
                writeln!(out, "{name}: enabled")?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

impl Add {
    fn draft(&self) -> Value {
        let Self { name, url, kind, token, events, apps, quiet, pii, json: _ } = self;
        json!({
            "name": name, "url": url, "kind": kind, "token": token, "events": events,
            "apps": apps, "quiet": quiet, "pii": pii,
        })
    }
}

fn path(name: &str) -> String {
    format!("/v1/webhooks/{}", segment(name))
}

fn created(answer: &Value, json: bool, out: &mut dyn Write) -> CommandResult {
    if json {
        writeln!(out, "{answer}")?;
    } else {
        let id = answer["id"].as_str().unwrap_or_default();
        match answer["secret"].as_str() {
            Some(secret) => writeln!(out, "{id}: its secret, which is not shown again: {secret}")?,
            None => writeln!(out, "{id}: created")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a test message and waits for its first attempt.
async fn test(ops: &Ops<'_>, name: &str, json: bool, out: &mut dyn Write) -> CommandResult {
    let queued: Value = ops.ask(Method::POST, &format!("{}/test", path(name))).await?;
    let event = queued["event"].as_str().unwrap_or_default().to_owned();
    let log = format!("{}/logs?limit=1&event={}", path(name), segment(&event));
    let begun = Instant::now();
    loop {
        let answer: Value = ops.get(&log).await?;
        let attempt = &answer["attempts"][0];
        let is_over = attempt["outcome"].as_str().is_some_and(|outcome| outcome != "running");
        if is_over || begun.elapsed() > PATIENCE {
            let is_delivered = attempt["outcome"] == "delivered";
            if json {
                writeln!(out, "{attempt}")?;
            } else if attempt.is_null() {
                writeln!(out, "{name}: not sent within {PATIENCE:?}; see `webhook logs {name}`")?;
            } else {
                line(&ops.read(attempt.clone())?, out)?;
            }
            return Ok(if is_delivered { ExitCode::SUCCESS } else { NEGATIVE.into() });
        }
        sleep(POLL).await;
    }
}

fn table(endpoints: &[Endpoint], out: &mut dyn Write) -> io::Result<()> {
    let width = endpoints.iter().map(|endpoint| endpoint.id.len()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:<width$}  {:<7}  {:<13}  {:<9}  WHERE AND WHAT",
        "NAME", "KIND", "FROM", "STATE"
    )?;
    for Endpoint { id, origin, kind, url, events, failing_since, disabled } in endpoints {
        let state = match (disabled, failing_since) {
            (Some(_), _) => "disabled",
            (None, Some(_)) => "failing",
            (None, None) => "ok",
        };
        let events = events.join(", ");
        writeln!(out, "{id:<width$}  {kind:<7}  {origin:<13}  {state:<9}  {url}: {events}")?;
        if let Some(Disabled { reason }) = disabled {
            writeln!(out, "{:<width$}  {reason}", "")?;
        }
    }
    Ok(())
}

fn line(attempt: &Attempt, out: &mut dyn Write) -> io::Result<()> {
    let Attempt { event, number, at, outcome, status, detail, delivery } = attempt;
    let status = status.map(|status| format!(" {status}")).unwrap_or_default();
    let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    writeln!(out, "{at}  {event}  attempt {number}: {outcome}{status} ({delivery}){detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_listed_in_columns() {
        let endpoints = json!([
            {"id": "phone", "origin": "configuration", "kind": "ntfy", "url": "https://ntfy.sh",
             "events": ["alert.*"], "failing_since": null, "disabled": null},
            {"id": "hook", "origin": "api", "kind": "webhook", "url": "https://hooks.example",
             "events": ["*"], "failing_since": "x", "disabled": {"at": "x", "reason": "gone"}},
        ]);
        let endpoints: Vec<Endpoint> = serde_json::from_value(endpoints).expect("as answered");
        let mut out = Vec::new();
        table(&endpoints, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        let expected = [
            "NAME   KIND     FROM           STATE      WHERE AND WHAT",
            "phone  ntfy     configuration  ok         https://ntfy.sh: alert.*",
            "hook   webhook  api            disabled   https://hooks.example: *",
            "       gone",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
