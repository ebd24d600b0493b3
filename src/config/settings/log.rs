//! `[log]` and `[traces]`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretSlice;
use serde::Deserialize;
use serde::Serialize;
use url::Url;

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// Filter in the syntax of `RUST_LOG`, which wins.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Where the audit log goes instead of among the other lines.
    pub audit_file: Option<PathBuf>,
    /// Makes the pseudonyms of shoppers in it: 32 bytes.
    pub pseudonym_key: Option<SecretSlice<u8>>,
    /// The share of successful requests that get a line, 0.0 to 1.0. Every refusal and failure gets one.
    pub success_sample_rate: f64,
    /// A success that takes this long gets its line too.
    pub slow: Duration,
}

/// Traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// The collector's address, without the path of traces; absent: none are made.
    pub endpoint: Option<Url>,
    /// The share of the traces begun by the gateway that is exported, 0.0 to 1.0.
    pub sample_ratio: f64,
    /// Maximum traces per second that are exported because the client sampled them.
    pub parent_sampled_per_second: u32,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
