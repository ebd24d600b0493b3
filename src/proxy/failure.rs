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
