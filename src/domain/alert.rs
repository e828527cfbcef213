//! The names of the rules by which alerts fire.

use std::fmt;

/// What an alert is about. What is measured, and the texts, are in the module `alerts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// One terminal or peer is denied again and again.
    DenialsClient,
    /// So is one address.
    DenialsAddress,
    /// An app does not become ready, attempt after attempt.
    AppFailing,
    /// The store's notifications do not arrive.
    CacheDegraded,
    /// Records wait on the disk for the ledger's database.
    DeadLetters,
    /// Records were lost.
    RecordsDropped,
    /// New records have not been covered by a checkpoint for long.
    CheckpointOverdue,
    /// The gate's certificate ends soon.
    CertificateExpiring,
    /// A volume has little free space.
    DiskLow,
    /// A periodic job has not been done when it was due, or fails.
    JobOverdue,
    /// An endpoint gets no messages any more.
    EndpointDisabled,
}

impl Rule {
    pub const ALL: [Self; 11] = [
        Self::DenialsClient,
        Self::DenialsAddress,
        Self::AppFailing,
        Self::CacheDegraded,
        Self::DeadLetters,
        Self::RecordsDropped,
        Self::CheckpointOverdue,
        Self::CertificateExpiring,
        Self::DiskLow,
        Self::JobOverdue,
        Self::EndpointDisabled,
    ];

    /// Returns its name, in settings, metrics and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DenialsClient => "denials_client",
            Self::DenialsAddress => "denials_address",
            Self::AppFailing => "app_failing",
            Self::CacheDegraded => "cache_degraded",
            Self::DeadLetters => "dead_letters",
            Self::RecordsDropped => "records_dropped",
            Self::CheckpointOverdue => "checkpoint_overdue",
            Self::CertificateExpiring => "certificate_expiring",
            Self::DiskLow => "disk_low",
            Self::JobOverdue => "job_overdue",
            Self::EndpointDisabled => "endpoint_disabled",
        }
    }

    /// Returns the rule of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
