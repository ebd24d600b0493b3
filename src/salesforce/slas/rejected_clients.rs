//! Reports that SLAS rejects a configured client. Only the operator can fix this configuration error.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    config::SlasClient,
    correlation,
    salesforce::{error::SalesforceError, transport::Transport},
    types::ClientId,
};

/// Minimum time between two log lines about the same rejected client.
const REJECTED_CLIENT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// When the log last reported each rejected client of the configuration.
#[derive(Debug, Default)]
pub(super) struct RejectedClients(Mutex<HashMap<ClientId, Instant>>);

impl RejectedClients {
    /// Counts and logs the rejection of a client.
    pub(super) fn report(&self, transport: &Transport, client: &SlasClient, error: &SalesforceError) {
        let organization = transport.guard().name();
        transport.metrics().slas_client_refusals.with_label_values(&[organization, client.id.as_str()]).inc();
        let now = Instant::now();
        let mut logged = self.0.lock();
        if logged.get(&client.id).is_some_and(|at| now - *at < REJECTED_CLIENT_LOG_INTERVAL) {
            return;
        }
        logged.insert(client.id.clone(), now);
        let correlation_id = correlation::current_text();
        tracing::error!(
            organization, client = %client.id, %error, correlation_id,
            "SLAS rejected a configured client: its secret, redirect URI, site or grants are not those registered; \
             see tenants.slas_clients"
        );
    }
}
