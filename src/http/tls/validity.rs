//! When a certificate is valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// In seconds since 1970; what cannot be read bounds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Validity {
    from: Option<u64>,
    until: Option<u64>,
}

impl Validity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self::default();
        };
        let validity = certificate.validity();
        // A time before 1970 is over, whatever the clock says.
        let seconds = |time: i64| Some(u64::try_from(time).unwrap_or(0));
        Self {
            from: seconds(validity.not_before.timestamp()),
            until: seconds(validity.not_after.timestamp()),
        }
    }

    /// Why it is not valid now, if it is not.
    pub(super) fn problem(self, now: SystemTime) -> Option<String> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match self {
            Self { until: Some(until), .. } if seconds > until => {
                Some(format!("the certificate expired at {}", written(until)))
            }
            Self { from: Some(from), .. } if seconds < from => {
                Some(format!("the certificate is not valid before {}", written(from)))
            }
            _ => None,
        }
    }
}

fn written(seconds: u64) -> String {
    // The year 9999 is the last that RFC 3339 and certificates can write.
    let end = Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + end).to_string()
}
