//! Maps Pingora's errors to the gateway's errors, to causes of failed connections and to the side at fault.

use pingora::{BError, Error, ErrorSource, ErrorType};
use rustls::{AlertDescription, CertificateError};

use crate::{connect_failure::ConnectFailure, gateway::error::GatewayError};

/// The side that aborted a response.
pub(super) fn abort_side(error: &Error) -> &'static str {
    match error.esource() {
        ErrorSource::Upstream => "upstream",
        ErrorSource::Downstream => "client",
        ErrorSource::Internal | ErrorSource::Unset => "gateway",
    }
}

/// Whether the API reported the request as not processed: it refused the stream, or it is closing the connection with an
/// earlier stream as its last (RFC 9113, 8.7).
pub(super) fn is_unprocessed(error: &Error) -> bool {
    let Some(error) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // With other reasons, h2 returns this error for processed streams too.
    let left_out = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || left_out)
}

/// The error for the client after a failure on the way to the API; `None` if the client disconnected.
pub(super) fn gateway_error(error: &Error) -> Option<GatewayError> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => None,
        (ErrorSource::Downstream, _) => {
            Some(GatewayError::RequestInvalid("The request ended early or is not valid HTTP.".into()))
        }
        (
            _,
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
        ) => Some(GatewayError::UpstreamTimeout),
        _ => Some(GatewayError::UpstreamUnavailable),
    }
}

/// Why Pingora could not connect to an API; `None` for other failures.
pub(super) fn connect_failure(error: &Error) -> Option<ConnectFailure> {
    match error.etype() {
        ErrorType::ConnectRefused => Some(ConnectFailure::Refused),
        ErrorType::ConnectNoRoute => Some(ConnectFailure::Unreachable),
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Some(ConnectFailure::TimedOut),
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert => Some(handshake_failure(&error.to_string())),
        ErrorType::ConnectError | ErrorType::BindError | ErrorType::SocketError | ErrorType::HandshakeError => {
            Some(root_connect_failure(error))
        }
        _ => None,
    }
}

/// The cause at the end of the error chain. Pingora boxes its own errors inside each other.
fn root_connect_failure(error: &Error) -> ConnectFailure {
    match error.cause.as_deref() {
        Some(cause) => match cause.downcast_ref::<BError>() {
            Some(inner) => root_connect_failure(inner),
            None => ConnectFailure::from_error(cause),
        },
        None => ConnectFailure::Other,
    }
}

/// The cause of a failed handshake. Pingora keeps only a text: rustls' message, followed by the server name.
fn handshake_failure(text: &str) -> ConnectFailure {
    let text = text.split(", SNI: ").next().unwrap_or_default();
    // These messages contain numbers or names; only their start is constant.
    let with_details = [
        ("certificate not valid for name", ConnectFailure::WrongName),
        ("certificate expired", ConnectFailure::Expired),
        ("certificate not valid yet", ConnectFailure::NotYetValid),
        ("received corrupt message", ConnectFailure::NotTls),
        ("peer is incompatible", ConnectFailure::NoCommonProtocol),
    ];
    if let Some((_, cause)) = with_details.iter().find(|(part, _)| text.contains(part)) {
        return *cause;
    }
    let alert = rustls::Error::AlertReceived;
    let known = [
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
        rustls::Error::NoApplicationProtocol,
        alert(AlertDescription::ProtocolVersion),
        alert(AlertDescription::HandshakeFailure),
        alert(AlertDescription::InsufficientSecurity),
        alert(AlertDescription::InappropriateFallback),
        alert(AlertDescription::NoApplicationProtocol),
        alert(AlertDescription::UnrecognisedName),
    ];
    if let Some(known) = known.iter().find(|known| text.contains(&known.to_string())) {
        return ConnectFailure::from_tls_error(known);
    }
    let others = [
        ("invalid peer certificate", ConnectFailure::CertificateInvalid),
        ("tls handshake eof", ConnectFailure::Closed),
        ("Connection reset", ConnectFailure::Closed),
        ("Broken pipe", ConnectFailure::Closed),
    ];
    let found = others.iter().find(|(part, _)| text.contains(part));
    found.map_or(ConnectFailure::Other, |(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn tls_error_text_maps_to_its_cause_for_any_server_name() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from("received-eof.example").unwrap();
        let presented = vec!["DnsName(\"certificate-expired.example\")".to_owned()];
        let certificates = [
            CertificateError::UnknownIssuer,
            CertificateError::NotValidForNameContext { expected: name, presented },
            CertificateError::ExpiredContext { time: at(9), not_after: at(1) },
            CertificateError::NotValidYetContext { time: at(1), not_before: at(9) },
            CertificateError::BadEncoding,
        ];
        let alerts = [AlertDescription::ProtocolVersion, AlertDescription::UnrecognisedName];
        let errors = certificates.map(rustls::Error::InvalidCertificate).into_iter();
        let errors = errors.chain(alerts.map(rustls::Error::AlertReceived)).chain([
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13),
            rustls::Error::NoApplicationProtocol,
            rustls::Error::DecryptError,
        ]);
        for error in errors {
            let context = format!("TLS connect() failed: {error}, SNI: tls handshake eof.example");
            let error_of_library = Error::explain(ErrorType::TLSHandshakeFailure, context).more_context("connecting");
            assert_eq!(connect_failure(&error_of_library), Some(ConnectFailure::from_tls_error(&error)), "{error}");
        }
    }

    #[test]
    fn cause_inside_nested_library_errors_is_found() {
        let refused = io::Error::from(io::ErrorKind::ConnectionReset);
        let inner = Error::because(ErrorType::ConnectError, "inner", refused);
        assert_eq!(connect_failure(&inner.more_context("outer")), Some(ConnectFailure::Closed));
        let broken = Error::explain(ErrorType::ReadError, "reset");
        assert_eq!(connect_failure(&broken), None, "the connection was there");
    }
}
