//! Causes of failed connections to servers: a closed set for logs, metrics and `check --online`.
//!
//! The cause is found in the error's chain of sources. `io::Error` hides its inner error from that chain, so both are followed. A
//! cause never contains text from the server.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError};

use crate::ratelimit::{BucketConfig, TokenBucket};

/// Maximum log rate per cause and server.
const LOG_RATE: BucketConfig = BucketConfig { capacity: 1, refill_interval: Duration::from_secs(60) };

/// Why no connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// The host name has no address.
    Unresolved,
    /// The host is up, but no process listens on the port.
    Refused,
    /// There is no route to the host.
    Unreachable,
    /// The host, or its TLS handshake, did not respond in time.
    TimedOut,
    /// The server closed the connection during the TLS handshake.
    Closed,
    /// The server does not speak TLS.
    NotTls,
    /// Both sides have no TLS version, cipher or application protocol in common.
    NoCommonProtocol,
    /// No trusted authority has issued the server's certificate.
    Untrusted,
    /// The server's certificate is for another name.
    WrongName,
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet.
    NotYetValid,
    /// The server's certificate cannot be used for another reason.
    CertificateInvalid,
    /// Another cause, e.g. no file descriptor or local port is left.
    Other,
}

/// An error of name resolution. `io::Error` alone does not distinguish it from other errors.
#[derive(Debug, thiserror::Error)]
#[error("the host name cannot be resolved: {0}")]
pub struct ResolutionError(pub io::Error);

/// Limits the log lines per cause for one server, because every call fails during an outage.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<[TokenBucket; ConnectFailure::ALL.len()]>);

impl LogThrottle {
    /// Whether to log a cause now. Returns true at most once per minute and cause.
    #[must_use]
    pub fn admits(&self, cause: ConnectFailure) -> bool {
        let mut buckets = self.0.lock();
        buckets.get_mut(cause as usize).is_none_or(|bucket| bucket.try_acquire(LOG_RATE, 1, Instant::now()).is_ok())
    }
}

impl ConnectFailure {
    /// All causes.
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

    /// The cause of an error, found in its sources.
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
                // The innermost known cause wins: outer errors repeat it or are less specific.
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
                // The server has no certificate for the requested name.
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

    /// Label in metrics and logs.
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

    /// What an operator can do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Unresolved => "check the spelling of the host and the DNS of this machine",
            Self::Refused => "check host and port, and whether the server runs",
            Self::Unreachable => "check the routes and firewalls of this machine, and whether it has IPv6",
            Self::TimedOut => "check host and port, and the firewalls on the way",
            Self::Closed => "check whether the port serves TLS, and proxies or firewalls on the way",
            Self::NotTls => "use http:// if the server has no TLS, or else the port that serves TLS",
            Self::NoCommonProtocol => "the server must support TLS 1.2 or 1.3",
            Self::Untrusted => "configure the authority's certificate (for an API: api_ca), or install ca-certificates",
            Self::WrongName => "use a host name that is in the server's certificate",
            Self::Expired | Self::NotYetValid => {
                "check the clock of this machine; if it is right, the server needs another certificate"
            }
            Self::CertificateInvalid => "the server needs another certificate",
            Self::Other => "check whether this machine has file descriptors and local ports left",
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unresolved => "the host name cannot be resolved",
            Self::Refused => "the connection was refused",
            Self::Unreachable => "there is no route to the host",
            Self::TimedOut => "the connection timed out",
            Self::Closed => "the server closed the connection during the TLS handshake",
            Self::NotTls => "the server does not speak TLS",
            Self::NoCommonProtocol => "the server and the gateway have no TLS version or cipher in common",
            Self::Untrusted => "the server's certificate is not issued by a trusted authority",
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
