//! `nightporter check`: reports what is wrong with the configuration and the apps, or works
//! otherwise than it looks, before it does harm.

mod app;
mod engine;
mod proxies;
mod repeated;
mod rules;

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::open::open;
use super::{CommandResult, NEGATIVE, wait};
use crate::config::{Config, Finding, Findings, ListenAddr, Origin, StoreKind};
use crate::domain::names::{Claims, Names};
use crate::store::Source;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print the findings as a JSON array
    #[arg(long)]
    json: bool,
    /// Exit with code 0 if there are only warnings
    #[arg(long)]
    allow_warnings: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// Something does not work.
    Error,
    /// Something works otherwise than it looks.
    Warning,
}

/// A finding and its severity.
#[derive(Debug)]
struct CheckFinding {
    severity: Severity,
    finding: Finding,
}

/// Everything found so far.
#[derive(Debug, Default)]
struct Report(Vec<CheckFinding>);

pub(super) fn run(
    options: &Options,
    config: Result<Config, Findings>,
    out: &mut dyn Write,
) -> CommandResult {
    let mut report = Report::default();
    match config {
        Err(findings) => report.extend(findings),
        Ok(config) => {
            proxies::trusted(&config, &mut report);
            upstream(&config, &mut report);
            let labelled = wait(async {
                let source = tables(&config, &mut report).await;
                engine::all(&config, source.as_deref(), &mut report).await;
                hosts(&config, source.as_deref(), &mut report).await;
                let labels = source.as_ref().and_then(|source| source.descriptions().labels());
                let apps = labels.iter().flat_map(|labels| labels.apps());
                Ok(apps.map(|(app, _)| app.to_string()).collect())
            })?;
            app::all(&config, &labelled, &mut report);
        }
    }
    report.print(options.json, out)?;
    let counts =
        |finding: &CheckFinding| !options.allow_warnings || finding.severity == Severity::Error;
    Ok(if report.0.iter().any(counts) { NEGATIVE.into() } else { ExitCode::SUCCESS })
}

/// Prints the mistakes of a configuration.
pub(super) fn print_errors(
    findings: Findings,
    as_json: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let mut report = Report::default();
    report.extend(findings);
    report.print(as_json, out)
}

impl Report {
    fn extend(&mut self, findings: Findings) {
        let errors = findings.0.into_iter();
        self.0.extend(errors.map(|finding| CheckFinding { severity: Severity::Error, finding }));
    }

    fn error(
        &mut self,
        file: &Path,
        key: impl Into<String>,
        problem: impl fmt::Display,
        hint: &str,
    ) {
        self.add(Severity::Error, file, key, problem, hint);
    }

    fn warning(
        &mut self,
        file: &Path,
        key: impl Into<String>,
        problem: impl fmt::Display,
        hint: &str,
    ) {
        self.add(Severity::Warning, file, key, problem, hint);
    }

    fn add(
        &mut self,
        severity: Severity,
        file: &Path,
        key: impl Into<String>,
        problem: impl fmt::Display,
        hint: &str,
    ) {
        let origin = Origin::File(file.into(), None);
        let (key, problem, hint) = (key.into(), problem.to_string(), hint.into());
        self.0.push(CheckFinding { severity, finding: Finding { origin, key, problem, hint } });
    }

    fn print(&self, as_json: bool, out: &mut dyn Write) -> std::io::Result<()> {
        if as_json {
            let findings: Vec<_> = self.0.iter().map(CheckFinding::json).collect();
            return writeln!(out, "{:#}", serde_json::Value::from(findings));
        }
        for CheckFinding { severity, finding } in &self.0 {
            writeln!(out, "{}: {finding}", severity.as_str())?;
        }
        match self.0.len() {
            0 => writeln!(out, "no findings"),
            1 => writeln!(out, "1 finding"),
            many => writeln!(out, "{many} findings"),
        }
    }
}

