//! The result of one question to an endpoint, and the words for an exchange that failed.

use std::time::{Duration, Instant};

use crate::salesforce::{error::SalesforceError, transport::TransportError};

/// What became of one question.
pub(super) struct Finding {
    pub(super) what: String,
    /// What is there, or why not and which key to look at.
    pub(super) result: Result<String, String>,
    pub(super) took: Duration,
}

/// Asks one question, and takes the time.
pub(super) async fn timed(what: String, ask: impl Future<Output = Result<String, String>>) -> Finding {
    let began = Instant::now();
    let result = ask.await;
    Finding { what, result, took: began.elapsed() }
}

/// Why an exchange failed, and the keys to look at.
pub(super) fn because(error: &SalesforceError, keys: &str) -> String {
    match error {
        SalesforceError::Transport(TransportError::Unreachable(cause)) => {
            format!("{error}; {}; see {keys}", cause.advice())
        }
        _ => format!("{error}; see {keys}"),
    }
}
