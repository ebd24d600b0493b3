//! Why no connection to a server could be made: a closed set of causes, for logs, metrics and `check --online`.
//!
//! A cause is read from the chain of an error's sources. An `io::Error` hides the error inside it from that chain, so both are
//! followed. A cause holds no text of the server's.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError};

use crate::ratelimit::{BucketConfig, TokenBucket};

/// Log lines of one cause for one server: one per minute.
const LOG_RATE: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(60) };

/// Why no connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// The host name has no address.
    Unresolved,
    /// The machine answers, but nothing listens on the port.
    Refused,
    /// There is no route to the machine.
    Unreachable,
    /// The machine, or its TLS handshake, did not answer in time.
    TimedOut,
    /// The server closed the connection before the TLS handshake was done.
    Closed,
    /// What answers does not speak TLS.
    NotTls,
    /// No version, cipher or application protocol is known to both sides.
    NoCommonProtocol,
    /// No trusted authority has signed the server's certificate.
    Untrusted,
    /// The server's certificate is for other names.
    WrongName,
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet.
    NotYetValid,
    /// The server's certificate cannot be used for another reason.
    CertificateInvalid,
    /// Anything else, e.g. no descriptor or no local port is left.
    Other,
}

/// An error of name resolution, which `io::Error` does not tell from others.
#[derive(Debug, thiserror::Error)]
#[error("the host name cannot be resolved: {0}")]
pub struct ResolutionError(pub io::Error);

/// Limits the log lines of one server per cause: during an outage every call fails.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<[TokenBucket; ConnectFailure::ALL.len()]>);

impl LogThrottle {
    /// Whether a cause is to be logged now. Then it is not for a minute.
    #[must_use]
    pub fn admits(&self, cause: ConnectFailure) -> bool {
        let mut buckets = self.0.lock();
        buckets.get_mut(cause as usize).is_none_or(|bucket| bucket.try_acquire(LOG_RATE, 1, Instant::now()).is_ok())
    }
}