impl CheckFinding {
    fn json(&self) -> serde_json::Value {
        let Self { severity, finding: Finding { origin, key, problem, hint } } = self;
        json!({
            "severity": severity.as_str(),
            "source": origin.to_string(),
            "key": key,
            "problem": problem,
            "hint": hint,
        })
    }
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Warns if the upstream is the gate itself, which could tell the gate nothing that it does
/// not know. Names are not resolved: a check needs no network.
fn upstream(config: &Config, report: &mut Report) {
    let (Some(upstream), ListenAddr::Tcp(gate)) = (&config.upstream, &config.gate.listen) else {
        return;
    };
    let host = upstream.url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_this_host = match host.parse::<IpAddr>() {
        Ok(host) if gate.ip().is_unspecified() => host.is_loopback() || host.is_unspecified(),
        Ok(host) => host == gate.ip(),
        Err(_) => host == "localhost" && (gate.ip().is_loopback() || gate.ip().is_unspecified()),
    };
    if is_this_host && upstream.url.port_u16().unwrap_or(80) == gate.port() {
        report.warning(
            Path::new("configuration"),
            "upstream.url",
            format!("is where the gate itself listens, {gate}: the gate would ask itself"),
            "set it to the address of shard_core",
        );
    }
}

/// Checks the files of a box without a database. A database is not queried: a check
/// must work before there is one.
async fn tables(config: &Config, report: &mut Report) -> Option<Arc<Source>> {
    let source = match open(config) {
        Ok((source, _)) => source,
        Err(problem) => {
            let hint = "correct the connection string";
            report.error(Path::new("configuration"), "", problem, hint);
            return None;
        }
    };
    let StoreKind::Files { path, .. } = &config.store.kind else {
        return Some(source);
    };
    if !path.is_dir() {
        report.error(path, "", "the folder does not exist", "set `store.path` to the box's folder");
        return Some(source);
    }
    let identity = source.identity().await;
    if let Ok(Some(identity)) = &identity
        && let Some(domain) = &config.gate.domain
        && !identity.domain.eq_ignore_ascii_case(domain)
    {
        report.warning(
            &path.join("identity.toml"),
            "domain",
            format!("is `{}`, and `gate.domain` is `{domain}`", identity.domain),
            "apps are told the first and found at the second; make them the same",
        );
    }
    let peers = source.peer_rows().await;
    for bad in peers.iter().flatten().filter_map(|row| row.as_ref().err()) {
        let hint = "enter the peer's own id and key, as the peer shows them";
        report.warning(&path.join("peers.toml"), "peer", bad, hint);
    }
    let problems = [
        identity.err(),
        source.terminals().await.err(),
        peers.as_ref().err().cloned(),
        source.terminal_secret().await.err(),
        source.management_secret().await.err(),
    ];
    for problem in problems.into_iter().flatten() {
        // The text names the file that is meant.
        report.error(path, "", problem, "correct the file");
    }
    Some(source)
}

/// Reports hosts that several apps claim. A database is not queried, so beside one only
/// files and labels are compared.
async fn hosts(config: &Config, source: Option<&Source>, report: &mut Report) {
    let Some(source) = source else { return };
    let descriptions = source.descriptions();
    let folders = descriptions.folders().await.unwrap_or_default();
    let (mut names, mut claims) = (folders.clone(), Vec::new());
    for app in &folders {
        if let Ok(meta) = descriptions.read(app).await {
            claims.push(Claims { app: app.as_str().into(), hosts: meta.hosts });
        }
    }
    for (app, described) in descriptions.labels().iter().flat_map(|labels| labels.apps()) {
        if !folders.iter().any(|folder| folder.eq_ignore_ascii_case(&app)) {
            names.push(app.to_string());
            claims.push(Claims { app, hosts: described.hosts.clone() });
        }
    }
    for contested in Names::new(names, &claims, config.gate.domain.as_deref()).contested {
        let hint = "remove it from all but one of them; within `gate.domain`, an app's name \
                    claims its host";
        report.error(Path::new("apps"), "hosts", contested, hint);
    }
}
