//! The rules, as data: what each measures, when it fires and resolves, and what it tells the
//! operator.

use std::time::Duration;

use super::subject::Subject;
use super::transition::{Bound, Limits};
use crate::access::{Private, Viewer};
use crate::config;
pub use crate::domain::alert::Rule;
use crate::ledger::record::Micros;

/// The most alerts of one rule that fire at the same time; further subjects share one more.
const MOST: usize = 100;

/// The same for rules whose subjects strangers choose.
const MOST_STRANGERS: usize = 20;

/// What a rule tells the operator. `{subject}` stands for whom or what the alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleTexts {
    /// What happened, in one line.
    pub title: &'static str,
    /// What happened to the further subjects, if there are too many.
    pub others: &'static str,
    /// The command or the setting that helps.
    pub help: &'static str,
    /// What the measured number counts.
    pub unit: &'static str,
}

/// Returns what a rule tells the operator.
#[must_use]
pub fn texts(rule: Rule) -> RuleTexts {
    match rule {
        Rule::DenialsClient => RuleTexts {
            title: "the client {subject} is denied again and again",
            others: "more clients are denied again and again",
            help: "`nightporter ledger list --verdict deny` shows what it asks for; \
                   `nightporter terminal remove` revokes a terminal; `alerts.denials` is the \
                   threshold.",
            unit: "denials",
        },
        Rule::DenialsAddress => RuleTexts {
            title: "the address {subject} is denied again and again",
            others: "more addresses are denied again and again",
            help: "`nightporter ledger list --verdict deny` shows what it asks for. If it is \
                   not one of yours, block it at the proxy or in the firewall; \
                   `alerts.denials` is the threshold.",
            unit: "denials",
        },
        Rule::AppFailing => RuleTexts {
            title: "the app {subject} does not start",
            others: "more apps do not start",
            help: "`nightporter apps` shows its state; the logs of its containers say more. \
                   `nightporter wake` tries again at once.",
            unit: "failed starts",
        },
        Rule::CacheDegraded => RuleTexts {
            title: "changes in the store are not heard",
            others: "changes in more stores are not heard",
            help: "The gate serves from memory, for `cache.max_stale` at most. `/healthz` says \
                   what is wrong with the store; `nightporter check` tries its settings.",
            unit: "",
        },
        Rule::DeadLetters => RuleTexts {
            title: "records wait on the disk for the ledger's database",
            others: "more records wait on the disk",
            help: "`nightporter deadletter list` says why; `nightporter deadletter replay` \
                   tries again, `nightporter deadletter dismiss` gives them up.",
            unit: "dead letters",
        },
        Rule::RecordsDropped => RuleTexts {
            title: "records were lost",
            others: "more records were lost",
            help: "`nightporter ledger list --kind loss` names them. A database that answers, \
                   or a larger `ledger.max_spool`, prevents it.",
            unit: "records",
        },
        Rule::CheckpointOverdue => RuleTexts {
            title: "no checkpoint covers the newest records",
            others: "more checkpoints are overdue",
            help: "`nightporter jobs` shows what became of the job `integrity`; \
                   `nightporter ledger verify` checks the record.",
            unit: "seconds",
        },
        Rule::CertificateExpiring => RuleTexts {
            title: "the gate's certificate ends soon",
            others: "more certificates end soon",
            help: "Replace the files of `gate.tls.certificate` and `gate.tls.key`: they are \
                   read again when they change. A self-signed certificate is renewed if \
                   `gate.tls.directory` can be written.",
            unit: "seconds left",
        },
        Rule::DiskLow => RuleTexts {
            title: "the volume {subject} has little free space",
            others: "more volumes have little free space",
            help: "Make room: with less than `wake.min_free_disk` no app is started. \
                   `ledger.max_size` bounds the record; `alerts.disk_low` is the threshold.",
            unit: "bytes free",
        },
        Rule::JobOverdue => RuleTexts {
            title: "the job {subject} is not done",
            others: "more jobs are not done",
            help: "`nightporter jobs` shows its last run and which process holds its lock; \
                   `nightporter jobs run` runs it now.",
            unit: "seconds overdue",
        },
        Rule::EndpointDisabled => RuleTexts {
            title: "the endpoint {subject} gets no messages any more",
            others: "more endpoints get no messages any more",
            help: "`nightporter webhook logs` shows what was sent and answered. When the receiver \
                   works again, run `nightporter webhook enable`; `nightporter webhook remove` \
                   removes the endpoint.",
            unit: "",
        },
    }
}