impl ConnectFailure {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Unresolved,
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::Closed,
        Self::NotTls,
        Self::NoCommonProtocol,
        Self::Untrusted,
        Self::WrongName,
        Self::Expired,
        Self::NotYetValid,
        Self::CertificateInvalid,
        Self::Other,
    ];

    /// The cause of an error that kept its sources.
    #[must_use]
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        let mut found = Self::Other;
        while let Some(error) = next {
            if error.is::<ResolutionError>() {
                return Self::Unresolved;
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Self::from_tls_error(error);
            }
            let io = error.downcast_ref::<io::Error>();
            if let Some(io) = io {
                // The innermost that says something: the outer ones repeat it, or say less.
                found = Some(Self::from_io_error(io)).filter(|cause| *cause != Self::Other).unwrap_or(found);
            }
            next = match io.and_then(io::Error::get_ref) {
                Some(inside) => Some(inside),
                None => error.source(),
            };
        }
        found
    }

    /// The cause of a TLS error.
    #[must_use]
    pub fn from_tls_error(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(certificate) => Self::from_certificate_error(certificate),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Self::NoCommonProtocol,
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity
                | AlertDescription::InappropriateFallback
                | AlertDescription::NoApplicationProtocol => Self::NoCommonProtocol,
                // The server has no certificate for the name that it was asked for.
                AlertDescription::UnrecognisedName => Self::WrongName,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }

    fn from_certificate_error(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::Untrusted,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            _ => Self::CertificateInvalid,
        }
    }

    fn from_io_error(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Self::Unreachable,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Other,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::NoCommonProtocol => "no_common_protocol",
            Self::Untrusted => "untrusted",
            Self::WrongName => "wrong_name",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Other => "other",
        }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Unresolved => "check the spelling of the host and the DNS of this machine",
            Self::Refused => "check host and port, and whether the server runs",
            Self::Unreachable => "check the routes and firewalls of this machine, and whether it has IPv6",
            Self::TimedOut => "check host and port, and the firewalls on the way",
            Self::Closed => "check whether the port is one for TLS, and what stands in between",
            Self::NotTls => "write http:// if the server has no TLS, or the port of its TLS",
            Self::NoCommonProtocol => "the server must know TLS 1.2 or 1.3",
            Self::Untrusted => {
                "give the gateway the authority's certificate (for an API: api_ca), or install ca-certificates"
            }
            Self::WrongName => "use a host name that stands in the server's certificate",
            Self::Expired | Self::NotYetValid => {
                "check the clock of this machine; otherwise the server needs another certificate"
            }
            Self::CertificateInvalid => "the server needs another certificate",
            Self::Other => "check the descriptors and local ports that this machine has left",
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unresolved => "the host name cannot be resolved",
            Self::Refused => "the connection was refused",
            Self::Unreachable => "there is no route to the host",
            Self::TimedOut => "connecting took too long",
            Self::Closed => "the server closed the connection during the TLS handshake",
            Self::NotTls => "the server does not speak TLS",
            Self::NoCommonProtocol => "the server and the gateway have no version or cipher of TLS in common",
            Self::Untrusted => "the server's certificate is of no trusted authority",
            Self::WrongName => "the server's certificate is for another name",
            Self::Expired => "the server's certificate has expired",
            Self::NotYetValid => "the server's certificate is not valid yet",
            Self::CertificateInvalid => "the server's certificate cannot be used",
            Self::Other => "the cause is unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Box<dyn Error + Send + Sync>);

    #[test]
    fn cause_is_found_in_error_sources_and_inside_io_errors() {
        let tls = |error: CertificateError| {
            let inside = rustls::Error::InvalidCertificate(error);
            Outer(io::Error::new(ErrorKind::InvalidData, inside).into())
        };
        let io = |kind: ErrorKind| Outer(Outer(io::Error::from(kind).into()).into());
        let twice = io::Error::other(io::Error::from(ErrorKind::ConnectionRefused));
        let unresolved = ResolutionError(io::Error::other("lookup failed"));
        for (error, cause) in [
            (tls(CertificateError::UnknownIssuer), ConnectFailure::Untrusted),
            (tls(CertificateError::NotValidForName), ConnectFailure::WrongName),
            (tls(CertificateError::Expired), ConnectFailure::Expired),
            (tls(CertificateError::NotValidYet), ConnectFailure::NotYetValid),
            (tls(CertificateError::BadEncoding), ConnectFailure::CertificateInvalid),
            (io(ErrorKind::ConnectionRefused), ConnectFailure::Refused),
            (io(ErrorKind::NetworkUnreachable), ConnectFailure::Unreachable),
            (io(ErrorKind::TimedOut), ConnectFailure::TimedOut),
            (io(ErrorKind::UnexpectedEof), ConnectFailure::Closed),
            (io(ErrorKind::PermissionDenied), ConnectFailure::Other),
            (Outer(twice.into()), ConnectFailure::Refused),
            (Outer(unresolved.into()), ConnectFailure::Unresolved),
        ] {
            assert_eq!(ConnectFailure::from_error(&error), cause, "{error:?}");
        }
    }

    #[test]
    fn tls_alerts_map_to_causes() {
        let of = |alert| ConnectFailure::from_tls_error(&rustls::Error::AlertReceived(alert));
        assert_eq!(of(AlertDescription::ProtocolVersion), ConnectFailure::NoCommonProtocol);
        assert_eq!(of(AlertDescription::UnrecognisedName), ConnectFailure::WrongName);
        assert_eq!(of(AlertDescription::InternalError), ConnectFailure::Other);
    }

    #[test]
    fn log_throttle_admits_each_cause_once_per_minute() {
        let throttle = LogThrottle::default();
        assert!(ConnectFailure::ALL.iter().all(|cause| throttle.admits(*cause)));
        assert!(!ConnectFailure::ALL.iter().any(|cause| throttle.admits(*cause)));
    }

    #[test]
    fn causes_have_distinct_labels_and_messages() {
        let labels: BTreeSet<_> = ConnectFailure::ALL.iter().map(|cause| cause.label()).collect();
        let words: BTreeSet<_> = ConnectFailure::ALL.iter().map(ToString::to_string).collect();
        assert_eq!((labels.len(), words.len()), (ConnectFailure::ALL.len(), ConnectFailure::ALL.len()));
        assert!(labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }
}
