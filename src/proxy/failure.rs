//! What a failure of the library's means: whose it is, and what the caller is told.
//!
//! Owns the reading of the library's errors. Counts and writes nothing.

use pingora::{Error, ErrorSource, ErrorType};

use crate::gate::refusal::Refusal;

/// On which side an answer broke off.
pub(super) fn side_of(error: &Error) -> &'static str {
    match error.esource() {
        ErrorSource::Upstream => "upstream",
        ErrorSource::Downstream => "client",
        ErrorSource::Internal | ErrorSource::Unset => "gateway",
    }
}

/// Whether the API said that it has not processed the request: it refused the stream, or is closing the connection and
/// named an earlier stream as its last (RFC 9113, 8.7).
pub(super) fn is_unprocessed(error: &Error) -> bool {
    let Some(error) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // With any other reason the library gives this error to earlier streams as well.
    let left_out = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || left_out)
}

/// What a failure between here and the API means for the caller; `None` if the caller is gone.
pub(super) fn refusal_of(error: &Error) -> Option<Refusal> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => None,
        (ErrorSource::Downstream, _) => Some(Refusal::RequestInvalid("The request broke off or is not HTTP.".into())),
        (
            _,
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
        ) => Some(Refusal::UpstreamTimeout),
        _ => Some(Refusal::UpstreamUnavailable),
    }
}
