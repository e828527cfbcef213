//! The validity period of a certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A validity period in seconds since 1970; a bound that cannot be read is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Validity {
    from: Option<u64>,
    until: Option<u64>,
}

impl Validity {
    pub(super) fn from_certificate(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self::default();
        };
        let validity = certificate.validity();
        // A time before 1970 is in the past, whatever the clock says.
        let seconds = |time: i64| Some(u64::try_from(time).unwrap_or(0));
        Self {
            from: seconds(validity.not_before.timestamp()),
            until: seconds(validity.not_after.timestamp()),
        }
    }

    /// Returns when it ends.
    pub(super) fn end(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.until?))
    }

    /// Returns why the certificate is not valid now, if it is not.
    pub(super) fn problem(self, now: SystemTime) -> Option<String> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match self {
            Self { until: Some(until), .. } if seconds > until => {
                Some(format!("the certificate expired at {}", formatted(until)))
            }
            Self { from: Some(from), .. } if seconds < from => {
                Some(format!("the certificate is not valid before {}", formatted(from)))
            }
            _ => None,
        }
    }
}

fn formatted(seconds: u64) -> String {
    // The year 9999 is the last that RFC 3339 and certificates can express.
    let end = Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + end).to_string()
}
