//! `nightporter explain`: shows the verdict on one request and each step to it, by the
//! gate's own code against the live store.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::open::open;
use super::{CliError, CommandResult, NEGATIVE, wait, wall_clock};
use crate::config::Config;
use crate::gate::Gate;
use crate::gate::credentials::terminal as token;
use crate::gate::verdict::Verdict;
use crate::store::Source;
use crate::store::touch::Touches;
use crate::wake::Registry;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The host of the request, such as `notes.box.example`
    #[arg(long)]
    host: String,
    /// The path, with the query if there is one
    #[arg(long, default_value = "/")]
    uri: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// The `Cookie` header, such as `authorization=...`
    #[arg(long, conflicts_with = "terminal")]
    cookie: Option<String>,
    /// Send the request as this terminal, with a token that is issued for it here
    #[arg(long, value_name = "ID")]
    terminal: Option<String>,
    /// A further header of the request, as `name: value`
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (source, freshness) = open(config)?;
        let headers = options.headers(&source).await?;
        source.descriptions().read_claims().await;
        let touches = Touches::new(config.touch.clone());
        // There is no reconciler here: every app counts as awake. No upstream is told.
        let (registry, _commands) = Registry::new();
        let gate = Gate::new(config, source, freshness, Arc::new(touches), registry, None);
        let explanation = gate.explain(&headers).await;
        for step in &explanation.steps {
            writeln!(out, "{step}")?;
        }
        match explanation.verdict {
            Verdict::Grant(headers) => {
                writeln!(out, "{:<9} grant", "verdict")?;
                for (name, value) in headers.rendered() {
                    writeln!(out, "{:<9} {name}: {}", "header", value.as_bytes().escape_ascii())?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Verdict::Asleep(_) => {
                writeln!(out, "{:<9} grant, answered by nightporter itself", "verdict")?;
                Ok(ExitCode::SUCCESS)
            }
            Verdict::Deny(reason) => {
                writeln!(out, "{:<9} deny: {reason}", "verdict")?;
                Ok(NEGATIVE.into())
            }
        }
    })
}

impl Options {
    /// Returns the headers of the request as a proxy would forward it.
    async fn headers(&self, source: &Source) -> Result<HeaderMap, CliError> {
        let Self { host, uri, method, cookie, terminal, headers: further } = self;
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, text: &str| {
            let invalid = || CliError::Message(format!("invalid header `{name}: {text}`"));
            let name = HeaderName::try_from(name).map_err(|_| invalid())?;
            let value = HeaderValue::try_from(text).map_err(|_| invalid())?;
            headers.append(name, value);
            Ok::<_, CliError>(())
        };
        add("x-forwarded-host", host)?;
        add("x-forwarded-uri", uri)?;
        add("x-forwarded-method", method)?;
        add("x-forwarded-proto", "https")?;
        if let Some(cookie) = cookie {
            add("cookie", cookie)?;
        }
        if let Some(id) = terminal {
            let secret = source.terminal_secret().await?.ok_or_else(|| {
                let hint = "the first `nightporter terminal add` creates it";
                CliError::Message(format!("the box has no secret for terminals' tokens; {hint}"))
            })?;
            let token = token::issue(&secret, id, wall_clock())
                .map_err(|error| CliError::Message(format!("cannot issue a token: {error}")))?;
            add("cookie", &format!("authorization={token}"))?;
        }
        for header in further {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            add(name.trim(), value.trim())?;
        }
        Ok(headers)
    }
}
