//! Explains the verdict of one request step by step, for `nightporter explain`.
//!
//! The verdict is the gate's own, from the same call that answers proxies. The
//! steps are found by calling the same functions again, one by one.

use std::fmt;

use http::HeaderMap;

use crate::domain::policy::{governing_rule, rule_of_reading};
use crate::domain::reason::Reason;
use crate::domain::request::{Host, Readings};

use super::Gate;
use super::client::ReplayCheck;
use super::forwarded::Forwarded;
use super::verdict::Verdict;

/// The findings of all steps, in order, and the verdict.
#[derive(Debug)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub verdict: Verdict,
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was examined: `app`, `path`, `client`, …
    pub subject: &'static str,
    pub finding: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} {}", self.subject, self.finding)
    }
}

impl Gate {
    /// Decides a request as [`Gate::auth`] does and returns the reasons.
    pub async fn explain(&self, headers: &HeaderMap) -> Explanation {
        let mut steps = Vec::new();
        if let Err(reason) = self.explain_steps(headers, &mut steps).await {
            steps.push(Step { subject: "stopped", finding: reason.to_string() });
        }
        Explanation { steps, verdict: self.auth(headers).await.verdict }
    }

    async fn explain_steps(
        &self,
        headers: &HeaderMap,
        steps: &mut Vec<Step>,
    ) -> Result<(), Reason> {
        let mut step = |subject, finding| steps.push(Step { subject, finding });
        let forwarded = Forwarded::read(headers)?;
        let host = Host::parse(forwarded.host)?;
        let lookup = self.caches.app(host, self.freshness.now()).await?;
        let lower = host.lower();
        if let Some(contested) = lookup.names.value.contested.iter().find(|c| *c.host == *lower) {
            step("host", contested.to_string());
        } else if lookup.app.is_none() {
            let label = host.label(self.config.domain.as_deref())?;
            step("host", format!("{} names the app `{label}`", forwarded.host));
        }
        let app = lookup.app().ok_or(Reason::UnknownApp)?;
        step("host", format!("{} names the app `{}`", forwarded.host, app.row.name));
        step("app", format!("`{}` is installed, status {}", app.row.name, app.row.status));
        if let Err(problem) = &app.description {
            step("app", problem.clone());
        }
        let (_, description) = lookup.description()?;
        let (paths, rules) = (&description.paths.written, &description.paths.rules);
        let readings = Readings::new(forwarded.uri)?;
        // If all rules are the same, no path is too ambiguous to be decided.
        let others = if rules.is_uniform() { Vec::new() } else { readings.others()? };
        let matching = self.config.path_matching;
        let raw = (readings.raw(), governing_rule(paths, readings.raw(), matching));
        let others = others.iter().map(|path| (&**path, rule_of_reading(paths, path, matching)));
        for (reading, rule) in std::iter::once(raw).chain(others) {
            let rule = rule.map_or_else(
                || "no rule".to_owned(),
                |rule| format!("`{}`: {:?}", paths[rule].prefix, paths[rule].access).to_lowercase(),
            );
            step("path", format!("{} → {rule}", String::from_utf8_lossy(reading)));
        }
        // The verdict checks for replays. A second check here would itself look like one.
        let mut replay_check = ReplayCheck::skipped();
        let identified =
            self.identify(headers, Some(&forwarded), self.now(), &mut replay_check).await?;
        let client = identified.client().known().map_or_else(
            || identified.client().kind().to_owned(),
            |known| format!("{} `{}` ({})", identified.client().kind(), known.id, known.name),
        );
        step("client", client);
        Ok(())
    }
}
