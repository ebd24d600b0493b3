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
    /// Of successful requests, one in so many gets a line; refusals and failures all do.
    pub one_success_in: u32,
    /// A success that takes this long gets its line too.
    pub slow: Duration,
}

/// Traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// The collector's address, without the path of traces; absent: none are made.
    pub endpoint: Option<Url>,
    /// Of the traces begun here, one in so many is exported.
    pub one_in: u32,
    /// So many requests a second may have their trace exported because their caller says so.
    pub asked_per_second: u32,
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
