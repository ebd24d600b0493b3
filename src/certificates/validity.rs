//! Validity periods of certificates and revocation lists.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode, time::Time};

/// How long before its expiry a certificate is reported.
const EXPIRY_WARNING_SECONDS: i64 = 30 * SECONDS_PER_DAY;
const SECONDS_PER_DAY: i64 = 24 * 3600;
/// Maximum characters of a shown subject name.
const MAX_SUBJECT: usize = 120;

/// A validity period in seconds since 1970, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Start of the period.
    pub not_before: i64,
    /// End of the period.
    pub not_after: i64,
}

/// A warning about a validity period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValidityWarning {
    /// The period ended at this time.
    Expired(i64),
    /// The period starts at this time.
    NotYetValid(i64),
    /// The period ends at this time, in this number of days.
    ExpiresSoon(i64, i64),
}

impl Validity {
    /// The validity of a certificate; `None` if it cannot be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = Certificate::from_der(certificate).ok()?;
        let validity = parsed.tbs_certificate().validity();
        Some(Self { not_before: unix_seconds(validity.not_before), not_after: unix_seconds(validity.not_after) })
    }

    /// The warning at this time, in seconds since 1970.
    #[must_use]
    pub fn warning(&self, now: i64) -> Option<ValidityWarning> {
        if now > self.not_after {
            Some(ValidityWarning::Expired(self.not_after))
        } else if now < self.not_before {
            Some(ValidityWarning::NotYetValid(self.not_before))
        } else if self.not_after - now <= EXPIRY_WARNING_SECONDS {
            Some(ValidityWarning::ExpiresSoon(self.not_after, (self.not_after - now) / SECONDS_PER_DAY))
        } else {
            None
        }
    }
}

impl fmt::Display for ValidityWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(end) => write!(formatter, "expired at {}", format_time(*end)),
            Self::NotYetValid(begin) => write!(formatter, "is not valid before {}", format_time(*begin)),
            Self::ExpiresSoon(end, 0) => write!(formatter, "expires at {}, within a day", format_time(*end)),
            Self::ExpiresSoon(end, 1) => write!(formatter, "expires at {}, in 1 day", format_time(*end)),
            Self::ExpiresSoon(end, days) => write!(formatter, "expires at {}, in {days} days", format_time(*end)),
        }
    }
}

/// Subject of a certificate (RFC 4514); `None` if it is empty or cannot be read.
pub(super) fn subject_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let subject = parsed.tbs_certificate().subject().to_string();
    (!subject.is_empty()).then(|| subject.chars().take(MAX_SUBJECT).collect())
}

pub(super) fn unix_seconds(time: Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

fn format_time(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    match UNIX_EPOCH.checked_add(since) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => "an unrepresentable time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_warns_before_after_and_in_the_last_month() {
        let validity = Validity { not_before: 100 * SECONDS_PER_DAY, not_after: 200 * SECONDS_PER_DAY };
        for (day, warning) in [
            (99, Some(ValidityWarning::NotYetValid(100 * SECONDS_PER_DAY))),
            (100, None),
            (169, None),
            (170, Some(ValidityWarning::ExpiresSoon(200 * SECONDS_PER_DAY, 30))),
            (199, Some(ValidityWarning::ExpiresSoon(200 * SECONDS_PER_DAY, 1))),
            (200, Some(ValidityWarning::ExpiresSoon(200 * SECONDS_PER_DAY, 0))),
            (201, Some(ValidityWarning::Expired(200 * SECONDS_PER_DAY))),
        ] {
            assert_eq!(validity.warning(day * SECONDS_PER_DAY), warning, "day {day}");
        }
        assert_eq!(ValidityWarning::Expired(0).to_string(), "expired at 1970-01-01T00:00:00Z");
    }
}
