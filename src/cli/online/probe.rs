//! A single test of an endpoint: its result, duration and error message.

use std::time::{Duration, Instant};

use crate::salesforce::{error::SalesforceError, transport::TransportError};

/// Result of one test.
pub(super) struct ProbeResult {
    pub(super) name: String,
    /// What was found, or what failed and which key to look at.
    pub(super) result: Result<String, String>,
    pub(super) duration: Duration,
}

/// Runs one test and measures its duration.
pub(super) async fn run_probe(name: String, work: impl Future<Output = Result<String, String>>) -> ProbeResult {
    let started = Instant::now();
    let result = work.await;
    ProbeResult { name, result, duration: started.elapsed() }
}

/// Why a call failed, and which keys to look at.
pub(super) fn describe_failure(error: &SalesforceError, keys: &str) -> String {
    match error {
        SalesforceError::Transport(TransportError::Unreachable(cause)) => {
            format!("{error}; {}; see {keys}", cause.advice())
        }
        _ => format!("{error}; see {keys}"),
    }
}
