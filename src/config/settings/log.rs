//! `[log]` and `[traces]`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretSlice;
use serde::{Deserialize, Serialize};
use url::Url;

/// The log, the access log and the audit log.
#[derive(Debug, Clone)]
pub struct Log {
    /// Filter in the syntax of `RUST_LOG`, which overrides it.
    pub level: String,
    /// Format of the log lines.
    pub format: LogFormat,
    /// File of the audit log; `None`: standard error.
    pub audit_file: Option<PathBuf>,
    /// Key for the pseudonyms of shoppers in the audit log: 32 bytes.
    pub pseudonym_key: Option<SecretSlice<u8>>,
    /// Share of successful requests that are written to the access log, 0.0 to 1.0.
    pub success_sample_rate: f64,
    /// A successful request that takes this long is always written to the access log.
    pub slow: Duration,
}

/// Traces for an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// URL of the collector without `/v1/traces`; `None`: no traces.
    pub endpoint: Option<Url>,
    /// Share of the traces started by the gateway that are exported, 0.0 to 1.0.
    pub sample_ratio: f64,
    /// Maximum number of traces per second that are exported because the client sampled them.
    pub parent_sampled_per_second: u32,
}

/// Format of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}
