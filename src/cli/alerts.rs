//! `nightporter alerts`: what the operator has to know.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Ops, segment};
use super::{CommandResult, NEGATIVE, wait};
use crate::config::Config;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    /// Also show alerts that are resolved
    #[arg(long)]
    all: bool,
    /// Print the alerts as the process returns them, as JSON, one a line
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Send no messages about an alert for a time; exit code 1 if there is none with this id
    Silence {
        /// The alert's id
        id: String,
        /// For how long, such as 2h; 0s ends a silence
        #[arg(long = "for", value_name = "DURATION", required_unless_present = "until")]
        span: Option<String>,
        /// Until when: a time with its zone, such as 2026-12-01T08:00:00Z
        #[arg(long, value_name = "TIME", conflicts_with = "span")]
        until: Option<String>,
        /// Print the response of the process, as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Page {
    alerts: Vec<Value>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    id: String,
    state: String,
    since: String,
    title: String,
    detail: String,
    help: String,
    silenced_until: Option<String>,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    let ops = Ops::new(config)?;
    match &options.action {
        None => wait(list(&ops, options, out)),
        Some(Action::Silence { id, span, until, json: as_json }) => {
            let path = format!("/v1/alerts/{}/silence", segment(id));
            let body = match until {
                Some(until) => json!({"until": until}),
                None => json!({"for": span}),
            };
            let answer: Value = wait(ops.send(Method::POST, &path, &body))?;
            if *as_json {
                writeln!(out, "{answer}")?;
                return Ok(ExitCode::SUCCESS);
            }
            match ops.read::<Alert>(answer)?.silenced_until {
                Some(until) => writeln!(out, "silenced until {until}")?,
                None => writeln!(out, "no longer silenced")?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(ops: &Ops<'_>, options: &Options, out: &mut dyn Write) -> CommandResult {
    let Options { all, json, action: _ } = options;
    let state = if *all { "" } else { "&state=firing" };
    let (mut alerts, mut next) = (Vec::new(), None::<String>);
    loop {
        let after = next.map_or(String::new(), |next| format!("&after={}", segment(&next)));
        let page: Page = ops.get(&format!("/v1/alerts?limit=500{state}{after}")).await?;
        alerts.extend(page.alerts);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if *json {
        for alert in &alerts {
            writeln!(out, "{alert}")?;
        }
    }
    let alerts: Vec<Alert> =
        alerts.into_iter().map(|alert| ops.read(alert)).collect::<Result<_, _>>()?;
    if !*json {
        print(&alerts, out)?;
    }
    let is_firing = alerts.iter().any(|alert| alert.state == "firing");
    Ok(if is_firing { NEGATIVE.into() } else { ExitCode::SUCCESS })
}

fn print(alerts: &[Alert], out: &mut dyn Write) -> io::Result<()> {
    if alerts.is_empty() {
        return writeln!(out, "no alert fires");
    }
    for Alert { id, state, since, title, detail, help, silenced_until } in alerts {
        writeln!(out, "{state} since {since}: {}", title.escape_debug())?;
        if !detail.is_empty() {
            writeln!(out, "    {}", detail.escape_debug())?;
        }
        writeln!(out, "    {}", help.escape_debug())?;
        match silenced_until {
            Some(until) => writeln!(out, "    id {id}, silenced until {until}")?,
            None => writeln!(out, "    id {id}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_printed_with_what_helps() {
        let alert = |title: &str, silenced_until: Option<&str>| Alert {
            id: "1f".into(),
            state: "firing".into(),
            since: "2026-11-30T12:00:00Z".into(),
            title: title.into(),
            detail: "3 attempts".into(),
            help: "Look at `nightporter apps`.".into(),
            silenced_until: silenced_until.map(str::to_owned),
        };
        let mut out = Vec::new();
        print(&[alert("a\u{1b}[31m", None), alert("b", Some("later"))], &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        let expected = "firing since 2026-11-30T12:00:00Z: a\\u{1b}[31m\n    3 attempts\n    \
                        Look at `nightporter apps`.\n    id 1f\n\
                        firing since 2026-11-30T12:00:00Z: b\n    3 attempts\n    \
                        Look at `nightporter apps`.\n    id 1f, silenced until later\n";
        assert_eq!(text, expected);
        let mut none = Vec::new();
        print(&[], &mut none).expect("written");
        assert_eq!(none, b"no alert fires\n");
    }
}
