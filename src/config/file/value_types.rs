//! Types of strings in the configuration file, for the JSON Schema and docs/CONFIGURATION.md only.
//!
//! The Rust types of these keys are `String` and `PathBuf`. `validate` parses them.

#![allow(dead_code, reason = "these types only describe strings in the schema")]

use schemars::JsonSchema;

/// A number and a unit: `250ms`, `10s`, `1m 30s`.
#[derive(JsonSchema)]
pub(super) struct Duration(String);

/// An IP address and a port: `127.0.0.1:8080`, `[::1]:8080`. Port 0 selects a free port.
#[derive(JsonSchema)]
pub(super) struct Address(String);

/// Scheme, host and port. `http` to another machine causes a warning.
#[derive(JsonSchema)]
#[schemars(rename = "URL")]
pub(super) struct Url(String);

/// Path of a file. A relative path starts at the directory of the configuration file.
#[derive(JsonSchema)]
pub(super) struct File(String);

/// Path of a directory. A relative path starts at the directory of the configuration file.
#[derive(JsonSchema)]
pub(super) struct Directory(String);

/// An identifier issued by Salesforce, exactly as issued.
#[derive(JsonSchema)]
pub(super) struct Id(String);
