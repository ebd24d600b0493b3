//! What texts of the configuration are: kinds that the schema names, where the types say only that they are texts.
//!
//! Owns the description of each kind, for editors and for docs/CONFIGURATION.md. Refuses to read a text: `parse` does.

#![allow(dead_code, reason = "no value of these is ever made; they stand in for texts in the schema")]

use schemars::JsonSchema;

/// A length of time with a unit: `250ms`, `10s`, `1m 30s`.
#[derive(JsonSchema)]
pub(super) struct Duration(String);

/// An IP address and a port: `127.0.0.1:8080`, `[::1]:8080`. Port 0 takes a free one.
#[derive(JsonSchema)]
pub(super) struct Address(String);

/// Scheme, host and port. `http` to another machine is warned of.
#[derive(JsonSchema)]
#[schemars(rename = "URL")]
pub(super) struct Url(String);

/// The path of a file; a relative one starts at the folder of the configuration file.
#[derive(JsonSchema)]
pub(super) struct File(String);

/// The path of a folder; a relative one starts at the folder of the configuration file.
#[derive(JsonSchema)]
pub(super) struct Folder(String);

/// An identifier that Salesforce gave out, exactly as it did.
#[derive(JsonSchema)]
pub(super) struct Id(String);
