//! Tests of an organization's SLAS and Account Manager.

use super::{
    probe::{ProbeResult, describe_failure, run_probe},
    slas_clients,
};
use crate::{
    config,
    gateway::tenant::Tenant,
    jwks::{Issuer, count_usable_keys},
    salesforce::{account_manager::AccountManager, error::SalesforceError},
    types::{Scope, Scopes, TENANT_SCOPE_PREFIX},
};

/// Fetches the key sets, gets a token with the gateway's own client, and tests each SLAS client.
pub(super) async fn probe_tenant(index: usize, tenant: &Tenant) -> Vec<ProbeResult> {
    let own = tenant.account_manager.as_ref().zip(tenant.settings.account_manager.as_ref());
    let manager = async {
        match own {
            Some((service, own)) => probe_account_manager(index, tenant, service, own).await.into(),
            None => Vec::new(),
        }
    };
    let ((keys, clients), manager) = tokio::join!(probe_slas(index, tenant), manager);
    std::iter::once(keys).chain(manager).chain(clients).collect()
}

async fn probe_slas(index: usize, tenant: &Tenant) -> (ProbeResult, Vec<ProbeResult>) {
    let settings = &tenant.settings;
    let keys = run_probe(format!("{}: keys of SLAS at {}", settings.organization, settings.api), async {
        let api = format!("tenants[{index}].api");
        let document = tenant.slas.jwks().await.map_err(|error| match error {
            // The host responds but does not know the organization.
            SalesforceError::Rejected { .. } => {
                describe_failure(&error, &format!("tenants[{index}].organization_id and api"))
            }
            _ => describe_failure(&error, &api),
        })?;
        count_keys(&Issuer::Slas(tenant.slas.clone()), &document, &api)
    });
    let keys = keys.await;
    // Without a key set it is not the organization's SLAS, and says nothing about the clients.
    if keys.result.is_err() {
        return (keys, Vec::new());
    }
    let clients = slas_clients::probe_clients(index, tenant).await;
    (keys, clients)
}

async fn probe_account_manager(
    index: usize,
    tenant: &Tenant,
    service: &AccountManager,
    own: &config::AccountManager,
) -> [ProbeResult; 2] {
    let organization = &tenant.settings.organization;
    let table = format!("tenants[{index}].account_manager");
    let keys = run_probe(format!("{organization}: keys of Account Manager at {}", own.url), async {
        let url = format!("{table}.url");
        let document = service.jwks().await.map_err(|error| describe_failure(&error, &url))?;
        count_keys(&Issuer::AccountManager(service.clone()), &document, &url)
    });
    let exchange =
        run_probe(format!("{organization}: a token for the gateway's own client {}", own.client_id), async {
            let of_tenant = format!("{TENANT_SCOPE_PREFIX}{}", tenant.settings.tenant)
                .parse::<Scope>()
                .map_err(|error| error.to_string())?;
            let scopes: Scopes = own.scopes.iter().cloned().chain([of_tenant]).collect();
            let error = match service.client_credentials(&own.client_id, &own.client_secret, &scopes).await {
                Ok(token) => return Ok(format!("granted for {} s", token.expires_in)),
                Err(error) => error,
            };
            if let Some(previous) = own.previous_client_secret.as_ref().filter(|_| error.is_client_rejected())
                && let Ok(token) = service.client_credentials(&own.client_id, previous, &scopes).await
            {
                return Ok(format!("granted for {} s, with previous_client_secret only", token.expires_in));
            }
            let keys = match &error {
                // The tenant scope is derived from the organization.
                SalesforceError::Rejected { code, .. } if code == "invalid_scope" => {
                    format!("tenants[{index}].organization_id and account_manager.scopes")
                }
                SalesforceError::Rejected { .. } => format!("{table}.client_id and client_secret"),
                _ => format!("{table}.url"),
            };
            Err(describe_failure(&error, &keys))
        });
    tokio::join!(keys, exchange).into()
}

fn count_keys(issuer: &Issuer, document: &[u8], key: &str) -> Result<String, String> {
    match count_usable_keys(issuer, document) {
        0 => Err(format!("the response has no usable key; see {key}")),
        1 => Ok("1 key".to_owned()),
        keys => Ok(format!("{keys} keys")),
    }
}
