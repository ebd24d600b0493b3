//! When certificates and revocation lists are good.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode, time::Time};

/// How long before its end a certificate is told of.
const EXPIRY_WARNING_SECONDS: i64 = 30 * SECONDS_PER_DAY;
const SECONDS_PER_DAY: i64 = 24 * 3600;
/// Longest name of a certificate that is shown, characters.
const MAX_SUBJECT: usize = 120;

/// From when to when, seconds since 1970, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

/// What an operator should know of a validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValidityWarning {
    /// It is over since then.
    Expired(i64),
    /// It begins then.
    NotYetValid(i64),
    /// It ends then, in so many whole days.
    ExpiresSoon(i64, i64),
}

impl Validity {
    /// Of a certificate; `None` if it is too old a form to be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = Certificate::from_der(certificate).ok()?;
        let validity = parsed.tbs_certificate().validity();
        Some(Self { not_before: unix_seconds(validity.not_before), not_after: unix_seconds(validity.not_after) })
    }

    /// What should be known of it at this time, seconds since 1970.
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

/// Whom a certificate names, RFC 4514; `None` if it names nobody or cannot be read.
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
        None => "a time beyond all calendars".to_owned(),
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
