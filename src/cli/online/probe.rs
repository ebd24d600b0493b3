//! The result of one question to an endpoint, and the words for an exchange that failed.

use std::time::{Duration, Instant};

use crate::salesforce::{error::SalesforceError, transport::TransportError};

/// What became of one question.
pub(super) struct ProbeResult {
    pub(super) name: String,
    /// What is there, or why not and which key to look at.
    pub(super) result: Result<String, String>,
    pub(super) duration: Duration,
}

/// Asks one question, and takes the time.
pub(super) async fn run_probe(name: String, work: impl Future<Output = Result<String, String>>) -> ProbeResult {
    let started = Instant::now();
    let result = work.await;
    ProbeResult { name, result, duration: started.elapsed() }
}

/// Why an exchange failed, and the keys to look at.
pub(super) fn describe_failure(error: &SalesforceError, keys: &str) -> String {
    match error {
        SalesforceError::Transport(TransportError::Unreachable(cause)) => {
            format!("{error}; {}; see {keys}", cause.advice())
        }
        _ => format!("{error}; see {keys}"),
    }
}
