//! The audit line of a request: now, or when Salesforce has answered.

use std::sync::Arc;

use http::StatusCode;

use super::request::Route;
use crate::{
    observability::audit::{AuditContext, AuditLog, AuditRecord, Event},
    types::SiteId,
};

/// An audit line that waits for the end of its request.
#[derive(Debug)]
pub struct PendingAuditLine {
    audit: Arc<AuditLog>,
    record: AuditRecord,
}

impl PendingAuditLine {
    pub(super) fn new(audit: &Arc<AuditLog>, record: AuditRecord) -> Self {
        Self { audit: Arc::clone(audit), record }
    }

    /// Takes the record of a trusted system's write, whose line waits for the response of the API. Returns `None` for another record.
    pub(super) fn of_system_write(audit: &Arc<AuditLog>, record: &mut AuditRecord) -> Option<Box<Self>> {
        let is_write = record.event == Some(Event::SystemWrite);
        is_write.then(|| Box::new(Self::new(audit, std::mem::take(record))))
    }

    /// Writes the line. `code` is the gateway's error code, `status` the status of the response.
    pub fn write(&self, route: &Route, correlation_id: &str, code: Option<&str>, status: Option<StatusCode>) {
        write(&self.audit, &self.record, route, correlation_id, result(code, status));
    }
}

/// Writes the audit line of a request. A record without an event writes nothing.
pub(super) fn write(audit: &AuditLog, record: &AuditRecord, route: &Route, correlation_id: &str, result: &str) {
    let place = AuditContext {
        organization: route.organization.as_str(),
        site: route.site.as_ref().map(SiteId::as_str),
        operation: route.operation.as_ref().map_or("none", |operation| &operation.name),
        correlation_id,
    };
    audit.write(record, place, result);
}

/// Returns the result for the audit log: `ok`, the gateway's error code, `rejected` (4xx) or `failed`.
pub(super) fn result(code: Option<&str>, status: Option<StatusCode>) -> &str {
    match (code, &status) {
        (Some(code), _) => code,
        (None, Some(status)) if status.is_success() || status.is_redirection() => "ok",
        (None, Some(status)) if status.is_client_error() => "rejected",
        (None, _) => "failed",
    }
}