impl RuleTexts {
    /// Returns what happened, without about whom or what.
    #[must_use]
    pub fn title_of_any(&self) -> String {
        self.title.replace(" {subject}", "")
    }

    /// Returns what happened, in one line, about a subject that is shown as this text.
    #[must_use]
    pub fn title(&self, subject: &Subject, shown: &str) -> String {
        match subject {
            Subject::Others => self.others.to_owned(),
            _ => self.title.replace("{subject}", shown),
        }
    }
}

/// Returns the detail of an alert as it is shown to somebody. What a database, an engine or a
/// program has worded may quote anything.
#[must_use]
pub fn detail(rule: Rule, detail: &str, viewer: &Viewer, at: Micros) -> String {
    match rule {
        Rule::AppFailing | Rule::CacheDegraded | Rule::JobOverdue if !detail.is_empty() => {
            viewer.show(Private::Text(detail), at)
        }
        _ => detail.to_owned(),
    }
}

/// Returns how many alerts of the rule may fire at the same time, besides one for all others.
#[must_use]
pub fn max_subjects(rule: Rule) -> usize {
    match rule {
        Rule::DenialsClient | Rule::DenialsAddress => MOST_STRANGERS,
        _ => MOST,
    }
}

/// Returns when a rule fires and resolves; `None` if it is switched off.
#[must_use]
pub fn limits(rule: Rule, config: &config::Alerts) -> Option<Limits> {
    if !config.enabled || config.off.contains(&rule) {
        return None;
    }
    let at_least = |fires, holds| Bound::AtLeast { fires, holds };
    // A state that is there or is not.
    let present = at_least(1, 1);
    let seconds = |duration: Duration| duration.as_secs().max(1);
    let (bound, after) = match rule {
        Rule::DenialsClient | Rule::DenialsAddress => {
            (at_least(config.denials, config.denials.div_ceil(2)), Duration::ZERO)
        }
        Rule::AppFailing => (at_least(config.failed_starts, 1), Duration::ZERO),
        Rule::CacheDegraded => (present, config.cache_degraded),
        Rule::DeadLetters => (present, config.dead_letters),
        Rule::RecordsDropped | Rule::EndpointDisabled => (present, Duration::ZERO),
        Rule::CheckpointOverdue => {
            let limit = seconds(config.checkpoint_overdue);
            (at_least(limit, limit.div_ceil(2)), Duration::ZERO)
        }
        Rule::JobOverdue => {
            let limit = seconds(config.job_overdue);
            (at_least(limit, limit.div_ceil(2)), Duration::ZERO)
        }
        Rule::CertificateExpiring => {
            let limit = seconds(config.certificate_expiring);
            (Bound::AtMost { fires: limit, holds: limit }, Duration::ZERO)
        }
        Rule::DiskLow => {
            let (fires, holds) =
                (config.disk_low, config.disk_low.saturating_add(config.disk_low / 10));
            (Bound::AtMost { fires, holds }, Duration::ZERO)
        }
    };
    Some(Limits { bound, after, calm: config.calm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_names_a_command_or_a_setting_that_helps() {
        for rule in Rule::ALL {
            let RuleTexts { title, others, help, .. } = texts(rule);
            assert!(help.contains('`'), "{rule}");
            assert!(!others.contains('{') && !help.contains('{'), "{rule}");
            assert!(!title.replace("{subject}", "").contains('{'), "{rule}");
            assert_eq!(Rule::parse(rule.as_str()), Some(rule));
        }
    }
}
