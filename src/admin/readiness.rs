//! Readiness: whether the gateway can serve requests, and which keys are missing.

use serde::Serialize;

use super::snapshot::Snapshot;
use crate::shutdown::RequestTracker;

/// Whether the gateway can serve requests, and which key sets are missing.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    keys: bool,
    /// Issuers without a usable key set. A missing key set of Account Manager does not affect readiness, because shoppers can be
    /// served without it.
    keys_missing: Vec<MissingKeys>,
    pub(super) draining: bool,
}

/// An issuer without a usable key set.
#[derive(Debug, Serialize)]
struct MissingKeys {
    tenant: String,
    issuer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
}

impl Readiness {
    /// The current readiness.
    pub(super) fn new(snapshot: &Snapshot, in_flight: &RequestTracker) -> Self {
        let (keys, draining) = (snapshot.shoppers.has_usable_keys(), in_flight.is_draining());
        let missing = snapshot.key_rings.iter().filter(|ring| !ring.has_usable_keys());
        let missing = missing.map(|ring| MissingKeys {
            tenant: ring.tenant().to_owned(),
            issuer: ring.issuer(),
            age_seconds: ring.age().map(|age| age.as_secs()),
        });
        Self { ready: keys && !draining, keys, keys_missing: missing.collect(), draining }
    }
}
